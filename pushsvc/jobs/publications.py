"""Events that an app publishes itself: logged first, then told, as a job's are."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from .. import wire
from ..bus import Publisher, said
from ..domain import Channel, Position, check_name, new_job_id
from ..errors import BadRequest, JobFailed, TooLarge
from ..store import EventStore, Published
from .results import encode


class Publications:
    """Publishes to inboxes and groups."""

    def __init__(self, events: EventStore, publisher: Publisher, limit: int) -> None:
        """`limit` is how many bytes an event's data may have, as JSON."""
        self._events = events
        self._publisher = publisher
        self._limit = limit

    async def publish(
        self, channel: Channel, kind: str, data: Any, retention: float, key: str | None = None
    ) -> Position:
        """Log an event and tell whoever listens; where it stands. It is kept for `retention` seconds, and as long a
        second one of the same `key` in its channel changes nothing.

        Raises BadRequest on a job's channel, a type that is none or one of ours, data without a JSON form, and
        TooLarge: then nothing has been published. Raises Unavailable without PostgreSQL: whether it has, only
        publishing it again with its key can tell.
        """
        if channel.kind == "job":
            raise BadRequest(f"{channel.name} has the job's own events; publish to user:<subject> or group:<name>")
        if " " in check_name(kind, "an event's type", 100) or kind.startswith("job."):
            raise BadRequest(f"{kind[:80]!r} is no type for an event of your own, such as deploy.done")
        if not retention > 0:
            raise BadRequest("an event is kept for more than 0 seconds")
        try:
            body = encode(data, limit=2**62)
        except JobFailed as error:
            raise BadRequest(str(error).replace("the job's return value", "the event's data")) from error
        if len(body) > self._limit:
            raise TooLarge(f"the event's data has {len(body)} bytes; PUSHSVC_INLINE_LIMIT is {self._limit}")
        event_id = f"evt_{new_job_id() if key is None else _digest(channel, key)}"
        event = wire.published(event_id, kind, datetime.now(UTC), body)
        position, event = await self._events.publish(Published(event_id, channel, event, retention))
        await said(self._publisher.event([(channel, position)], event))
        return position


def _digest(channel: Channel, key: str) -> str:
    return hashlib.sha256("\n".join((channel.tenant, channel.name, key)).encode()).hexdigest()[:32]
