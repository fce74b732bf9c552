"""The places of a worker: so many jobs run at once; one that waits for another job lends its own meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Places:
    """`most` places, of which `taken()` are given to jobs. Who has lent one comes back before anybody new; `freed` is
    called when there is one more."""

    def __init__(self, most: int, taken: Callable[[], int], freed: Callable[[], None]) -> None:
        self._most = most
        self._taken = taken
        self._freed = freed
        self._lent = 0
        self._returning: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """How many new jobs may start."""
        return max(0, self._most - self._taken() + self._lent - len(self._returning))

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """The place is another's in this block; at its end one is waited for, unless the job is to end: then what is
        left to do is its clean-up, which nobody should wait for."""
        self._lent += 1
        self.settle()
        back: asyncio.Future[None] | None = None
        try:
            yield
            back = asyncio.get_running_loop().create_future()
            self._returning.append(back)
            self.settle()
            await back
        finally:
            if back is None:
                self._lent -= 1
            elif back in self._returning:
                self._returning.remove(back)
                self._lent -= 1

    def settle(self, *, more: bool = True) -> None:
        """One may have become free. Without `more` nobody new is known to want it."""
        while self._returning and self._taken() - self._lent < self._most:
            back = self._returning.popleft()
            self._lent -= 1
            if not back.done():
                back.set_result(None)
        if more and self.free:
            self._freed()
