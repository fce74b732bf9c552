"""Telling whoever listens: events, progress, and requests to stop a job. Never the only copy of a fact."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from .. import wire
from ..domain import Channel, Position, Progress
from ..store.batching import Batcher
from ..tasks import tolerated, within
from .cluster import Cluster
from .connection import RedisClient
from .faults import FAULTS, away
from .outlet import Message, Outlet, outlet_of
from .scope import Scope

logger = logging.getLogger(__name__)

SOON = 0.005
PROGRESS_TTL = 3600
"""Seconds that the last progress of a job is kept for those who attach later."""

AT_ONCE = 1.0
"""Seconds within which a failure was quick enough for another try at once."""
AGAIN_AFTER = 0.5
"""Seconds until what could not be said is said again."""
SAID_WITHIN = 1.0
"""Seconds that Redis keeps somebody waiting at most who asked for something that PostgreSQL has."""
UNSAID_LIMIT = 4 * 1024**2
"""Bytes that are kept for it."""


class Publisher:
    """Publishes in batches: what comes while one round trip is under way goes with the next."""

    def __init__(self, bus: RedisClient | Cluster | Outlet, scope: Scope) -> None:
        self.scope = scope
        self._outlet = outlet_of(bus)
        self._later: list[Message] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batches: dict[Hashable, Batcher[list[Message], None]] = {}
        # By topic the last that could not be said: whoever hears it reads from PostgreSQL what lies before.
        self._unsaid: dict[str, bytes] = {}
        self._again: asyncio.TimerHandle | None = None

    def _put(self, messages: list[Message]) -> asyncio.Future[Any]:
        places: dict[Hashable, list[Message]] = {}
        for message in messages:
            places.setdefault(self._outlet.place(message[0]), []).append(message)
        told = [self._batch(place).put(its) for place, its in places.items()]
        return told[0] if len(told) == 1 else asyncio.gather(*told)

    def _batch(self, place: Hashable) -> Batcher[list[Message], None]:
        if place not in self._batches:
            self._batches[place] = Batcher("publish", self._publish, limit=500)
        return self._batches[place]

    async def _publish(self, batch: Sequence[list[Message]]) -> list[None]:
        messages = [message for messages in batch for message in messages]
        begun = time.monotonic()
        failed = await self._outlet.publish(messages)
        if failed and time.monotonic() - begun < AT_ONCE:
            # A connection that had been lost, a slot that has moved.
            failed = await self._outlet.publish(failed)
        if failed:
            self._keep(failed)
        return [None] * len(batch)

    def _keep(self, failed: Sequence[Message]) -> None:
        """To be said when Redis is back; what is too much is found when hubs compare tops."""
        for topic, payload in failed:
            self._unsaid.pop(topic, None)
            self._unsaid[topic] = payload
        size = sum(map(len, self._unsaid.values()))
        while size > UNSAID_LIMIT:
            size -= len(self._unsaid.pop(next(iter(self._unsaid))))
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN_AFTER, self._say_again)

    def _say_again(self) -> None:
        self._again = None
        unsaid, self._unsaid = self._unsaid, {}
        for message in unsaid.items():
            with tolerated("publishing what could not be published"):
                self._put([message])

    def close(self) -> None:
        """Say nothing more by itself: the connections are going to be closed."""
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()

    def event(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> asyncio.Future[Any]:
        """Publish an event wherever it was logged. Order is kept from call to call; nothing is raised."""
        messages = self._messages(places, event)
        if self._later:
            messages = self._take_later() + messages
        return self._put(messages)

    def event_soon(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> None:
        """Publish with the next `event`, or in `SOON` seconds: for what is likely to be followed at once."""
        if not self._later:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._publish_later)
        self._later += self._messages(places, event)

    def _take_later(self) -> list[Message]:
        later, self._later = self._later, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return later

    def _publish_later(self) -> None:
        self._put(self._take_later())

    async def progress(self, channels: Iterable[Channel], progress: Progress) -> None:
        """Publish, and keep as the snapshot for those who attach later."""
        payload = wire.bus_progress(progress)
        messages = [(self.scope.topic(channel), payload) for channel in channels]
        try:
            await self._outlet.snapshot(self._progress_key(progress.job), payload[2:], PROGRESS_TTL, messages)
        except FAULTS as error:
            away("publishing progress", error)

    async def last_progress(self, job: str) -> bytes | None:
        """The last progress of a job as its JSON; None if there is none, or Redis is away."""
        try:
            return await within(SAID_WITHIN, self._outlet.get(self._progress_key(job)))
        except FAULTS:
            return None

    async def check(self) -> None:
        """Write something, as progress does. Raises what FAULTS lists when Redis is away, or takes no changes."""
        await self._outlet.snapshot(self.scope.key("check"), b"1", 60, ())

    async def forget_progress(self, job: str) -> None:
        """Drop the snapshot. Raises what FAULTS lists when Redis is away."""
        await self._outlet.delete(self._progress_key(job))

    async def cancel(self, job: str) -> None:
        """Ask whichever worker runs the job to stop it now; it also learns so when it renews its lease."""
        await said(self._put([(self.scope.cancels, job.encode())]))

    def _messages(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> list[Message]:
        topic = self.scope.topic
        return [(topic(channel), wire.bus_event(channel, position, event)) for channel, position in places]

    def _progress_key(self, job: str) -> str:
        return self.scope.key("progress", job)


async def said(telling: asyncio.Future[Any]) -> None:
    """Wait until it is said, yet no longer than SAID_WITHIN: then it goes on by itself."""
    await asyncio.wait([telling], timeout=SAID_WITHIN)
