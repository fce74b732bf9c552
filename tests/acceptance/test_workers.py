"""Whatever a job does to its worker: it ends once, with a true reason, its neighbours live, and the service does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from .clients import Client, Json, until
from .conftest import Join, cluster_on, temporary_directory
from .harness import Cluster, Process, Web, wait_until

TARGET = "tests.acceptance.rough:service"
LEASE = 1.0
DRAIN = 1.0

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def rough(postgres_url: str, _valkey_url: str) -> Iterator[Cluster]:
    """A cluster with short leases and one web process, whose workers have little time to drain."""
    settings: dict[str, object] = {"lease": LEASE, "drain": DRAIN, "max_jobs": 3, "sweep": 0.2}
    with temporary_directory() as path, cluster_on(path, postgres_url, _valkey_url, **settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def web(rough: Cluster) -> Web:
    return rough.web(TARGET)


@pytest.fixture
def alice(rough: Cluster, web: Web, join: Join) -> Client:
    return join(rough, web, "alice")


@pytest.fixture
def start(rough: Cluster) -> Iterator[Start]:
    """`start("--alone")`: a worker, gone after the test."""
    workers: list[Process] = []

    def start(*options: str, **settings: object) -> Process:
        workers.append(rough.worker(*options, target=TARGET, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


async def entered(cluster: Cluster, job: Json) -> None:
    async def once() -> bool:
        return bool(cluster.executions(job["id"]))

    await until(once, "the job runs")


async def ended(client: Client, job: Json) -> tuple[str, str]:
    """Its last state, and the code of its error."""

    async def over() -> Json | None:
        found = await client.job(job["id"], wait=5)
        return found if found["status"] not in ("queued", "running") else None

    found = await until(over, "the job ends")
    return found["status"], (found["error"] or {}).get("code", "")


# A job that blocks the event loop


async def test_a_job_that_blocks_the_event_loop_runs_once(rough: Cluster, alice: Client, start: Start) -> None:
    """For three leases, beside another worker that would take it over. The log says which job it is, and where."""
    worker = start("--alone")
    neighbour = await alice.submit("gated", gate="blocked")
    await entered(rough, neighbour)
    job = await alice.submit("blocking", seconds=3 * LEASE)
    await entered(rough, job)
    start("--alone")
    rough.open_gate("blocked")
    assert await ended(alice, job) == ("succeeded", "")
    assert await ended(alice, neighbour) == ("succeeded", "")
    assert [rough.executions(each["id"]) for each in (job, neighbour)] == [[1], [1]]
    line = await asyncio.to_thread(worker.line_with, "the event loop has been blocked")
    assert f"job blocking {job['id']}, function tests.acceptance.rough.blocking" in line
    said = worker.log.read_text()
    assert "time.sleep(seconds)" in said
    assert not [line for line in said.splitlines() if "WARNING" in line and "Redis" in line]


async def test_a_parent_keeps_the_lease_of_a_job_that_gives_no_thread_a_turn(
    rough: Cluster, alice: Client, start: Start
) -> None:
    length = 25
    while _backtracked(length) < 0.25:
        length += 1
    start("--processes", "1")
    # Each letter more takes 1.6 times as long: some leases, whatever the machine.
    job = await alice.submit("holding_everything", length=length + 5)
    await entered(rough, job)
    start("--alone")
    assert await ended(alice, job) == ("succeeded", "")
    assert rough.executions(job["id"]) == [1]


def _backtracked(length: int) -> float:
    began = time.perf_counter()
    re.fullmatch(r"(a|aa)+b", "a" * length)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("options", "name"), [(("--alone",), "blocking_in_a_child"), (("--processes", "1"), "blocking_for_long")]
)
async def test_a_job_that_blocks_for_longer_than_it_may_takes_its_process_along_and_no_neighbour(
    rough: Cluster, alice: Client, start: Start, options: tuple[str, ...], name: str
) -> None:
    """It has timed out; the neighbour is handed back, and no try of it is used up."""
    worker = start(*options)
    neighbour = await alice.submit("gated", gate=name)
    await entered(rough, neighbour)
    job = await alice.submit(name, seconds=600)
    assert await ended(alice, job) == ("failed", "job_timed_out")
    if options == ("--alone",):
        assert await asyncio.to_thread(worker.wait) == 70
        start("--alone")
    rough.open_gate(name)
    assert await ended(alice, neighbour) == ("succeeded", "")
    assert (await alice.job(neighbour["id"]))["attempt"] == 1
    assert rough.executions(job["id"]) == [1]


# Odd ends

FAILED = ("failed", "job_failed")


async def test_whatever_a_job_raises_and_wherever_it_ends_once_and_its_neighbours_live(
    rough: Cluster, alice: Client, start: Start
) -> None:
    worker = start("--alone", max_jobs=20)
    neighbour = await alice.submit("gated", gate="odd")
    await entered(rough, neighbour)
    jobs = {
        **{what: await alice.submit("raising", what=what) for what in ("own", "str", "exit", "stop")},
        "awaited": await alice.submit("exiting_in_a_child", awaited=True),
        "not awaited": await alice.submit("exiting_in_a_child", awaited=False),
        "then": await alice.submit("exiting_in_then"),
        "in a thread": await alice.submit("stopping"),
    }
    assert {name: await ended(alice, job) for name, job in jobs.items()} == {
        **dict.fromkeys(jobs, FAILED),
        "not awaited": ("succeeded", ""),
    }
    rough.open_gate("odd")
    assert await ended(alice, neighbour) == ("succeeded", "")
    assert [rough.executions(each["id"]) for each in (*jobs.values(), neighbour)] == [[1]] * 9
    assert worker.running


async def test_a_stopped_job_ends_and_what_still_runs_of_it_can_do_nothing_more(
    rough: Cluster, alice: Client, start: Start
) -> None:
    """A plain function's thread, and a coroutine that swallows its cancel: each has its place until it ends."""
    start("--alone", max_jobs=5)
    timed_out, deaf = await alice.submit("stuck", gate="go"), await alice.submit("deaf", gate="go")
    assert await ended(alice, timed_out) == ("failed", "job_timed_out")
    assert await ended(alice, deaf) == ("failed", "job_timed_out")
    quick = await alice.submit("quick")
    assert await ended(alice, quick) == ("succeeded", "")
    cancelled = await alice.submit("stuck_for_long", gate="go")
    await entered(rough, cancelled)
    await alice.post(f"/v1/jobs/{cancelled['id']}/cancel")
    assert await ended(alice, cancelled) == ("cancelled", "job_cancelled")
    rough.open_gate("go")
    for job in (timed_out, cancelled):
        tried = await asyncio.to_thread(wait_until, partial(what_it_tried, rough, job), "it tries")
        assert [line.partition(":")[0] for line in tried] == ["JobError", "JobError"]
    assert [rough.executions(each["id"]) for each in (timed_out, deaf, cancelled)] == [[1]] * 3


def what_it_tried(cluster: Cluster, job: Json) -> list[str] | None:
    path = cluster.directory / f"{job['id']}.tried"
    lines = path.read_text().split("\n") if path.exists() else []
    return lines if len(lines) == 2 else None


async def test_a_worker_full_of_stuck_threads_is_started_again(rough: Cluster, alice: Client, start: Start) -> None:
    """What comes meanwhile waits, and runs."""
    worker = start("--processes", "1", max_jobs=2)
    jobs = [await alice.submit("stuck", gate="never") for _ in range(2)]
    assert [await ended(alice, job) for job in jobs] == [("failed", "job_timed_out")] * 2
    quick = await alice.submit("quick")
    assert await ended(alice, quick) == ("succeeded", "")
    assert [rough.executions(job["id"]) for job in [*jobs, quick]] == [[1]] * 3
    assert worker.running
    assert "all 2 places are taken by jobs that were stopped and run on: stuck" in worker.log.read_text()


# The end of a worker


async def test_a_worker_that_is_told_to_stop_ends_whatever_its_jobs_do(
    rough: Cluster, alice: Client, start: Start
) -> None:
    """What is not done waits for another worker, with no try used up."""
    worker = start("--alone")
    jobs = [await alice.submit(name, gate="never") for name in ("stuck_for_long", "deaf_for_long", "gated")]
    for job in jobs:
        await entered(rough, job)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait) == 0
    await all_handed_back(alice, jobs)


@pytest.mark.parametrize("options", [("--alone",), ("--processes", "1")])
async def test_a_worker_that_is_blocked_and_told_to_stop_ends_all_the_same(
    rough: Cluster, alice: Client, start: Start, options: tuple[str, ...]
) -> None:
    worker = start(*options)
    jobs = [await alice.submit("gated", gate="never")]
    await entered(rough, jobs[0])
    jobs.append(await alice.submit("blocking", seconds=600))
    await entered(rough, jobs[1])
    worker.terminate()
    await asyncio.to_thread(worker.wait)
    await all_handed_back(alice, jobs)


async def all_handed_back(alice: Client, jobs: list[Json]) -> None:
    """Each waits as if it had never run; then they are cancelled."""
    for job in jobs:
        found = await alice.job(job["id"])
        assert (found["status"], found["attempt"]) == ("queued", 0)
        assert (await alice.post(f"/v1/jobs/{job['id']}/cancel")).status_code == 202


async def test_a_worker_that_dies_is_started_again_by_its_parent(rough: Cluster, alice: Client, start: Start) -> None:
    """And whoever kills the parent kills the worker."""
    worker = start("--processes", "1")
    job = await alice.submit("gated", gate="again")
    await entered(rough, job)
    (child,) = psutil.Process(worker.pid).children()
    child.kill()
    rough.open_gate("again")
    assert await ended(alice, job) == ("succeeded", "")
    assert rough.executions(job["id"]) == [1, 2]
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    await asyncio.to_thread(wait_until, lambda: not child.is_running(), "the worker dies with its parent")
