"""Telling whoever listens: events, progress, and requests to stop a job. Never the only copy of a fact."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from .. import wire
from ..domain import Channel, Position, Progress
from ..store.batching import Batcher
from .connection import FAULTS, RedisClient

logger = logging.getLogger(__name__)

Message = tuple[str, bytes]
CANCEL_TOPIC = "pushsvc:cancel"
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
            logger.warning("%d not published, Redis is away: %s", len(batch), type(error).__name__)
        return [None] * len(batch)

    def event(self, places: Iterable[tuple[Channel, Position]], event: bytes) -> asyncio.Future[None]:
        """Publish an event wherever it was logged. Order is kept from call to call; nothing is raised."""
        return self._batch.put([(topic(channel), wire.bus_event(position, event)) for channel, position in places])

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
            logger.debug("progress not published, Redis is away: %s", type(error).__name__)

    async def last_progress(self, job: str) -> bytes | None:
        """The last progress of a job as its JSON; None if there is none, or Redis is away."""
        try:
            value = await self._redis.get(_progress_key(job))
        except FAULTS:
            return None
        return value if isinstance(value, bytes) else None

    async def cancel(self, job: str) -> None:
        """Ask whichever worker runs the job to stop it now; it also learns so when it renews its lease."""
        await self._batch([(CANCEL_TOPIC, job.encode())])


def _progress_key(job: str) -> str:
    return f"pushsvc:progress:{job}"
