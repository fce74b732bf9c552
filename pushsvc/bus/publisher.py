"""Telling whoever listens: events, progress, and requests to stop a job. Never the only copy of a fact."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from .. import wire
from ..domain import Channel, Position, Progress
from ..store.batching import Batcher
from .connection import FAULTS, RedisClient, away

logger = logging.getLogger(__name__)

Message = tuple[str, bytes]
CANCEL_TOPIC = "pushsvc:cancel"
SOON = 0.005
PROGRESS_TTL = 3600
"""Seconds that the last progress of a job is kept for those who attach later."""


def topic(channel: Channel) -> str:
    """The Redis channel of one of ours."""
    return f"pushsvc:{channel.tenant}:{channel.name}"


def channel_of(name: str) -> Channel:
    """The inverse of `topic`; a tenant has no colon."""
    _, tenant, channel = name.split(":", 2)
    return Channel(tenant, channel)


class Publisher:
    """Publishes in batches: what comes while one round trip is under way goes with the next."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._later: list[Message] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batch: Batcher[list[Message], None] = Batcher("publish", self._publish, limit=500)

    async def _publish(self, batch: Sequence[list[Message]]) -> list[None]:
        pipeline = self._redis.pipeline(transaction=False)
        for messages in batch:
            for name, payload in messages:
                pipeline.publish(name, payload)
        try:
            await pipeline.execute()
        except FAULTS as error:
            # Subscribers find the events in PostgreSQL: their hubs compare tops.
            away("publishing", error)
        return [None] * len(batch)

    def event(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> asyncio.Future[None]:
        """Publish an event wherever it was logged. Order is kept from call to call; nothing is raised."""
        messages = _messages(places, event)
        if self._later:
            messages = self._take_later() + messages
        return self._batch.put(messages)

    def event_soon(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> None:
        """Publish with the next `event`, or in `SOON` seconds: for what is likely to be followed at once."""
        if not self._later:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._publish_later)
        self._later += _messages(places, event)

    def _take_later(self) -> list[Message]:
        later, self._later = self._later, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return later

    def _publish_later(self) -> None:
        self._batch.put(self._take_later())

    async def progress(self, channels: Iterable[Channel], progress: Progress) -> None:
        """Publish, and keep as the snapshot for those who attach later."""
        payload = wire.bus_progress(progress)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(_progress_key(progress.job), payload[2:], ex=PROGRESS_TTL)
        for channel in channels:
            pipeline.publish(topic(channel), payload)
        try:
            await pipeline.execute()
        except FAULTS as error:
            away("publishing progress", error)

    async def last_progress(self, job: str) -> bytes | None:
        """The last progress of a job as its JSON; None if there is none, or Redis is away."""
        try:
            value = await self._redis.get(_progress_key(job))
        except FAULTS:
            return None
        return value if isinstance(value, bytes) else None

    async def forget_progress(self, job: str) -> None:
        """Drop the snapshot. Raises what FAULTS lists when Redis is away."""
        await self._redis.delete(_progress_key(job))

    async def cancel(self, job: str) -> None:
        """Ask whichever worker runs the job to stop it now; it also learns so when it renews its lease."""
        await self._batch([(CANCEL_TOPIC, job.encode())])


def _messages(places: Iterable[tuple[Channel, Position]], event: bytes) -> list[Message]:
    return [(topic(channel), wire.bus_event(position, event)) for channel, position in places]


def _progress_key(job: str) -> str:
    return f"pushsvc:progress:{job}"
