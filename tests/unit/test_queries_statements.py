"""Statements: what each method asks of PostgreSQL, and the value it gives back."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from sqlalchemy import (
    Column,
    CursorResult,
    Integer,
    Interval,
    MetaData,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    cast,
    column,
    distinct,
    false,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy import inspect as state_of
from sqlalchemy.orm import aliased, joinedload, selectinload

from pushsvc.domain import Json
from pushsvc.errors import QueryError, RecordNotFound
from pushsvc.jobs import encode
from pushsvc.queries import Database, DatabasePool, Promise, Transaction
from pushsvc.queries.asking import calculations, lookups

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
    assert "ORDER BY" not in str(calculations.count(sorted_, None).statement)
    assert "ORDER BY" in str(calculations.count(sorted_.limit(1), None).statement)


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
    assert encode(await counts(by_carrier.where(NOWHERE)), 100) == b"{}"
    assert encode(await counts(both.where(NOWHERE)), 100) == b"[]"
    least = await db.async_minimum(both.add_columns(Flight.dep_delay).where(NOWHERE))
    assert encode(least, 100) == b"[]"


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


NEVER: dict[str, Any] = {
    "false": false(),
    "not true": ~true(),
    "no values": Flight.id.in_([]),
    "no values, twice negated": ~Flight.id.not_in([]),
    "no tuples": tuple_(Flight.origin, Flight.carrier).in_([]),
    "no values by name": Flight.id.in_(bindparam("ids", [], expanding=True)),
    "and": and_(JFK, Flight.id.in_([])),
    "nested and": and_(JFK, and_(Flight.id > 1, and_(Flight.id.in_([]), Flight.id < 9))),
    "one of an or": or_(and_(Flight.id.in_([]), JFK)),
}


@pytest.mark.parametrize("condition", NEVER)
async def test_what_can_never_match_is_answered_without_a_query(
    db: Database, pool: DatabasePool, condition: str
) -> None:
    never = NEVER[condition]
    statement = select(Flight).where(never)
    by_carrier = select(Flight.carrier).where(never).group_by(Flight.carrier)
    delays = select(Flight.carrier, Flight.dep_delay).where(never).group_by(Flight.carrier)
    asked: list[tuple[Promise[Any], str]] = [
        (db.load_async(statement), "[]"),
        (db.load_async(Flight, where=never), "[]"),
        (db.load_async(Flight.id, where=never), "[]"),
        (db.load_async(Flight, where=never, preload=[Flight.airport]), "[]"),
        (db.load_async(statement.options(selectinload(Flight.airport))), "[]"),
        (db.load_async(select(Flight.carrier, func.count()).where(never).group_by(Flight.carrier)), "[]"),
        (db.async_count(statement), "0"),
        (db.async_count(Flight, where=never), "0"),
        (db.async_count(Flight.dep_delay, where=never), "0"),
        (db.async_count(by_carrier), "{}"),
        (db.async_sum(Flight.dep_delay, where=never), "0"),
        (db.async_sum(Flight.air_time, where=never), "0.0"),
        (db.async_sum(Flight.fare, where=never), "Decimal('0')"),
        (db.async_sum(select(Flight.dep_delay).where(never)), "0"),
        (db.async_sum(delays), "{}"),
        (db.async_minimum(Flight.id, where=never), "None"),
        (db.async_minimum(delays), "{}"),
        (db.async_maximum(select(Flight.id).where(never)), "None"),
        (db.async_maximum(delays), "{}"),
        (db.async_average(Flight.id, where=never), "None"),
        (db.async_average(delays), "{}"),
        (db.async_exists(Flight, where=never), "False"),
        (db.async_exists(statement), "False"),
        (db.async_exists(Flight.dep_delay, where=never), "False"),
        (db.async_pluck(Flight.id, where=never), "[]"),
        (db.async_pluck(statement, Flight.id, Flight.carrier), "[]"),
        (db.async_pick(Flight.id, where=never), "None"),
        (db.async_ids(Flight, where=never), "[]"),
        (db.async_first(Flight, where=never), "None"),
        (db.async_first(statement), "None"),
        (db.async_find(Flight, [], where=never), "[]"),
        (db.async_find_by(Flight, never, id=1), "None"),
        (db.async_json(Flight, where=never).then(bytes), "b'[]'"),
    ]
    assert all(isinstance(promise, Promise) for promise, _ in asked)
    assert [repr(await promise) for promise, _ in asked] == [answer for _, answer in asked]
    missing = db.async_find(Flight, 1, where=never)
    with pytest.raises(RecordNotFound, match="there is no Flight 1"):
        await missing
    assert db.queries == []
    assert dict(pool.counters) == {"empty": len(asked) + 1}


async def test_a_limit_of_zero_is_answered_without_a_query(db: Database, pool: DatabasePool) -> None:
    none = select(Flight).limit(0)
    assert await db.load_async(none) == []
    assert await db.async_count(none) == 0
    assert repr(await db.async_count(select(Flight.carrier).group_by(Flight.carrier).limit(0))) == "{}"
    assert await db.async_sum(select(Flight.id).limit(0)) == 0
    assert await db.async_maximum(select(Flight.id).limit(0)) is None
    assert await db.async_exists(none) is False
    assert await db.async_pluck(none, Flight.id) == []
    assert await db.async_pick(none, Flight.id) is None
    assert await db.async_first(none) is None
    assert await db.async_find_by(none, id=1) is None
    assert (await db.async_json(none)).parse() == []
    assert (pool.counters["empty"], db.queries) == (11, [])


async def test_no_keys_no_rows_and_what_is_loaded_already_are_answered_without_a_query(
    db: Database, pool: DatabasePool
) -> None:
    assert await db.async_find(Flight, []) == []
    assert await db.async_find(Flight, set()) == []
    assert await db.preload_async([], Airport.flights) == []
    assert await db.load_async(Airport.flights, of=Airport(code="JFK", flights=[])) == []
    assert (pool.counters["empty"], db.queries) == (2, [])


async def test_a_promise_without_a_query_is_complete_at_once_and_like_any_other(db: Database) -> None:
    promise = db.async_count(Flight, where=false())
    assert promise.status == "complete"
    assert not promise.cancel()
    assert await promise == await promise == 0
    assert await promise.then(lambda number: number + 1) == 1
    assert await asyncio.to_thread(promise.value) == 0


written = Table("queries_written", MetaData(), Column("n", Integer))
adding = insert(written).values(n=1).returning(written.c.n).cte("adding")
NONE: Any = bindparam("none", callable_=lambda: 0, type_=Integer)
FLIGHTS = Flight.__table__
# Each looks as if it could not match, and has rows, or does something, all the same.
TRAPS: dict[str, tuple[Any, list[Any]]] = {
    "an aggregate": (select(func.count()).select_from(Flight).where(false()), [0]),
    "aggregates": (select(func.count(), func.max(Flight.id)).where(false()), [(0, None)]),
    "an aggregate in an expression": (select(func.coalesce(func.sum(Flight.id), 7) + 1).where(false()), [8]),
    "an aggregate with a label": (select(func.count(Flight.id).label("n")).where(false()), [0]),
    "an aggregate with a filter": (select(func.count().filter(JFK)).select_from(Flight).where(false()), [0]),
    "an aggregate in SQL": (select(literal_column("count(*)")).select_from(Flight).where(false()), [0]),
    "an aggregate in a text": (select(text("count(*)")).select_from(Flight).where(false()), [0]),
    "an aggregate to order by": (
        select(literal(1)).select_from(Flight).where(false()).order_by(func.count(Flight.id)),
        [1],
    ),
    "HAVING": (select(literal(1)).select_from(Flight).where(false()).having(literal(1) == 1), [1]),
    "ROLLUP": (
        select(Flight.carrier, func.count()).where(false()).group_by(func.rollup(Flight.carrier)),
        [(None, 0)],
    ),
    "GROUPING SETS": (
        select(func.count()).select_from(Flight).where(false()).group_by(func.grouping_sets(tuple_(), Flight.id)),
        [0],
    ),
    "GROUP BY ()": (select(literal(1)).select_from(Flight).where(false()).group_by(text("()")), [1]),
    "an aggregate with LIMIT 0": (select(func.count(Flight.id)).limit(0), []),
    "OR": (select(Flight.id).where(or_(Flight.id.in_([]), Flight.id == 2)), [2]),
    "NOT": (select(Flight.id).where(~Flight.id.in_([])).order_by(Flight.id).limit(1), [1]),
    "NOT IN ()": (select(Flight.id).where(Flight.id.not_in([]), Flight.id < 2), [1]),
    "a join on false": (
        select(Airport.code, Flight.id).outerjoin(Flight, false()).where(Airport.code == "JFK"),
        [("JFK", None)],
    ),
    "a full join on false": (
        select(func.count()).select_from(Airport.__table__.join(FLIGHTS, false(), full=True)),
        [8],
    ),
    "a false subquery": (select(literal(1)).where(~select(Flight.id).where(false()).exists()), [1]),
    "a union with it": (union_all(select(Flight.id).where(false()), select(literal(7))), [7]),
    "values that are called for": (
        select(Flight.id).where(Flight.id.in_(bindparam("ids", callable_=lambda: [3], expanding=True))),
        [3],
    ),
    "a CTE that writes": (select(adding.c.n).where(false()), []),
    "a CTE beside it that writes": (select(literal(1)).add_cte(adding).where(false()), []),
    "a limit with a CTE that writes": (select(adding.c.n).limit(0), []),
    "a limit that is called for": (select(Flight.id).limit(NONE), []),
    "no values that are called for": (
        select(Flight.id).where(Flight.id.in_(bindparam("ids", callable_=list, expanding=True))),
        [],
    ),
}


async def test_what_only_looks_as_if_it_could_not_match_is_asked(db: Database, server: Server) -> None:
    await server.fetch("DROP TABLE IF EXISTS queries_written")
    await server.fetch("CREATE TABLE queries_written (n int)")
    wrong = {}
    for number, (trap, (statement, rows)) in enumerate(TRAPS.items(), 1):
        found = await db.load_async(statement)
        if found != rows or len(db.queries) != number:
            wrong[trap] = found, len(db.queries)
    assert wrong == {}
    assert await server.fetch("SELECT n FROM queries_written") == [(1,)] * 3


async def test_other_methods_are_not_trapped_either(db: Database, pool: DatabasePool) -> None:
    counted = select(func.count()).select_from(Flight).where(false())
    by_carrier = select(Flight.carrier).where(false()).group_by(func.rollup(Flight.carrier))
    assert await db.async_count(counted) == 1
    assert await db.async_exists(counted) is True
    assert await db.async_first(counted) == 0
    assert await db.async_pluck(counted) == [0]
    assert await db.async_pick(counted) == 0
    assert await db.async_sum(counted) == 0
    assert await db.async_maximum(counted) == 0
    assert repr(await db.async_count(by_carrier)) == "{None: 0}"
    assert (await db.async_json(counted.with_only_columns(func.count().label("n")))).parse() == [{"n": 0}]
    # Of a column, it is the rows that are counted, not the count.
    assert await db.async_count(Flight.id, where=false()) == 0
    assert pool.counters["empty"] == 1


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
    assert lookups.load(source).name == f"{subject} Load"


async def test_each_method_names_its_queries(db: Database) -> None:
    asked: list[Promise[Any]] = [
        db.async_count(Flight), db.async_sum(Flight.id), db.async_minimum(Flight.id), db.async_maximum(Flight.id),
        db.async_average(Flight.id), db.async_exists(Flight), db.async_pluck(Flight.id), db.async_pick(Flight.id),
        db.async_ids(Flight), db.async_first(Flight), db.async_find(Flight, 1), db.async_find_by(Flight, id=1),
        db.async_find_by_sql(Flight, "SELECT * FROM queries_flights"), db.async_find_by_sql("SELECT 1"),
        db.async_count_by_sql("SELECT 1"), db.async_json(Flight), db.load_async(Flight),
    ]  # fmt: skip
    await asyncio.gather(*asked)
    assert [record.name for record in db.queries] == [
        "Flight Count", "Flight Sum", "Flight Minimum", "Flight Maximum",
        "Flight Average", "Flight Exists", "Flight Pluck", "Flight Pick",
        "Flight Ids", "Flight Load", "Flight Load", "Flight Load",
        "Flight Load", "SQL Load",
        "SQL Count", "Flight JSON", "Flight Load",
    ]  # fmt: skip


def test_only_a_statement_that_visibly_reads_may_be_repeated() -> None:
    written = Table("written", MetaData(), Column("n", Integer))
    adding = insert(written).values(n=1).returning(written.c.n).cte()
    assert lookups.load(select(Flight).where(JFK, text("updated > 1"))).reads_only()
    assert lookups.load(text(" SELECT 1").columns(column("one"))).reads_only()
    assert not lookups.load(select(adding)).reads_only()
    assert not calculations.count(select(adding), None).reads_only()
    textual = text("\nINSERT INTO queries_flights DEFAULT VALUES RETURNING *")
    assert not lookups.load(textual.columns(column("id"))).reads_only()
    assert not lookups.load(select(Flight).from_statement(textual)).reads_only()


if TYPE_CHECKING:

    def the_types_are_told(db: Database, interval: Column[Interval], grouped: Select[str, int]) -> None:
        """Read by mypy, never run."""
        assert_type(db.load_async(Flight), Promise[list[Flight]])
        assert_type(db.load_async(Flight, where=JFK, preload=[Flight.airport]), Promise[list[Flight]])
        assert_type(db.load_async(select(Flight)), Promise[list[Flight]])
        assert_type(db.load_async(select(Flight).limit(3), preload=[Flight.airport]), Promise[list[Flight]])
        assert_type(db.load_async(select(Flight.carrier)), Promise[list[str]])
        assert_type(db.load_async(Flight.carrier), Promise[list[str]])
        assert_type(db.load_async(Flight.dep_delay, where=JFK), Promise[list[int | None]])
        assert_type(db.load_async(Flight.carrier + "!"), Promise[list[str]])
        assert_type(db.load_async(select(Flight.id, Flight.carrier)), Promise[list[Row[int, str]]])
        assert_type(db.load_async(select(Flight, Airport, Flight.id)), Promise[list[Row[Flight, Airport, int]]])
        assert_type(db.load_async(Airport.flights, of=Airport()), Promise[list[Flight]])
        assert_type(db.load_async(Flight.airport, of=Flight()), Promise[Airport])
        assert_type(db.preload_async([Airport()], Airport.flights), Promise[list[Airport]])
        assert_type(db.async_count(Flight), Promise[int])
        assert_type(db.async_count(select(Flight)), Promise[int])
        assert_type(db.async_count(Flight.id, where=JFK), Promise[int])
        assert_type(db.async_sum(Flight.dep_delay), Promise[int])
        assert_type(db.async_sum(Flight.air_time, where=JFK), Promise[float])
        assert_type(db.async_sum(select(Flight.dep_delay)), Promise[int])
        assert_type(db.async_minimum(Flight.dep_delay), Promise[int | None])
        assert_type(db.async_minimum(Flight.id), Promise[int | None])
        assert_type(db.async_minimum(grouped), Promise[dict[str, int | None]])
        assert_type(db.async_maximum(select(Flight.carrier)), Promise[str | None])
        assert_type(db.async_maximum(Flight.carrier), Promise[str | None])
        assert_type(db.async_average(Flight.dep_delay, where=JFK), Promise[float | None])
        assert_type(db.async_average(select(Flight.id)), Promise[float | None])
        assert_type(db.async_average(select(Flight.carrier, Flight.id)), Promise[dict[str, float | None]])
        assert_type(db.async_sum(grouped), Promise[dict[str, int]])
        assert_type(db.async_exists(Flight), Promise[bool])
        assert_type(db.async_count(Flight).then(str), Promise[str])

    def and_those_of_what_is_found(db: Database) -> None:
        """Read by mypy, never run."""
        assert_type(db.async_exists(select(Flight.id), where=JFK), Promise[bool])
        assert_type(db.async_pluck(Flight.carrier), Promise[list[str]])
        assert_type(db.async_pluck(Flight.id, Flight.carrier), Promise[list[Row[int, str]]])
        assert_type(db.async_pluck(Flight.id, Flight.carrier, Flight.air_time), Promise[list[Row[int, str, float]]])
        assert_type(db.async_pluck(Flight, Flight.carrier), Promise[list[str]])
        assert_type(db.async_pluck(Flight, Flight.id, Flight.carrier), Promise[list[Row[int, str]]])
        assert_type(db.async_pluck(select(Flight).limit(9), Flight.carrier), Promise[list[str]])
        assert_type(db.async_pluck(select(Flight), Flight.id, Flight.carrier), Promise[list[Row[int, str]]])
        assert_type(db.async_pluck(select(Flight.carrier)), Promise[list[str]])
        assert_type(db.async_pluck(select(Flight.carrier, Flight.id)), Promise[list[Row[str, int]]])
        assert_type(db.async_pick(Flight.carrier, where=JFK), Promise[str | None])
        assert_type(db.async_pick(Flight.id, Flight.carrier), Promise[Row[int, str] | None])
        assert_type(db.async_pick(Flight, Flight.carrier), Promise[str | None])
        assert_type(db.async_pick(select(Flight.carrier)), Promise[str | None])
        assert_type(db.async_ids(Flight), Promise[list[Any]])
        assert_type(db.async_first(Flight), Promise[Flight | None])
        assert_type(db.async_first(select(Flight), where=JFK), Promise[Flight | None])
        assert_type(db.async_first(Flight.carrier), Promise[str | None])
        assert_type(db.async_first(select(Flight.id, Flight.carrier)), Promise[Row[int, str] | None])
        assert_type(db.async_find(Flight, 1), Promise[Flight])
        assert_type(db.async_find(select(Flight), (1,)), Promise[Flight])
        assert_type(db.async_find(Flight, [1, 2]), Promise[list[Flight]])
        assert_type(db.async_find(Flight, {1, 2}, where=JFK), Promise[list[Flight]])
        assert_type(db.async_find_by(Flight, carrier="AA"), Promise[Flight | None])
        assert_type(db.async_find_by(select(Flight), JFK, id=3), Promise[Flight | None])
        assert_type(db.async_find_by_sql(Flight, "SELECT * FROM flights"), Promise[list[Flight]])
        assert_type(db.async_find_by_sql(Flight, text("SELECT :a"), {"a": 1}), Promise[list[Flight]])
        assert_type(db.async_find_by_sql("SELECT 1", a=1), Promise[list[Any]])
        assert_type(db.async_count_by_sql("SELECT count(*) FROM flights WHERE id = :id", id=1), Promise[int])
        assert_type(db.async_json(Flight), Promise[Json])
        assert_type(db.async_json(select(Flight.id), where=JFK), Promise[Json])
        assert_type(db.load_async(Flight).then(len), Promise[int])

    async def and_so_are_those_of_answers(db: Database) -> None:
        """Read by mypy, never run."""
        assert_type(await db.async_find(Flight, 1), Flight)
        assert_type(db.async_find(Flight, 1).value(), Flight)
        assert_type(await db.async_count(Flight).then(str), str)
        async with db.transaction(isolation="serializable") as transaction:
            assert_type(transaction, Transaction)
            assert_type(await transaction.run_sync(lambda session: session.get(Flight, 1)), Flight | None)
            assert_type(await transaction.execute(select(Flight)), CursorResult[Any])
            assert_type(db.load_async(Flight), Promise[list[Flight]])
