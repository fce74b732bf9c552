"""Group commit: whatever has come while the last batch was being committed is the next batch.

No timer and no added latency when idle; under load one statement and one fsync serve many callers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from .. import telemetry
from ..tasks import complain
from .faults import is_away

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Calls `write(items)` with as many items as are waiting, one call at a time.

    `write` answers with one value for each item, in order. When it raises because of one bad item, the
    others do not suffer: halves of the batch are then written on their own. When it raises because it can't be done
    right now, that is the answer to everybody who waits.
    """

    def __init__(self, name: str, write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], limit: int = 200):
        self._name = name
        self._write = write
        self._limit = limit
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Hand over an item now; items are written in the order in which they were handed over."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name=f"batch:{self._name}")
        return future

    async def _drain(self) -> None:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._commit(batch)
        except BaseException:
            # Nobody is going to write these.
            waiting, self._waiting = self._waiting, []
            for _, future in batch + waiting:
                future.cancel()
            raise
        finally:
            self._task = None

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> Exception | None:
        """Write them, and answer each; the error if nothing can be written now."""
        started = time.perf_counter()
        try:
            answers = await self._write([item for item, _ in batch])
            if len(answers) != len(batch):
                raise ValueError(f"{self._name}: {len(answers)} answers to {len(batch)} items")
        except Exception as error:
            return await self._recover(batch, error)
        except (SystemExit, KeyboardInterrupt) as error:
            # Raised in whoever awaits the future, it would end the process.
            complain(f"batch {self._name}", error)
            ended = RuntimeError(f"{type(error).__name__} was raised in batch {self._name}")
            ended.__cause__ = error
            return await self._recover(batch, ended)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
        duration = time.perf_counter() - started
        telemetry.emit("store.batch", {"size": len(batch), "duration": duration}, {"statement": self._name})
        return None

    async def _recover(self, batch: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> Exception | None:
        if is_away(error) or getattr(error, "temporary", False):
            # Those who came since have waited, too; and asking once more for each of them would take as long again.
            waiting, self._waiting = self._waiting, []
            _refuse(batch + waiting, error)
            return error
        if len(batch) == 1:
            _refuse(batch, error)
            return None
        # One of them is bad: half of them are not.
        half = len(batch) // 2
        if away := await self._commit(batch[:half]):
            _refuse(batch[half:], away)
            return away
        return await self._commit(batch[half:])


def _refuse(batch: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
