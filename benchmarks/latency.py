"""Idle latency: from the POST to the event at a WebSocket, beside a stock arq worker's; then parallel queries.

    python -m benchmarks.latency [--runs 200]

Both workers run on the same engines at the same time, and the runs alternate, so that whatever else the
machine does falls on both. For pushsvc the whole way is measured, with submission, start and result each
committed in PostgreSQL (fsync on); for stock arq only from `enqueue_job` to the job's own PUBLISH.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import httpx
from arq.connections import ArqRedis, RedisSettings, create_pool
from websockets.asyncio.client import ClientConnection, connect

from pushsvc.access import Tokens
from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey

from . import stock

SECRET = "a secret for benchmarks, 32 chars."


@contextmanager
def running(**settings: str) -> Iterator[tuple[str, str]]:
    """Engines, a web process, a worker and a stock arq worker; the base URL and Redis' URL."""
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-bench-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedValkey(directory / "valkey") as valkey:
            assert postgres.url is not None
            assert valkey.url is not None
            environment = os.environ | {
                "PUSHSVC_DATABASE_URL": postgres.url,
                "PUSHSVC_REDIS_URL": valkey.url,
                "PUSHSVC_SECRET": SECRET,
                "PUSHSVC_LOG_LEVEL": "warning",
                **settings,
            }
            pushsvc = [sys.executable, "-m", "pushsvc"]
            commands = [
                [*pushsvc, "serve", "benchmarks.app:service", "--port", str(port)],
                [*pushsvc, "worker", "benchmarks.app:service"],
                [sys.executable, "-m", "arq", "benchmarks.stock.Worker"],
            ]
            processes = [
                subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for command in commands
            ]
            try:
                yield f"http://127.0.0.1:{port}", valkey.url
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait(20)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Pushsvc:
    """A client that submits over HTTP and hears over a WebSocket.

    The HTTP is a kept-alive socket: a client library would cost milliseconds that are not the service's.
    """

    def __init__(self, url: str, token: str, websocket: ClientConnection) -> None:
        self._url = urlsplit(url)
        self._token = token
        self._websocket = websocket

    async def start(self) -> None:
        assert self._url.hostname is not None
        self._reader, self._writer = await asyncio.open_connection(self._url.hostname, self._url.port)

    async def run(self, job: str, **params: object) -> float:
        """Seconds from the POST to the event."""
        body = json.dumps({"job": job, "params": params})
        request = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: {self._url.netloc}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        started = time.perf_counter()
        self._writer.write(request.encode())
        while True:
            frame = json.loads(await self._websocket.recv())
            if frame["op"] == "event":
                assert frame["event"]["type"] == "job.succeeded", frame
                break
        elapsed = time.perf_counter() - started
        await self._accepted()
        return elapsed

    async def _accepted(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        await self._reader.readexactly(int(length[1]))


class Stock:
    """A client of the stock worker."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._done = redis.pubsub()

    async def start(self) -> None:
        await self._done.subscribe(stock.DONE)
        await self._done.get_message(timeout=5)

    async def run(self) -> float:
        started = time.perf_counter()
        await self._redis.enqueue_job("nothing", _queue_name=stock.Worker.queue_name)
        while await self._done.get_message(ignore_subscribe_messages=True, timeout=10) is None:
            pass
        return time.perf_counter() - started


@asynccontextmanager
async def clients(url: str, redis_url: str) -> AsyncIterator[tuple[Pushsvc, Stock]]:
    token = Tokens(SECRET).mint("bench")
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        await until_ready(http)
        async with connect(f"{url.replace('http', 'ws')}/v1/ws") as websocket:
            await websocket.send(json.dumps({"id": 1, "op": "hello", "token": token}))
            await websocket.recv()
            redis = await create_pool(RedisSettings.from_dsn(redis_url))
            comparison = Stock(redis)
            await comparison.start()
            client = Pushsvc(url, token, websocket)
            await client.start()
            yield client, comparison
            await redis.aclose()


async def until_ready(http: httpx.AsyncClient, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if (await http.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the service did not start")


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return statistics.median(ordered) * 1000, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000


async def measure(url: str, redis_url: str, runs: int, say: Callable[[str], None]) -> None:
    async with clients(url, redis_url) as (ours, theirs):
        for _ in range(20):
            await ours.run("nothing")
        await theirs.run()
        mine: list[float] = []
        stocks: list[float] = []
        with click.progressbar(range(runs), label="alternating runs", file=sys.stderr) as bar:
            for _ in bar:
                mine.append(await ours.run("nothing"))
                # A stock run ends just after a poll: without this, the next would always just miss one.
                await asyncio.sleep(random.uniform(0.0, 0.5))
                stocks.append(await theirs.run())
        p50, p99 = percentiles(mine)
        stock50, stock99 = percentiles(stocks)
        say(f"no-op job, idle, {runs} runs                      p50         p99")
        say(f"  pushsvc, POST to WebSocket event    {p50:8.1f} ms {p99:8.1f} ms")
        say(f"  stock arq, enqueue to job's end     {stock50:8.1f} ms {stock99:8.1f} ms")
        say(f"  ratio                               {stock50 / p50:8.1f} ×  {stock99 / p99:8.1f} ×")
        parallel = await ours.run("parallel")
        sequential = await ours.run("sequential")
        say("three pg_sleep(1), POST to WebSocket event")
        say(f"  in parallel      {parallel:6.3f} s")
        say(f"  one after another{sequential:6.3f} s   ratio {sequential / parallel:.2f} ×")


@click.command()
@click.option("--runs", default=200, show_default=True)
def main(runs: int) -> None:
    """Print the figures."""
    with running() as (url, redis_url):
        asyncio.run(measure(url, redis_url, runs, click.echo))


if __name__ == "__main__":
    main()
