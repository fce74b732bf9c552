"""Promises: what `await` does in each case, once for all who ask, and how an answer is given up."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from sqlalchemy import func, literal, select
from sqlalchemy.exc import DBAPIError

from pushsvc.errors import QueryCancelled
from pushsvc.queries import Database, DatabasePool

from .queries_support import Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]

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
    handles = [pool.database(owner=f"job-{n}", inline=inline) for n in range(6)]
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

    async with pool.database(owner="job") as db:
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
        async with pool.database(owner="job") as db:
            await db.load_async(ONE)
            db.load_async(behind(1))
            await server.until_running(1)
        assert await server.running() == []
        await db.close()  # again: nothing more happens
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["SQL Load was never awaited by the end of the job; it was cancelled"]
