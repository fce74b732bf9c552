"""What is accepted is never lost, whatever dies: worker, Redis with its memory, PostgreSQL.

The engines are the module's own. A job's number of executions is counted outside them, so that one run twice
for no reason is seen, and an inbox that holds two ends of one job, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count

import pytest

from .clients import Client, Json, Received, until
from .conftest import LEASE, Engines, Join
from .harness import Cluster

OUTAGE = 5.0
"""Seconds without Redis: an outage that outlasts every single time-out on the way."""


async def ends_of(client: Client, *jobs: Json) -> list[Received]:
    """What the inbox keeps, which is to be one end of each of these jobs and nothing else."""
    log = await client.log()
    assert sorted(received.job for received in log) == sorted(job["id"] for job in jobs)
    assert [received.offset for received in log] == list(range(1, len(jobs) + 1))
    return log


async def running(cluster: Cluster, job: Json) -> None:
    """Wait until the job's function has been entered."""

    async def entered() -> bool:
        return bool(cluster.executions(job["id"]))

    await until(entered, "the job runs")


# A worker dies


async def test_a_killed_workers_job_is_finished_by_another(fragile: Cluster, join: Join) -> None:
    """Under the lease, with one end, and it counts as the second attempt."""
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    first = fragile.worker()
    async with alice.websocket() as live:
        job = await alice.submit("gated", gate="open")
        await running(fragile, job)
        fragile.worker()
        first.kill()
        fragile.open_gate("open")
        pushed = await live.take_final(job["id"])
    assert pushed.event["type"] == "job.succeeded"
    assert fragile.executions(job["id"]) == [1, 2]
    assert (await alice.job(job["id"]))["attempt"] == 2
    assert await ends_of(alice, job) == [pushed]


async def test_a_job_whose_workers_keep_dying_fails_in_the_end(fragile: Cluster, join: Join) -> None:
    """A job that kills its worker is not offered for ever."""
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    job = await alice.submit("gated", gate="never")
    for attempt in count(1):
        worker = fragile.worker(lease=0.3)

        async def entered_or_ended(attempt: int = attempt) -> bool:
            ended: bool = (await alice.job(job["id"]))["status"] == "failed"
            return ended or len(fragile.executions(job["id"])) == attempt

        await until(entered_or_ended, "the job runs again, or has failed")
        if len(fragile.executions(job["id"])) < attempt:
            break
        worker.kill()
    (end,) = await ends_of(alice, job)
    assert (end.event["type"], end.event["error"]["code"]) == ("job.failed", "worker_lost")


async def test_a_terminated_worker_finishes_its_job(fragile: Cluster, join: Join) -> None:
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    worker = fragile.worker()
    job = await alice.submit("gated", gate="open")
    await running(fragile, job)
    worker.terminate()
    await asyncio.to_thread(worker.line_with, "finishing 1 jobs")
    fragile.open_gate("open")
    assert await asyncio.to_thread(worker.wait) == 0
    (end,) = await ends_of(alice, job)
    assert (end.event["type"], fragile.executions(job["id"])) == ("job.succeeded", [1])


async def test_a_terminated_worker_hands_back_what_takes_too_long(fragile: Cluster, join: Join) -> None:
    """Another worker finishes it, and no try has been used up."""
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    worker = fragile.worker(drain=0.2)
    job = await alice.submit("gated", gate="open")
    await running(fragile, job)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait) == 0
    handed_back = await alice.job(job["id"])
    assert (handed_back["status"], handed_back["attempt"]) == ("queued", 0)
    fragile.open_gate("open")
    fragile.worker()
    ended = await alice.job(job["id"], wait=25)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert fragile.executions(job["id"]) == [1, 1]
    await ends_of(alice, job)


# Redis loses its memory


async def test_accepted_jobs_survive_flushall(fragile: Cluster, engines: Engines, join: Join) -> None:
    """Ten 202s, then Redis forgets everything: each of the ten ends once."""
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    jobs = [await alice.submit("counting") for _ in range(10)]
    await asyncio.to_thread(engines.flushall)
    fragile.worker()
    ends = await alice.long_poll(jobs[0]["cursor"]).take(10)
    assert all(end.event["type"] == "job.succeeded" for end in ends)
    assert all(fragile.executions(job["id"]) == [1] for job in jobs)
    assert await ends_of(alice, *jobs) == ends


async def test_running_jobs_survive_flushall(fragile: Cluster, engines: Engines, join: Join) -> None:
    """Redis forgets the leases, too, and yet no other worker takes a job that runs, however long."""
    alice = join(fragile, await asyncio.to_thread(fragile.web), "alice")
    fragile.worker()
    jobs = [await alice.submit("gated", gate="open") for _ in range(4)]
    for job in jobs:
        await running(fragile, job)
    other = fragile.worker()
    await asyncio.to_thread(other.line_with, "takes up to")
    await asyncio.to_thread(engines.flushall)
    ids = [job["id"] for job in jobs]
    (before,) = await fragile.fetch("SELECT max(lease_until) AS until FROM pushsvc.jobs WHERE id = ANY($1)", ids)

    async def a_lease_later() -> bool:
        (now,) = await fragile.fetch("SELECT min(lease_until) AS until FROM pushsvc.jobs WHERE id = ANY($1)", ids)
        return bool(now["until"] > before["until"] + timedelta(seconds=1.5 * LEASE))

    await until(a_lease_later, "the leases have been renewed for longer than they last")
    fragile.open_gate("open")
    for job in jobs:
        assert (await alice.job(job["id"], wait=25))["attempt"] == 1
        assert fragile.executions(job["id"]) == [1]
    await ends_of(alice, *jobs)


# Redis is away


async def test_redis_away_for_a_while_is_only_a_delay(fragile: Cluster, engines: Engines, join: Join) -> None:
    """Web and worker live on, jobs are accepted, what runs is delivered, and the rest follows."""
    web = await asyncio.to_thread(fragile.web)
    worker = fragile.worker()
    alice = join(fragile, web, "alice")
    processes = [web.pid, worker.pid]
    async with alice.websocket() as live:
        before = await alice.submit("gated", gate="open")
        await running(fragile, before)
        await asyncio.to_thread(engines.valkey.stop)
        over = time.monotonic() + OUTAGE
        during = [await alice.submit("counting") for _ in range(3)]
        fragile.open_gate("open")
        (first,) = await live.take(1)
        assert (first.job, first.event["type"]) == (before["id"], "job.succeeded"), "it came without Redis"
        polling = asyncio.create_task(alice.long_poll(live.cursor).take(3))
        health = web.health()
        assert health.pop("causes") == {"redis": "Redis can't be reached"}
        assert health == {"status": "ok", "postgres": True, "redis": False}
        await asyncio.sleep(max(0.0, over - time.monotonic()))  # the outage itself, not luck
        await asyncio.to_thread(engines.valkey.start)
        pushed = await live.take(3)
    assert await polling == pushed
    assert await ends_of(alice, before, *during) == [first, *pushed]
    assert [fragile.executions(job["id"]) for job in (before, *during)] == [[1]] * 4
    assert web.running
    assert worker.running
    assert [web.pid, worker.pid] == processes


async def test_jobs_run_at_once_again_after_redis_came_back(fragile: Cluster, engines: Engines, join: Join) -> None:
    """Wake-ups and pub/sub are used again, without PostgreSQL's slower rounds."""
    web = await asyncio.to_thread(fragile.web)
    fragile.worker()
    alice = join(fragile, web, "alice")
    async with alice.websocket() as live:
        await asyncio.to_thread(engines.valkey.restart)
        jobs = [await alice.submit("counting") for _ in range(10)]
        ends = await live.take(10)
    assert await ends_of(alice, *jobs) == ends
    assert web.health() == {"status": "ok", "postgres": True, "redis": True}


# PostgreSQL is away


def restart(engines: Engines) -> None:
    engines.postgres.restart()


def crash(engines: Engines) -> None:
    engines.postgres.kill()
    engines.postgres.start()


@pytest.mark.parametrize("break_", [restart, crash])
async def test_postgresql_restarting_is_only_a_delay(
    fragile: Cluster, engines: Engines, join: Join, break_: Callable[[Engines], None]
) -> None:
    """Jobs in the middle of their queries, and those that ask PostgreSQL nothing, end once; nobody is cut off."""
    web = await asyncio.to_thread(fragile.web)
    worker = fragile.worker()
    alice = join(fragile, web, "alice")
    async with alice.websocket() as live:
        asking = await alice.submit("nap", seconds=1, times=3)
        waiting = await alice.submit("gated", gate="open")
        await running(fragile, waiting)

        async def queries_run() -> bool:
            return await fragile.running_queries(asking["id"]) == 3

        await until(queries_run, "the queries run")
        polling = asyncio.create_task(alice.long_poll(asking["cursor"]).take(3))
        await asyncio.to_thread(break_, engines)
        fragile.open_gate("open")
        after = await alice.submit("counting")
        pushed = await live.take(3)
    assert {received.event["type"] for received in pushed} == {"job.succeeded"}
    assert await polling == pushed
    assert await ends_of(alice, asking, waiting, after) == pushed
    assert fragile.executions(waiting["id"]) == fragile.executions(after["id"]) == [1]
    assert web.running
    assert worker.running


async def test_without_postgresql_nothing_is_accepted(fragile: Cluster, engines: Engines, join: Join) -> None:
    """No promise that could not be kept: 503 with Retry-After, and readiness says so; then all is well again."""
    web = await asyncio.to_thread(fragile.web)
    # However long PostgreSQL takes to start on a busy machine: this is not about jobs taken for lost.
    worker = fragile.worker(lease=60)
    alice = join(fragile, web, "alice")
    async with alice.websocket() as live:
        running_job = await alice.submit("gated", gate="open")
        await running(fragile, running_job)
        await asyncio.to_thread(engines.postgres.kill)
        refused = await alice.post_job("counting")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) > 0
        health = await alice.get("/readyz")
        assert (health.status_code, health.json()["postgres"]) == (503, False)
        assert health.json()["causes"] == {"postgres": "PostgreSQL can't be reached right now"}
        fragile.open_gate("open")  # its end waits for PostgreSQL
        await asyncio.to_thread(engines.postgres.start)
        after = await alice.submit("counting")
        pushed = await live.take(2)
    assert await ends_of(alice, running_job, after) == pushed
    assert [fragile.executions(job["id"]) for job in (running_job, after)] == [[1], [1]]
    assert web.running
    assert worker.running


# A web process dies


async def test_a_killed_web_process_loses_nothing_it_accepted(fragile: Cluster, join: Join) -> None:
    """Whoever was attached to it goes on at another one, from the cursor."""
    first, second = await asyncio.to_thread(fragile.web), await asyncio.to_thread(fragile.web)
    alice = join(fragile, first, "alice")
    async with alice.websocket() as live:
        jobs = [await alice.submit("counting") for _ in range(10)]
        cursor = live.hello["cursor"]
        first.kill()
    fragile.worker()
    elsewhere = join(fragile, second, "alice")
    async with elsewhere.websocket(cursor) as resumed:
        assert resumed.hello["recovered"] is True
        ends = await resumed.take(10)
    assert await ends_of(elsewhere, *jobs) == ends
