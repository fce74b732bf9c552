"""Jobs that came by an author's own transaction: put on the queue when that is committed.

A NOTIFY says so at once, where a connection can listen. Behind a pooler none can: the table is looked at each second.
Who dies after having taken jobs from it loses none: the sweeper finds them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..bus import FAULTS, Queue, Queued, away
from ..errors import Unavailable
from ..store import Ear, Within
from ..tasks import Background, forever

AT_ONCE = 500
EVERY = 1.0
"""Seconds between two looks at the table, whether anything is heard or not."""


class Committed:
    """Runs in each worker."""

    def __init__(self, within: Within, ear: Ear, queue: Queue) -> None:
        self._within = within
        self._ear = ear
        self._queue = queue
        self._heard = asyncio.Event()
        self._background = Background()

    async def run(self) -> None:
        """For ever."""
        self._background.start("listening for transactions", self._ear.listen(self._heard.set))
        try:
            await forever("queueing what transactions have submitted", self._look)
        finally:
            await self._background.stop()

    async def _look(self) -> None:
        self._heard.clear()
        more = False
        with suppress(Unavailable):
            jobs = [Queued(*found) for found in await self._within.take_wakeups(AT_ONCE)]
            more = len(jobs) == AT_ONCE
            try:
                if jobs:
                    await self._queue.enqueue(jobs)
            except FAULTS as error:
                away("queueing jobs", error)
        if not more:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._heard.wait()
