"""Statements: what each method asks of PostgreSQL, and the value it gives back."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from sqlalchemy import (
    Column,
    Integer,
    Interval,
    MetaData,
    Row,
    Select,
    Table,
    cast,
    column,
    distinct,
    func,
    insert,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy import inspect as state_of
from sqlalchemy.orm import aliased, joinedload, selectinload

from pushsvc.errors import QueryError
from pushsvc.queries import Database, Promise
from pushsvc.queries import statements as questions

from .queries_support import Airport, Flight, Server

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights")

JFK = Flight.origin == "JFK"
NOWHERE = Flight.origin == "nowhere"


async def test_an_entity_loads_as_a_list_of_entities(db: Database) -> None:
    airports = await db.load_async(Airport)
    assert sorted(airport.code for airport in airports) == ["EWR", "JFK", "LGA"]


async def test_a_select_of_one_entity_loads_entities_and_of_several_things_rows(db: Database) -> None:
    [flight] = await db.load_async(select(Flight).where(Flight.id == 3))
    assert (flight.origin, flight.carrier, flight.dep_delay) == ("JFK", "UA", 40)
    [(airport, number)] = await db.load_async(
        select(Airport, func.count(Flight.id)).join(Flight).where(JFK).group_by(Airport.code)
    )
    assert (airport.code, number) == ("JFK", 3)


async def test_a_column_and_a_select_of_one_load_a_list_of_values(db: Database) -> None:
    assert sorted(await db.load_async(Airport.code)) == ["EWR", "JFK", "LGA"]
    assert await db.load_async(select(Flight.id).where(JFK).order_by(Flight.id)) == [1, 2, 3]


async def test_rows_are_detached_and_readable_when_the_connection_is_gone(db: Database, server: Server) -> None:
    flights = await db.load_async(select(Flight).order_by(Flight.id))
    rows = await db.load_async(select(Flight.id, Flight.carrier).order_by(Flight.id))
    await server.terminate()
    assert all(state_of(flight).detached for flight in flights)
    assert [(flight.id, flight.carrier) for flight in flights] == [(row.id, row.carrier) for row in rows]
    assert flights[0].fare == Decimal("100.10")


@pytest.mark.parametrize("option", [joinedload(Airport.flights), selectinload(Airport.flights)])
async def test_eager_loads_come_along_with_each_parent_once(db: Database, option: Any) -> None:
    airports = await db.load_async(select(Airport).options(option).order_by(Airport.code))
    assert [(a.code, [f.id for f in a.flights]) for a in airports] == [
        ("EWR", [4, 5]),
        ("JFK", [1, 2, 3]),
        ("LGA", []),
    ]


async def test_a_plain_join_keeps_its_repeated_rows(db: Database) -> None:
    airports = await db.load_async(select(Airport).join(Flight).where(JFK))
    assert [airport.code for airport in airports] == ["JFK"] * 3


async def test_core_tables_and_textual_statements_load_too(db: Database) -> None:
    table = Flight.__table__
    assert await db.load_async(select(table.c.id).where(table.c.id == 1)) == [1]
    textual = text("SELECT id, carrier FROM queries_flights WHERE id < 3 ORDER BY id")
    assert await db.load_async(textual.columns(column("id"), column("carrier"))) == [(1, "AA"), (2, "AA")]
    from_statement = select(Flight).from_statement(text("SELECT * FROM queries_flights WHERE id = 2"))
    assert [flight.id for flight in await db.load_async(from_statement)] == [2]


@pytest.mark.parametrize(
    ("source", "where", "expected"),
    [
        (Flight, None, 5),
        (Flight, JFK, 3),
        (Flight, NOWHERE, 0),
        (aliased(Flight), None, 5),
        (Flight.__table__, None, 5),
        (Flight.dep_delay, None, 4),
        (distinct(Flight.carrier), None, 3),
        (select(Flight).where(JFK), None, 3),
        (select(Flight), JFK, 3),
        (select(Flight).order_by(Flight.id).limit(2), None, 2),
        (select(Flight).offset(4), None, 1),
        (select(Flight.carrier).distinct(), None, 3),
        (select(Flight).options(joinedload(Flight.airport)), None, 5),
        (select(Airport).options(selectinload(Airport.flights)), None, 3),
        (select(Airport, Flight).join(Flight), None, 5),
        (union_all(select(Flight.id), select(Flight.id)), None, 10),
    ],
)
async def test_count(db: Database, source: Any, where: Any, expected: int) -> None:
    assert await db.async_count(source, where=where) == expected


async def test_counting_a_statement_does_not_sort_it() -> None:
    sorted_ = select(Flight).order_by(Flight.dep_delay)
    assert "ORDER BY" not in str(questions.count(sorted_, None).statement)
    assert "ORDER BY" in str(questions.count(sorted_.limit(1), None).statement)


async def test_sums_have_the_type_of_their_column(db: Database) -> None:
    assert repr(await db.async_sum(Flight.dep_delay)) == "64"
    assert repr(await db.async_sum(cast(Flight.id, Integer) * 2, where=JFK)) == "12"
    assert repr(await db.async_sum(Flight.air_time, where=JFK)) == "184.5"
    assert repr(await db.async_sum(Flight.fare, where=JFK)) == "Decimal('300.60')"
    assert await db.async_sum(select(Flight.dep_delay).where(JFK).order_by(Flight.id).limit(2)) == 30
    assert await db.async_sum(select(Flight.dep_delay).distinct(), where=JFK) == 70


async def test_the_sum_of_nothing_is_zero(db: Database) -> None:
    assert repr(await db.async_sum(Flight.dep_delay, where=NOWHERE)) == "0"
    assert repr(await db.async_sum(Flight.air_time, where=NOWHERE)) == "0.0"
    assert await db.async_sum(Flight.fare, where=NOWHERE) == 0
    assert await db.async_sum(select(Flight.dep_delay).where(NOWHERE)) == 0


async def test_the_least_and_the_greatest(db: Database) -> None:
    assert await db.async_minimum(Flight.dep_delay) == -6
    assert await db.async_maximum(Flight.dep_delay, where=JFK) == 40
    assert await db.async_minimum(Flight.carrier) == "AA"
    assert await db.async_maximum(select(Flight.dep_delay).order_by(Flight.id).limit(2)) == 20


async def test_averages_are_floats(db: Database) -> None:
    assert repr(await db.async_average(Flight.dep_delay)) == "16.0"
    assert repr(await db.async_average(Flight.fare, where=JFK)) == "100.2"
    assert await db.async_average(select(Flight.dep_delay).where(JFK)) == pytest.approx(70 / 3)


async def test_the_least_the_greatest_and_the_average_of_nothing_are_none(db: Database) -> None:
    assert await db.async_minimum(Flight.dep_delay, where=NOWHERE) is None
    assert await db.async_maximum(select(Flight.dep_delay).where(NOWHERE)) is None
    assert await db.async_average(Flight.dep_delay, where=NOWHERE) is None


async def test_a_grouped_count_is_a_dict_by_what_is_selected(db: Database) -> None:
    async def counts(source: Select[*tuple[Any, ...]], **options: Any) -> Any:
        return await db.async_count(source, **options)

    by_carrier = select(Flight.carrier).group_by(Flight.carrier)
    assert await counts(by_carrier) == {"AA": 2, "UA": 2, "DL": 1}
    assert await counts(by_carrier.having(func.count() > 1), where=JFK) == {"AA": 2}
    both = select(Flight.origin, Flight.carrier).group_by(Flight.origin, Flight.carrier).where(JFK)
    assert await counts(both) == {("JFK", "AA"): 2, ("JFK", "UA"): 1}
    assert await counts(by_carrier.where(NOWHERE)) == {}


async def test_a_grouped_aggregate_is_a_dict_of_the_last_column_by_the_others(db: Database) -> None:
    by_carrier = select(Flight.carrier, Flight.dep_delay).group_by(Flight.carrier)
    assert await db.async_sum(by_carrier) == {"AA": 30, "UA": 40, "DL": -6}
    assert await db.async_average(by_carrier) == {"AA": 15.0, "UA": 40.0, "DL": -6.0}
    assert await db.async_maximum(by_carrier.where(JFK)) == {"AA": 20, "UA": 40}
    assert await db.async_minimum(select(Flight.origin, Flight.carrier, Flight.id).group_by("origin", "carrier")) == {
        ("JFK", "AA"): 1,
        ("JFK", "UA"): 3,
        ("EWR", "UA"): 4,
        ("EWR", "DL"): 5,
    }
    delay = func.sum(Flight.dep_delay)
    worst = await db.async_sum(by_carrier.order_by(delay.desc()).limit(2))
    assert list(worst.items()) == [("UA", 40), ("AA", 30)]
    joined = select(Airport.code, Flight.dep_delay).join(Flight).group_by(Airport.code)
    assert await db.async_sum(joined) == {"JFK": 70, "EWR": -6}
    assert await db.async_sum(by_carrier.where(Flight.dep_delay.is_(None))) == {"UA": 0}


async def test_what_no_query_can_be_made_of_is_refused_at_once(db: Database) -> None:
    nothing: Any
    for nothing in (5, "flights", object(), insert(Flight), text("SELECT 1")):
        with pytest.raises(QueryError):
            db.load_async(nothing)
        with pytest.raises(QueryError):
            db.async_count(nothing)
        with pytest.raises(QueryError):
            db.async_sum(nothing)
    with pytest.raises(QueryError, match="the sum is of one column"):
        db.async_sum(select(Flight.id, Flight.dep_delay))
    with pytest.raises(QueryError, match="the average is of one column"):
        db.async_average(select(Flight.dep_delay).group_by(Flight.dep_delay))
    with pytest.raises(QueryError, match="`where` needs"):
        db.async_count(union_all(select(Flight.id), select(Flight.id)), where=JFK)
    assert db.queries == []


@pytest.mark.parametrize(
    ("source", "subject"),
    [
        (Flight, "Flight"),
        (aliased(Flight), "Flight"),
        (Flight.__table__, "queries_flights"),
        (Flight.dep_delay, "Flight"),
        (Flight.__table__.c.id, "queries_flights"),
        (func.coalesce(Flight.dep_delay, 0), "SQL"),
        (select(Flight).where(JFK), "Flight"),
        (select(Flight.id, Airport.code).join(Airport), "Flight"),
        (select(func.count()).select_from(Flight), "queries_flights"),
        (select(literal(1), Flight.id), "Flight"),
        (union_all(select(Flight.id), select(Airport.code)), "Flight"),
        (select(literal(1)), "SQL"),
        (select(literal(1).label("one")).subquery().c.one, "SQL"),
        (text("SELECT 1").columns(column("one")), "SQL"),
    ],
)
def test_a_query_is_named_for_people(source: Any, subject: str) -> None:
    assert questions.load(source).name == f"{subject} Load"


def test_each_method_names_its_queries() -> None:
    makers: list[Any] = [
        questions.count, questions.total, questions.minimum, questions.maximum, questions.average,
    ]  # fmt: skip
    names = [make(Flight.dep_delay, None).name for make in makers]
    assert names == ["Flight Count", "Flight Sum", "Flight Minimum", "Flight Maximum", "Flight Average"]


def test_only_a_statement_that_visibly_reads_may_be_repeated() -> None:
    written = Table("written", MetaData(), Column("n", Integer))
    adding = insert(written).values(n=1).returning(written.c.n).cte()
    assert questions.load(select(Flight).where(JFK, text("updated > 1"))).reads_only()
    assert questions.load(text(" SELECT 1").columns(column("one"))).reads_only()
    assert not questions.load(select(adding)).reads_only()
    assert not questions.count(select(adding), None).reads_only()
    textual = text("\nINSERT INTO queries_flights DEFAULT VALUES RETURNING *")
    assert not questions.load(textual.columns(column("id"))).reads_only()
    assert not questions.load(select(Flight).from_statement(textual)).reads_only()


if TYPE_CHECKING:

    def the_types_are_told(db: Database, interval: Column[Interval], grouped: Select[str, int]) -> None:
        """Read by mypy, never run."""
        assert_type(db.load_async(Flight), Promise[list[Flight]])
        assert_type(db.load_async(select(Flight)), Promise[list[Flight]])
        assert_type(db.load_async(select(Flight.carrier)), Promise[list[str]])
        assert_type(db.load_async(Flight.carrier), Promise[list[str]])
        assert_type(db.load_async(select(Flight.id, Flight.carrier)), Promise[list[Row[int, str]]])
        assert_type(db.load_async(select(Flight, Airport, Flight.id)), Promise[list[Row[Flight, Airport, int]]])
        assert_type(db.async_count(Flight), Promise[int])
        assert_type(db.async_count(select(Flight)), Promise[int])
        assert_type(db.async_count(Flight.id, where=JFK), Promise[int])
        assert_type(db.async_sum(Flight.dep_delay), Promise[int])
        assert_type(db.async_sum(Flight.air_time, where=JFK), Promise[float])
        assert_type(db.async_sum(select(Flight.dep_delay)), Promise[int])
        assert_type(db.async_minimum(Flight.dep_delay), Promise[int | None])
        assert_type(db.async_minimum(Flight.id), Promise[int | None])
        assert_type(db.async_maximum(select(Flight.carrier)), Promise[str | None])
        assert_type(db.async_average(Flight.dep_delay, where=JFK), Promise[float | None])
        assert_type(db.async_average(select(Flight.id)), Promise[float | None])
        assert_type(db.async_average(select(Flight.carrier, Flight.id)), Promise[dict[str, float | None]])
        assert_type(db.async_sum(grouped), Promise[dict[str, int]])
        assert_type(db.async_count(Flight).then(str), Promise[str])
        assert_type(db.load_async(Flight).then(len), Promise[int])
