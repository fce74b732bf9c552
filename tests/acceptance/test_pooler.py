"""The whole service behind PgBouncer in transaction mode, with five connections for all of its processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from ..pgbouncer import needed, pgbouncer
from .clients import until
from .conftest import LEASE, Join, cluster_on
from .harness import ROOT, TARGET, Cluster, Process, Web

pytestmark = needed

GATE = 4712


@pytest.fixture
def pooled(directory: Path, postgres_url: str, _valkey_url: str) -> Iterator[Cluster]:
    """A cluster whose processes reach PostgreSQL through a pooler, and tests directly."""
    with pgbouncer(postgres_url) as pooler:
        with cluster_on(directory, postgres_url, _valkey_url, lease=LEASE, through=pooler.url) as cluster:
            yield cluster


async def started(cluster: Cluster) -> tuple[Web, Process]:
    """A web process and a worker."""
    return await asyncio.to_thread(cluster.web), cluster.worker()


async def gated_queries(cluster: Cluster, job: str, number: int) -> None:
    async def active() -> bool:
        return await cluster.running_queries(job) == number

    await until(active, f"{number} queries of the job are active at once")


async def test_a_job_is_pushed_asks_in_parallel_is_cancelled_and_taken_over(pooled: Cluster, join: Join) -> None:
    """One pair of processes for all of it, since starting them costs the most."""
    web, worker = await started(pooled)
    alice = join(pooled, web, "alice")

    # Pushed on a WebSocket, and by long-poll
    async with alice.websocket() as live:
        job = await alice.submit("echo", value="hello")
        pushed = await live.take_final(job["id"])
    assert pushed == await alice.long_poll(job["cursor"]).take_final(job["id"])
    assert pushed.event["data"] == "hello"

    # Three queries side by side
    gate = await asyncpg.connect(pooled.database_url)
    await gate.execute("SELECT pg_advisory_lock($1)", GATE)
    job = await alice.submit("nap", seconds=0, times=3, gate=GATE)
    await gated_queries(pooled, job["id"], 3)
    await gate.execute("SELECT pg_advisory_unlock($1)", GATE)
    assert (await alice.long_poll(job["cursor"]).take_final(job["id"])).event["data"]["slept"] == [0, 1, 2]

    # Cancelled, down to its SQL
    job = await alice.submit("nap", seconds=600, times=3)
    await gated_queries(pooled, job["id"], 3)
    assert (await alice.post(job["links"]["cancel"])).status_code == 202
    assert (await alice.long_poll(job["cursor"]).take_final(job["id"])).event["type"] == "job.cancelled"
    assert await pooled.running_queries(job["id"]) == 0

    # Its worker is killed: its queries end, and another worker finishes it
    await gate.execute("SELECT pg_advisory_lock($1)", GATE)
    job = await alice.submit("nap", seconds=0, times=1, gate=GATE)
    await gated_queries(pooled, job["id"], 1)
    await asyncio.to_thread(worker.kill)
    await gated_queries(pooled, job["id"], 0)
    pooled.worker()
    await gated_queries(pooled, job["id"], 1)
    await gate.close()
    assert (await alice.long_poll(job["cursor"]).take_final(job["id"])).event["type"] == "job.succeeded"
    assert pooled.executions(job["id"]) == [1, 2]


async def test_doctor_finds_the_service_well_and_names_the_pooler(pooled: Cluster) -> None:
    env = pooled.environment({})
    migrated = await asyncio.to_thread(command, env, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    worker = pooled.worker()
    await asyncio.to_thread(worker.line_with, "takes up to")
    answer = await asyncio.to_thread(command, env, "doctor", TARGET)
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout
    assert "behind a pooler, taken for one in transaction mode" in answer.stdout
    assert "✓ a job went all the way and was pushed" in answer.stdout
    refused = await asyncio.to_thread(command, env | {"PUSHSVC_POOLER_CONNECTIONS": "32"}, "worker", TARGET)
    assert refused.returncode == 78
    assert "more than what the pooler (primary, the service's tables) takes: 32" in refused.stderr


def command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushsvc", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
