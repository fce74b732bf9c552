"""The Python client while web processes are killed under it: every job once, every event once."""

from __future__ import annotations

import asyncio
from typing import Any

import pushsvc_client as client
import pytest

from .harness import Cluster, Process, wait_until


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Process:
    return cluster.worker()


@pytest.mark.parametrize("transports", [["websocket", "sse", "longpoll"], ["sse"], ["longpoll"]], ids=lambda t: t[0])
async def test_web_processes_may_be_killed_under_it(cluster: Cluster, worker: Process, transports: list[str]) -> None:
    """While jobs are submitted, waited for and listened to; the last one ends while nobody is connected."""
    user = f"killed {transports[0]}"
    web = cluster.web()
    me = client.AsyncClient(web.url, cluster.tokens.mint(user), transports=transports)
    heard: list[Any] = []
    results: list[Any] = []
    done = asyncio.Event()

    async def listen() -> None:
        async for item in me.events(cursor="start"):
            assert isinstance(item, client.Event), "nothing is gone"
            heard.append(item.job)

    async def submit(n: int) -> str:
        handle = await me.submit("echo", {"value": n})
        results.append((n, await handle.result()))
        return handle.id

    async def submit_all() -> list[str]:
        numbers, ids = iter(range(10_000)), []
        while not done.is_set():
            ids += await asyncio.gather(*(submit(next(numbers)) for _ in range(3)))
        return ids

    listening = asyncio.create_task(listen())
    submitting = asyncio.create_task(submit_all())
    try:
        await asyncio.to_thread(wait_until, lambda: len(results) >= 5, "jobs go through")
        await asyncio.to_thread(web.kill)
        web = await asyncio.to_thread(cluster.web, after=web)
        held = await me.submit("gated", {"gate": user})
        waiting = asyncio.create_task(held.result())
        await asyncio.to_thread(web.kill)
        cluster.open_gate(user)
        web = await asyncio.to_thread(cluster.web, after=web)
        assert await asyncio.wait_for(waiting, 60) == user
        done.set()
        ids = [*await asyncio.wait_for(submitting, 60), held.id]
        await asyncio.to_thread(wait_until, lambda: set(ids) <= set(heard), "everything has been heard")
        assert sorted(heard) == sorted(ids), "each job once, and no other"
        assert [given == got for given, got in results] == [True] * len(results)
        assert cluster.executions(held.id) == [1]
    finally:
        for task in (listening, submitting):
            task.cancel()
        await asyncio.gather(listening, submitting, return_exceptions=True)
        await me.close()
        web.kill()
