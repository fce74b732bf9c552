"""Single flight: equal queries of a job that are on their way together run once, and nothing else is shared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from datetime import UTC, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import (
    JSON,
    Column,
    Integer,
    MetaData,
    Table,
    Time,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    tablesample,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import joinedload, selectinload, with_loader_criteria

from pushsvc.errors import QueryCancelled, RecordNotFound
from pushsvc.queries import Database, DatabasePool, Promise

from .queries_support import Airport, Flight, Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights", "view")

held: Any = Table("queries_held", MetaData(), Column("n", Integer, primary_key=True))
"""A view whose rows are there once gate 1 is open: nothing in a statement shows that it calls a function."""

NUMBERS = select(held.c.n).order_by(held.c.n)
FAILING = select(literal(1) / (held.c.n - held.c.n))


@pytest_asyncio.fixture
async def view(server: Server) -> None:
    await server.fetch(
        "CREATE OR REPLACE VIEW queries_held AS SELECT n FROM generate_series(1, 3) AS n"
        " WHERE pg_advisory_xact_lock_shared(1)::text = ''"
    )


# What is shared


async def test_equal_queries_in_flight_run_once_and_each_promise_has_a_list_of_its_own(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        first = db.load_async(NUMBERS)
        others = [db.load_async(select(held.c.n).order_by(held.c.n)) for _ in range(3)]
        await server.until_running(1)
        late = db.load_async(NUMBERS)
        assert [promise.status for promise in (first, *others, late)] == ["running"] * 5
        await open_gate()
        lists = await asyncio.gather(first, *others, late)
    assert list(lists) == [[1, 2, 3]] * 5
    assert len({id(found) for found in lists}) == 5
    lists[0].clear()
    assert await others[0] == [1, 2, 3]
    assert dict(pool.counters) == {"async": 1, "shared": 4}
    assert len(db.queries) == 1


async def test_kinds_that_ask_the_same_share_the_rows_and_make_their_own_of_them(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    one = select(held.c.n).limit(1)
    async with server.gate(1) as open_gate:
        asked: list[Promise[Any]] = [
            db.load_async(one),
            db.async_pick(held.c.n),
            db.async_pluck(one),
            db.async_first(held.c.n),
            db.load_async(one).then(len),
        ]
        await server.until_running(1)
        await open_gate()
        assert list(await asyncio.gather(*asked)) == [[1], 1, [1], 1, 1]
    assert dict(pool.counters) == {"async": 1, "shared": 4}


KINDS: dict[str, Callable[[Database], Promise[Any]]] = {
    "count": lambda db: db.async_count(held),
    "count by group": lambda db: db.async_count(select(held.c.n).group_by(held.c.n)),
    "sum": lambda db: db.async_sum(held.c.n),
    "maximum": lambda db: db.async_maximum(held.c.n),
    "exists": lambda db: db.async_exists(held),
    "ids": lambda db: db.async_ids(held),
    "find": lambda db: db.async_find(held, 2),
    "find several": lambda db: db.async_find(held, [2, 1]),
    "find_by": lambda db: db.async_find_by(held, n=2),
    "json": lambda db: db.async_json(held),
    "entities": lambda db: db.load_async(select(Airport).join(held, held.c.n == 1)).then(len),
    "functions": lambda db: db.load_async(select(func.lower(Airport.code), func.now()).join(held, held.c.n == 1)),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_question_is_shared(db: Database, pool: DatabasePool, server: Server, kind: str) -> None:
    async with server.gate(1) as open_gate:
        first, second = KINDS[kind](db), KINDS[kind](db)
        await server.until_running(1)
        await open_gate()
        assert await first == await second
    assert dict(pool.counters) == {"async": 1, "shared": 1}


async def test_a_query_that_waits_is_shared_too_and_runs_once_wherever_it_is_awaited(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with server.gate(2) as open_gate:
        blocked = [db.load_async(behind(2)) for _ in range(4)]
        first, second = db.async_count(Flight), db.async_count(Flight)
        await server.until_running(4)
        assert (first.status, second.status) == ("pending", "pending")
        assert (await second, await first) == (5, 5)
        assert db.queries[4].reason == "not_started"
        await open_gate()
        await asyncio.gather(*blocked)
    assert dict(pool.counters) == {"async": 4, "foreground:not_started": 1, "shared": 1}


async def test_preloads_of_rows_that_are_shared_are_there_for_each(db: Database) -> None:
    asked = [db.load_async(select(Airport).order_by(Airport.code), preload=[Airport.flights]) for _ in range(2)]
    for promise in asked:
        assert [len(airport.flights) for airport in await promise] == [2, 3, 0]


async def test_in_a_snapshot_equal_queries_run_once(db: Database, pool: DatabasePool, server: Server) -> None:
    async with server.gate(1) as open_gate, db.transaction("snapshot"):
        first, second = db.load_async(NUMBERS), db.load_async(NUMBERS)
        await server.until_running(1)
        await open_gate()
        assert (await first, await second) == ([1, 2, 3], [1, 2, 3])
    assert dict(pool.counters) == {"async": 1, "shared": 1}


# What is not


async def test_queries_with_other_values_or_types_are_other_queries(db: Database, pool: DatabasePool) -> None:
    def among(*numbers: int) -> Any:
        return select(Flight.id).where(Flight.id.in_(numbers)).order_by(Flight.id)

    def at(hour: int, zone: timezone) -> Any:
        return select(cast(literal(time(hour, tzinfo=zone), Time(timezone=True)), Time(timezone=True)))

    pairs: list[tuple[Any, Any]] = [
        (select(Flight.id).where(Flight.id == 1), select(Flight.id).where(Flight.id == 2)),
        (among(1), among(2)),
        (among(1, 2), among(1)),
        (among(1, 2, 3), among(1, 2, 4)),
        (select(literal(1)), select(literal(True))),
        (select(literal(1)), select(literal("1"))),
        (select(literal(1, JSON)), select(literal(True, JSON))),
        (select(literal(Decimal("1.0"))), select(literal(Decimal("1.00")))),
        (select(literal(0.0)), select(literal(-0.0))),
        (select(literal("a")), select(literal("A"))),
        (at(12, UTC), at(13, timezone(timedelta(hours=1)))),
        (select(Flight.id).limit(1), select(Flight.id).limit(2)),
        (select(Flight.id).order_by(Flight.id), select(Flight.id).order_by(Flight.id.desc())),
        (select(Flight.id.label("a")), select(Flight.id.label("b"))),
        (select(case((Flight.id == 1, 1), else_=2)), select(case((Flight.id == 1, 1), else_=3))),
    ]
    for one, another in pairs:
        alone = [repr(await db.load_async(one)), repr(await db.load_async(another))]
        together = db.load_async(one), db.load_async(another)
        assert [repr(await promise) for promise in together] == alone
    assert pool.counters["shared"] == 0


async def test_values_that_are_called_for_are_compared_when_asked(db: Database, pool: DatabasePool) -> None:
    numbers = iter([1, 2] * 20)
    statement = select(literal(0) + bindparam("n", callable_=lambda: next(numbers), type_=Integer))
    db.load_async(statement)
    db.load_async(statement)
    assert pool.counters["shared"] == 0


NOT_SHARED: dict[str, Any] = {
    "random()": lambda: select(func.random()),
    "nextval()": lambda: select(func.nextval("queries_sharing")),
    "pg_sleep()": lambda: select(func.pg_sleep(0)),
    "clock_timestamp()": lambda: select(func.clock_timestamp()),
    "a function of the author's": lambda: select(func.queries_next()),
    "a function that has a known name in another schema": lambda: select(func.queries_functions.lower("A")),
    "a function inside": lambda: select(func.coalesce(func.random(), 1)),
    "a function in WHERE": lambda: select(Flight.id).where(func.random() > 2),
    "a function in ORDER BY": lambda: select(Flight.id).order_by(func.random()),
    "a function in FROM": lambda: select(func.generate_series(1, 2).column_valued("n")),
    "a function in a subquery": lambda: select(select(func.random().label("r")).subquery().c.r),
    "a function in a CTE": lambda: select(select(func.random().label("r")).cte().c.r),
    "a sample": lambda: select(tablesample(Flight.__table__, func.system(50)).c.id),
    "SQL of the author's own": lambda: select(literal_column("random()")),
    "a text among columns": lambda: select(text("random()")),
    "a text in WHERE": lambda: select(Flight.id).where(text("random() > 2")),
    "a text": lambda: text("SELECT random()").columns(column("random")),
    "an entity of a text": lambda: select(Flight).from_statement(text("SELECT * FROM queries_flights")),
    "FOR UPDATE": lambda: select(Flight.id).with_for_update(),
    "FOR UPDATE inside": lambda: select(select(Flight.id).with_for_update().subquery().c.id),
    "FOR UPDATE in a text": lambda: select(Flight.id).suffix_with("FOR UPDATE"),
    "a prefix": lambda: select(Flight.id).prefix_with("/* random() */"),
    "a hint": lambda: select(Flight.id).with_statement_hint("/* random() */"),
    "a value that can't be compared": lambda: select(literal({"a": 1}, JSON)),
    "options of execution": lambda: select(Flight.id).execution_options(mine=True),
}


async def test_what_may_answer_otherwise_each_time_is_asked_each_time(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    await server.connection.execute(
        """
        CREATE SEQUENCE IF NOT EXISTS queries_sharing;
        CREATE OR REPLACE FUNCTION queries_next() RETURNS bigint LANGUAGE sql
            AS 'SELECT nextval(''queries_sharing'')';
        CREATE SCHEMA IF NOT EXISTS queries_functions;
        CREATE OR REPLACE FUNCTION queries_functions.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
        """
    )
    shared = []
    for form, make in NOT_SHARED.items():
        before = len(db.queries)
        # Of one statement, and of two that are equal.
        statement = make()
        promises = [db.load_async(statement), db.load_async(statement), db.load_async(make())]
        if len(db.queries) != before + 3:
            shared.append(form)
        await asyncio.gather(*promises)
    assert shared == []
    assert pool.counters["shared"] == 0
    first, second = await asyncio.gather(*(db.load_async(select(func.queries_next())) for _ in range(2)))
    assert first != second


async def test_texts_are_asked_each_time(db: Database, pool: DatabasePool) -> None:
    asked: list[Promise[Any]] = [db.async_find_by_sql("SELECT random()") for _ in range(2)]
    asked += [db.async_count_by_sql("SELECT count(*) FROM queries_flights") for _ in range(2)]
    first, second, *counts = await asyncio.gather(*asked)
    assert first != second
    assert counts == [5, 5]
    assert (pool.counters["async"], pool.counters["shared"]) == (4, 0)


async def test_other_options_of_loading_are_another_query(db: Database, pool: DatabasePool) -> None:
    plain = select(Airport).where(Airport.code == "JFK")
    american = with_loader_criteria(Flight, Flight.carrier == "AA")
    asked = [
        db.load_async(statement)
        for statement in (
            plain,
            plain.options(joinedload(Airport.flights)),
            plain.options(selectinload(Airport.flights.and_(Flight.carrier == "UA"))),
            plain.options(joinedload(Airport.flights), american),
        )
    ]
    [_], [every], [united], [some] = await asyncio.gather(*asked)
    assert [flight.id for flight in every.flights] == [1, 2, 3]
    assert [flight.id for flight in united.flights] == [3]
    assert [flight.id for flight in some.flights] == [1, 2]
    assert pool.counters["shared"] == 0


async def test_where_the_schema_is_an_option_each_schema_is_asked(db: Database, server: Server) -> None:
    await server.connection.execute(
        "DROP SCHEMA IF EXISTS queries_tenant CASCADE; CREATE SCHEMA queries_tenant;"
        "CREATE TABLE queries_tenant.queries_airports AS SELECT 'TEN' AS code"
    )
    tenant = select(Airport.code).execution_options(schema_translate_map={None: "queries_tenant"})
    ours, theirs = await asyncio.gather(db.load_async(select(Airport.code)), db.load_async(tenant))
    assert (len(ours), theirs) == (3, ["TEN"])


async def test_what_has_been_answered_is_asked_anew(db: Database, pool: DatabasePool, server: Server) -> None:
    first = db.async_count(Airport)
    assert await first == 3
    await server.fetch("INSERT INTO queries_airports VALUES ('AAA')")
    assert await db.async_count(Airport) == 4
    assert await first == 3
    failed = db.load_async(FAILING)
    with pytest.raises(DBAPIError):
        await failed
    again = db.load_async(FAILING)
    with pytest.raises(DBAPIError):
        await again
    assert dict(pool.counters) == {"async": 4}


async def test_two_jobs_share_nothing(pool: DatabasePool, server: Server) -> None:
    async with Database(pool, owner="one") as one, Database(pool, owner="two") as two, server.gate(1) as open_gate:
        promises = [handle.load_async(NUMBERS) for handle in (one, two)]
        await server.until_running(2)
        await open_gate()
        assert [await promise for promise in promises] == [[1, 2, 3]] * 2
    assert dict(pool.counters) == {"async": 2}


@pytest.mark.parametrize("kind", ["foreground", "snapshot", "raise"])
async def test_nothing_is_shared_across_the_begin_or_the_end_of_a_transaction(
    db: Database, pool: DatabasePool, server: Server, kind: Any
) -> None:
    outside = copy_context()

    async def ask() -> Promise[list[int]]:
        return db.load_async(NUMBERS)

    async with server.gate(1) as open_gate:
        asked = [db.load_async(NUMBERS)]
        async with db.transaction(kind):
            for _ in range(2):
                asked.append(await asyncio.get_running_loop().create_task(ask(), context=outside.copy()))
            await server.until_running(2)
        asked.append(db.load_async(NUMBERS))
        await server.until_running(3)
        await open_gate()
        assert list(await asyncio.gather(*asked)) == [[1, 2, 3]] * 4
    assert dict(pool.counters) == {"async": 3, "shared": 1}


async def test_a_snapshot_shares_with_itself_only(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        before = db.load_async(NUMBERS)
        async with db.transaction("snapshot"):
            within = db.load_async(NUMBERS)
            await server.until_running(2)
            await open_gate()
            assert await before == await within == [1, 2, 3]


async def test_queries_of_a_transaction_that_may_write_are_not_shared(db: Database, pool: DatabasePool) -> None:
    async with db.transaction() as transaction:
        first = db.async_count(Airport)
        second = db.async_count(Airport)
        assert await transaction.execute(text("INSERT INTO queries_airports VALUES ('AAA')"))
        third = db.async_count(Airport)
        assert (await first, await second, await third) == (3, 3, 4)
    assert dict(pool.counters) == {"foreground:transaction": 3}


# Giving up, and errors


async def test_one_that_gives_up_leaves_the_query_to_the_others(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        first, second, third = (db.load_async(NUMBERS) for _ in range(3))
        await server.until_running(1)
        assert first.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second, 0.01)
        assert [promise.status for promise in (first, second, third)] == ["cancelled", "cancelled", "running"]
        late = db.load_async(NUMBERS)
        assert len(await server.running()) == 1
        await open_gate()
        assert (await third, await late) == ([1, 2, 3], [1, 2, 3])
        for given_up in (first, second):
            with pytest.raises(QueryCancelled):
                await given_up
    assert db.queries[0].status == "complete"
    assert dict(pool.counters) == {"async": 1, "shared": 3}


async def test_when_all_give_up_the_query_is_stopped_in_the_server(db: Database, server: Server) -> None:
    async with server.gate(1):
        promises = [db.load_async(NUMBERS) for _ in range(3)]
        waiting = [asyncio.ensure_future(promise) for promise in promises[1:]]
        await server.until_running(1)
        promises[0].cancel()
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert len(await server.running()) == 1
        waiting[1].cancel()
        await asyncio.wait(waiting)
        await server.until_running(0)
        assert [promise.status for promise in promises] == ["cancelled"] * 3
        assert db.queries[0].status == "cancelled"
        again = db.load_async(NUMBERS)
        await server.until_running(1)
        assert len(db.queries) == 2
        again.cancel()


async def test_closing_gives_up_all_that_share(pool: DatabasePool, server: Server) -> None:
    async with server.gate(1):
        db = Database(pool, owner="job")
        promises = [db.load_async(NUMBERS) for _ in range(2)]
        await server.until_running(1)
        await db.close(reason="over")
        assert await server.running() == []
        for promise in promises:
            with pytest.raises(QueryCancelled, match="over"):
                await promise


async def test_an_error_reaches_all_that_share_and_is_raised_at_each_await(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promises = [db.load_async(FAILING) for _ in range(3)]
        given_up = db.load_async(FAILING)
        given_up.cancel()
        await server.until_running(1)
        await open_gate()
        for promise in [*promises, *promises]:
            with pytest.raises(DBAPIError, match="division by zero"):
                await promise
    assert [promise.status for promise in promises] == ["failed"] * 3
    assert given_up.status == "cancelled"


async def test_a_query_counts_as_failed_though_the_first_to_ask_gave_it_up(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        first, second = db.load_async(FAILING), db.load_async(FAILING)
        await server.until_running(1)
        first.cancel()
        await open_gate()
        with pytest.raises(DBAPIError):
            await second
    assert db.queries[0].status == "failed"


async def test_what_one_can_not_make_of_the_rows_is_its_own_error(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        rows = db.load_async(select(held).where(held.c.n.in_([1, 9])))
        missing, again = db.async_find(held, [1, 9]), db.async_find(held, [1, 9])
        await server.until_running(1)
        await open_gate()
        assert await rows == [1]
        for promise in (missing, again):
            with pytest.raises(RecordNotFound):
                await promise
    assert len(db.queries) == 1


# What is said of it


async def test_the_log_has_a_line_for_each_that_shared(
    db: Database, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    async with server.gate(1) as open_gate:
        first, second = db.load_async(NUMBERS), db.load_async(NUMBERS)
        await server.until_running(1)
        await open_gate()
        await first
        await second
    lines = [line.partition(" (")[0] for line in caplog.messages]
    assert lines == ["ASYNC queries_held Load", "SHARED queries_held Load"]


async def test_a_query_is_awaited_when_any_that_shares_it_is(
    pool: DatabasePool, caplog: pytest.LogCaptureFixture
) -> None:
    async with Database(pool, owner="job") as db:
        db.load_async(NUMBERS)
        await db.load_async(NUMBERS)
    assert "never awaited" not in caplog.text
    async with Database(pool, owner="job") as db:
        unawaited = [db.load_async(NUMBERS) for _ in range(2)]
        await until(lambda: all(promise.status == "complete" for promise in unawaited))
    assert caplog.text.count("never awaited") == 1
