"""Background work: the one supervised way to run a loop or a task that nobody awaits, and how tasks end.

An error in the background has nobody who would hear of it: a loop that it ends is missed much later, by others.
So whatever is raised here is logged, once for each kind, and the loop goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
T = TypeVar("T")

SAY_EVERY = 60.0
"""Seconds between two log lines about errors of one kind, however often they come."""

FIRST, LONGEST = 0.05, 1.0
"""Seconds between a loop's failed step and the next: the first time, and after many in a row."""

_said: dict[tuple[str, str], tuple[float, int]] = {}
"""By what was being done and the class of the error: when that was logged, and how often it has come since."""


async def forever(
    name: str, step: Callable[[], Awaitable[object]], *, until: Callable[[], bool] | None = None
) -> None:
    """Await `step()` again and again, until the task is cancelled or `until()` is true.

    Whatever a step raises, SystemExit and the like included, is logged under `name`, and the next step follows. So
    does a CancelledError that is not this task's own. A step has to wait for something: nothing pauses between two
    that went well.
    """
    failed = 0
    while until is None or not until():
        try:
            await step()
            failed = 0
        except BaseException as error:
            if _ends_the_task(error):
                raise
            complain(name, error)
            await asyncio.sleep(min(FIRST * 2.0 ** min(failed, 30), LONGEST))
            failed += 1


@contextmanager
def tolerated(doing: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever its block raises is logged and goes no further; the end of the task itself still does, and what is in
    `passing`."""
    try:
        yield
    except BaseException as error:
        if _ends_the_task(error) or isinstance(error, passing):
            raise
        complain(doing, error)


async def each_apart(
    doing: str,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Awaitable[object]],
    passing: tuple[type[Exception], ...] = (),
) -> list[Item]:
    """Await `work` on all of the items at once; if that fails, on each half of them, and so on.

    So an item that makes `work` fail harms itself only. Those are logged, and are the answer. An error in `passing`,
    or whose attribute `temporary` is true, is no item's fault, and is raised.
    """
    try:
        if items:
            await work(items)
    except BaseException as error:
        if _ends_the_task(error) or isinstance(error, passing) or getattr(error, "temporary", False):
            raise
        if len(items) == 1:
            complain(doing, error)
            return list(items)
        middle = len(items) // 2
        return [
            *await each_apart(doing, items[:middle], work, passing),
            *await each_apart(doing, items[middle:], work, passing),
        ]
    return []


def complain(doing: str, error: BaseException) -> None:
    """Log an error that nobody else will hear of: with its traceback, once a minute for each kind of error."""
    kind, now = (doing, type(error).__name__), time.monotonic()
    last, more = _said.get(kind, (float("-inf"), 0))
    if now - last < SAY_EVERY:
        _said[kind] = (last, more + 1)
        return
    _said[kind] = (now, 0)
    often = f", and {more} times more in between" if more else ""
    logger.error("%s failed (%s)%s; it goes on", doing, type(error).__name__, often, exc_info=error)


class Background:
    """The tasks of one owner that nobody awaits: loops, and work that ends by itself. `stop` ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def loop(self, name: str, step: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Run `forever` until stopped."""
        return self._keep(forever(name, step), name)

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run this once. What it raises is logged, and nothing else comes of it: the task itself never fails."""
        return self._keep(contained(name, work), name)

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, within: float) -> None:
        """Wait so many seconds for what runs to end by itself."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    async def stop(self) -> None:
        """Cancel what runs, until it has ended."""
        await stop(*self._tasks)


async def contained(name: str, work: Awaitable[object]) -> None:
    """Await this; what it raises is logged. For a task of its own, which then never fails."""
    with tolerated(name):
        await work


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel each task until it has ended; what it raised at its end is dropped.

    Once is not enough: `asyncio.wait_for` of Python 3.11 swallows a cancel that comes as its future is done
    (python/cpython#86296), and most clients' reads and writes go through it.
    """
    for task in tasks:
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        if task is not None and not task.cancelled():
            task.exception()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, or raises. Raises TimeoutError when it has not ended after so many seconds.

    For what asks a server through somebody else's client: the one cancel of an `asyncio.timeout` may be swallowed
    there, and then the client's own patience counts (see `stop`).
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        await stop(task)


def _ends_the_task(error: BaseException) -> bool:
    """Whether the running task is being cancelled, or its coroutine closed, rather than something in it failing."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit)
