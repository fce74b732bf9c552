"""The store as the hub reads it: for readers that may have had more than it shows.

Redis may be ahead of a replica, and so may a cursor. Offsets of one history only grow, so a store that shows
less than a reader has had is one that lags, and is waited for; another history has another epoch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ..domain import Channel, Place, Position
from ..errors import NotFound
from ..store import ChannelState, EventStore, Page, locate

LAG = 2.0
"""Seconds to wait; after that, what the reader had is taken for gone, which is a reset."""

PAUSE = 0.05


class Reading:
    """Reads no less far than its readers stand."""

    def __init__(self, events: EventStore) -> None:
        self._events = events

    async def states(self, places: Mapping[Channel, Place]) -> Mapping[Channel, ChannelState]:
        """Where the channels stand. Raises NotFound if one is that of a job which does not exist."""
        give_up = time.monotonic() + LAG
        while places:
            states = await self._events.states(list(places))
            if not all(channel in states for channel in places):
                raise NotFound
            if not any(_ahead(at, states[c].end) for c, at in places.items()) or time.monotonic() > give_up:
                return states
            await asyncio.sleep(PAUSE)
        return {}

    async def missed(
        self, starts: Mapping[Channel, tuple[Position, Position | None]], states: Mapping[Channel, ChannelState]
    ) -> bool:
        """Whether something that lies after one of these starts, as `locate` found them, is gone by now."""
        if any(reset is not None for _, reset in starts.values()):
            return True
        doubtful = {channel: at for channel, (at, _) in starts.items() if at.offset < states[channel].gone}
        return bool(doubtful and await self._events.with_gaps(doubtful))

    async def page(self, channel: Channel, place: Place, limit: int, seen: ChannelState | None = None) -> Page:
        """What lies after `place`. `seen` is where the channel has just been: who has nothing to read needs no
        other look. Raises NotFound if it is that of a job which does not exist."""
        if seen is not None:
            position, reset = locate(channel, place, seen)
            if position.offset >= seen.top:
                return Page((), position, reset, closed=seen.closed)
        give_up = time.monotonic() + LAG
        while True:
            page = await self._events.read(channel, place, limit)
            if page is None:
                raise NotFound
            if not _ahead(place, page.position) or time.monotonic() > give_up:
                return page
            await asyncio.sleep(PAUSE)


def _ahead(place: Place, end: Position) -> bool:
    """Whether a reader has had more of the same history than there is to see."""
    return isinstance(place, Position) and place.epoch == end.epoch and place.offset > end.offset
