"""Preloads: what is related comes by queries of its own, side by side, and is what SQLAlchemy would load."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from sqlalchemy import and_, false, func, inspect, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Load,
    Mapped,
    aliased,
    defaultload,
    foreign,
    joinedload,
    lazyload,
    load_only,
    raiseload,
    relationship,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    with_loader_criteria,
)

from pushsvc.errors import QueryCancelled, TransactionOpen
from pushsvc.queries import Database, DatabasePool

from .queries_support import Airport, Base, Flight, Leg, Person, Server, Skill, Stop, behind, passed, until

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("crew")

Plain = Callable[[Any], Awaitable[Any]]
airports: Any = Airport.__table__
late = aliased(Flight, select(Flight).where(Flight.dep_delay > 15).subquery())


class Terminal(Base):
    """An airport, some of whose relationships can be held back."""

    __table__ = airports

    if TYPE_CHECKING:
        code: Mapped[str]

    # The first two are loaded once gate 1, and 2, is open; the third never.
    first: Mapped[list[Flight]] = relationship(
        primaryjoin=lambda: and_(airports.c.code == foreign(Flight.origin), passed(1)),
        order_by=lambda: Flight.id,
        viewonly=True,
    )
    second: Mapped[list[Flight]] = relationship(
        primaryjoin=lambda: and_(airports.c.code == foreign(Flight.origin), passed(2)),
        order_by=lambda: Flight.id.desc(),
        viewonly=True,
    )
    failing: Mapped[list[Flight]] = relationship(
        primaryjoin=lambda: and_(airports.c.code == foreign(Flight.origin), Flight.id / (Flight.id - Flight.id) == 1),
        viewonly=True,
    )
    late: Mapped[list[Flight]] = relationship(
        late, primaryjoin=lambda: airports.c.code == foreign(late.origin), order_by=late.id, viewonly=True
    )
    longest: Mapped[Flight | None] = relationship(
        primaryjoin=lambda: and_(
            airports.c.code == foreign(Flight.origin),
            Flight.air_time == select(func.max(Flight.air_time)).scalar_subquery(),
        ),
        viewonly=True,
        uselist=False,
    )


RELATIONSHIPS: dict[str, Any] = {
    "one to many": Airport.flights,
    "many to one": Flight.airport,
    "many to one, or none": Leg.flight,
    "one to many by two columns": Leg.stops,
    "many to one by two columns": Stop.leg,
    "itself, up": Person.boss,
    "itself, down": Person.reports,
    "many to many as a set": Person.skills,
    "many to many": Skill.people,
    "one to one": Terminal.longest,
    "to an alias": Terminal.late,
}


@pytest_asyncio.fixture
async def plain(postgres_url: str) -> AsyncIterator[Plain]:
    """The entities of a statement, as SQLAlchemy itself loads them."""
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))

    async def ask(statement: Any) -> list[Any]:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            return list((await session.scalars(statement)).unique().all())

    yield ask
    await engine.dispose()


def key(entity: Any) -> Any:
    return None if entity is None else (type(entity).__name__, *inspect(entity).identity)


def related(entity: Any, name: str) -> Any:
    value = inspect(entity).dict[name]
    if isinstance(value, set):
        return {key(part) for part in value}
    return [key(part) for part in value] if isinstance(value, list) else key(value)


def seen(rows: list[Any], attribute: Any) -> list[Any]:
    return [(key(row), related(row, attribute.key)) for row in rows]


def all_of(attribute: Any) -> Any:
    entity = attribute.parent.class_
    return select(entity).order_by(*(column for column in inspect(entity).primary_key))


# As SQLAlchemy loads it


@pytest.mark.parametrize("form", RELATIONSHIPS)
async def test_every_kind_of_relationship_is_loaded_as_by_sqlalchemy(db: Database, plain: Plain, form: str) -> None:
    attribute = RELATIONSHIPS[form]
    statement = all_of(attribute)
    expected = seen(await plain(statement.options(selectinload(attribute))), attribute)
    assert any(value for _, value in expected)

    by_option = await db.load_async(statement.options(selectinload(attribute)))
    by_name = await db.load_async(statement, preload=[attribute])
    afterwards = await db.preload_async(await db.load_async(statement), attribute)
    for rows in (by_option, by_name, afterwards):
        assert seen(rows, attribute) == expected
    asked = [record.name.rpartition(" ")[2] for record in db.queries]
    assert asked == ["Load", "Preload"] * 3

    of_each = await db.load_async(statement)
    values = [await db.load_async(attribute, of=row) for row in of_each]
    assert values == [getattr(row, attribute.key) for row in of_each]
    assert seen(of_each, attribute) == expected


async def test_collections_are_of_the_kind_and_in_the_order_that_the_relationship_says(db: Database) -> None:
    people = await db.load_async(select(Person).order_by(Person.id), preload=[Person.skills, Person.reports])
    assert isinstance(people[0].skills, set)
    assert {skill.name for skill in people[0].skills} == {"fly", "sing"}
    assert [report.id for report in people[0].reports] == [3, 2]
    [leg] = await db.load_async(select(Leg).where(Leg.flight_id == 1), preload=[Leg.stops])
    assert [stop.place for stop in leg.stops] == ["x", "y"]


async def test_an_alias_of_an_entity_has_its_relationships(db: Database) -> None:
    other = aliased(Airport)
    statement = select(other).order_by(other.code)
    by_option = await db.load_async(statement.options(selectinload(other.flights)))
    by_its_own = await db.load_async(statement, preload=[other.flights])
    by_the_entitys = await db.load_async(statement, preload=(attribute for attribute in (Airport.flights,)))
    for found in (by_option, by_its_own, by_the_entitys):
        assert [(airport.code, len(airport.flights)) for airport in found] == [("EWR", 2), ("JFK", 3), ("LGA", 0)]
    assert len(db.queries) == 6


async def test_rows_may_be_repeated_or_none_or_not_there_at_all(db: Database, pool: DatabasePool) -> None:
    repeated = select(Airport).join(Flight).order_by(Flight.id).options(selectinload(Airport.flights))
    assert [len(airport.flights) for airport in await db.load_async(repeated)] == [3, 3, 3, 2, 2]
    absent: Any = select(Flight).select_from(Airport).outerjoin(Flight).order_by(Flight.id.desc()).limit(2)
    nothing, flight = await db.load_async(absent.options(selectinload(Flight.airport)))
    assert nothing is None
    assert flight.airport.code == "EWR"
    only_none = select(Flight).select_from(Airport).outerjoin(Flight, false()).limit(1)
    before = len(db.queries)
    assert await db.load_async(only_none, preload=[Flight.airport]) == [None]
    assert await db.load_async(select(Flight).where(Flight.id == 99), preload=[Flight.airport]) == []
    assert await db.load_async(Flight, where=false(), preload=[Flight.airport]) == []
    assert len(db.queries) == before + 2


async def test_an_entity_of_a_text_has_its_relationships(db: Database) -> None:
    statement = select(Flight).from_statement(text("SELECT * FROM queries_flights ORDER BY id"))
    flights = await db.load_async(statement, preload=[Flight.airport])
    assert [flight.airport.code for flight in flights] == ["JFK", "JFK", "JFK", "EWR", "EWR"]


async def test_more_rows_than_fit_into_one_query_are_loaded_by_several(
    db: Database, server: Server, pool: DatabasePool
) -> None:
    await server.fetch("INSERT INTO queries_people SELECT n, n - 1 FROM generate_series(5, 1201) AS n")
    people = await db.load_async(select(Person).order_by(Person.id), preload=[Person.boss, Person.skills])
    assert len(people) == 1201
    assert [person.boss.id if person.boss else None for person in people[4:]] == list(range(4, 1201))
    assert sum(len(person.skills) for person in people) == 3
    assert pool.counters.total() == 1 + 3 + 3


async def test_what_is_related_is_detached_and_readable_when_the_connection_is_gone(
    db: Database, server: Server
) -> None:
    airports_ = await db.load_async(select(Airport).order_by(Airport.code), preload=[Airport.flights])
    await server.terminate()
    flights = [flight for airport in airports_ for flight in airport.flights]
    assert [(flight.id, flight.origin) for flight in flights] == [
        (4, "EWR"),
        (5, "EWR"),
        (1, "JFK"),
        (2, "JFK"),
        (3, "JFK"),
    ]
    assert all(inspect(entity).detached for entity in (*airports_, *flights))


# Options that stay with SQLAlchemy

JFK = select(Airport).where(Airport.code == "JFK")
OPTIONS: dict[str, tuple[Any, int, Callable[[Any], Any], Any]] = {
    # Options, the number of queries we make of the statement with them, what is looked at, and what it is.
    "one level": ([selectinload(Airport.flights)], 2, lambda a: len(a.flights), 3),
    "one level, as a Load": ([Load(Airport).selectinload(Airport.flights)], 2, lambda a: len(a.flights), 3),
    "deeper": (
        [selectinload(Airport.flights).selectinload(Flight.airport)],
        1,
        lambda a: {flight.airport.code for flight in a.flights},
        {"JFK"},
    ),
    "deeper, joined": (
        [selectinload(Airport.flights).joinedload(Flight.airport)],
        1,
        lambda a: {flight.airport.code for flight in a.flights},
        {"JFK"},
    ),
    "deeper, apart": (
        [selectinload(Airport.flights), defaultload(Airport.flights).joinedload(Flight.airport)],
        1,
        lambda a: {flight.airport.code for flight in a.flights},
        {"JFK"},
    ),
    "twice": ([selectinload(Airport.flights), selectinload(Airport.flights)], 1, lambda a: len(a.flights), 3),
    "narrowed": (
        [selectinload(Airport.flights.and_(Flight.carrier == "UA"))],
        1,
        lambda a: [flight.id for flight in a.flights],
        [3],
    ),
    "narrowed for all": (
        [selectinload(Airport.flights), with_loader_criteria(Flight, Flight.carrier == "UA")],
        1,
        lambda a: [flight.id for flight in a.flights],
        [3],
    ),
    "of a type": ([selectinload(Airport.flights.of_type(aliased(Flight)))], 1, lambda a: len(a.flights), 3),
    "only some columns": (
        [selectinload(Airport.flights).load_only(Flight.id)],
        1,
        lambda a: "carrier" in vars(a.flights[0]),
        False,
    ),
    "only some columns, apart": (
        [selectinload(Airport.flights), defaultload(Airport.flights).load_only(Flight.id)],
        1,
        lambda a: "carrier" in vars(a.flights[0]),
        False,
    ),
    "all others raise": (
        [selectinload(Airport.flights), raiseload("*")],
        1,
        lambda a: len(a.flights),
        3,
    ),
    "with subclasses": (
        [selectinload(Airport.flights), selectin_polymorphic(Airport, [])],
        2,
        lambda a: len(a.flights),
        3,
    ),
    "with a column": ([selectinload(Airport.flights), load_only(Airport.code)], 2, lambda a: len(a.flights), 3),
    "joined": ([joinedload(Airport.flights)], 1, lambda a: len(a.flights), 3),
    "by a subquery": ([subqueryload(Airport.flights)], 1, lambda a: len(a.flights), 3),
    "not loaded": ([lazyload(Airport.flights)], 1, lambda a: "flights" in vars(a), False),
}


@pytest.mark.parametrize("form", OPTIONS)
async def test_options_that_say_more_than_a_preload_stay_with_sqlalchemy(
    db: Database, plain: Plain, form: str
) -> None:
    options, queries, look, expected = OPTIONS[form]
    statement = JFK.options(*options)
    [theirs] = await plain(statement)
    [ours] = await db.load_async(statement)
    assert look(theirs) == expected
    assert look(ours) == expected
    assert len(db.queries) == queries


async def test_each_option_is_judged_by_itself(db: Database) -> None:
    statement = select(Person).order_by(Person.id)
    people = await db.load_async(
        statement.options(
            selectinload(Person.skills),
            selectinload(Person.reports).selectinload(Person.skills),
            joinedload(Person.boss),
        )
    )
    assert [record.name for record in db.queries] == ["Person Load", "Person skills Preload"]
    assert [len(person.skills) for person in people] == [2, 1, 0, 0]
    assert [[len(report.skills) for report in person.reports] for person in people] == [[0, 1], [0], [], []]
    assert [person.boss and person.boss.id for person in people] == [None, 1, 1, 2]


async def test_to_a_depth_is_more_than_one_level(db: Database) -> None:
    statement = select(Person).where(Person.id == 1)
    [person] = await db.load_async(statement.options(selectinload(Person.reports, recursion_depth=2)))
    assert [[part.id for part in report.reports] for report in person.reports] == [[], [4]]
    assert len(db.queries) == 1


async def test_a_statement_of_several_things_keeps_its_options(db: Database) -> None:
    statement = select(Airport, Flight.id).join(Flight).where(Flight.id == 3).options(selectinload(Airport.flights))
    [(airport, number)] = await db.load_async(statement)
    assert (len(airport.flights), number, len(db.queries)) == (3, 3, 1)


async def test_options_of_execution_keep_the_options_of_loading_with_them(db: Database, server: Server) -> None:
    await server.connection.execute(
        "DROP SCHEMA IF EXISTS queries_tenant CASCADE; CREATE SCHEMA queries_tenant;"
        "CREATE TABLE queries_tenant.queries_airports AS SELECT 'JFK' AS code;"
        "CREATE TABLE queries_tenant.queries_flights AS SELECT * FROM queries_flights WHERE id = 2"
    )
    theirs = {"schema_translate_map": {None: "queries_tenant"}}
    statement = select(Airport).options(selectinload(Airport.flights)).execution_options(**theirs)
    [airport] = await db.load_async(statement)
    assert [flight.id for flight in airport.flights] == [2]


async def test_a_wrong_option_is_refused_as_by_sqlalchemy(db: Database) -> None:
    with pytest.raises(ArgumentError, match="does not apply to any of the root entities"):
        await db.load_async(select(Airport).options(joinedload(Flight.airport), selectinload(Airport.flights)))


# Side by side


@pytest.mark.parametrize("by_option", [False, True])
async def test_relationships_are_loaded_side_by_side_each_by_its_own_query(
    db: Database, server: Server, by_option: bool
) -> None:
    statement = select(Terminal).order_by(Terminal.code)
    options = [selectinload(Terminal.first), selectinload(Terminal.second)]
    async with server.gate(1) as open_first, server.gate(2) as open_second:
        if by_option:
            promise = db.load_async(statement.options(*options))
        else:
            promise = db.load_async(statement, preload=[Terminal.first, Terminal.second])
        # Nobody awaits it yet.
        assert len(await server.until_running(2)) == 2
        assert [(record.name, record.mode, record.status) for record in db.queries] == [
            ("Terminal Load", "async", "complete"),
            ("Terminal first Preload", "async", "running"),
            ("Terminal second Preload", "async", "running"),
        ]
        assert promise.status == "running"
        await open_second()
        await server.until_running(1)
        assert promise.status == "running"
        await open_first()
        terminals = await promise
    assert [[flight.id for flight in terminal.first] for terminal in terminals] == [[4, 5], [1, 2, 3], []]
    assert [[flight.id for flight in terminal.second] for terminal in terminals] == [[5, 4], [3, 2, 1], []]


async def test_when_the_executor_is_busy_what_is_awaited_runs_in_the_foreground(db: Database, server: Server) -> None:
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        await server.until_running(4)
        rows = await db.load_async(select(Person).order_by(Person.id), preload=[Person.boss, Person.skills])
        assert [person.boss and person.boss.id for person in rows] == [None, 1, 1, 2]
        assert [record.reason for record in db.queries[4:]] == ["not_started"] * 3
        for promise in blocked:
            promise.cancel()


async def test_inline_each_part_runs_when_the_whole_is_awaited(pool: DatabasePool) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        promise = db.load_async(Airport, preload=[Airport.flights])
        assert (promise.status, pool.active) == ("pending", 0)
        assert sum(len(airport.flights) for airport in await promise) == 5
        assert [(record.mode, record.reason) for record in db.queries] == [("foreground", "inline")] * 2


async def test_the_answer_can_be_awaited_many_times_and_built_upon(db: Database) -> None:
    promise = db.load_async(select(Airport).order_by(Airport.code), preload=[Airport.flights])
    counts = promise.then(lambda rows: [len(airport.flights) for airport in rows])
    assert list(await asyncio.gather(counts, counts, promise.then(len))) == [[2, 3, 0], [2, 3, 0], 3]
    assert await promise is await promise
    assert len(db.queries) == 2


# Of rows that are there


async def test_what_is_loaded_already_is_not_asked_for_again(db: Database) -> None:
    rows = await db.load_async(select(Airport).order_by(Airport.code))
    await db.preload_async(rows[:2], Airport.flights)
    flights = [airport.flights for airport in rows[:2]]
    asked = len(db.queries)
    assert await db.preload_async(rows[:2], Airport.flights) == rows[:2]
    assert len(db.queries) == asked
    # The one that has none, and no more.
    assert await db.preload_async(rows, Airport.flights) == rows
    assert len(db.queries) == asked + 1
    assert [airport.flights for airport in rows[:2]] == flights
    assert rows[0].flights is flights[0]
    assert rows[2].flights == []


async def test_several_relationships_of_rows_that_are_there(db: Database) -> None:
    people = await db.load_async(select(Person).order_by(Person.id))
    assert await db.preload_async(iter(people), Person.boss, Person.reports, Person.skills) == people
    assert len(db.queries) == 4
    assert [len(person.reports) for person in people] == [2, 1, 0, 0]
    assert people[3].boss is not None
    assert people[3].boss.id == 2


async def test_what_is_related_to_one_is_asked_for_once(db: Database) -> None:
    airport = await db.async_find(Airport, "JFK")
    flights = await db.load_async(Airport.flights, of=airport)
    assert [flight.id for flight in flights] == [1, 2, 3]
    assert airport.flights is flights
    assert db.queries[-1].name == "Airport flights Preload"
    asked = len(db.queries)
    assert await db.load_async(Airport.flights, of=airport) is flights
    assert len(db.queries) == asked
    boss = await db.async_find(Person, 1)
    assert await db.load_async(Person.boss, of=boss) is None
    assert await db.load_async(Person.boss, of=boss) is None
    assert len(db.queries) == asked + 2
    assert (await db.load_async(Flight.airport, of=flights[0])).code == "JFK"


async def test_of_many_rows_at_once_each_gets_its_own(db: Database) -> None:
    rows = await db.load_async(select(Airport).order_by(Airport.code))
    asked = [db.load_async(Airport.flights, of=airport) for airport in rows]
    assert [len(await promise) for promise in asked] == [2, 3, 0]


# Giving up, and errors


async def test_an_error_of_one_part_is_raised_and_the_others_are_stopped(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(Terminal, preload=[Terminal.first, Terminal.failing])
        with pytest.raises(DBAPIError, match="division by zero"):
            await promise
        with pytest.raises(DBAPIError, match="division by zero"):
            await promise
        await server.until_running(0)
    assert promise.status == "failed"
    assert [record.status for record in db.queries] == ["complete", "cancelled", "failed"]
    assert await db.async_count(Flight) == 5


async def test_an_error_of_the_rows_themselves_is_raised_and_nothing_more_is_asked(db: Database) -> None:
    wrong = select(Airport).where(func.length(Airport.code) / 0 == 1)
    with pytest.raises(DBAPIError, match="division by zero"):
        await db.load_async(wrong, preload=[Airport.flights])
    assert len(db.queries) == 1


async def test_cancelling_stops_the_rows_or_all_parts_in_the_server(db: Database, server: Server) -> None:
    async with server.gate(1), server.gate(2):
        parts = db.load_async(Terminal, preload=[Terminal.first, Terminal.second])
        await server.until_running(2)
        assert parts.cancel()
        await server.until_running(0)
        rows = db.load_async(select(Terminal).where(passed(1)), preload=[Terminal.second])
        await server.until_running(1)
        assert rows.cancel()
        await server.until_running(0)
        for promise in (parts, rows):
            with pytest.raises(QueryCancelled):
                await promise
        assert len(db.queries) == 4
    assert [record.status for record in db.queries] == ["complete", "cancelled", "cancelled", "cancelled"]


async def test_a_time_out_stops_all_parts(db: Database, server: Server) -> None:
    async with server.gate(1), server.gate(2):
        promise = db.load_async(Terminal, preload=[Terminal.first, Terminal.second])
        await server.until_running(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(promise, 0.01)
        assert promise.status == "cancelled"
        await server.until_running(0)


async def test_the_end_of_the_job_stops_all_parts(pool: DatabasePool, server: Server) -> None:
    async with server.gate(1), server.gate(2):
        db = Database(pool, owner="job")
        promise = db.load_async(Terminal, preload=[Terminal.first, Terminal.second])
        waiting = asyncio.ensure_future(promise)
        await server.until_running(2)
        await db.close(reason="over")
        assert await server.running() == []
        with pytest.raises(QueryCancelled, match="over"):
            await waiting


async def test_a_preload_that_nobody_awaits_is_told_once(
    pool: DatabasePool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Database(pool, owner="job") as db:
        promise = db.load_async(Airport, preload=[Airport.flights])
        await until(lambda: promise.status == "complete")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["Airport Load was never awaited by the end of the job; its answer is lost"]


async def test_each_query_of_a_preload_has_its_line_when_the_whole_is_awaited(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    promise = db.load_async(Airport, preload=[Airport.flights])
    await until(lambda: promise.status == "complete")
    assert caplog.messages == []
    await promise
    assert [line.partition(" (")[0] for line in caplog.messages] == [
        "ASYNC Airport Load",
        "ASYNC Airport flights Preload",
    ]


# In transactions


async def test_in_a_transaction_all_parts_run_in_it(db: Database, pool: DatabasePool) -> None:
    async with db.transaction() as transaction:
        before = db.load_async(select(Airport).order_by(Airport.code), preload=[Airport.flights])
        await transaction.execute(text("DELETE FROM queries_flights WHERE origin = 'JFK'"))
        after = db.load_async(select(Airport).order_by(Airport.code).options(selectinload(Airport.flights)))
        assert [len(airport.flights) for airport in await after] == [2, 0, 0]
        # The rows came before the deletion; what is related is asked for when they have come.
        assert [airport.code for airport in await before] == ["EWR", "JFK", "LGA"]
        airport = await db.async_find(Airport, "EWR")
        assert len(await db.load_async(Airport.flights, of=airport)) == 2
        transaction.roll_back()
    assert {record.reason for record in db.queries} == {"transaction"}
    assert dict(pool.counters) == {"foreground:transaction": 6}


async def test_in_a_snapshot_parts_run_side_by_side_and_see_its_state(db: Database, server: Server) -> None:
    async with db.transaction("snapshot"):
        async with server.gate(1) as open_first, server.gate(2) as open_second:
            promise = db.load_async(
                select(Terminal).order_by(Terminal.code), preload=[Terminal.first, Terminal.second]
            )
            await server.until_running(2)
            await server.fetch("DELETE FROM queries_flights")
            await open_first()
            await open_second()
            terminals = await promise
            assert [len(terminal.first) + len(terminal.second) for terminal in terminals] == [4, 6, 0]
        assert len(await db.load_async(Airport.flights, of=await db.async_find(Airport, "JFK"))) == 3
    assert {record.mode for record in db.queries} == {"async"}


async def test_where_queries_are_refused_so_are_preloads(db: Database) -> None:
    airport = await db.async_find(Airport, "JFK")
    async with db.transaction("raise"):
        with pytest.raises(TransactionOpen):
            db.load_async(Airport, preload=[Airport.flights])
        with pytest.raises(TransactionOpen):
            db.load_async(Airport.flights, of=airport)
    assert len(db.queries) == 1
