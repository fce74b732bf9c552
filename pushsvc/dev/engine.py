"""What both embedded servers share: one child on one data directory, started, watched and stopped."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ..errors import SettingsError, Unavailable
from .child import command_line, describe_exit, end, read_pid, send_signal, spawn
from .lock import DirectoryLock

_PAUSE = 0.02
_TAIL = 4096
# What a server gets of our environment. The rest could change how it behaves (PGPORT) or holds secrets.
_PASSED_ON = ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Engine(ABC):
    """A server that runs as a child of this process, on a data directory of its own, and never outlives it."""

    setting: ClassVar[str]
    """The setting that names such a server somewhere else, in place of this one."""
    death_signal: ClassVar[signal.Signals]
    escalation: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    """Signals that ask it to stop, gentlest first, each with the seconds it has."""

    def __init__(
        self, data_dir: Path, log: str, *, start_timeout: float = 60.0, cancel: threading.Event | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.log = self.data_dir / log
        self._start_timeout = start_timeout
        self._cancel = cancel or threading.Event()
        self._lock = DirectoryLock(self.data_dir)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    @abstractmethod
    def title(self) -> str:
        """Name and version, to be shown."""

    @property
    def url(self) -> str:
        """Where it answers, once started; the same after a restart."""
        return self._url

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is down."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> str:
        """Start the server, wait until it answers, and return its URL. Does nothing if it runs.

        Raises Unavailable with the end of its log if it does not come up, or if another process uses the
        directory; SettingsError if the directory can't be used at all.
        """
        with self._turn:
            if self.pid is not None:
                return self._url
            if self._cancel.is_set():
                raise Unavailable(f"{self.title} was stopped before it started")
            try:
                self._prepare()
                self._launch()
            except BaseException:
                self._end()
                raise
            return self._url

    def stop(self) -> None:
        """Stop the server in good order, harder if it does not go. Does nothing if it is down."""
        with self._turn:
            self._end()

    def restart(self) -> str:
        """Stop and start."""
        self.stop()
        return self.start()

    def kill(self) -> None:
        """SIGKILL the server and wait until it is gone: what a crash looks like."""
        with self._turn:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._end()

    def wait(self) -> int | None:
        """Block until the server has gone; its return code. None at once if it is down."""
        process = self._process
        return None if process is None else process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> None:
        """Everything before the server itself: take the lock, stop a leftover, make what must be there."""

    @abstractmethod
    def _argv(self) -> list[str | Path]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @property
    def _owner(self) -> tuple[int, int] | None:
        return None

    def _launch(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        log_start = self._spawn(self._argv())
        while not self._answers():
            assert self._process is not None
            status = self._process.poll()
            if status is not None:
                raise Unavailable(
                    f"{self.title} ended with {describe_exit(status)} while starting:\n{self._log_tail(log_start)}"
                )
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.title} does not answer after {self._start_timeout:g} s:\n{self._log_tail(log_start)}"
                )
            self._pause()

    def _spawn(self, argv: list[str | Path]) -> int:
        """Start the child with its output in the log, in a session of its own, so that Ctrl-C is only ours."""
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            log_start = os.fstat(log).st_size
            self._process = spawn(
                argv,
                death_signal=self.death_signal,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LC_ALL": "C"},
                cwd=self.data_dir,
                owner=self._owner,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{self.title} can't be run: {error}") from error
        finally:
            os.close(log)
        return log_start

    def _end(self) -> None:
        if self._process is not None:
            end(self._process, self.escalation)
            self._process = None
        if self._lock.held:
            self._clean_up()
        self._lock.release()

    @abstractmethod
    def _clean_up(self) -> None:
        """Remove what only a running server needs, before the lock goes."""

    def _stop_leftover(self, pid_file: Path) -> None:
        """Stop the server that a killed run left on this directory. A stranger with its pid is left alone."""
        pid = read_pid(pid_file)
        if pid is None:
            return
        for signum, patience in (*self.escalation, (signal.SIGKILL, self._start_timeout)):
            if not self._is_ours(pid):
                return
            send_signal(pid, signum)
            deadline = time.monotonic() + patience
            while self._is_ours(pid) and time.monotonic() < deadline:
                self._pause()
        if self._is_ours(pid):
            raise Unavailable(f"{command_line(pid)} (pid {pid}) still runs on {self.data_dir} and can't be stopped")

    @abstractmethod
    def _is_ours(self, pid: int) -> bool:
        """Whether the process is such a server on this very directory."""

    def _pause(self) -> None:
        if self._cancel.wait(_PAUSE):
            raise Unavailable(f"{self.title} was stopped while starting")

    def _log_tail(self, start: int) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(start, self.log.stat().st_size - _TAIL))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""


def installed(package: str, program: str, setting: str) -> Path:
    """A program in an installed wheel, found without importing it.

    Raises SettingsError saying what to install, or which setting to use in its place.
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, program).resolve()
        if path.exists():
            return path
    raise SettingsError(
        f"{package}, which brings {Path(program).name}, is not installed: "
        f"pip install 'pushsvc[embedded]', or set {setting}"
    )
