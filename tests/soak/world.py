"""Engines, web and worker processes: all real, and each in a place of its own where it can be killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil
import redis.asyncio

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.store import migrate

from ..acceptance.harness import Cluster, Process, Web
from .neighbour import NAME as NEIGHBOUR
from .plan import NODES, WORKERS
from .proxy import Proxy

TARGET = "tests.soak.app:service"
PATIENCE = 60.0
"""Seconds after which a process counts as never starting, or never ending."""

LOOK_EVERY = 0.02

SETTINGS: dict[str, object] = {
    "web_processes": NODES,
    "worker_processes": WORKERS,
    "max_jobs": 8,
    "lease": "3s",
    "sweep": "500ms",
    "drain": "2s",
    # So that clients fall behind, and dead ones are noticed, within seconds.
    "ping": "2s",
    "top_check": "3s",
    "backlog_limit": "64KiB",
    "connection_limit": 1000,
}


class Seat:
    """A place for one process: whenever it ends, the next one takes it, as under any process manager."""

    def __init__(
        self, name: str, start: Callable[[], Process], up: Callable[[Process], Awaitable[bool]], ended: set[int]
    ) -> None:
        self.name = name
        self.turn = asyncio.Lock()
        """Held by whoever has taken the process out."""
        self.ends: Counter[str] = Counter()
        self.problems: list[str] = []
        self._start = start
        self._up = up
        self._ended = ended
        self.process: Process | None = None

    async def fill(self) -> None:
        """Start a process, and again if it gives up because something that it needs is away, until one is up."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            self.process = process = await asyncio.to_thread(self._start)
            while process.running and time.monotonic() < give_up:
                if await self._up(process):
                    return
                await asyncio.sleep(LOOK_EVERY)
            if process.running:
                process.kill()
            self.ends["gave up starting"] += 1
            await asyncio.sleep(0.2)
        self.problems.append(f"{self.name} does not come up: {self.process!r:.2000}")

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self._count_ended(self.process)
        await asyncio.to_thread(self.process.kill)

    async def drain(self) -> None:
        """SIGTERM, and wait until it has gone in good order."""
        assert self.process is not None
        self._count_ended(self.process)
        self.process.terminate()
        give_up = time.monotonic() + PATIENCE
        while self.process.running and time.monotonic() < give_up:  # noqa: ASYNC110  it is another process
            await asyncio.sleep(LOOK_EVERY)
        status = self.process.status
        if status is None:
            self.problems.append(f"{self.name} does not end after SIGTERM: {str(self.process)[-2000:]}")
            self.process.kill()
        elif status not in (0, -signal.SIGTERM):
            self.problems.append(f"{self.name} ended with {status} after SIGTERM: {str(self.process)[-2000:]}")

    def _count_ended(self, process: Process) -> None:
        """It and what it has started: whichever of them runs the jobs."""
        with suppress(psutil.Error):
            self._ended.update(child.pid for child in psutil.Process(process.pid).children(recursive=True))
        self._ended.add(process.pid)

    async def watch(self) -> None:
        """Replace a process that has ended by itself, which none is to do once it is up."""
        while True:
            await asyncio.sleep(0.1)
            async with self.turn:
                if self.process is not None and not self.process.running:
                    self.problems.append(f"{self.name} ended by itself: {str(self.process)[-2000:]}")
                    await self.fill()


class World(Cluster):
    """What runs."""

    def __init__(self, directory: Path) -> None:
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self.valkey = EmbeddedValkey(directory / "valkey", port=0)
        self.postgres.start()
        self.valkey.start()
        super().__init__(directory, self.postgres.url, self.valkey.url, through=str, **SETTINGS)
        there = urlsplit(self.valkey.url)
        assert there.hostname is not None
        assert there.port is not None
        self.way_to_redis = Proxy(there.hostname, there.port)
        self._redis_port = self._port()
        self._settings["redis_url"] = f"redis://127.0.0.1:{self._redis_port}"
        self.ended: set[int] = set()
        """Processes that were killed, or told to end."""
        self.engine_turns = {"postgres": asyncio.Lock(), "redis": asyncio.Lock()}
        self._http = httpx.AsyncClient(trust_env=False, verify=False, timeout=5)
        ports = [self._port() for _ in range(NODES)]
        self.nodes = [f"http://127.0.0.1:{port}" for port in ports]
        self.webs = [self._web_seat(number, port) for number, port in enumerate(ports)]
        self.workers = [self._worker_seat(number) for number in range(WORKERS)]
        self.neighbour = self._worker_seat("neighbour", deployment=NEIGHBOUR)

    @property
    def seats(self) -> list[Seat]:
        return [*self.webs, *self.workers, self.neighbour]

    @property
    def problems(self) -> list[str]:
        """What went wrong with processes."""
        return [problem for seat in self.seats for problem in seat.problems]

    async def start(self) -> None:
        await migrate(self.database_url)
        await self.way_to_redis.start(self._redis_port)
        await asyncio.gather(*(seat.fill() for seat in self.seats))

    async def stop(self) -> None:
        """End everything, in no good order."""
        await self._http.aclose()
        self.close()
        await self.way_to_redis.stop()
        await asyncio.to_thread(self.valkey.stop)
        await asyncio.to_thread(self.postgres.stop)

    def close(self) -> None:
        """End the processes. What they have said stays in their logs."""
        for process in self._processes:
            if process.running:
                process.kill()
        for port in self._ports:
            port.close()

    def _web_seat(self, number: int, port: int) -> Seat:
        def start() -> Process:
            web = Web("web", port, self.environment({}), self._log(f"web{number}"), TARGET)
            self._processes.append(web)
            return web

        async def up(process: Process) -> bool:
            with suppress(httpx.TransportError):
                await self._http.get(f"{self.nodes[number]}/readyz")
                return True
            return False

        return Seat(f"web {number}", start, up, self.ended)

    def _worker_seat(self, name: int | str, **settings: object) -> Seat:
        def start() -> Process:
            worker = Process("worker", ["worker", TARGET], self.environment(settings), self._log(f"worker{name}"))
            self._processes.append(worker)
            return worker

        async def up(process: Process) -> bool:
            return "takes up to" in process.log.read_text()

        return Seat(f"worker {name}", start, up, self.ended)

    # What is asked of the engines themselves

    async def cut_postgres_clients(self) -> None:
        """End every connection of the service, as an administrator or a pooler may."""
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND pid <> pg_backend_pid()"
            )

    def signal_postgres(self, number: signal.Signals) -> None:
        """To the server and everything that it has started."""
        assert self.postgres.pid is not None
        server = psutil.Process(self.postgres.pid)
        for process in [server, *server.children()]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    async def execute(self, *statements: str) -> None:
        """As an administrator, in a session that may write whatever holds for the others."""
        connection = await asyncpg.connect(self.database_url)
        try:
            for statement in ("SET default_transaction_read_only = off", *statements):
                await connection.execute(statement)
        finally:
            await connection.close()

    async def cut_redis_clients(self) -> None:
        """End every connection, subscribers' too."""
        await self._redis("CLIENT KILL SKIPME yes")

    async def stall_redis(self, seconds: float) -> None:
        """For so long it answers nobody, and says nothing to its subscribers."""
        await self._redis(f"CLIENT PAUSE {int(seconds * 1000)} ALL")

    async def _redis(self, command: str) -> None:
        client = redis.asyncio.Redis.from_url(self.valkey.url, socket_timeout=5)
        with suppress(redis.RedisError, OSError):
            await client.execute_command(*command.split())
        await client.aclose()

    def errors(self) -> Counter[str]:
        """What the processes logged as errors, by logger, but for jobs that fail by order."""
        lines = (line for log in self.directory.glob("*.log") for line in log.read_text().splitlines())
        return Counter(
            line.split(" ERROR ", 1)[1].split()[0].rstrip(":")
            for line in lines
            if " ERROR " in line and "pushsvc.jobs.attempt" not in line
        )

    def runs(self) -> list[tuple[str, int]]:
        """Jobs that outlast a lease, each time that one was begun, and by which process."""
        with suppress(FileNotFoundError):
            lines = (self.directory / "runs").read_text().splitlines()
            return [(job, int(process)) for job, process in map(str.split, lines)]
        return []

    def measured(self) -> Counter[str]:
        """What the processes noted: how often, and for gaps how many events."""
        counts: Counter[str] = Counter()
        with suppress(FileNotFoundError):
            for line in (self.directory / "telemetry").read_text().splitlines():
                name, value = line.split()
                counts[name] += 1
                if name == "hub.gap":
                    counts["events of hub.gap"] += int(float(value))
        return counts
