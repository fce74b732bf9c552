"""Promises: what `await` does in each case, once for all who ask, and how an answer is given up."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import bindparam, func, literal, select
from sqlalchemy.exc import DBAPIError

from pushsvc.errors import QueryCancelled, QueryError, RecordNotFound
from pushsvc.queries import Database, DatabasePool, Promise

from .queries_support import Airport, Flight, Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights")

ONE = select(literal(1))
WRONG = select(literal(1) / literal(0))


async def test_a_query_starts_when_it_is_scheduled_and_an_await_later_has_its_value_at_once(db: Database) -> None:
    promise = db.load_async(ONE)
    assert promise.status == "running"
    await until(lambda: promise.status == "complete")
    assert await promise == [1]
    [record] = db.queries
    assert (record.mode, record.reason, record.status) == ("async", None, "complete")


async def test_awaiting_a_running_query_waits_for_it(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1, 7))
        await server.until_running(1)
        waiting = asyncio.ensure_future(promise)
        await until(lambda: promise.awaited)
        assert not waiting.done()
        await open_gate()
        assert await waiting == [7]
    assert db.queries[0].mode == "async"
    assert db.queries[0].wait > 0


async def test_awaiting_a_query_that_has_not_started_runs_it_in_the_foreground(db: Database, server: Server) -> None:
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        await server.until_running(4)
        promise = db.load_async(ONE)
        assert promise.status == "pending"
        assert await promise == [1]
        assert (db.queries[4].mode, db.queries[4].reason) == ("foreground", "not_started")
        assert [other.status for other in blocked] == ["running"] * 4


async def test_queries_awaited_together_share_the_executor_and_one_connection_of_the_job(
    db: Database, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        everything = asyncio.gather(*(db.load_async(behind(1, n)) for n in range(12)))
        await server.until_running(5)
        modes = [record.mode for record in db.queries if record.status == "running"]
        assert sorted(modes) == ["async"] * 4 + ["foreground"]
        await open_gate()
        assert await everything == [[n] for n in range(12)]


async def test_a_promise_can_be_awaited_many_times_and_runs_once(db: Database, server: Server) -> None:
    await server.fetch("DROP SEQUENCE IF EXISTS queries_runs")
    await server.fetch("CREATE SEQUENCE queries_runs")
    promise = db.load_async(select(func.nextval("queries_runs")))
    assert await promise == [1]
    assert list(await asyncio.gather(promise, promise, promise)) == [[1]] * 3
    assert await promise is await promise


@pytest.mark.parametrize("inline", [False, True])
async def test_however_many_tasks_await_in_whatever_order_each_query_runs_exactly_once(
    pool: DatabasePool, server: Server, inline: bool
) -> None:
    await server.fetch("DROP SEQUENCE IF EXISTS queries_runs")
    await server.fetch("CREATE SEQUENCE queries_runs")
    handles = [Database(pool, owner=f"job-{n}", inline=inline) for n in range(6)]
    promises = [handle.load_async(select(func.nextval("queries_runs"))) for handle in handles for _ in range(20)]

    async def ask(shift: int) -> list[Any]:
        return [await promises[(n * 7 + shift) % len(promises)] for n in range(len(promises))]

    answers = await asyncio.gather(*(ask(shift) for shift in range(5)))
    values = sorted(value for [value] in answers[0])
    assert values == list(range(1, 121))
    assert [row["last_value"] for row in await server.fetch("SELECT last_value FROM queries_runs")] == [120]
    for handle in handles:
        await handle.close()


async def test_then_applies_a_function_or_a_coroutine_function_once_when_awaited(db: Database) -> None:
    calls: list[int] = []

    def double(rows: list[int]) -> int:
        calls.append(1)
        return rows[0] * 2

    async def more(number: int) -> int:
        return number + (await db.load_async(ONE))[0]

    doubled = db.load_async(select(literal(21))).then(double)
    final = doubled.then(more)
    assert (calls, doubled.status, final.status) == ([], "pending", "pending")
    assert list(await asyncio.gather(final, final, doubled)) == [43, 43, 42]
    assert (calls, final.status) == ([1], "complete")


async def test_an_error_is_raised_at_every_await_as_it_is(db: Database) -> None:
    promise = db.load_async(WRONG)
    await until(lambda: promise.status == "failed")
    for _ in range(3):
        with pytest.raises(DBAPIError, match="division by zero") as raised:
            await promise
    assert len(raised.traceback) < 40
    derived = promise.then(len)
    with pytest.raises(DBAPIError, match="division by zero"):
        await derived
    assert (derived.status, db.queries[0].status) == ("failed", "failed")


async def test_the_traceback_of_an_error_is_the_same_at_every_await(db: Database) -> None:
    promise = db.load_async(WRONG)
    derived = promise.then(len)

    async def depth(awaited: Any) -> int:
        with pytest.raises(DBAPIError) as raised:
            await awaited
        return len(raised.traceback)

    assert len({await depth(promise) for _ in range(5)}) == 1
    assert len({await depth(derived) for _ in range(5)}) == 1
    assert await depth(promise) <= await depth(derived)


def here() -> str:
    frame = sys._getframe(1)
    return f"asked for in {frame.f_code.co_qualname}, {__file__}:{frame.f_lineno}"


async def test_an_error_says_where_its_query_was_asked_for(db: Database) -> None:
    promise, line = db.load_async(WRONG), here()
    same = db.load_async(WRONG)
    derived = promise.then(len)
    for awaited in (promise, derived, same, promise):
        with pytest.raises(DBAPIError) as raised:
            await awaited
        assert raised.value.__notes__ == [f"SQL Load, {line}"]
    missing, line = db.async_find(Flight, 99), here()
    with pytest.raises(RecordNotFound) as not_found:
        await missing
    assert not_found.value.__notes__ == [f"Flight Load, {line}"]


async def test_an_error_in_a_thread_says_where_its_query_was_asked_for(db: Database) -> None:
    lines = []

    def job() -> Any:
        promise, line = db.async_sum(select(literal(1) / literal(0))), here()
        lines.append(line)
        return promise.value()

    with pytest.raises(DBAPIError) as raised:
        await asyncio.to_thread(job)
    assert raised.value.__notes__ == [f"SQL Sum, {lines[0]}"]


async def test_an_error_of_what_is_related_says_where_the_rows_were_asked_for(db: Database, server: Server) -> None:
    await server.fetch("DROP TABLE queries_flights")
    promise, line = db.load_async(Airport, preload=[Airport.flights]), here()
    with pytest.raises(DBAPIError) as raised:
        await promise
    assert raised.value.__notes__ == [f"Airport flights Preload, {line}"]


async def test_an_error_in_then_is_raised_at_its_await_only(db: Database) -> None:
    promise = db.load_async(ONE)
    with pytest.raises(AttributeError):
        await promise.then(lambda rows: rows[0].missing)  # type: ignore[attr-defined]
    assert await promise == [1]


async def test_promises_and_errors_nobody_awaits_make_no_noise(
    pool: DatabasePool, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    async def job(db: Database) -> None:
        failed = db.load_async(WRONG)
        failed.then(len)
        await until(lambda: failed.status == "failed")
        db.load_async(ONE)

    async with Database(pool, owner="job") as db:
        await job(db)
    del db
    gc.collect()
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


async def test_cancel_stops_a_running_query_in_the_server(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(behind(1))
        await server.until_running(1)
        assert promise.cancel()
        assert promise.status == "cancelled"
        assert not promise.cancel()
        await server.until_running(0)
        with pytest.raises(QueryCancelled):
            await promise
    assert await db.load_async(ONE) == [1]


async def test_a_query_cancelled_while_it_waits_never_runs(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        waiting = db.load_async(WRONG)
        assert waiting.cancel()
        await open_gate()
        await asyncio.gather(*blocked)
    assert db.queries[4].started is None
    assert db.queries[4].status == "cancelled"


async def test_a_time_out_of_the_only_task_that_awaits_cancels_the_query(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(behind(1))
        await server.until_running(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await promise
        assert promise.status == "cancelled"
        await server.until_running(0)


async def test_while_another_task_awaits_a_cancelled_one_leaves_the_query_alone(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1, 5))
        first, second = asyncio.ensure_future(promise), asyncio.ensure_future(promise)
        await server.until_running(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await open_gate()
        assert await second == [5]


async def test_a_task_group_that_fails_stops_the_queries_its_tasks_await(db: Database, server: Server) -> None:
    async def use(promise: Any) -> Any:
        return await promise

    async def job(*promises: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for promise in promises:
                group.create_task(use(promise))

    async with server.gate(1):
        slow = db.load_async(behind(1))
        await server.until_running(1)
        with pytest.raises(ExceptionGroup) as raised:
            await job(slow, db.load_async(WRONG))
        assert raised.group_contains(DBAPIError)
        assert slow.status == "cancelled"
        await server.until_running(0)


async def test_cancelling_a_derived_promise_cancels_the_query_when_it_was_awaited(
    db: Database, server: Server
) -> None:
    async with server.gate(1):
        derived = db.load_async(behind(1)).then(len)
        waiting = asyncio.ensure_future(derived)
        await server.until_running(1)
        derived.cancel()
        with pytest.raises(QueryCancelled):
            await waiting
        await server.until_running(0)


async def test_a_job_that_ends_is_told_which_queries_it_never_awaited(
    pool: DatabasePool, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    async with server.gate(1):
        async with Database(pool, owner="job") as db:
            await db.load_async(ONE)
            db.load_async(behind(1))
            await server.until_running(1)
        assert await server.running() == []
        await db.close()  # again: nothing more happens
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["SQL Load was never awaited by the end of the job; it was cancelled"]


# Awaiting with asyncio's own tools


async def test_promises_go_into_gather_wait_for_shield_and_task_groups(db: Database) -> None:
    def ask(number: int) -> Promise[list[int]]:
        return db.load_async(select(literal(number)))

    async def first(promise: Promise[list[int]]) -> int:
        return (await promise)[0]

    assert list(await asyncio.gather(ask(1), ask(2), first(ask(3)))) == [[1], [2], 3]
    assert await asyncio.wait_for(ask(4), 20) == [4]
    assert await asyncio.shield(ask(5)) == [5]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(first(ask(number))) for number in (6, 7)]
    assert [task.result() for task in tasks] == [6, 7]
    failed = await asyncio.gather(ask(8), db.load_async(WRONG), return_exceptions=True)
    assert failed[0] == [8]
    assert isinstance(failed[1], DBAPIError)


async def test_wait_for_stops_the_query_when_its_time_is_up(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(behind(1))
        await server.until_running(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(promise, 0.01)
        assert promise.status == "cancelled"
        await server.until_running(0)
    with pytest.raises(QueryCancelled):
        await promise


async def test_the_last_of_several_tasks_that_gives_up_stops_the_query(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(behind(1))
        tasks = [asyncio.ensure_future(promise) for _ in range(3)]
        await server.until_running(1)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.wait(tasks[:2])
        assert promise.status == "running"
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        await server.until_running(0)


async def test_what_builds_on_a_promise_goes_with_it_but_not_it_with_that(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1, 3))
        unwanted, wanted = promise.then(len), promise.then(sum)
        await server.until_running(1)
        assert unwanted.cancel()
        assert (unwanted.status, promise.status) == ("cancelled", "running")
        await open_gate()
        assert await wanted == 3
    async with server.gate(1):
        promise = db.load_async(behind(1, 4))
        derived = promise.then(len).then(str)
        waiting = asyncio.ensure_future(derived)
        await server.until_running(1)
        promise.cancel()
        with pytest.raises(QueryCancelled):
            await waiting
        assert derived.status == "cancelled"


async def test_then_may_make_a_promise_of_another_query(db: Database) -> None:
    def next_query(rows: list[int]) -> Promise[list[int]]:
        return db.load_async(select(literal(rows[0] + 1)))

    promise = db.load_async(select(literal(1)))
    for _ in range(4):
        promise = promise.then(next_query)
    assert await promise == [5]


# Values that depend on the context


@pytest.mark.parametrize("form", ["executor", "foreground", "inline", "transaction", "entity"])
async def test_values_are_those_of_the_context_in_which_it_was_asked(
    pool: DatabasePool, server: Server, form: str
) -> None:
    origin: ContextVar[str] = ContextVar("origin", default="nowhere")
    chosen = Flight.origin == bindparam("origin", callable_=origin.get)
    statement: Any = select(Flight if form == "entity" else Flight.id).where(chosen).order_by(Flight.id)

    async def ask(db: Database) -> list[list[int]]:
        asked = []
        # The first of a shape, and later ones, which may be bound at once.
        for code in ("JFK", "EWR", "JFK"):
            origin.set(code)
            asked.append(db.load_async(statement))
        origin.set("nowhere")
        return [[getattr(row, "id", row) for row in await promise] for promise in asked]

    expected = [[1, 2, 3], [4, 5], [1, 2, 3]]
    async with Database(pool, owner="job", inline=form == "inline") as db:
        if form == "foreground":
            async with server.gate(1):
                blocked = [db.load_async(behind(1)) for _ in range(4)]
                assert await ask(db) == expected
                assert db.queries[-1].mode == "foreground"
                for promise in blocked:
                    promise.cancel()
        elif form == "transaction":
            async with db.transaction():
                assert await ask(db) == expected
        else:
            assert await ask(db) == expected
        # Again, with a connection and a cache that know the shape.
        assert await ask(db) == expected


# Jobs that run in a thread


async def test_a_job_in_a_thread_asks_and_reads_its_answers_by_value(db: Database) -> None:
    def job() -> dict[str, Any]:
        number, airports = db.async_count(Flight), db.load_async(Airport, preload=[Airport.flights])
        missing = db.async_find(Flight, 99)
        jfk = db.async_find(Airport, "JFK").value()
        found: dict[str, Any] = {
            "number": number.value(),
            "again": number.value(),
            "never": db.async_count(Flight, where=Flight.id.in_([])).value(),
            "then": number.then(lambda count: count * 2).value(),
            "preloaded": {airport.code: len(airport.flights) for airport in airports.value()},
            "related": [flight.id for flight in db.load_async(Airport.flights, of=jfk).value()],
            "more": [len(airport.flights) for airport in db.preload_async([jfk], Airport.flights).value()],
        }
        with pytest.raises(RecordNotFound):
            missing.value()
        with pytest.raises(QueryError, match="say which columns"):
            db.async_pluck(Flight)
        return found

    assert await asyncio.to_thread(job) == {
        "number": 5,
        "again": 5,
        "never": 0,
        "then": 10,
        "preloaded": {"EWR": 2, "JFK": 3, "LGA": 0},
        "related": [1, 2, 3],
        "more": [3],
    }


async def test_value_waits_for_a_running_query_and_takes_one_that_has_not_started(
    db: Database, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        running = [db.load_async(behind(1, n)) for n in range(4)]
        pending = db.load_async(ONE)
        await server.until_running(4)
        assert await asyncio.to_thread(pending.value) == [1]
        assert db.queries[4].reason == "not_started"
        waiting = asyncio.ensure_future(asyncio.to_thread(running[3].value))
        await until(lambda: running[3].awaited)
        await open_gate()
        assert await waiting == [3]


async def test_value_gives_up_waiting_after_its_timeout_but_the_query_goes_on(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1, 6))
        await server.until_running(1)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(promise.value, 0.01)
        assert promise.status == "running"
        await open_gate()
        assert await asyncio.to_thread(promise.value, 20) == [6]


async def test_value_raises_what_an_await_would(db: Database, server: Server) -> None:
    with pytest.raises(DBAPIError, match="division by zero"):
        await asyncio.to_thread(db.load_async(WRONG).value)
    async with server.gate(1):
        promise = db.load_async(behind(1))
        waiting = asyncio.ensure_future(asyncio.to_thread(promise.value))
        await until(lambda: promise.awaited)
        promise.cancel("enough")
        with pytest.raises(QueryCancelled, match="enough"):
            await waiting


async def test_value_is_refused_where_it_would_stop_the_event_loop(db: Database) -> None:
    promise = db.load_async(ONE)
    with pytest.raises(QueryError, match="await the promise instead"):
        promise.value()
    assert await promise == [1]
    with pytest.raises(QueryError, match="await the promise instead"):
        promise.value()


async def test_a_thread_may_cancel_a_promise(db: Database, server: Server) -> None:
    # In debug mode a loop refuses what is not meant for other threads.
    asyncio.get_running_loop().set_debug(True)
    async with server.gate(1):
        promise = db.load_async(behind(1))
        waiting = asyncio.ensure_future(promise)
        await server.until_running(1)
        assert await asyncio.to_thread(promise.cancel, "no longer needed") is True
        assert await asyncio.to_thread(promise.cancel) is False
        with pytest.raises(QueryCancelled, match="no longer needed"):
            await waiting
        await server.until_running(0)
