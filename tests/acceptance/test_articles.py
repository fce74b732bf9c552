"""The cases of the articles that parallel queries come from, on a real server, where no clock decides.

Advisory locks hold queries back until the server has been seen to run them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import statistics
from itertools import pairwise

import pytest
from sqlalchemy import Select, func, literal, select

from pushsvc.ops.budget import Processes, budget
from pushsvc.queries import Database, DatabasePool, QueryRecord
from tests.unit.queries_support import Flight, Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]

GATE = 7
MS = r"(\d+\.\d)ms"


def scope(carrier: str) -> Select[Flight]:
    """The flights of a carrier, which take until the gate is open."""
    return select(Flight).where(Flight.carrier == carrier, behind(GATE).exists())


def sleeping(number: int) -> Select[int, str]:
    return select(literal(number), func.concat(func.pg_sleep(0.05), "slept"))


def interval(record: QueryRecord) -> tuple[float, float]:
    """When it began in the database, and when it had ended."""
    assert record.started is not None
    assert record.finished is not None
    return record.started, record.finished


def one_after_another(records: list[QueryRecord]) -> bool:
    return all(ended <= began for (_, ended), (began, _) in pairwise(map(interval, records)))


def async_line(line: str) -> tuple[str, float, float, float]:
    """The name, and the milliseconds waited, in the database and in the queue, of a line of exactly this form."""
    found = re.fullmatch(rf"ASYNC (.+) \({MS}\) \(db time {MS}\) \[queued {MS}\]", line)
    assert found is not None, line
    return found[1], float(found[2]), float(found[3]), float(found[4])


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    return caplog


@pytest.mark.usefixtures("flights")
async def test_three_slow_scopes_take_as_long_as_the_slowest(
    db: Database, server: Server, log: pytest.LogCaptureFixture
) -> None:
    """Three backends run them at the same moment, and all had begun before the first ended."""
    async with server.gate(GATE) as open_gate:
        scopes = [db.load_async(scope(carrier)) for carrier in ("AA", "UA", "DL")]
        await server.until_running(3)
        backends = await server.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %' AND state = 'active'"
        )
        assert len({row["pid"] for row in backends}) == 3
        await open_gate()
        assert [[flight.id for flight in await each] for each in scopes] == [[1, 2], [3, 4], [5]]
    began, ended = zip(*map(interval, db.queries), strict=True)
    assert max(began) < min(ended)
    assert [async_line(line)[0] for line in log.messages] == ["Flight Load"] * 3


@pytest.mark.usefixtures("flights")
async def test_awaited_one_by_one_as_they_are_asked_for_they_take_their_sum(db: Database) -> None:
    for number in range(3):
        await db.load_async(sleeping(number))
    assert one_after_another(db.queries)


async def test_what_has_come_while_the_job_did_something_else_costs_it_nothing(
    db: Database, log: pytest.LogCaptureFixture
) -> None:
    promises = [db.load_async(sleeping(number)) for number in range(5)]
    await until(lambda: all(promise.status == "complete" for promise in promises))
    assert log.messages == []
    assert [await promise for promise in promises] == [[(number, "slept")] for number in range(5)]
    waits, db_times = zip(*(async_line(line)[1:3] for line in log.messages), strict=True)
    # Each is the time of a few lines of Python: the median, should the machine be busy just then.
    assert statistics.median(waits) == 0.0
    assert "(0.0ms) (db time " in "".join(log.messages)
    assert min(db_times) > 40


@pytest.mark.usefixtures("flights")
async def test_of_a_query_under_way_the_job_waits_for_what_remains(
    db: Database, server: Server, log: pytest.LogCaptureFixture
) -> None:
    async with server.gate(GATE) as open_gate:
        promise = db.load_async(scope("DL"))
        await server.until_running(1)
        await asyncio.sleep(0.2)
        assert (promise.status, promise.awaited) == ("running", False)
        waiting = asyncio.ensure_future(promise)
        await until(lambda: promise.awaited)
        await open_gate()
        assert [flight.id for flight in await waiting] == [5]
    [record] = db.queries
    began, ended = interval(record)
    assert record.scheduled <= began
    assert 0 < record.wait < ended - began
    name, waited, db_time, queued = async_line(log.messages[0])
    assert (name, waited) == ("Flight Load", round(record.wait * 1000, 1))
    assert waited < db_time
    assert queued == round((began - record.scheduled) * 1000, 1)


@pytest.mark.usefixtures("flights")
async def test_in_a_transaction_queries_run_one_after_another_on_the_jobs_own_connection(
    db: Database, pool: DatabasePool, server: Server, log: pytest.LogCaptureFixture
) -> None:
    async with server.gate(GATE) as open_gate, db.transaction():
        scopes = [db.load_async(scope(carrier)) for carrier in ("AA", "UA", "DL")]
        await server.until_running(1)
        assert [each.status for each in scopes] == ["running", "pending", "pending"]
        assert await server.connections() == 1
        await open_gate()
        assert [len(await each) for each in scopes] == [2, 2, 1]
    assert [(record.mode, record.reason) for record in db.queries] == [("foreground", "transaction")] * 3
    assert one_after_another(db.queries)
    assert all(re.fullmatch(rf"Flight Load \({MS}\) \[foreground: transaction\]", line) for line in log.messages)


@pytest.mark.usefixtures("flights")
async def test_the_log_says_of_each_query_how_it_ran(
    db: Database, pool: DatabasePool, server: Server, log: pytest.LogCaptureFixture
) -> None:
    """On the executor; answered by an equal one; in the foreground, and why."""
    first, second = db.async_count(Flight), db.async_count(Flight)
    assert (await first, await second) == (5, 5)
    async with server.gate(GATE):
        blocked = [db.load_async(scope("AA"), where=Flight.id > n) for n in range(4)]
        assert await db.async_maximum(Flight.dep_delay) == 40
        blocked += [db.load_async(scope("UA"), where=Flight.id > n) for n in range(16)]
        assert await db.async_ids(Flight, where=Flight.carrier == "DL") == [5]
        for promise in blocked:
            promise.cancel()
    async with db.transaction():
        assert await db.async_sum(Flight.dep_delay) == 64
    async with Database(pool, owner="another job", inline=True) as inline:
        assert await inline.async_pick(Flight.origin, where=Flight.id == 4) == "EWR"
    forms = [
        r"ASYNC Flight Count \({}\) \(db time {}\) \[queued {}\]",
        r"SHARED Flight Count \({}\) \(db time {}\)",
        r"Flight Maximum \({}\) \[foreground: not_started\]",
        r"Flight Ids \({}\) \[foreground: queue_full\]",
        r"Flight Sum \({}\) \[foreground: transaction\]",
        r"Flight Pick \({}\) \[foreground: inline\]",
    ]
    assert len(log.messages) == len(forms)
    for form, line in zip(forms, log.messages, strict=True):
        assert re.fullmatch(form.replace("{}", MS), line), line


async def test_the_pool_of_a_worker_has_14_and_its_deployment_86_connections() -> None:
    """Eight web processes of 5 threads and a worker of 10 jobs, each with an executor of 4."""
    web, worker = Processes("web", 8, own=5, executor=4), Processes("worker", 1, own=10, executor=4)
    assert budget([web, worker]).total == 8 * 5 + 8 * 4 + 10 * 1 + 4 * 1 == 86
    pool = DatabasePool("postgresql://localhost/", executor_concurrency=worker.executor, own_connections=worker.own)
    assert pool.size == worker.pool == 14
    await pool.close()
