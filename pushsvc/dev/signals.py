"""Signals as something to wait for, in place of handlers that strike in the middle of a statement."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

STOP = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WATCHED = (*sorted(STOP), signal.SIGCHLD)


class Interrupted(Exception):
    """A signal asked to stop."""


class Signals:
    """While entered, in the main thread: SIGINT, SIGTERM, SIGHUP and SIGCHLD only wake `wait()`.

    None is lost: what comes while nobody waits is there at the next `wait()`.
    """

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # the interpreter writes the number itself, in whichever thread the signal arrives
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._previous: dict[signal.Signals, Any] = {}
        for number in _WATCHED:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # under nohup, a terminal that goes is no reason to stop
            self._previous[number] = signal.signal(number, _ignore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout: float | None = None) -> frozenset[int]:
        """The signals that came since the last call; blocks until there is one, or `wake()`, or the time-out."""
        if select.select([self._reader], [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                return frozenset(self._reader.recv(4096))
        return frozenset()

    def wake(self) -> None:
        """Let `wait()` return, from any thread, with no signal."""
        with contextlib.suppress(OSError):  # nobody waits any more, or there is plenty to read
            self._writer.send(b"\0")

    def during(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return what it does. Raises Interrupted at once on a signal to stop.

        The thread is then left to itself: whoever catches Interrupted ends what it works on.
        """
        done: Future[T] = Future()
        done.add_done_callback(lambda _: self.wake())
        threading.Thread(target=_fulfil, args=(done, work), daemon=True).start()
        while not done.done():
            if self.wait() & STOP:
                raise Interrupted
        return done.result()


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has told it already."""
