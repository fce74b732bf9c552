"""Fairness: how long one owner's job waits while another owner has 100,000 waiting, and what its POST costs then.

    python -m benchmarks.fairness [--waiting 100000] [--runs 200]

A worker of ten places is kept busy with jobs of 20 ms by an owner who has, first, one job waiting at a time, and then
as many as are asked for. Every now and then another owner submits one. Measured are that job's start, by PostgreSQL's
clock, and its POST.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import httpx

from pushsvc.access import Tokens

from .latency import SECRET, percentiles, running, until_ready

BATCH = 500
PLACES = 10


class Owner:
    """Submits jobs of 20 ms."""

    def __init__(self, url: str, name: str) -> None:
        headers = {"Authorization": f"Bearer {Tokens(SECRET).mint(name)}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60)

    async def submit(self, count: int) -> None:
        for begin in range(0, count, BATCH):
            jobs = [{"job": "brief", "params": {}}] * min(BATCH, count - begin)
            (await self.http.post("/v1/jobs/batch", json={"jobs": jobs})).raise_for_status()

    async def one(self) -> tuple[float, float]:
        """Seconds from its acceptance to its start, and of its POST."""
        began = time.perf_counter()
        answer = await self.http.post("/v1/jobs", json={"job": "brief", "params": {}})
        posted = time.perf_counter() - began
        path = answer.raise_for_status().json()["links"]["self"]
        view: dict[str, Any] = (await self.http.get(path, params={"wait": 30})).json()
        return _moment(view["started_at"]) - _moment(view["created_at"]), posted


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def keep_one_waiting(owner: Owner, stop: asyncio.Event) -> None:
    """All places busy, and one job waiting."""

    async def again() -> None:
        while not stop.is_set():
            answer = await owner.http.post("/v1/jobs", json={"job": "brief", "params": {}})
            await owner.http.get(answer.json()["links"]["self"], params={"wait": 30})

    await asyncio.gather(*(again() for _ in range(PLACES + 1)))


async def measured(single: Owner, runs: int, label: str) -> tuple[list[float], list[float]]:
    starts, posts = [], []
    with click.progressbar(range(runs), label=label, file=sys.stderr) as bar:
        for _ in bar:
            start, post = await single.one()
            starts.append(start)
            posts.append(post)
            await asyncio.sleep(0.02)
    return starts, posts


async def measure(url: str, waiting: int, runs: int, say: Callable[[str], None]) -> None:
    many, single = Owner(url, "many"), Owner(url, "single")
    await until_ready(single.http)
    await measured(single, 20, "warming up")
    stop = asyncio.Event()
    keeping = asyncio.create_task(keep_one_waiting(many, stop))
    one = await measured(single, runs, "one job waits")
    stop.set()
    await keeping
    await many.submit(waiting)
    all_of_them = await measured(single, runs, f"{waiting} wait")
    say(f"{runs} jobs of one owner                 start p50    start p99     POST p50")
    rows = [percentiles(starts) + percentiles(posts)[:1] for starts, posts in (one, all_of_them)]
    for what, (p50, p99, post) in zip(("one of another's waits", f"{waiting} of another's wait"), rows, strict=True):
        say(f"  {what:32}{p50:8.1f} ms  {p99:8.1f} ms  {post:8.2f} ms")
    ratios = [after / before for before, after in zip(*rows, strict=True)]
    say(f"  {'ratio':32}{ratios[0]:8.2f} ×   {ratios[1]:8.2f} ×   {ratios[2]:8.2f} ×")
    for owner in (many, single):
        await owner.http.aclose()


@click.command()
@click.option("--waiting", default=100_000, show_default=True)
@click.option("--runs", default=200, show_default=True)
def main(waiting: int, runs: int) -> None:
    """Print the table."""
    with running(PUSHSVC_QUEUE_LIMIT="1000000") as (url, _):
        asyncio.run(measure(url, waiting, runs, click.echo))


if __name__ == "__main__":
    main()
