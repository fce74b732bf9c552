"""Transactions: in order, all or nothing, on one connection; and how they end, whatever happens inside."""

# ruff: noqa: PT012 - what is tested here is a whole block, and what it raises at its end

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import Connection, delete, func, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import Session

from pushsvc.errors import QueryCancelled, QueryError, RecordNotFound, TransactionOpen, Unavailable
from pushsvc.queries import Database, DatabasePool, Promise, Transaction
from pushsvc.queries.running.link import Link

from .queries_support import Airport, Flight, Server, behind, passed, until

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights")

ONE = select(literal(1))
WRONG = select(literal(1) / literal(0))
CODES = select(Airport.code).order_by(Airport.code)
BEFORE = ["EWR", "JFK", "LGA"]
PID = "SELECT pg_backend_pid()"


def new(code: str) -> Any:
    return insert(Airport).values(code=code)


async def committed(server: Server) -> list[str]:
    return [row["code"] for row in await server.fetch("SELECT code FROM queries_airports ORDER BY code")]


async def left_open(server: Server) -> list[Any]:
    """The transactions of the pools that are open and do nothing."""
    return await server.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %' AND state LIKE 'idle in %'"
    )


@pytest_asyncio.fixture
async def outside() -> AsyncIterator[Callable[[Any], asyncio.Task[Any]]]:
    """Starts a task that is in no transaction, though it is started within one. All have ended after the test."""
    context, tasks = copy_context(), []

    def start(work: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.get_running_loop().create_task(work, context=context.copy()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def few_objects() -> Iterator[None]:
    """What is there already need not be looked at whenever garbage is collected."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quiet(few_objects: None, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that went wrong may be left for the event loop to complain of."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


# In order


async def test_queries_see_what_was_written_before_them_and_not_what_was_written_after(db: Database) -> None:
    async with db.transaction() as transaction:
        before = db.async_pluck(CODES)
        counted = db.async_count(Airport)
        await transaction.execute(new("AAA"))
        after = db.async_pluck(CODES)
        await transaction.execute(delete(Airport).where(Airport.code == "LGA"))
        last = db.async_pluck(CODES)
        assert await last == ["AAA", "EWR", "JFK"]
        assert await after == ["AAA", *BEFORE]
        assert await before == BEFORE
        assert await counted == 3
        assert (await db.async_find(Airport, "AAA")).code == "AAA"


async def test_queries_of_a_transaction_run_one_after_another_on_its_connection(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with db.transaction():
        async with server.gate(1) as open_gate:
            promises = [db.load_async(behind(1, number)) for number in range(3)]
            pids = [db.async_find_by_sql(PID) for _ in range(2)]
            await server.until_running(1)
            assert [promise.status for promise in promises] == ["running", "pending", "pending"]
            assert (pool.active, pool.waiting, await server.connections()) == (1, 0, 1)
            await open_gate()
            assert list(await asyncio.gather(*promises)) == [[0], [1], [2]]
            first, second = await asyncio.gather(*pids)
            assert first == second
    assert {(record.mode, record.reason) for record in db.queries} == {("foreground", "transaction")}
    assert dict(pool.counters) == {"foreground:transaction": 5}


async def test_what_tasks_in_the_block_ask_at_once_comes_in_the_order_of_asking(db: Database) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(text("CREATE TEMP TABLE steps (n serial, step text) ON COMMIT DROP"))

        async def write(step: str) -> None:
            await transaction.execute(text("INSERT INTO steps (step) VALUES (:step)"), {"step": step})

        async with asyncio.TaskGroup() as group:
            for step in "abc":
                group.create_task(write(step))
        await asyncio.gather(write("d"), write("e"))
        assert await db.async_find_by_sql("SELECT step FROM steps ORDER BY n") == list("abcde")


async def test_statements_are_executed_as_by_sqlalchemy(db: Database, server: Server) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(insert(Airport), [{"code": "AAA"}, {"code": "BBB"}])
        returned = await transaction.execute(new("CCC").returning(Airport.code))
        assert returned.scalars().all() == ["CCC"]
        moved = await transaction.execute(update(Flight).where(Flight.id < 3).values(origin="AAA"))
        assert moved.rowcount == 2
        rows = await transaction.execute(text("SELECT CAST(:a AS int) AS a, upper(:b) AS b"), {"a": 1, "b": "x"})
        assert [row._asdict() for row in rows] == [{"a": 1, "b": "X"}]
    assert await committed(server) == ["AAA", "BBB", "CCC", *BEFORE]


async def test_each_command_of_a_transaction_carries_the_jobs_name(db: Database, server: Server) -> None:
    async with db.transaction() as transaction, server.gate(1) as open_gate:
        writing = asyncio.ensure_future(transaction.execute(behind(1)))
        [query] = await server.until_running(1)
        assert query.startswith("/*job='report',job_id='job-1'*/ SELECT")
        await open_gate()
        await writing


async def test_inline_a_transaction_is_the_same(pool: DatabasePool, server: Server) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        earlier = db.async_count(Airport)
        async with db.transaction() as transaction:
            await transaction.execute(new("AAA"))
            assert (await db.async_count(Airport), await earlier) == (4, 4)
        async with db.transaction("snapshot"):
            unawaited = db.async_count(Airport)
        assert unawaited.status == "complete"
        assert await unawaited == 4
    assert await committed(server) == ["AAA", *BEFORE]


# The end of the block


async def test_what_was_written_is_there_for_all_when_the_block_has_ended_and_not_before(
    db: Database, server: Server
) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        assert await committed(server) == BEFORE
    assert await committed(server) == ["AAA", *BEFORE]
    assert await left_open(server) == []


async def test_the_end_of_the_block_waits_for_queries_nobody_has_awaited_yet(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:

        async def block() -> list[Promise[Any]]:
            async with db.transaction():
                return [db.load_async(behind(1, 5)), db.load_async(Airport, preload=[Airport.flights])]

        ending = asyncio.ensure_future(block())
        await server.until_running(1)
        assert not ending.done()
        await open_gate()
        value, airports = await ending
    assert (value.status, airports.status) == ("complete", "complete")
    assert await value == [5]
    assert sum(len(airport.flights) for airport in await airports) == 5


async def test_an_error_in_the_block_undoes_it_and_is_raised(db: Database, server: Server) -> None:
    async with server.gate(1):
        with pytest.raises(KeyError, match="mine"):
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                promises = [db.load_async(behind(1)), db.async_count(Airport)]
                await server.until_running(1)
                raise KeyError("mine")
        assert await server.running() == []
        assert [promise.status for promise in promises] == ["cancelled", "cancelled"]
        with pytest.raises(QueryCancelled, match="the transaction has ended with an error"):
            await promises[1]
    assert await committed(server) == BEFORE
    assert await left_open(server) == []
    assert await db.async_count(Airport) == 3


async def test_a_query_that_failed_undoes_the_transaction_even_if_nobody_looked(db: Database, server: Server) -> None:
    async def unawaited(transaction: Transaction) -> None:
        db.load_async(WRONG)

    async def swallowed(transaction: Transaction) -> None:
        with pytest.raises(DBAPIError):
            await db.load_async(WRONG)

    async def executed(transaction: Transaction) -> None:
        with pytest.raises(DBAPIError):
            await transaction.execute(WRONG)

    for failing in (unawaited, swallowed, executed):
        message = r"the transaction was rolled back, as a query in it failed: .*division by zero"
        with pytest.raises(QueryError, match=message) as raised:
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                await failing(transaction)
        assert isinstance(raised.value.__cause__, DBAPIError)
        assert await committed(server) == BEFORE
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]


async def test_the_error_of_a_query_that_is_not_swallowed_comes_out_of_the_block(db: Database) -> None:
    with pytest.raises(DBAPIError, match="division by zero"):
        async with db.transaction():
            await db.load_async(WRONG)


async def test_after_a_failure_nothing_more_is_asked_in_the_transaction(db: Database, server: Server) -> None:
    with pytest.raises(QueryError, match="the transaction was rolled back"):
        async with db.transaction() as transaction:
            failed, later = db.load_async(WRONG), db.load_async(ONE)
            for refused in (later, db.load_async(ONE), transaction.execute(ONE), transaction.run_sync(print)):
                with pytest.raises(QueryError, match=r"as the transaction had failed before: .*zero") as raised:
                    await refused
                assert isinstance(raised.value.__cause__, DBAPIError)
            with pytest.raises(QueryError, match="had failed before"):
                async with db.transaction():
                    raise AssertionError("not begun")
            with pytest.raises(DBAPIError):
                await failed
    assert later.status == "failed"


async def test_a_query_that_was_given_up_undoes_the_transaction_and_it_says_so(db: Database, server: Server) -> None:
    async with server.gate(1):
        with pytest.raises(QueryError, match="rolled back, as a query in it failed: it was cancelled"):
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await db.load_async(behind(1))
        await server.until_running(0)
    assert await committed(server) == BEFORE


async def test_a_query_given_up_before_its_turn_or_without_a_row_does_no_harm(db: Database, server: Server) -> None:
    async with db.transaction() as transaction:
        async with server.gate(1) as open_gate:
            first, second, third = db.load_async(behind(1, 1)), db.load_async(WRONG), db.load_async(behind(1, 3))
            await server.until_running(1)
            assert second.cancel()
            await open_gate()
            assert list(await asyncio.gather(first, third)) == [[1], [3]]
        with pytest.raises(RecordNotFound):
            await db.async_find(Flight, 99)
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]


async def test_roll_back_ends_the_block_without_an_error_and_writes_nothing(db: Database, server: Server) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        transaction.roll_back()
        assert await db.async_count(Airport) == 4
        unawaited = db.async_count(Airport)
    assert await committed(server) == BEFORE
    assert await unawaited == 4


async def test_an_error_at_the_commit_itself_is_raised_and_nothing_is_written(db: Database, server: Server) -> None:
    await server.fetch(
        "ALTER TABLE queries_flights ALTER CONSTRAINT queries_flights_origin_fkey DEFERRABLE INITIALLY DEFERRED"
    )
    with pytest.raises(IntegrityError, match="violates foreign key"):
        async with db.transaction() as transaction:
            await transaction.execute(update(Flight).values(origin="XXX"))
    assert await left_open(server) == []
    assert await db.async_count(Flight, where=Flight.origin == "XXX") == 0
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]


async def test_a_transaction_is_for_its_block_only(db: Database, outside: Any) -> None:
    async def use(transaction: Transaction) -> None:
        await transaction.execute(ONE)

    async with db.transaction() as transaction:
        with pytest.raises(QueryError, match="outside it, none"):
            await outside(use(transaction))
        async with db.transaction():
            with pytest.raises(QueryError, match="that one is to be used"):
                await use(transaction)
        await use(transaction)
    with pytest.raises(QueryError, match="outside it, none"):
        await use(transaction)


# Savepoints


async def test_a_transaction_inside_another_is_undone_alone_or_with_it(db: Database, server: Server) -> None:
    async with db.transaction() as outer:
        await outer.execute(new("AAA"))
        async with db.transaction() as inner:
            await inner.execute(new("BBB"))
            assert await db.async_pluck(CODES) == ["AAA", "BBB", *BEFORE]
        with pytest.raises(KeyError):
            async with db.transaction() as inner:
                await inner.execute(new("CCC"))
                raise KeyError
        async with db.transaction() as inner:
            await inner.execute(new("DDD"))
            inner.roll_back()
        async with db.transaction() as inner:
            async with db.transaction() as innermost:
                await innermost.execute(new("EEE"))
            inner.roll_back()
        assert await db.async_pluck(CODES) == ["AAA", "BBB", *BEFORE]
        assert await committed(server) == BEFORE
    assert await committed(server) == ["AAA", "BBB", *BEFORE]

    with pytest.raises(KeyError):
        async with db.transaction():
            async with db.transaction() as inner:
                await inner.execute(new("FFF"))
            raise KeyError
    assert await committed(server) == ["AAA", "BBB", *BEFORE]


async def test_a_query_that_fails_inside_spoils_the_inner_transaction_only(db: Database, server: Server) -> None:
    async with db.transaction() as outer:
        await outer.execute(new("AAA"))
        with pytest.raises(QueryError, match="rolled back, as a query in it failed"):
            async with db.transaction() as inner:
                await inner.execute(new("BBB"))
                db.load_async(WRONG)
        assert await db.async_pluck(CODES) == ["AAA", *BEFORE]
    assert await committed(server) == ["AAA", *BEFORE]


async def test_while_a_transaction_inside_is_open_the_outer_one_waits(db: Database, server: Server) -> None:
    async with db.transaction() as outer, asyncio.TaskGroup() as group:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def inside() -> None:
            async with db.transaction() as inner:
                await inner.execute(new("AAA"))
                began.set()
                await may_end.wait()
                inner.roll_back()

        group.create_task(inside())
        await began.wait()
        counted = db.async_count(Airport)
        writing = group.create_task(outer.execute(new("BBB")))
        await asyncio.sleep(0)
        may_end.set()
        assert await counted == 3
        await writing
    assert await committed(server) == ["BBB", *BEFORE]


async def test_one_inside_has_the_isolation_of_the_other_and_no_snapshot(db: Database) -> None:
    async with db.transaction() as outer:
        await outer.execute(new("AAA"))
        with pytest.raises(QueryError, match="a transaction inside another has that one's isolation"):
            async with db.transaction(isolation="serializable"):
                raise AssertionError("not begun")
        async with db.transaction("snapshot"):
            assert await db.async_count(Airport) == 4
            assert db.queries[-1].reason == "transaction"


# run_sync


async def test_run_sync_gives_a_session_whose_work_is_part_of_the_transaction(db: Database, server: Server) -> None:
    def work(session: Session) -> tuple[Flight, Airport]:
        jfk = session.get_one(Airport, "JFK")
        session.add_all([Airport(code="AAA"), Airport(code="BBB")])
        jfk.flights[0].carrier = "XX"
        assert session.scalar(select(func.count()).select_from(Airport)) == 6
        flight = Flight(id=6, airport=jfk, carrier="ZZ", dep_delay=None, air_time=1.0, fare=2)
        session.add(flight)
        return flight, jfk

    async with db.transaction() as transaction:
        await transaction.execute(new("CCC"))
        flight, jfk = await transaction.run_sync(work)
        # They are detached, and keep what they have loaded.
        assert (flight.id, flight.origin, flight.airport, jfk.code, len(jfk.flights)) == (6, "JFK", jfk, "JFK", 4)
        assert await db.async_pluck(CODES) == ["AAA", "BBB", "CCC", *BEFORE]
        assert await db.async_pluck(Flight.carrier, where=Flight.id.in_([1, 6])) == ["XX", "ZZ"]
        assert await committed(server) == BEFORE
    assert await committed(server) == ["AAA", "BBB", "CCC", *BEFORE]


async def test_an_error_in_run_sync_undoes_its_own_work_and_no_more(db: Database, server: Server) -> None:
    def twice(session: Session) -> None:
        session.add(Airport(code="BBB"))
        session.flush()
        session.add(Airport(code="JFK"))

    def broken(session: Session) -> None:
        session.add(Airport(code="CCC"))
        session.flush()
        raise KeyError("mine")

    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        with pytest.raises(IntegrityError):
            await transaction.run_sync(twice)
        with pytest.raises(KeyError, match="mine"):
            await transaction.run_sync(broken)
        with pytest.raises(DBAPIError, match="division by zero"):
            await transaction.run_sync(lambda session: session.execute(WRONG))
        assert await db.async_pluck(CODES) == ["AAA", *BEFORE]
        await transaction.execute(new("DDD"))
    assert await committed(server) == ["AAA", "DDD", *BEFORE]


async def test_a_session_may_roll_back_and_go_on(db: Database, server: Server) -> None:
    def work(session: Session) -> None:
        session.add(Airport(code="BBB"))
        session.flush()
        session.rollback()
        session.add(Airport(code="CCC"))
        session.commit()
        session.add(Airport(code="DDD"))
        session.flush()
        session.rollback()
        session.add(Airport(code="EEE"))

    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        await transaction.run_sync(work)
        async with db.transaction() as inner:
            await inner.run_sync(lambda session: session.add(Airport(code="FFF")))
            inner.roll_back()
    assert await committed(server) == ["AAA", "CCC", "EEE", *BEFORE]


async def test_a_session_in_a_transaction_that_is_rolled_back_leaves_nothing(db: Database, server: Server) -> None:
    with pytest.raises(KeyError):
        async with db.transaction() as transaction:
            await transaction.run_sync(lambda session: session.add(Airport(code="AAA")))
            raise KeyError
    # The connection serves others as if nothing had been.
    assert await committed(server) == BEFORE
    for _ in range(2):
        assert await db.async_pluck(CODES) == BEFORE
        assert [airport.code for airport in await db.load_async(select(Airport).order_by(Airport.code))] == BEFORE


# Isolation, refusal, snapshot


async def test_isolation_is_as_asked(db: Database) -> None:
    async def isolation(**options: Any) -> Any:
        async with db.transaction(**options):
            return (await db.async_find_by_sql("SHOW transaction_isolation"))[0]

    assert await isolation() == "read committed"
    assert await isolation(isolation="read committed") == "read committed"
    assert await isolation(isolation="repeatable read") == "repeatable read"
    assert await isolation(isolation="serializable") == "serializable"
    assert await isolation(on_transaction="snapshot") == "repeatable read"
    assert await db.async_find_by_sql("SHOW transaction_isolation") == ["read committed"]


async def test_repeatable_reads_are_not_disturbed_and_conflicting_writes_are_refused(
    db: Database, server: Server
) -> None:
    with pytest.raises(DBAPIError, match="could not serialize access"):
        async with db.transaction(isolation="repeatable read") as transaction:
            assert await db.async_count(Airport) == 3
            await server.fetch("INSERT INTO queries_airports VALUES ('AAA')")
            await server.fetch("UPDATE queries_flights SET carrier = 'ZZ' WHERE id = 1")
            assert await db.async_count(Airport) == 3
            await transaction.execute(update(Flight).where(Flight.id == 1).values(carrier="YY"))
    assert await db.async_count(Airport) == 4


async def test_a_transaction_may_refuse_queries(db: Database, pool: DatabasePool, server: Server) -> None:
    earlier = db.load_async(ONE)
    await earlier
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        pending = db.async_count(Airport)
        asked = len(db.queries)
        async with db.transaction("raise") as transaction:
            await transaction.execute(new("AAA"))
            refused: list[Callable[[], Any]] = [
                lambda: db.load_async(Airport),
                lambda: db.load_async(Airport, preload=[Airport.flights]),
                lambda: db.preload_async([Airport(code="JFK")], Airport.flights),
                lambda: db.load_async(Airport.flights, of=Airport(code="JFK")),
                lambda: db.async_count(Airport),
                lambda: db.async_count(Airport, where=Airport.code.in_([])),
                lambda: db.async_find_by_sql("SELECT 1"),
                lambda: db.async_json(Airport),
            ]
            for ask in refused:
                with pytest.raises(TransactionOpen, match="on_transaction='raise'"):
                    ask()
            assert len(db.queries) == asked
            # What was asked before is answered, in it if it had not started.
            assert (await earlier, await pending) == ([1], 4)
            async with db.transaction():
                assert await db.async_count(Airport) == 4
        for promise in blocked:
            promise.cancel()
    assert await db.async_count(Airport) == 4


async def test_queries_of_a_snapshot_run_side_by_side_and_see_one_state(db: Database, server: Server) -> None:
    async with db.transaction("snapshot"):
        async with server.gate(1) as open_gate:
            held = [db.load_async(behind(1).add_columns(func.count(Airport.code)).select_from(Airport))]
            held += [db.load_async(behind(1, n).add_columns(func.count(Airport.code))) for n in (2, 3)]
            assert len(await server.until_running(3)) == 3
            await server.fetch("INSERT INTO queries_airports VALUES ('AAA')")
            await server.fetch("DELETE FROM queries_flights")
            assert await db.async_count(Airport) == 3
            late = db.load_async(Flight, preload=[Flight.airport])
            await open_gate()
            assert [row[1] for promise in held for row in await promise] == [3, 3, 3]
            assert sorted(flight.airport.code for flight in await late) == ["EWR"] * 2 + ["JFK"] * 3
        assert {record.mode for record in db.queries} == {"async"}
    assert await db.async_count(Airport) == 4
    assert await db.async_count(Flight) == 0
    assert await left_open(server) == []


async def test_in_a_snapshot_nothing_can_be_written(db: Database, server: Server) -> None:
    for on_its_connection in (True, False):
        with pytest.raises((DBAPIError, QueryError), match=r"read-only transaction|nothing can be written"):
            async with db.transaction("snapshot") as transaction:
                if on_its_connection:
                    await transaction.execute(new("AAA"))
                else:
                    await db.load_async(select(new("AAA").returning(Airport.code).cte().c.code))
    assert await committed(server) == BEFORE
    assert await left_open(server) == []


async def test_queries_that_still_wait_at_the_end_of_a_snapshot_are_answered_from_it(
    postgres_url: str, server: Server
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1, own_connections=2)
    other = Database(pool, owner="other")
    async with server.gate(1) as open_gate:
        blocked = other.load_async(behind(1))
        async with Database(pool, owner="job") as db:
            async with db.transaction("snapshot"):
                unawaited = [db.async_count(select(Airport).where(Airport.code != code)) for code in BEFORE]
                overflowing = [db.load_async(select(literal(number))) for number in range(6)]
                await server.connection.execute("DELETE FROM queries_flights; DELETE FROM queries_airports")
                assert all(promise.status == "pending" for promise in unawaited)
            assert [promise.status for promise in unawaited] == ["complete"] * 3
            assert list(await asyncio.gather(*unawaited)) == [2, 2, 2]
            assert list(await asyncio.gather(*overflowing)) == [[number] for number in range(6)]
        await open_gate()
        await blocked
    await other.close()
    await pool.close()


async def test_a_query_of_a_snapshot_is_not_run_again_where_the_snapshot_is_not(db: Database, server: Server) -> None:
    async with server.gate(1):
        with pytest.raises(Unavailable, match="closed the connection during a query"):
            async with db.transaction("snapshot"):
                held = db.load_async(behind(1))
                await server.until_running(1)
                await server.fetch(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state = 'active'"
                    " AND query LIKE '%pg_advisory_xact_lock_shared%' AND pid <> pg_backend_pid()"
                )
                await held
    assert await db.load_async(ONE) == [1]


# Which queries are in it


async def test_a_query_asked_before_that_has_not_started_is_run_inside_when_awaited_there(
    db: Database, server: Server
) -> None:
    async with server.gate(1):
        # The executor is full, and so is its queue.
        blocked = [db.load_async(behind(1)) for _ in range(19)]
        queued, overflowing = db.async_count(Airport), db.async_pluck(CODES)
        preloading = db.load_async(Airport, preload=[Airport.flights])
        assert [db.queries[number].reason for number in (19, 20)] == [None, "queue_full"]
        await server.until_running(4)
        async with db.transaction() as transaction:
            await transaction.execute(new("AAA"))
            assert await queued == 4
            assert await overflowing == ["AAA", *BEFORE]
            assert sorted(len(airport.flights) for airport in await preloading) == [0, 0, 2, 3]
        # The first of them has left its place in the queue to the other.
        assert [db.queries[number].reason for number in (19, 20)] == ["not_started", "not_started"]
        for promise in blocked:
            promise.cancel()


async def test_it_is_run_inside_even_if_another_task_awaits_it_already(
    db: Database, server: Server, outside: Any
) -> None:
    async def use(promise: Promise[int]) -> int:
        return await promise

    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        promise = db.async_count(Airport)
        async with db.transaction():
            other = outside(use(promise))
            await until(lambda: promise.awaited)
            assert promise.status == "pending"
            assert await promise == 3
            assert await other == 3
        for held in blocked:
            held.cancel()


async def test_tasks_outside_the_block_are_not_in_the_transaction_and_those_started_in_it_are(
    db: Database, server: Server
) -> None:
    wrote, asked = asyncio.Event(), asyncio.Event()

    async def sibling() -> int:
        await wrote.wait()
        number = await db.async_count(Airport)
        asked.set()
        return number

    async def child() -> int:
        return await db.async_count(Airport)

    before = asyncio.ensure_future(sibling())
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        wrote.set()
        await asked.wait()
        within = await asyncio.ensure_future(child())
    assert (await before, within) == (3, 4)
    assert [record.reason for record in db.queries] == [None, "transaction"]


async def test_a_task_started_inside_is_in_no_transaction_when_that_has_ended(db: Database) -> None:
    ended = asyncio.Event()

    async def child() -> Any:
        before = await db.async_find_by_sql(PID)
        await ended.wait()
        return before, await db.async_count(Airport)

    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
        task = asyncio.ensure_future(child())
        await until(lambda: db.queries)
    ended.set()
    assert (await task)[1] == 4
    assert [record.reason for record in db.queries] == ["transaction", None]


async def test_queries_after_the_block_are_on_the_executor_again(db: Database) -> None:
    async with db.transaction():
        async with db.transaction():
            pass
        await db.load_async(ONE)
    await db.load_async(ONE)
    with pytest.raises(KeyError):
        async with db.transaction():
            raise KeyError
    await db.load_async(ONE)
    assert [record.reason for record in db.queries] == ["transaction", None, None]


async def test_another_handle_of_the_pool_joins_the_transaction_and_another_pool_does_not(
    db: Database, pool: DatabasePool, postgres_url: str
) -> None:
    elsewhere = DatabasePool(postgres_url, name="elsewhere")
    async with Database(pool, owner="second") as second, Database(elsewhere, owner="job-1") as stranger:
        async with db.transaction() as transaction:
            await transaction.execute(new("AAA"))
            assert await second.async_count(Airport) == 4
            assert await stranger.async_count(Airport) == 3
            async with stranger.transaction() as other:
                assert await second.async_count(Airport) == 4
                assert await stranger.async_count(Airport) == 3
                await other.execute(new("BBB"))
                await transaction.execute(ONE)
            async with second.transaction() as inner:
                await inner.execute(new("CCC"))
        assert second.queries[0].reason == "transaction"
        assert await second.async_pluck(CODES) == ["AAA", "BBB", "CCC", *BEFORE]
    await elsewhere.close()


async def test_two_transactions_of_a_job_in_two_tasks_come_one_after_another(db: Database, server: Server) -> None:
    order: list[str] = []

    async def use(name: str) -> None:
        async with db.transaction() as transaction:
            order.append(f"{name} begins")
            await transaction.execute(new(name))
            order.append(f"{name} ends")

    async with server.gate(1) as open_gate:

        async def first() -> None:
            async with db.transaction():
                order.append("first begins")
                await db.load_async(behind(1))
                order.append("first ends")

        tasks = [asyncio.ensure_future(first())]
        await server.until_running(1)
        tasks += [asyncio.ensure_future(use(name)) for name in ("AAA", "BBB")]
        assert await db.load_async(ONE) == [1]
        assert order == ["first begins"]
        await open_gate()
        await asyncio.gather(*tasks)
    assert order == ["first begins", "first ends", "AAA begins", "AAA ends", "BBB begins", "BBB ends"]
    assert await committed(server) == ["AAA", "BBB", *BEFORE]


async def test_transactions_of_two_jobs_run_side_by_side(pool: DatabasePool, server: Server) -> None:
    async def use(owner: str) -> None:
        async with Database(pool, owner=owner) as db, db.transaction():
            await db.load_async(behind(1))

    async with server.gate(1) as open_gate:
        both = asyncio.gather(use("one"), use("two"))
        await server.until_running(2)
        await open_gate()
        await both


# What tasks in the block still do at its end


async def test_the_end_of_the_block_waits_for_what_its_tasks_have_begun(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        tasks: list[asyncio.Task[Any]] = []

        async def nested() -> None:
            async with db.transaction() as inner:
                await inner.execute(new("BBB"))
                await db.load_async(ONE)
                await inner.execute(new("CCC"))

        async def block() -> None:
            async with db.transaction() as transaction:
                tasks.append(asyncio.ensure_future(transaction.execute(behind(1))))
                await server.until_running(1)
                tasks.append(asyncio.ensure_future(nested()))
                await asyncio.sleep(0)
                tasks.append(asyncio.ensure_future(transaction.execute(new("AAA"))))
                await asyncio.sleep(0)

        ending = asyncio.ensure_future(block())
        await until(lambda: len(tasks) == 3)
        await asyncio.sleep(0)
        assert not ending.done()
        await open_gate()
        await ending
        assert all(task.done() for task in tasks)
        await asyncio.gather(*tasks)
    assert await committed(server) == ["AAA", "BBB", "CCC", *BEFORE]


async def test_what_a_task_has_begun_may_fail_the_transaction_at_its_end(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        with pytest.raises(QueryError, match="rolled back, as a query in it failed"):
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                failing = select(Flight.id / (Flight.id - Flight.id)).where(passed(1))
                task = asyncio.ensure_future(transaction.execute(failing))
                await server.until_running(1)
                await open_gate()
        with pytest.raises(DBAPIError):
            await task
    assert await committed(server) == BEFORE


async def test_an_error_in_the_block_stops_what_its_tasks_do_in_it(db: Database, server: Server) -> None:
    async def nested() -> None:
        async with db.transaction() as inner:
            await inner.execute(behind(1))

    async with server.gate(1):
        with pytest.raises(KeyError, match="mine"):
            async with db.transaction() as transaction:
                running = asyncio.ensure_future(nested())
                waiting = [asyncio.ensure_future(transaction.execute(ONE)), asyncio.ensure_future(nested())]
                await server.until_running(1)
                raise KeyError("mine")
        assert await server.running() == []
        for task in (running, *waiting):
            with pytest.raises(QueryError, match="rolled back"):
                await task
    assert await left_open(server) == []
    assert await db.load_async(ONE) == [1]


async def test_a_transaction_inside_does_not_outlive_the_outer_one(db: Database, server: Server) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def nested() -> None:
        async with db.transaction() as inner:
            began.set()
            await ended.wait()
            with pytest.raises(QueryError, match="outside it, none"):
                await inner.execute(new("AAA"))
            await db.load_async(ONE)

    with pytest.raises(KeyError):
        async with db.transaction():
            task = asyncio.ensure_future(nested())
            await began.wait()
            raise KeyError
    ended.set()
    with pytest.raises(QueryError, match="the transaction was rolled back: the job, or the transaction around it"):
        await task
    assert db.queries[0].mode == "async"
    assert await committed(server) == BEFORE


# Cancelled inside


@pytest.mark.parametrize("where", ["query", "execute", "run_sync", "body", "end", "waiting for another", "nested"])
async def test_a_task_cancelled_inside_rolls_back_and_leaves_its_connection_sound(
    db: Database, pool: DatabasePool, server: Server, where: str
) -> None:
    inside = asyncio.Event()
    others: list[asyncio.Task[Any]] = []

    async def job(transaction: Transaction) -> None:
        await transaction.execute(new("AAA"))
        inside.set()
        if where == "query":
            await db.load_async(behind(1))
        elif where == "execute":
            await transaction.execute(behind(1))
        elif where == "run_sync":
            await transaction.run_sync(lambda session: session.execute(behind(1)))
        elif where == "body":
            await asyncio.Event().wait()
        elif where == "end":
            db.load_async(behind(1))
        elif where == "waiting for another":
            others.append(asyncio.ensure_future(transaction.execute(behind(1))))
            await asyncio.sleep(0)
            await db.load_async(ONE)
        elif where == "nested":
            async with db.transaction():
                await db.load_async(behind(1))

    async def block() -> None:
        async with db.transaction() as transaction:
            await job(transaction)

    async with server.gate(1):
        task = asyncio.ensure_future(block())
        await inside.wait()
        await server.until_running(0 if where == "body" else 1)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await server.running() == []
        assert await left_open(server) == []
        assert pool.active == 0
        for other in others:
            with pytest.raises(QueryError, match="rolled back"):
                await other
    assert await committed(server) == BEFORE
    async with db.transaction() as transaction:
        await transaction.execute(new("BBB"))
    assert await committed(server) == ["BBB", *BEFORE]


async def test_a_task_cancelled_at_any_moment_leaves_no_transaction_behind(
    pool: DatabasePool, server: Server
) -> None:
    async def job(number: int) -> None:
        async with Database(pool, owner=f"job-{number}") as db, db.transaction() as transaction:
            async with db.transaction():
                await Database(transaction.pool, owner="x").load_async(ONE)
            await asyncio.gather(transaction.execute(ONE), db.load_async(ONE))
            await transaction.run_sync(lambda session: session.execute(ONE))

    tasks = [asyncio.ensure_future(job(number)) for number in range(40)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0)
        if number % 4:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert pool.active == 0
    assert await left_open(server) == []
    async with Database(pool, owner="next") as db, db.transaction():
        assert await db.load_async(ONE) == [1]


async def test_a_task_cancelled_while_it_waits_for_its_turn_leaves_the_line(db: Database, outside: Any) -> None:
    async def use() -> None:
        async with db.transaction():
            raise AssertionError("not begun")

    async with db.transaction():
        waiting = outside(use())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with db.transaction():
        assert await db.load_async(ONE) == [1]


async def test_a_query_that_the_server_does_not_stop_is_left_with_its_connection(
    postgres_url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushsvc.queries.running.link.RECOVERY_TIMEOUT", 0.05)
    monkeypatch.setattr("pushsvc.queries.running.engine.CLIENT_CHECK_MS", 20)
    await server.fetch(
        """
        CREATE OR REPLACE FUNCTION queries_stubborn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            LOOP
                BEGIN
                    PERFORM pg_advisory_xact_lock_shared(1);
                    RETURN 1;
                EXCEPTION WHEN query_canceled THEN NULL;
                END;
            END LOOP;
        END $$
        """
    )
    pool = DatabasePool(postgres_url)
    async with server.gate(1), Database(pool, owner="job") as db:
        with pytest.raises(QueryCancelled):
            async with db.transaction(), db.transaction():
                promise = db.load_async(select(func.queries_stubborn()))
                await server.until_running(1)
                promise.cancel()
                await promise
        assert pool.active == 0
        await server.until_running(0)
        async with db.transaction():
            assert await db.load_async(ONE) == [1]
    await pool.close()


# The end of the job


@pytest.mark.parametrize("where", ["body", "query", "execute", "nested"])
async def test_closing_rolls_back_a_transaction_that_a_forgotten_task_has_open(
    pool: DatabasePool, server: Server, where: str
) -> None:
    db, inside, forever = Database(pool, owner="job"), asyncio.Event(), asyncio.Event()

    async def forgotten() -> None:
        async with db.transaction() as transaction:
            await transaction.execute(new("AAA"))
            inside.set()
            if where == "query":
                await db.load_async(behind(1))
            elif where == "execute":
                await transaction.execute(behind(1))
            elif where == "nested":
                async with db.transaction() as inner:
                    await inner.execute(behind(1))
            await forever.wait()

    async with server.gate(1):
        task = asyncio.ensure_future(forgotten())
        await inside.wait()
        await server.until_running(0 if where == "body" else 1)
        await db.close(reason="the job has ended")
        assert await server.running() == []
        assert await left_open(server) == []
        assert pool.active == 0
        forever.set()
        with pytest.raises(QueryError, match=r"ended|rolled back"):
            await task
    assert await committed(server) == BEFORE
    async with Database(pool, owner="job") as next_, next_.transaction():
        assert await next_.load_async(ONE) == [1]


async def test_a_forgotten_task_that_is_cancelled_after_the_end_of_the_job_is_cancelled(pool: DatabasePool) -> None:
    db, inside = Database(pool, owner="job"), asyncio.Event()

    async def forgotten() -> None:
        async with db.transaction():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(forgotten())
    await inside.wait()
    await db.close(reason="over")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_after_the_end_of_the_job_no_transaction_begins_that_was_waiting(
    pool: DatabasePool, server: Server, outside: Any
) -> None:
    db, second = Database(pool, owner="job"), Database(pool, owner="job")

    async def late() -> None:
        async with db.transaction():
            raise AssertionError("begun")

    async with second.transaction():
        task = outside(late())
        await asyncio.sleep(0)
        await db.close(reason="over")
    with pytest.raises(QueryError, match="after the end of the job"):
        await task
    assert await left_open(server) == []
    assert pool.active == 0


# A server that goes away


async def test_a_connection_that_is_closed_during_a_transaction_is_unavailable(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async def query(transaction: Transaction) -> None:
        await db.load_async(ONE)

    async def write(transaction: Transaction) -> None:
        await transaction.execute(new("BBB"))

    async def commit(transaction: Transaction) -> None: ...

    async def nested(transaction: Transaction) -> None:
        async with db.transaction():
            pass

    async def session(transaction: Transaction) -> None:
        await transaction.run_sync(lambda session: session.add(Airport(code="BBB")))

    for step in (query, write, commit, nested, session):
        with pytest.raises(Unavailable, match="the database closed the connection during a transaction"):
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                await server.terminate()
                await step(transaction)
        assert pool.active == 0
        assert await committed(server) == BEFORE
    with pytest.raises(KeyError):
        async with db.transaction() as transaction:
            await server.terminate()
            raise KeyError
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]


async def test_a_connection_closed_under_a_query_of_a_transaction_is_not_replaced(
    db: Database, server: Server
) -> None:
    async with server.gate(1):
        with pytest.raises(Unavailable):
            async with db.transaction() as transaction:
                await transaction.execute(new("AAA"))
                held = db.load_async(behind(1))
                await server.until_running(1)
                await server.terminate()
                await held
    assert await committed(server) == BEFORE
    assert await db.load_async(ONE) == [1]


async def test_a_transaction_begins_on_a_new_connection_when_the_server_has_closed_the_old_ones(
    db: Database, server: Server
) -> None:
    await asyncio.gather(*(db.load_async(select(literal(number))) for number in range(4)))
    await server.terminate()
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]


async def test_a_connection_that_is_found_closed_by_begin_is_replaced_once(
    db: Database, pool: DatabasePool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 1
    begin = Link.begin

    async def found_closed(link: Link, *arguments: Any) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise asyncpg.InternalClientError("another operation is in progress")
        await begin(link, *arguments)

    monkeypatch.setattr(Link, "begin", found_closed)
    async with db.transaction() as transaction:
        await transaction.execute(new("AAA"))
    assert await committed(server) == ["AAA", *BEFORE]
    refusals = 2
    with pytest.raises(Unavailable):
        await db.transaction().__aenter__()
    assert (pool.active, await db.load_async(ONE)) == (0, [1])


async def test_where_there_is_no_server_no_transaction_begins() -> None:
    pool = DatabasePool("postgresql://postgres@127.0.0.1:1/postgres")
    async with Database(pool, owner="job") as db:
        with pytest.raises(Unavailable, match="can't be reached"):
            async with db.transaction():
                raise AssertionError("begun")
        assert pool.active == 0
    await pool.close()


async def test_a_function_of_run_sync_gets_no_connection_of_its_own(db: Database) -> None:
    def pid(session: Session) -> Any:
        connection: Connection = session.connection()
        return connection.scalar(text(PID))

    async with db.transaction() as transaction:
        assert [await transaction.run_sync(pid)] == await db.async_find_by_sql(PID)
        with pytest.raises(StatementError):
            await transaction.run_sync(lambda session: session.execute(text("SELECT :missing")))
