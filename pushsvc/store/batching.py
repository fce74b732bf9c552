"""Group commit: whatever has come while the last batch was being committed is the next batch.

No timer and no added latency when idle; under load one statement and one fsync serve many callers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from .. import telemetry
from .postgres import is_lost

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Calls `write(items)` with as many items as are waiting, one call at a time.

    `write` answers with one value for each item, in order. When it raises because of one bad item, the
    others do not suffer: each is then written on its own.
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
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._commit(batch)
        finally:
            self._task = None

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        started = time.perf_counter()
        try:
            answers = await self._write([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            await self._recover(batch, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        duration = time.perf_counter() - started
        telemetry.emit("store.batch", {"size": len(batch), "duration": duration}, {"statement": self._name})

    async def _recover(self, batch: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
        hopeless = len(batch) == 1 or is_lost(error) or getattr(error, "temporary", False)
        for entry in batch:
            if not hopeless:
                await self._commit([entry])
            elif not entry[1].done():
                entry[1].set_exception(error)
