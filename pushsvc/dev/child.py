"""Child processes that do not outlive this one, and what can be known about anybody's process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    owner: tuple[int, int] | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start a child that gets `death_signal` (on Linux) when this process dies, however it dies.

    `owner` is the user and group to run as; `options` go to Popen. Safe in any thread.
    """
    if owner is not None:
        options |= {"user": owner[0], "group": owner[1], "extra_groups": []}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [os.fspath(part) for part in argv],
            env=env,
            cwd=cwd,
            preexec_fn=_die_with_parent(os.getpid(), death_signal),
            **options,
        )

    return _spawner.run(start)


def describe_exit(status: int) -> str:
    """A return code in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def end(process: subprocess.Popen[bytes], escalation: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn, waiting its seconds for the child to go; at last SIGKILL. Reaps it."""
    for signum, patience in escalation:
        process.send_signal(signum)
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            pass
    process.kill()
    process.wait()


def command_line(pid: int) -> str:
    """The arguments of anybody's process, joined by blanks; empty if there is none, or only a zombie."""
    if sys.platform != "linux":
        shown = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)
        return shown.stdout.decode(errors="replace").strip()
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def working_directory(pid: int) -> Path | None:
    """Where anybody's process is; None where that can't be told."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def children_of(pid: int) -> list[int]:
    """The children of a process; empty where there is no /proc to tell."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name in parentheses may hold anything; what follows it is: state, parent
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            found.append(int(entry.parent.name))
    return found


def read_pid(path: Path) -> int | None:
    """The number on the first line of a pid file; None if there is no sensible one."""
    try:
        pid = int(path.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 1 else None


def send_signal(pid: int, signum: signal.Signals) -> None:
    """Signal anybody's process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def alive(pid: int) -> bool:
    """Whether there is a process of this id, even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _die_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    libc = _libc
    if libc is None:
        return None
    number = int(death_signal)

    def prepare() -> None:
        # runs between fork and exec: nothing here may import, log or lock
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the request was in place

    return prepare


_Start = Callable[[], subprocess.Popen[bytes]]
_Made = Future[subprocess.Popen[bytes]]
_Work = queue.SimpleQueue[tuple[_Start, _Made]]


class _Spawner:
    """Starts all children from one thread that lives as long as the process.

    Linux sends the death signal when the *thread* that made the child ends, so a thread of a pool must
    not make one.
    """

    def __init__(self) -> None:
        self._work: _Work = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._pid: int | None = None

    def run(self, start: _Start) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._pid != os.getpid():  # the first time, and again after a fork, which copies no thread
                self._work = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(self._work,), name="spawner", daemon=True).start()
                self._pid = os.getpid()
        made: _Made = Future()
        self._work.put((start, made))
        try:
            return made.result()
        except KeyboardInterrupt:
            made.add_done_callback(_kill_unclaimed)  # the caller will never hold it, so nobody would stop it
            raise

    @staticmethod
    def _serve(work: _Work) -> None:
        while True:
            start, made = work.get()
            try:
                made.set_result(start())
            except BaseException as error:
                made.set_exception(error)


def _kill_unclaimed(made: _Made) -> None:
    if made.exception() is None:
        made.result().kill()


_spawner = _Spawner()
