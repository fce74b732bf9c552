"""Looking for what Redis did not bring: where each channel stands here, compared with the store, now and then."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from ..bus import Subscriber
from ..domain import Channel
from ..errors import Unavailable
from ..store import ChannelState, EventStore
from ..tasks import each_apart, forever
from .feed import Feed

logger = logging.getLogger(__name__)

AT_ONCE = 2000
"""Channels that are asked for in one statement."""

BUS_AWAY = 0.5
"""Seconds between two looks at PostgreSQL while Redis brings nothing."""

GRACE = 0.25
"""Seconds that a message may take from its commit until it is here."""

DEAF = 3
"""Looks in a row that found something missing, after which the connection to Redis is not believed any more."""


class TopCheck:
    """Compares every `every` seconds (± 20 %, so that nodes do not ask together), and whenever told to."""

    def __init__(
        self,
        events: EventStore,
        bus: Subscriber,
        feeds: Mapping[Channel, Feed],
        repair: Callable[[Feed], None],
        every: float,
    ) -> None:
        self._events = events
        self._bus = bus
        self._feeds = feeds
        self._repair = repair
        self._every = every
        self._now = asyncio.Event()
        self._missed = 0

    def soon(self) -> None:
        """Compare at once: something may have been missed, or from now on nothing is heard."""
        self._now.set()

    async def run(self, before: Callable[[], None]) -> None:
        """Compare for ever, calling `before` each time."""
        await forever("comparing channels with the store", partial(self._look, before))

    async def _look(self, before: Callable[[], None]) -> None:
        """Wait for the next time, and compare."""
        pause = self._every * random.uniform(0.8, 1.2) if self._bus.connected else BUS_AWAY
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._now.wait(), pause)
        told = self._now.is_set()
        self._now.clear()
        before()
        try:
            await self._compare(patient=self._bus.connected and not told)
        except Unavailable:
            self._now.set()
            await asyncio.sleep(BUS_AWAY)

    async def _compare(self, patient: bool) -> None:
        live = [feed for feed in self._feeds.values() if feed.live and not feed.idle]
        missing = False

        async def compare(some: Sequence[Feed]) -> None:
            nonlocal missing
            missing = await self._compare_some(some, patient) or missing

        for at in range(0, len(live), AT_ONCE):
            await each_apart("comparing a channel with the store", live[at : at + AT_ONCE], compare)
        if patient:
            self._missed = self._missed + 1 if missing else 0
            if self._missed >= DEAF:
                logger.warning("Redis is connected, yet events do not come: connecting anew")
                self._missed = 0
                self._bus.renew()

    async def _compare_some(self, some: Sequence[Feed], patient: bool) -> bool:
        """Whether something was missing; it is being read then."""
        states = await self._events.states([feed.channel for feed in some])
        behind = _behind(some, states)
        if behind and patient:
            # What was committed just now is on its way.
            await asyncio.sleep(GRACE)
            behind = _behind(behind, states)
        for feed in behind:
            self._repair(feed)
        return bool(behind)


def _behind(feeds: Iterable[Feed], states: Mapping[Channel, ChannelState]) -> Sequence[Feed]:
    return [
        feed
        for feed in feeds
        if (state := states.get(feed.channel)) is not None
        and (state.epoch != (here := feed.position).epoch or state.top > here.offset)
    ]
