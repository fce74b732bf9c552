"""Finders: for every kind of source the rows that SQLAlchemy gives, and a refusal of what can't be asked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    Integer,
    MetaData,
    Row,
    Table,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    insert,
    intersect,
    literal,
    null,
    select,
    text,
    tuple_,
    union,
    union_all,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Bundle, aliased, joinedload, selectinload, with_loader_criteria
from sqlalchemy.sql.selectable import SelectBase

from pushsvc.domain import Json
from pushsvc.errors import QueryError, RecordNotFound
from pushsvc.jobs.results import encode
from pushsvc.queries import Database, DatabasePool

from .queries_support import Airport, Flight, Leg, Person, Skill, Stop

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("crew")

JFK = Flight.origin == "JFK"
NOBODY = Flight.id == 99
flights: Any = Flight.__table__
airports: Any = Airport.__table__
legs: Any = Leg.__table__
other = aliased(Flight, name="other")
nameless = aliased(Flight)
delayed = select(Flight.id, Flight.origin).where(Flight.dep_delay > 0).cte("delayed")
cheap = select(Flight).where(Flight.fare < 100.25).subquery()
of_airport = select(func.count()).where(Flight.origin == Airport.code).scalar_subquery()
of_union = aliased(Flight, union(select(Flight).where(JFK), select(Flight)).subquery())
numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < 4))
keyless = Table("queries_flights", MetaData(), Column("id", Integer), Column("carrier"))

Plain = Callable[[Any], Awaitable[list[Any]]]


@pytest_asyncio.fixture
async def plain(postgres_url: str) -> AsyncIterator[Plain]:
    """What SQLAlchemy itself makes of a statement: things where one is selected, else rows."""
    engine: AsyncEngine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))

    async def ask(statement: Any) -> list[Any]:
        async with AsyncSession(engine) as session:
            rows = (await session.execute(statement)).all()
            return [row[0] for row in rows] if rows and len(rows[0]) == 1 else list(rows)

    yield ask
    await engine.dispose()


def shown(found: Any) -> Any:
    """Something that can be compared: entities by their class and columns, rows by what is in them."""
    if isinstance(found, list):
        return [shown(thing) for thing in found]
    if isinstance(found, Row):
        return tuple(map(shown, found))
    if isinstance(found, Flight | Airport | Leg | Person):
        return type(found), {name: value for name, value in vars(found).items() if name in type(found).__table__.c}
    return found


SOURCES: dict[str, Any] = {
    "entity": select(Flight).order_by(Flight.id),
    "alias": select(other).order_by(other.id),
    "nameless alias": select(nameless).order_by(nameless.id),
    "nameless alias and column": select(nameless, nameless.id).order_by(nameless.id),
    "alias of a subquery": select(aliased(Flight, cheap)),
    "table": select(flights).order_by(flights.c.id),
    "table of one column": select(airports).order_by(airports.c.code),
    "column": select(Flight.carrier).order_by(Flight.id),
    "column twice": select(Flight.carrier, Flight.carrier).order_by(Flight.id),
    "columns": select(Flight.id, Flight.fare, Flight.air_time, Flight.dep_delay).order_by(Flight.id),
    "column of a table": select(flights.c.carrier).order_by(flights.c.id),
    "labels": select(Flight.id.label("number"), (Flight.dep_delay * 2).label("twice")).order_by(Flight.id),
    "entities": select(Airport, Flight).join(Flight).order_by(Flight.id),
    "entity and column": select(Flight, Airport.code).join(Airport).order_by(Flight.id),
    "bundle": select(Bundle("both", Flight.id, Flight.carrier)).order_by(Flight.id),
    "join": select(Airport).join(Flight).where(JFK),
    "outer join": select(Airport, Flight).outerjoin(Flight).order_by(Airport.code, Flight.id),
    "entity that may be missing": select(Flight).select_from(Airport).outerjoin(Flight).order_by(Flight.id),
    "filters": select(Flight).where(JFK, Flight.carrier.in_(["AA", "DL"])).order_by(Flight.id),
    "filter_by": select(Flight).filter_by(origin="EWR").order_by(Flight.id),
    "tuples": select(Flight.id).where(tuple_(Flight.origin, Flight.carrier).in_([("JFK", "UA"), ("EWR", "DL")])),
    "no rows": select(Flight).where(NOBODY),
    "no values": select(Flight.id).where(NOBODY),
    "groups": select(Flight.carrier, func.count()).group_by(Flight.carrier).order_by(Flight.carrier),
    "having": select(Flight.carrier).group_by(Flight.carrier).having(func.count() > 1).order_by(Flight.carrier),
    "entity in groups": select(Airport, func.count(Flight.id)).join(Flight).group_by(Airport.code).order_by("code"),
    "rollup": select(Flight.carrier, func.count()).group_by(func.rollup(Flight.carrier)).order_by(Flight.carrier),
    "distinct": select(Flight.carrier).distinct().order_by(Flight.carrier),
    "distinct on": select(Flight).ext(distinct_on(Flight.carrier)).order_by(Flight.carrier, Flight.id.desc()),
    "limit": select(Flight).order_by(Flight.id.desc()).limit(2),
    "offset": select(Flight.id).order_by(Flight.id).limit(2).offset(3),
    "fetch": select(Flight.id).order_by(Flight.id).fetch(2),
    "order with nulls": select(Flight.id).order_by(Flight.dep_delay.desc().nulls_last()),
    "cte": select(delayed.c.id).join(Flight, Flight.id == delayed.c.id).where(JFK).order_by(delayed.c.id),
    "entity by cte": select(Flight).join(delayed, Flight.id == delayed.c.id).order_by(Flight.id),
    "recursion": select(numbers.c.n).order_by(numbers.c.n),
    "union": union(select(Flight.origin), select(Airport.code)).order_by("origin"),
    "union of rows": union_all(select(Flight.id, Flight.origin), select(Flight.id, Flight.origin)).order_by("id"),
    "intersection": intersect(select(Airport.code), select(Flight.origin)).order_by("code"),
    "entity of a union": select(of_union).order_by(of_union.id),
    "subquery": select(select(Flight.carrier).where(JFK).order_by(Flight.id).subquery()),
    "scalar subquery": select(Airport.code, of_airport).order_by(Airport.code),
    "exists": select(Airport).where(exists().where(Flight.origin == Airport.code)).order_by(Airport.code),
    "any": select(Airport).where(Airport.flights.any(Flight.carrier == "DL")),
    "window": select(Flight.id, func.rank().over(partition_by=Flight.origin, order_by=Flight.fare)).order_by(
        Flight.id
    ),
    "case": select(case((JFK, "here"), else_="there")).order_by(Flight.id),
    "values": select(values(column("a", Integer), column("b", Integer), name="v").data([(1, 2), (3, 4)])),
    "literal": select(literal("it's")),
    "nulls": select(null(), literal(None), Flight.dep_delay).where(Flight.id == 4),
    "text of columns": text("SELECT id, carrier FROM queries_flights ORDER BY id").columns(Flight.id, Flight.carrier),
    "entity of a text": select(Flight).from_statement(text("SELECT * FROM queries_flights ORDER BY id")),
    "for update": select(Flight).where(JFK).order_by(Flight.id).with_for_update(),
    "joined load": select(Flight).options(joinedload(Flight.airport)).order_by(Flight.id),
    "key of two columns": select(Leg).order_by(Leg.trip, Leg.number),
    "renamed attribute": select(Leg.number, Leg).order_by(Leg.trip, Leg.number),
}


async def test_the_rows_of_a_statement_are_those_of_sqlalchemy(db: Database, plain: Plain) -> None:
    other_rows = {}
    for form, statement in SOURCES.items():
        expected = shown(await plain(statement))
        # SQLAlchemy runs the first of each shape; the next may take the short way.
        found = [shown(await db.load_async(statement)) for _ in range(2)]
        if found != [expected] * 2:
            other_rows[form] = (found, expected)
    assert other_rows == {}


async def test_first_exists_and_count_agree_with_the_rows(db: Database) -> None:
    differing = {}
    for form, source in SOURCES.items():
        if not isinstance(source, SelectBase):
            continue
        statement: Any = source
        rows = shown(await db.load_async(statement))
        expected = (rows[0] if rows else None, bool(rows), len(rows))
        grouped = form in ("groups", "having", "entity in groups", "rollup")
        for _ in range(2):
            first, exists_ = shown(await db.async_first(statement)), await db.async_exists(statement)
            number = len(rows) if grouped else await db.async_count(statement)
            if (first, exists_, number) != expected:
                differing[form] = (first, exists_, number), expected
    assert differing == {}


async def test_entities_aliases_tables_and_columns_are_sources_themselves(db: Database) -> None:
    assert {flight.id for flight in await db.load_async(Flight)} == {1, 2, 3, 4, 5}
    assert {flight.id for flight in await db.load_async(other)} == {1, 2, 3, 4, 5}
    assert {flight.id for flight in await db.load_async(nameless, where=nameless.origin == "EWR")} == {4, 5}
    assert {row.id for row in await db.load_async(flights, where=flights.c.origin == "JFK")} == {1, 2, 3}
    assert sorted(await db.load_async(Flight.id, where=JFK)) == [1, 2, 3]
    assert sorted(await db.load_async(func.lower(Flight.carrier), where=JFK)) == ["aa", "aa", "ua"]


async def test_where_narrows_what_a_statement_has_already(db: Database) -> None:
    early = select(Flight).where(Flight.id < 5).order_by(Flight.id)
    assert [flight.id for flight in await db.load_async(early, where=~JFK)] == [4]
    assert await db.async_pluck(early, Flight.id, where=JFK) == [1, 2, 3]
    assert await db.async_pick(early, Flight.id, where=~JFK) == 4
    assert await db.async_ids(early, where=~JFK) == [4]
    first = await db.async_first(early, where=~JFK)
    assert first is not None
    assert first.id == 4
    assert await db.async_exists(early, where=NOBODY) is False
    assert await db.async_exists(early, where=JFK) is True
    assert (await db.async_find(early, 4, where=~JFK)).id == 4
    assert await db.async_find_by(early, JFK, carrier="DL") is None
    assert (await db.async_json(early.with_only_columns(Flight.id), where=~JFK)).data == b'[{"id":4}]'


# Pluck and pick


async def test_pluck_gives_values_of_one_column_and_rows_of_several(db: Database) -> None:
    assert sorted(await db.async_pluck(Flight.id)) == [1, 2, 3, 4, 5]
    rows = await db.async_pluck(Flight.id, Flight.carrier, where=Flight.id > 3)
    assert sorted(rows) == [(4, "UA"), (5, "DL")]
    assert {row.carrier for row in rows} == {"UA", "DL"}
    assert await db.async_pluck(Flight.id, Flight.carrier, Flight.origin, where=Flight.id == 1) == [(1, "AA", "JFK")]


async def test_pluck_takes_columns_of_an_entity_an_alias_a_table_or_a_statement(db: Database) -> None:
    assert sorted(await db.async_pluck(Flight, Flight.id)) == [1, 2, 3, 4, 5]
    assert sorted(await db.async_pluck(other, other.id, other.carrier)) == [
        (1, "AA"),
        (2, "AA"),
        (3, "UA"),
        (4, "UA"),
        (5, "DL"),
    ]
    assert sorted(await db.async_pluck(flights, flights.c.carrier, where=flights.c.id < 3)) == ["AA", "AA"]
    last = select(Flight).order_by(Flight.id.desc()).limit(2)
    assert await db.async_pluck(last, Flight.id) == [5, 4]
    assert await db.async_pluck(last, Flight.id, Flight.origin) == [(5, "EWR"), (4, "EWR")]
    joined = select(Airport).join(Flight).order_by(Flight.id)
    assert await db.async_pluck(joined, Flight.id) == [1, 2, 3, 4, 5]
    assert (await db.async_pluck(joined, Airport.code, Flight.id))[0] == ("JFK", 1)
    assert await db.async_pluck(select(Airport).join(Flight).where(JFK), Airport.code) == ["JFK"] * 3


async def test_pluck_of_a_statement_of_columns_needs_no_more(db: Database) -> None:
    assert await db.async_pluck(select(Flight.id).where(JFK).order_by(Flight.id)) == [1, 2, 3]
    assert await db.async_pluck(select(Flight.id, Flight.carrier).where(Flight.id == 3)) == [(3, "UA")]
    assert await db.async_pluck(union(select(Airport.code), select(Flight.origin)).order_by("code")) == [
        "EWR",
        "JFK",
        "LGA",
    ]
    assert await db.async_pluck(text("SELECT 7 AS n").columns(column("n"))) == [7]


async def test_loader_options_are_no_hindrance_where_columns_are_taken(db: Database) -> None:
    eager = select(Airport).options(selectinload(Airport.flights)).order_by(Airport.code)
    assert await db.async_pluck(eager, Airport.code) == ["EWR", "JFK", "LGA"]
    assert await db.async_ids(select(Flight).options(joinedload(Flight.airport)).order_by(Flight.id)) == [
        1,
        2,
        3,
        4,
        5,
    ]
    only_american = select(Flight).options(with_loader_criteria(Flight, Flight.carrier == "AA"))
    assert sorted(await db.async_ids(only_american)) == [1, 2]


async def test_pick_gives_the_first_of_what_pluck_would_and_none_of_nothing(db: Database) -> None:
    by_fare = select(Flight).order_by(Flight.fare.desc())
    assert await db.async_pick(by_fare, Flight.id) == 5
    assert await db.async_pick(by_fare, Flight.id, Flight.carrier) == (5, "DL")
    assert await db.async_pick(Flight.carrier, where=Flight.id == 3) == "UA"
    assert await db.async_pick(Flight.id, Flight.carrier, where=Flight.id == 3) == (3, "UA")
    assert await db.async_pick(by_fare.offset(1), Flight.id) == 4
    assert await db.async_pick(by_fare.limit(3), Flight.id) == 5
    assert await db.async_pick(Flight.id, where=NOBODY) is None
    assert await db.async_pick(Flight.dep_delay, where=Flight.id == 4) is None
    assert await db.async_pick(union(select(Airport.code), select(Flight.origin)).order_by("code")) == "EWR"
    assert await db.async_pick(text("SELECT 7 AS n").columns(column("n"))) == 7


async def test_one_row_is_all_that_is_asked_of_the_server(db: Database, pool: DatabasePool) -> None:
    await db.async_first(Flight)
    await db.async_pick(Flight.id)
    await db.async_find_by(Flight, origin="JFK")
    statements = [query.question.statement for query in db._queries]
    assert ["LIMIT" in str(statement) for statement in statements] == [True] * 3


async def test_a_limit_of_the_authors_own_is_not_lifted(db: Database) -> None:
    none = bindparam("none", callable_=lambda: 0, type_=Integer)
    for nothing in (select(Flight).limit(0), select(Flight).fetch(0), select(Flight).limit(none)):
        assert await db.async_first(nothing) is None
        assert await db.async_pick(nothing, Flight.id) is None
        assert await db.async_find_by(nothing, origin="JFK") is None


# Ids and first


async def test_ids_are_the_primary_keys(db: Database) -> None:
    assert sorted(await db.async_ids(Flight, where=JFK)) == [1, 2, 3]
    assert sorted(await db.async_ids(other, where=other.origin == "EWR")) == [4, 5]
    assert sorted(await db.async_ids(flights)) == [1, 2, 3, 4, 5]
    assert await db.async_ids(select(Flight).order_by(Flight.fare.desc()).limit(2)) == [5, 4]
    assert await db.async_ids(select(Flight, Airport).join(Airport).order_by(Flight.id).limit(1)) == [1]
    assert await db.async_ids(select(Skill).order_by(Skill.name)) == ["cook", "fly", "sing"]


async def test_a_primary_key_of_several_columns_is_a_row(db: Database) -> None:
    assert await db.async_ids(select(Leg).order_by(Leg.trip, Leg.number)) == [("a", 1), ("a", 2), ("b", 1)]
    assert sorted(await db.async_ids(legs)) == [("a", 1), ("a", 2), ("b", 1)]


async def test_the_first_is_by_primary_key_unless_the_statement_has_an_order(db: Database) -> None:
    async def first(source: Any, **options: Any) -> Any:
        found = await db.async_first(source, **options)
        return None if found is None else found.id

    await db.load_async(select(Flight).where(Flight.id == 1))
    assert await first(Flight) == 1
    assert await first(other, where=other.id > 1) == 2
    assert await first(flights, where=flights.c.id > 2) == 3
    assert await first(select(Flight).where(~JFK)) == 4
    assert await first(select(Flight).order_by(Flight.fare.desc())) == 5
    assert await first(select(Flight).offset(3)) == 4
    assert await first(Flight, where=NOBODY) is None
    leg = await db.async_first(Leg)
    assert leg is not None
    assert (leg.trip, leg.number) == ("a", 1)


async def test_the_first_is_by_primary_key_even_where_the_rows_lie_otherwise(db: Database, server: Any) -> None:
    await server.fetch("UPDATE queries_flights SET fare = 1 WHERE id = 1")  # to the end of the table
    assert (await db.async_pluck(Flight.id))[0] == 2
    first = await db.async_first(select(Flight))
    assert first is not None
    assert first.id == 1


async def test_the_first_of_columns_rows_unions_and_distinct_on(db: Database) -> None:
    assert await db.async_first(Flight.carrier, where=Flight.id == 3) == "UA"
    assert await db.async_first(func.lower(Flight.carrier), where=Flight.id == 3) == "ua"
    assert await db.async_first(select(Flight.id, Flight.carrier).where(Flight.id == 3)) == (3, "UA")
    assert await db.async_first(union(select(Airport.code), select(Flight.origin)).order_by("code")) == "EWR"
    american = select(Flight).where(Flight.carrier == "AA").ext(distinct_on(Flight.carrier))
    found = await db.async_first(american)
    assert found is not None
    assert found.carrier == "AA"
    parent = await db.async_first(select(Airport).options(joinedload(Airport.flights)).where(Airport.code == "JFK"))
    assert parent is not None
    assert [flight.id for flight in parent.flights] == [1, 2, 3]


# Find


async def test_find_gives_the_row_of_a_primary_key(db: Database) -> None:
    assert (await db.async_find(Flight, 3)).carrier == "UA"
    assert (await db.async_find(Flight, (3,))).carrier == "UA"
    assert (await db.async_find(other, 3)).carrier == "UA"
    assert (await db.async_find(flights, 3)).carrier == "UA"
    assert (await db.async_find(select(Flight).where(JFK), 3)).carrier == "UA"
    assert (await db.async_find(Skill, "fly")).name == "fly"
    leg = await db.async_find(Leg, ("a", 2))
    assert (leg.trip, leg.number, leg.flight_id) == ("a", 2, 4)
    assert (await db.async_find(legs, ("a", 2))).flight_id == 4


async def test_find_of_a_list_keeps_its_order_and_repeats(db: Database) -> None:
    async def ids(source: Any, keys: Any) -> list[Any]:
        return [flight.id for flight in await db.async_find(source, keys)]

    assert await ids(Flight, [3, 1, 5, 1]) == [3, 1, 5, 1]
    assert await ids(other, [2, 1]) == [2, 1]
    assert await ids(flights, [2, 1, 2]) == [2, 1, 2]
    assert await ids(select(Flight).order_by(Flight.id), [5, 4]) == [5, 4]
    assert sorted(await ids(Flight, {3, 1})) == [1, 3]
    assert await db.async_find(airports, ["LGA", "JFK"]) == ["LGA", "JFK"]
    found = await db.async_find(Leg, [("b", 1), ("a", 2), ("b", 1)])
    assert [(leg.trip, leg.number) for leg in found] == [("b", 1), ("a", 2), ("b", 1)]
    rows = await db.async_find(legs, [("b", 1), ("a", 2)])
    assert [(row.trip, row.no) for row in rows] == [("b", 1), ("a", 2)]
    keys = await db.async_ids(Leg)
    assert [(leg.trip, leg.number) for leg in await db.async_find(Leg, keys)] == keys
    several: Any = select(Flight, Airport.code).join(Airport)
    pairs = await db.async_find(several, [4, 1])
    assert [(flight.id, code) for flight, code in pairs] == [(4, "EWR"), (1, "JFK")]


async def test_what_find_does_not_find_is_raised_at_every_await(db: Database) -> None:
    async def missing(source: Any, key: Any, where: Any = None) -> str:
        promise = db.async_find(source, key, where=where)
        with pytest.raises(RecordNotFound):
            await promise
        with pytest.raises(RecordNotFound) as raised:
            await promise
        assert promise.status == "failed"
        return str(raised.value)

    assert await missing(Flight, 99) == "there is no Flight 99"
    assert await missing(Flight, [1, 99, 98, 99]) == "there is no Flight 99, 98"
    assert await missing(Flight, 1, ~JFK) == "there is no Flight 1"
    assert await missing(Flight, [1, 4], ~JFK) == "there is no Flight 1"
    assert await missing(Skill, "swim") == "there is no Skill 'swim'"
    assert await missing(Leg, ("a", 3)) == "there is no Leg ('a', 3)"
    assert await missing(Leg, [("a", 1), ("b", 2)]) == "there is no Leg ('b', 2)"
    assert await missing(airports, "XYZ") == "there is no queries_airports 'XYZ'"


async def test_a_record_that_is_not_found_is_a_client_error(db: Database) -> None:
    with pytest.raises(RecordNotFound) as raised:
        await db.async_find(Flight, 99)
    assert (raised.value.status, raised.value.code) == (404, "record_not_found")


async def test_find_by_takes_values_and_a_condition(db: Database) -> None:
    async def found(*arguments: Any, **values: Any) -> Any:
        flight = await db.async_find_by(*arguments, **values)
        return None if flight is None else flight.id

    assert await found(Flight, id=3) == 3
    assert await found(Flight, origin="JFK", carrier="UA") == 3
    assert await found(Flight, Flight.fare > 100.45) == 5
    assert await found(Flight, Flight.fare > 100.15, origin="JFK", carrier="AA") == 2
    assert await found(Flight, dep_delay=None) == 4
    assert await found(Flight, carrier="AA", origin="EWR") is None
    assert await found(other, carrier="DL") == 5
    assert await found(flights, carrier="DL") == 5
    assert await found(select(Flight).order_by(Flight.id.desc()), origin="JFK") == 3
    assert await found(select(Flight).where(~JFK), carrier="UA") == 4
    assert await found(Flight, airport=Airport(code="EWR"), carrier="DL") == 5
    leg = await db.async_find_by(Leg, trip="a", number=2)
    assert leg is not None
    assert leg.flight_id == 4
    assert (await db.async_find_by(Airport)) is not None


# Texts


async def test_the_rows_of_a_text_are_values_rows_or_entities(db: Database) -> None:
    for _ in range(2):
        assert await db.async_find_by_sql("SELECT id FROM queries_flights ORDER BY id LIMIT 2") == [1, 2]
        [row] = await db.async_find_by_sql("SELECT id, fare AS price FROM queries_flights WHERE id = 1")
        assert (row.id, row.price) == (1, Decimal("100.10"))
        [flight] = await db.async_find_by_sql(Flight, "SELECT * FROM queries_flights WHERE id = 3")
        assert (type(flight), flight.carrier) == (Flight, "UA")
        assert await db.async_find_by_sql("SELECT id FROM queries_flights WHERE id > 99") == []
        assert await db.async_find_by_sql(Flight, "SELECT * FROM queries_flights WHERE id > 99") == []


async def test_the_parameters_of_a_text_come_as_keywords_or_as_a_mapping(db: Database) -> None:
    sql = "SELECT id FROM queries_flights WHERE origin = :origin AND carrier = :carrier"
    assert await db.async_find_by_sql(sql, origin="JFK", carrier="UA") == [3]
    assert await db.async_find_by_sql(sql, {"origin": "JFK", "carrier": "UA"}) == [3]
    assert await db.async_find_by_sql(sql, {"origin": "JFK"}, carrier="UA") == [3]
    assert await db.async_find_by_sql(text(sql), origin="JFK", carrier="UA") == [3]
    assert await db.async_find_by_sql(text(sql).bindparams(origin="JFK"), carrier="UA") == [3]
    entity_sql = "SELECT * FROM queries_flights WHERE origin = :origin ORDER BY id"
    assert [flight.id for flight in await db.async_find_by_sql(Flight, entity_sql, origin="EWR")] == [4, 5]
    assert [flight.id for flight in await db.async_find_by_sql(Flight, text(entity_sql), {"origin": "EWR"})] == [4, 5]
    assert await db.async_find_by_sql("SELECT :sql || :source", sql="a", source="b") == ["ab"]
    assert await db.async_find_by_sql(r"SELECT '\:x' || CAST(:x AS text)", x="y") == [":xy"]
    assert await db.async_find_by_sql("SELECT '1'::int") == [1]
    assert await db.async_find_by_sql("SELECT :gone", gone=None) == [None]


async def test_a_list_goes_where_a_text_has_in_and_an_array_where_the_author_says_so(db: Database) -> None:
    sql = "SELECT id FROM queries_flights WHERE carrier IN :carriers ORDER BY id"
    assert await db.async_find_by_sql(sql, carriers=["AA", "DL"]) == [1, 2, 5]
    assert await db.async_find_by_sql(sql, carriers={"DL"}) == [5]
    assert await db.async_find_by_sql("SELECT id FROM queries_flights WHERE id IN :ids", ids=[]) == []
    array = text("SELECT id FROM queries_flights WHERE id = ANY(:ids) ORDER BY id")
    typed = array.bindparams(bindparam("ids", type_=ARRAY(Integer)))
    assert await db.async_find_by_sql(typed, ids=[1, 3]) == [1, 3]
    assert await db.async_find_by_sql(typed, ids=[]) == []


async def test_one_text_with_other_parameters_has_its_own_answer(db: Database) -> None:
    sql = text("SELECT id FROM queries_flights WHERE id = :id")
    asked = [db.async_find_by_sql(sql, id=number) for number in (1, 2, 3, 2)]
    assert [await promise for promise in asked] == [[1], [2], [3], [2]]


async def test_a_text_is_counted_by_its_first_value(db: Database) -> None:
    sql = "SELECT count(*) FROM queries_flights WHERE origin = :origin"
    for _ in range(2):
        assert await db.async_count_by_sql(sql, origin="JFK") == 3
        assert await db.async_count_by_sql(text(sql), {"origin": "EWR"}) == 2
        assert await db.async_count_by_sql("SELECT count(*), 7 FROM queries_flights") == 5
        assert await db.async_count_by_sql("SELECT id FROM queries_flights WHERE id > 99") == 0
        assert await db.async_count_by_sql("SELECT NULL::int") == 0
        assert repr(await db.async_count_by_sql("SELECT sum(dep_delay) FROM queries_flights")) == "64"


# JSON


async def test_json_is_the_rows_as_objects_by_column(db: Database, plain: Plain) -> None:
    async def parsed(source: Any, **options: Any) -> Any:
        return (await db.async_json(source, **options)).parse()

    whole = [dict(row._mapping) for row in await plain(select(flights).order_by(flights.c.id))]
    expected = [{**row, "fare": float(row["fare"])} for row in whole]
    for _ in range(2):
        assert await parsed(select(Flight).order_by(Flight.id)) == expected
    assert sorted(await parsed(Flight), key=lambda row: int(row["id"])) == expected
    assert sorted(await parsed(other), key=lambda row: int(row["id"])) == expected
    assert sorted(await parsed(flights), key=lambda row: int(row["id"])) == expected
    assert await parsed(Flight.carrier, where=Flight.id == 3) == [{"carrier": "UA"}]
    assert await parsed(select(Flight.id.label("number"), Flight.dep_delay).where(~JFK).order_by(Flight.id)) == [
        {"number": 4, "dep_delay": None},
        {"number": 5, "dep_delay": -6},
    ]
    groups = select(Flight.carrier, func.count().label("n")).group_by(Flight.carrier).order_by(Flight.carrier)
    assert await parsed(groups) == [{"carrier": "AA", "n": 2}, {"carrier": "DL", "n": 1}, {"carrier": "UA", "n": 2}]
    assert await parsed(union(select(Airport.code), select(Flight.origin)).order_by("code")) == [
        {"code": "EWR"},
        {"code": "JFK"},
        {"code": "LGA"},
    ]
    assert await parsed(select(Leg).order_by(Leg.trip, Leg.number).limit(1)) == [
        {"trip": "a", "no": 1, "flight_id": 1}
    ]
    assert await parsed(text("SELECT 7 AS n").columns(column("n"))) == [{"n": 7}]
    both = select(Flight.id, Airport.code, Leg.trip, Stop.id).join(Airport).join(Leg).join(Stop).order_by(Stop.id)
    assert await parsed(both.limit(1)) == [{"id": 1, "code": "JFK", "trip": "a", "id_1": 1}]


async def test_json_is_written_without_a_space_and_in_the_order_of_the_statement(db: Database) -> None:
    last = select(Flight.id, Flight.carrier).order_by(Flight.id.desc()).limit(2)
    assert bytes(await db.async_json(last)) == b'[{"id":5,"carrier":"DL"},{"id":4,"carrier":"UA"}]'
    assert bytes(await db.async_json(Flight.id, where=NOBODY)) == b"[]"


async def test_a_column_may_have_any_name_in_json(db: Database) -> None:
    for name in ("rows", "pushsvc", "anon_1", "order", "Größe", 'a"b', "row_to_json"):
        assert (await db.async_json(select(literal(1).label(name)))).parse() == [{name: 1}]


async def test_values_are_as_postgresql_writes_them_in_json(db: Database) -> None:
    moment = datetime(2026, 11, 22, 9, 0, 0, 123000, tzinfo=UTC)
    statement = select(
        literal(Decimal("12345678901234567890.10")).label("numeric"),
        literal(2**62).label("big"),
        literal(0.1).label("float"),
        literal(True).label("yes"),
        null().label("nothing"),
        literal('Zürich "\\ \n\t € 🛫 ]},{').label("text"),
        literal(moment).label("at"),
        literal(moment.replace(tzinfo=None)).label("local"),
        literal(timedelta(minutes=90)).label("span"),
        literal({"a": [1, None, {"b": "ü"}]}, JSONB).label("jsonb"),
        literal([1, 2], JSON).label("json"),
        literal([1, None], ARRAY(Integer)).label("array"),
    )
    [row] = (await db.async_json(statement)).parse()
    assert row.pop("float") == 0.1
    assert row == {
        "numeric": 12345678901234567890.10,
        "big": 2**62,
        "yes": True,
        "nothing": None,
        "text": 'Zürich "\\ \n\t € 🛫 ]},{',
        "at": "2026-11-22T09:00:00.123+00:00",
        "local": "2026-11-22T09:00:00.123",
        "span": "01:30:00",
        "jsonb": {"a": [1, None, {"b": "ü"}]},
        "json": [1, 2],
        "array": [1, None],
    }
    assert b'"numeric":12345678901234567890.10' in (await db.async_json(statement)).data


async def test_the_bytes_of_json_go_into_a_jobs_result_as_they_are(db: Database) -> None:
    airports_ = await db.async_json(select(Airport).order_by(Airport.code))
    none = await db.async_json(Airport, where=false())
    assert encode(airports_, 1000) == airports_.data == b'[{"code":"EWR"},{"code":"JFK"},{"code":"LGA"}]'
    assert encode({"airports": airports_, "none": none}, 1000) == b'{"airports":' + airports_.data + b',"none":[]}'
    assert isinstance(none, Json)


# Refusals

WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "load: no source": (lambda db: db.load_async(5), "can't load 5"),
    "load: a text": (lambda db: db.load_async(text("SELECT 1")), "can't load"),
    "load: an INSERT": (lambda db: db.load_async(insert(Flight)), "can't load"),
    "load: a relationship without `of`": (lambda db: db.load_async(Airport.flights), "say what Airport.flights is"),
    "load: `where` of a union": (lambda db: db.load_async(SOURCES["union"], where=JFK), "`where` needs"),
    "load: `where` of a text": (lambda db: db.load_async(SOURCES["entity of a text"], where=JFK), "`where` needs"),
    "pluck: an entity alone": (lambda db: db.async_pluck(Flight), "say which columns of Flight"),
    "pluck: a select() of one": (lambda db: db.async_pluck(select(Flight)), "say which columns of Flight"),
    "pluck: an entity as a column": (lambda db: db.async_pluck(Flight, Airport), "is no column"),
    "pluck: a name as a column": (lambda db: db.async_pluck(Flight, "id"), "'id' is no column"),
    "pluck: columns of a union": (lambda db: db.async_pluck(SOURCES["union"], Flight.id), "of an entity or a select"),
    "pluck: no source": (lambda db: db.async_pluck("flights"), "can't load 'flights'"),
    "pick: an entity alone": (lambda db: db.async_pick(Flight), "say which columns of Flight"),
    "pick: columns of a text": (lambda db: db.async_pick(SOURCES["text of columns"], Flight.id), "of an entity or a"),
    "ids: a column": (lambda db: db.async_ids(Flight.id), "has no primary key"),
    "ids: a select() of columns": (lambda db: db.async_ids(select(Flight.id)), "has no primary key"),
    "ids: a union": (lambda db: db.async_ids(SOURCES["union"]), "has no primary key"),
    "ids: a table without a key": (lambda db: db.async_ids(keyless), "has no primary key"),
    "first: no source": (lambda db: db.async_first(None), "can't load None"),
    "find: a column": (lambda db: db.async_find(Flight.id, 1), "has no primary key"),
    "find: a select() of columns": (lambda db: db.async_find(select(Flight.id), 1), "has no primary key"),
    "find: a union": (lambda db: db.async_find(SOURCES["union"], 1), "has no primary key"),
    "find: a text": (lambda db: db.async_find(SOURCES["entity of a text"], 1), "`where` needs"),
    "find: too few in a key": (lambda db: db.async_find(Leg, "a"), "Leg has 2 columns; 'a' has 1"),
    "find: too many in a key": (lambda db: db.async_find(Flight, (1, 2)), r"Flight has 1 columns; \(1, 2\) has 2"),
    "find: one of several keys": (lambda db: db.async_find(Leg, [("a", 1), "b"]), "Leg has 2 columns; 'b' has 1"),
    "find: a key that is none": (lambda db: db.async_find(Flight, {"id": 1}), "{'id': 1} is no primary key"),
    "find: a list in a list": (lambda db: db.async_find(Flight, [[1]]), r"\[1\] is no primary key"),
    "find_by: unknown": (lambda db: db.async_find_by(Flight, colour="red"), "Flight has no attribute 'colour'"),
    "find_by: a method": (lambda db: db.async_find_by(Flight, metadata=1), "Flight has no attribute 'metadata'"),
    "find_by: the column's name": (lambda db: db.async_find_by(Leg, no=1), "Leg has no attribute 'no'"),
    "find_by: of a table": (lambda db: db.async_find_by(flights, airport=1), "queries_flights has no attribute"),
    "find_by: a column": (lambda db: db.async_find_by(Flight.id, id=1), "has no primary key"),
    "find_by: a text": (lambda db: db.async_find_by(SOURCES["entity of a text"], id=1), "`where` needs"),
    "exists: no source": (lambda db: db.async_exists("flights"), "can't look for 'flights'"),
    "exists: a text": (lambda db: db.async_exists(text("SELECT 1")), "can't look for"),
    "sql: missing": (lambda db: db.async_find_by_sql("SELECT :a + :b", a=1), "the SQL needs a value for :b$"),
    "sql: unknown": (lambda db: db.async_find_by_sql("SELECT :a", a=1, c=2, b=3), "has no parameter :b, :c$"),
    "sql: of a mapping": (lambda db: db.async_find_by_sql("SELECT :a", {"b": 1}), "has no parameter :b$"),
    "sql: a list of values": (
        lambda db: db.async_find_by_sql("SELECT :a", [1]),
        "come as keywords, or as one mapping",
    ),
    "sql: two mappings": (lambda db: db.async_find_by_sql("SELECT :a", {"a": 1}, {}), "as one mapping"),
    "sql: entity alone": (lambda db: db.async_find_by_sql(Flight), "takes a mapped class, if any, then the SQL"),
    "sql: a table": (lambda db: db.async_find_by_sql(flights, "SELECT 1"), "takes a mapped class, if any"),
    "sql: no text": (lambda db: db.async_find_by_sql(Flight, select(Flight)), "is no SQL text"),
    "count_by_sql: no text": (lambda db: db.async_count_by_sql(select(Flight.id)), "is no SQL text"),
    "count_by_sql: missing": (lambda db: db.async_count_by_sql("SELECT :a"), "the SQL needs a value for :a$"),
    "json: a text": (lambda db: db.async_json(SOURCES["entity of a text"]), "can't make JSON of"),
    "json: no source": (lambda db: db.async_json(7), "can't load 7"),
    "preload: no list": (lambda db: db.load_async(Airport, preload=Airport.flights), "takes a list"),
    "preload: a column": (
        lambda db: db.load_async(Airport, preload=[Airport.code]),
        "Airport.code is no relationship",
    ),
    "preload: another's": (lambda db: db.load_async(Airport, preload=[Flight.airport]), "is no relationship of what"),
    "preload: of rows": (
        lambda db: db.load_async(select(Airport, Flight), preload=[Airport.flights]),
        "is no relationship of what",
    ),
    "preload: of a column": (
        lambda db: db.load_async(Airport.code, preload=[Airport.flights]),
        "is no relationship of",
    ),
    "preload: of a table": (lambda db: db.load_async(airports, preload=[Airport.flights]), "is no relationship of"),
    "preload_async: others": (lambda db: db.preload_async([Flight()], Airport.flights), "is no relationship of"),
    "preload_async: no entity": (lambda db: db.preload_async([1], Airport.flights), "is no relationship of what"),
    "of: another": (lambda db: db.load_async(Airport.flights, of=Flight()), "is no relationship of what is loaded"),
    "of: a column": (lambda db: db.load_async(Airport.code, of=Airport()), "is no relationship of a mapped class"),
    "of: narrowed": (lambda db: db.load_async(Airport.flights, of=Airport(), where=JFK), "all of it"),
    "transaction: unknown": (lambda db: db.transaction("later"), "foreground, raise or snapshot, not 'later'"),
    "transaction: isolation": (lambda db: db.transaction(isolation="none"), "serializable, not 'none'"),
    "transaction: snapshot": (lambda db: db.transaction("snapshot", isolation="serializable"), "repeatable read"),
}


async def test_what_can_not_be_asked_is_refused_at_the_call(db: Database, pool: DatabasePool) -> None:
    def refusal(ask: Callable[[Any], Any]) -> str:
        try:
            return f"not refused: {ask(db)}"
        except QueryError as error:
            return str(error)

    refused = {case_: refusal(ask) for case_, (ask, _) in WRONG.items()}
    assert {case_: text_ for case_, text_ in refused.items() if not re.search(WRONG[case_][1], text_)} == {}
    assert db.queries == []
    assert pool.counters.total() == 0


async def test_after_the_end_of_the_job_nothing_can_be_asked(pool: DatabasePool) -> None:
    async with Database(pool, owner="job") as db:
        pass
    never = Flight.id.in_([])
    asked: list[Callable[[], Any]] = [
        lambda: db.load_async(Flight), lambda: db.load_async(Flight, where=never), lambda: db.async_pluck(Flight.id),
        lambda: db.async_pick(Flight.id), lambda: db.async_ids(Flight), lambda: db.async_first(Flight),
        lambda: db.async_find(Flight, 1), lambda: db.async_find_by(Flight, id=1), lambda: db.async_exists(Flight),
        lambda: db.async_find_by_sql("SELECT 1"), lambda: db.async_count_by_sql("SELECT 1"),
        lambda: db.async_json(Flight), lambda: db.async_count(Flight), lambda: db.async_sum(Flight.id),
        lambda: db.load_async(Airport, preload=[Airport.flights]), lambda: db.preload_async([], Airport.flights),
        lambda: db.load_async(Airport.flights, of=Airport(code="JFK")), lambda: db.transaction(),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(QueryError, match="was asked for after the end of the job"):
            ask()
    assert db.queries == []
