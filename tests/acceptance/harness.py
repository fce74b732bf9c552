"""Real processes on real engines: what the acceptance tests start, break and look into."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil

from pushsvc.access import Tokens
from pushsvc.dev.child import spawn

from .clients import Client

ROOT = Path(__file__).parents[2]
TARGET = "tests.acceptance.app:service"
SECRET = "a secret for tests only, 32 chars"
PATIENCE = 90.0
"""Seconds after which a condition counts as never coming true; only a failing test waits so long."""


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Ask again until the condition holds; what it gave then. For threads; coroutines have `clients.until`."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.01)
    return found


class Process:
    """`python -m pushsvc …` as a process of its own, its output in a file. It dies with the test run."""

    def __init__(self, name: str, arguments: Sequence[str], env: dict[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = spawn(
                [sys.executable, "-m", "pushsvc", *arguments],
                death_signal=signal.SIGKILL,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __repr__(self) -> str:
        return f"<{self.name} {self.pid}, {self.status}>\n{self.log.read_text()}"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self.status is None

    def kill(self) -> None:
        """SIGKILL: no time for anything."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self) -> None:
        """SIGTERM; `wait` tells how it took it."""
        self._popen.terminate()

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self._popen.wait(PATIENCE)

    def line_with(self, text: str) -> str:
        """The first whole line of its output that holds `text`, once it is there."""

        def found() -> str | None:
            ended = not self.running
            whole = self.log.read_text().rpartition("\n")[0].splitlines()
            line = next((line for line in whole if text in line), None)
            assert line is not None or not ended, f"{text!r} never came: {self!r}"
            return line

        return str(wait_until(found, f"{self.name} says {text!r}"))


class Web(Process):
    """A web process."""

    def __init__(self, name: str, port: int, env: dict[str, str], log: Path, target: str = TARGET) -> None:
        super().__init__(name, ["serve", target, "--port", str(port)], env, log)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def health(self) -> dict[str, Any]:
        """What `/readyz` says; empty while nobody answers."""
        assert self.running, f"it ended: {self!r}"
        try:
            return dict(httpx.get(f"{self.url}/readyz", timeout=PATIENCE, trust_env=False).json())
        except httpx.TransportError:
            return {}


class Cluster:
    """Web and worker processes on one PostgreSQL and one Redis, and their users' clients.

    `settings` are given to every process, as PUSHSVC_<NAME>. All processes are gone after `close`.
    """

    def __init__(
        self,
        directory: Path,
        database_url: str,
        redis_url: str,
        *,
        through: Callable[[str], str] = str,
        **settings: object,
    ) -> None:
        """`through` gives the URL by which the processes reach the database: by a pooler, say."""
        self.directory = directory
        self.database_url = database_url
        self.tokens = Tokens(SECRET)
        urls = {"database_url": through(database_url), "redis_url": redis_url}
        self._settings = settings | urls | {"secret": SECRET}
        self._processes: list[Process] = []
        self._ports: list[socket.socket] = []
        self._numbers = itertools.count(1)

    # Processes

    def web(self, target: str = TARGET, *, after: Web | None = None, **settings: object) -> Web:
        """A web process that is ready; on the port of another that has ended, if `after` says so."""
        web = Web("web", after.port if after else self._port(), self.environment(settings), self._log("web"), target)
        self._processes.append(web)
        wait_until(lambda: web.health().get("status") == "ok", "the web process is ready")
        return web

    def worker(self, *options: str, target: str = TARGET, **settings: object) -> Process:
        """A worker; it takes jobs as soon as it is up. With `--alone` it has no parent, and starts twice as fast."""
        arguments = ["worker", target, *(options or ("--alone",))]
        worker = Process("worker", arguments, self.environment(settings), self._log("worker"))
        self._processes.append(worker)
        return worker

    def close(self) -> None:
        """End what still runs, and print what all of them have said: pytest shows it where a test failed."""
        for process in self._processes:
            if process.running:
                process.kill()
            print(repr(process))
        for port in self._ports:
            port.close()

    def environment(self, settings: dict[str, object]) -> dict[str, str]:
        """That of a process with these settings besides."""
        return environment(self.directory, **self._settings | settings)

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}-{next(self._numbers)}.log"

    def _port(self) -> int:
        """A free port, reserved: bound but not listening, which lets nobody in but who sets SO_REUSEADDR."""
        placeholder = socket.socket()
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(("127.0.0.1", 0))
        self._ports.append(placeholder)
        return int(placeholder.getsockname()[1])

    # Users

    def client(self, web: Web, user: str, **claims: Any) -> Client:
        """`user` at one web process."""
        return Client(web.url, self.tokens.mint(user, **claims), user)

    # What jobs leave behind, and what holds them back

    def executions(self, job: str) -> list[int]:
        """The attempts in which the job's function was entered."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "executions").read_text().split("\n")
            return [int(line.split()[1]) for line in lines if line.startswith(job)]
        return []

    def open_gate(self, gate: str) -> None:
        (self.directory / gate).touch()

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask PostgreSQL itself."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def running_queries(self, job: str) -> int:
        """How many of the job's queries PostgreSQL is working at."""
        rows = await self.fetch(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '/*%job_id=''' || $1 || '''%'",
            job,
        )
        return len(rows)


def environment(directory: Path, **settings: object) -> dict[str, str]:
    """Of this process' environment what is not the service's, and `settings`. It marks what belongs to a test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    return (
        inherited
        | {"ACCEPTANCE_DIR": str(directory), "PYTHONUNBUFFERED": "1"}
        | {f"PUSHSVC_{name.upper()}": str(value) for name, value in settings.items()}
    )


def processes_of(directory: Path) -> list[psutil.Process]:
    """The processes that a test with this directory started, and theirs: by arguments, environment or place.

    A zombie has ended: whoever adopted it may be slow to reap.
    """
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _of(process, directory)]


def _of(process: psutil.Process, directory: Path) -> bool:
    needle = str(directory)
    try:
        return process.status() != psutil.STATUS_ZOMBIE and (
            needle in " ".join(process.cmdline())
            or process.cwd().startswith(needle)
            or process.environ().get("ACCEPTANCE_DIR") == needle
        )
    except psutil.Error:
        return False


@contextlib.contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    """Afterwards, no process that was started with this directory is alive."""
    yield
    left = processes_of(directory)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert not left, f"left behind: {left}"
