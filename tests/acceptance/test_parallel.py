"""A job's queries run side by side in PostgreSQL."""

from __future__ import annotations

import asyncpg

from .clients import until
from .conftest import Join
from .harness import Cluster

GATE = 4711


async def test_three_sleeps_of_a_job_run_at_once(cluster: Cluster, join: Join) -> None:
    """`pg_stat_activity` shows all three, and together they took at least twice as long as their job waited.

    An advisory lock keeps them from ending before they have been seen, so that no time decides.
    """
    cluster.worker()
    alice = join(cluster, cluster.web(), "alice")
    gate = await asyncpg.connect(cluster.database_url)
    try:
        await gate.execute("SELECT pg_advisory_lock($1)", GATE)
        job = await alice.submit("nap", seconds=1, times=3, gate=GATE)

        async def three_active() -> bool:
            return await cluster.running_queries(job["id"]) == 3

        await until(three_active, "three queries of the job are active at once")
    finally:
        await gate.close()
    result = (await alice.long_poll(job["cursor"]).take_final(job["id"])).event["data"]
    assert result["slept"] == [0, 1, 2]
    queries = result["queries"]
    assert [query["mode"] for query in queries] == ["async"] * 3
    wall = max(query["finished"] for query in queries) - min(query["scheduled"] for query in queries)
    assert sum(query["finished"] - query["started"] for query in queries) >= 2 * wall
