"""When the worker looks at the queue: a token came, a deferred job falls due, a slot became free, or to be safe."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..bus import FAULTS, LONGEST_WAIT, Queue, away
from ..tasks import forever, stop


class Wakeup:
    """Waits for tokens on the queue's wake list while `has_room()`, and for a local timer.

    A token that comes when there is no room any more is given back, so that another worker gets it.
    """

    def __init__(self, queue: Queue, queues: Sequence[str], has_room: Callable[[], bool]) -> None:
        self._queue = queue
        self._queues = deque(queues)
        self._has_room = has_room
        self._due = asyncio.Event()
        self._token: str | None = None
        self._room = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listener = asyncio.create_task(forever("waiting for wake-ups", self._listen), name="worker:wakeup")

    async def stop(self) -> None:
        await stop(self._listener)

    def now(self) -> None:
        """Look at the queue now."""
        self._due.set()
        self._room.set()

    async def wait(self, timeout: float) -> str | None:
        """Until there is a reason to look at the queue, or for `timeout` seconds; the token, if that was it."""
        self._room.set()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._due.wait(), timeout)
        self._due.clear()
        token, self._token = self._token, None
        return token

    async def _listen(self) -> None:
        if not self._has_room():
            self._room.clear()
            await self._room.wait()
            return
        try:
            # Redis looks at them in this order.
            self._queues.rotate()
            wakened = await self._queue.token(LONGEST_WAIT, tuple(self._queues))
            if wakened is None:
                return
            token, queue = wakened
            if self._has_room():
                self._token = token
                self._due.set()
            else:
                await self._queue.wake(token, queue)
        except FAULTS as error:
            away("waiting for wake-ups", error)
            await asyncio.sleep(0.25)
