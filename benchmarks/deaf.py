"""What three clients that do not read cost the ninety-seven that do, of one group's hundred.

    python -m benchmarks.deaf [--seconds 30] [--rate 40] [--kib 16]

One `pushsvc serve` process serves two groups of 100 subscribers each: in one all of them read, in the other three do
not. Events are published to both in random order, through `Service.publish`, so whatever else the machine does
falls on both; the time is that from the call, which commits, to the event at a subscriber. In the end the deaf ones
read, and everything is counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import click
import httpx
import psutil
import uvloop

from pushsvc import Service
from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.settings import Settings
from pushsvc.wire import SUBPROTOCOL

from .latency import percentiles, until_ready

SECRET = "a secret for benchmarks, 32 chars."
SUBSCRIBERS, DEAF = 100, 3
QUIET, MIXED = "group:all-read", "group:three-deaf"
NUMBER = re.compile(rb'"n":(\d+)')


@contextmanager
def serving() -> Iterator[tuple[Settings, int, psutil.Process]]:
    """The service's settings, its port, and its process; the last core is the process' own."""
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-bench-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedValkey(directory / "valkey") as valkey:
            settings = Settings.from_env({}, database_url=postgres.url, redis_url=valkey.url, secret=SECRET)
            environment = os.environ | {
                "PUSHSVC_DATABASE_URL": settings.need("database_url"),
                "PUSHSVC_REDIS_URL": settings.need("redis_url"),
                "PUSHSVC_SECRET": SECRET,
                "PUSHSVC_LOG_LEVEL": "warning",
                "PUSHSVC_CONNECTION_LIMIT": "1000",
                # Who answers no ping counts as dead after a while, and these are not to.
                "PUSHSVC_PING": "1h",
            }
            command = [sys.executable, "-m", "pushsvc", "serve", "benchmarks.app:service", "--port", str(port)]
            process = subprocess.Popen(command, env=environment)
            try:
                server = psutil.Process(process.pid)
                cores = server.cpu_affinity() or []
                if len(cores) > 1:
                    server.cpu_affinity(cores[-1:])
                    psutil.Process().cpu_affinity(cores[:-1])
                yield settings, port, server
            finally:
                process.terminate()
                process.wait(20)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Subscriber(asyncio.Protocol):
    """Notes when each event comes. `sent` is when each was published."""

    def __init__(self, sent: dict[int, float]) -> None:
        self.numbers: list[int] = []
        self.delays: list[float] = []
        self.transport: asyncio.Transport
        self._sent = sent
        self._rest = bytearray()
        self._shaken = False
        self.answered = False
        self.something = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.something.set()
        self._rest += data
        if not self._shaken:
            end = self._rest.find(b"\r\n\r\n")
            if end < 0:
                return
            self._shaken = True
            del self._rest[: end + 4]
        while len(self._rest) >= 4:
            form = self._rest[1]
            start = 4 if form == 126 else 10 if form == 127 else 2
            size = form if form < 126 else int.from_bytes(self._rest[2:start])
            if len(self._rest) < start + size:
                return
            self._take(bytes(self._rest[start : start + min(size, 400)]), now)
            del self._rest[: start + size]

    def _take(self, head: bytes, now: float) -> None:
        if not head.startswith(b'{"op":"event"'):
            self.answered = True
        elif number := NUMBER.search(head):
            self.numbers.append(int(number[1]))
            self.delays.append(now - self._sent[int(number[1])])


async def subscribed(port: int, token: str, group: str, sent: dict[int, float], *, small: bool) -> Subscriber:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    _, it = await loop.create_connection(lambda: Subscriber(sent), sock=sock)
    hello = json.dumps({"id": 1, "op": "hello", "token": token, "channels": [group]}).encode()
    it.transport.write(
        b"GET /v1/ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: %b\r\n\r\n"
        % SUBPROTOCOL.encode()
        + b"\x81\xfe"
        + struct.pack("!H4x", len(hello))
        + hello
    )
    while not it.answered:
        it.something.clear()
        await asyncio.wait_for(it.something.wait(), 20)
    return it


async def until_all(subscribers: list[Subscriber], count: int, patience: float) -> None:
    give_up = time.monotonic() + patience
    for it in subscribers:
        while len(it.numbers) < count and time.monotonic() < give_up:
            it.something.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(it.something.wait(), 1.0)


async def measure(
    settings: Settings, port: int, server: psutil.Process, seconds: float, rate: float, kib: int
) -> str:
    service = Service(settings=settings)
    sent: dict[int, float] = {}
    wanted: dict[str, list[int]] = {QUIET: [], MIXED: []}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        await until_ready(http)
    try:
        token = service.token("bench", channels=[QUIET, MIXED])
        quiet = [await subscribed(port, token, QUIET, sent, small=False) for _ in range(SUBSCRIBERS)]
        mixed = [await subscribed(port, token, MIXED, sent, small=False) for _ in range(SUBSCRIBERS - DEAF)]
        deaf = [await subscribed(port, token, MIXED, sent, small=True) for _ in range(DEAF)]
        for it in deaf:
            it.transport.pause_reading()
        before, chance, pad = server.memory_info().rss, random.Random(1), "x" * (kib * 1024)
        for number in range(int(seconds * rate)):
            group = QUIET if chance.random() < 0.5 else MIXED
            wanted[group].append(number)
            sent[number] = time.perf_counter()
            await service.publish(group, "bench.tick", {"n": number, "pad": pad})
            await asyncio.sleep(max(0.0, 1 / rate - (time.perf_counter() - sent[number])))
        await until_all(quiet, len(wanted[QUIET]), 30)
        await until_all(mixed, len(wanted[MIXED]), 30)
        grown = server.memory_info().rss - before
        owed = len(wanted[MIXED]) * kib * 1024
        for it in deaf:
            it.transport.resume_reading()
        await until_all(deaf, len(wanted[MIXED]), 60)
        every = [(it, QUIET) for it in quiet] + [(it, MIXED) for it in (*mixed, *deaf)]
        wrong = sum(it.numbers != wanted[group] for it, group in every)
        return "\n".join(report(quiet, mixed, owed, grown, wrong, kib))
    finally:
        await service.close()


def report(
    quiet: list[Subscriber], mixed: list[Subscriber], owed: float, grown: float, wrong: int, kib: int
) -> Iterator[str]:
    """`owed` to each deaf one, and by how much the server's memory has `grown` meanwhile, in bytes."""
    calm = percentiles([delay for it in quiet for delay in it.delays])
    beside = percentiles([delay for it in mixed for delay in it.delays])
    yield f"events of {kib} KiB, publish to subscriber        p50         p99"
    yield f"  all {SUBSCRIBERS} read                     {calm[0]:8.2f} ms {calm[1]:8.2f} ms"
    yield f"  {len(mixed)} beside {DEAF} that do not           {beside[0]:8.2f} ms {beside[1]:8.2f} ms"
    yield f"  ratio                            {beside[0] / calm[0]:8.2f} ×  {beside[1] / calm[1]:8.2f} ×"
    yield f"owed to each deaf one when it began to read: {owed / 2**20:.1f} MiB; grown by: {grown / 2**20:.1f} MiB"
    yield f"subscribers with anything lost, repeated or out of order, the deaf ones included: {wrong}"


@click.command()
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--rate", default=40.0, show_default=True, help="Events a second, to both groups together.")
@click.option("--kib", default=16, show_default=True, help="Size of an event.")
def main(seconds: float, rate: float, kib: int) -> None:
    """Print the figures."""
    with serving() as (settings, port, server), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        click.echo(runner.run(measure(settings, port, server, seconds, rate, kib)))


if __name__ == "__main__":
    main()
