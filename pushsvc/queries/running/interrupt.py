"""How a running query is stopped: exactly once, and only where it can bear it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupt:
    """Lets exactly one cancel into a task, and only where the task can bear it.

    A cancelled query is wound up by asyncpg, which asks the server to cancel and waits for its answer. A
    second cancel in the midst of that leaves the query running in the server with nobody to stop it; one
    while a connection is being opened leaks the connection. So a cancel reaches the task once, inside
    `window`; one that comes before takes effect on entering it.
    """

    __slots__ = ("_task", "asked")

    def __init__(self) -> None:
        self.asked = False
        self._task: asyncio.Task[Any] | None = None

    def ask(self) -> None:
        """Cancel what runs in the window, now or as soon as it is entered. Again: nothing more happens."""
        if not self.asked:
            self.asked = True
            if self._task is not None:
                self._task.cancel()

    @contextmanager
    def window(self) -> Iterator[None]:
        """Where the current task may be cancelled. Raises CancelledError if that was asked before."""
        if self.asked:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        try:
            yield
        finally:
            self._task = None


async def unhurried(*tasks: asyncio.Task[Any]) -> None:
    """Wait for all of them, whoever cancels; the cancellation is raised in the end. Their errors stay theirs."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def interruptible(work: Callable[[Interrupt], Coroutine[Any, Any, T]]) -> T:
    """What the work gives. If the caller is cancelled, however often, the work is told once, and ends in peace.

    Raises CancelledError then, even if the work was done by that time.
    """
    interrupt = Interrupt()
    task = asyncio.get_running_loop().create_task(work(interrupt))
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        interrupt.ask()
        await unhurried(task)
        if not task.cancelled():
            task.exception()
        raise
    return task.result()
