"""Threads for jobs that are plain functions.

A thread can't be stopped. So a job that is stopped leaves its thread behind, and nobody waits for it: neither the
job, nor the end of the process, since these threads are daemons, which those of `concurrent.futures` are not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any


@dataclass(frozen=True, slots=True)
class Returned:
    """A call that came back."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """A call that raised this, whatever it is: it is held here because a task or a future can't hold everything."""

    error: BaseException


Ended = Returned | Raised


class Threads:
    """Runs each function at once, in a thread that waits for work or in a new one. How many run is for its user to
    bound."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._closed = False

    def run(self, work: Callable[[], Any], freed: Callable[[], None]) -> asyncio.Future[Ended]:
        """How the function ended. `freed` is called in the event loop when its thread is free again, be the future
        cancelled by then or not. Raises RuntimeError when the system has no more threads."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ended] = loop.create_future()
        thread = self._idle.pop() if self._idle else _Thread()

        def ended(how: Ended) -> None:
            if self._closed:
                thread.leave()
            else:
                self._idle.append(thread)
            if not future.done():
                future.set_result(how)
            freed()

        def call() -> None:
            how: Ended
            try:
                how = Returned(work())
            except BaseException as error:
                how = Raised(error)
            with suppress(RuntimeError):  # the event loop is gone, and with it whoever would hear of this
                loop.call_soon_threadsafe(ended, how)

        thread.do(call)
        return future

    def close(self) -> None:
        """Let threads end that have nothing to do; the others end when their functions do, or with the process."""
        self._closed = True
        while self._idle:
            self._idle.pop().leave()


class _Thread:
    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="job", daemon=True).start()

    def do(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def leave(self) -> None:
        self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # Nothing of the job stays alive while the thread waits for the next.
            del work
