"""The hub: which connection hears which channel at this node, and the recovery that every transport shares.

Attaching without a race: subscribe on Redis and wait for its word, keeping what comes; read the store from
the reader's position; put both together. The same reading serves a new connection, a resumed one, a gap
in what Redis brought, and a socket that was too slow. While Redis is away, PostgreSQL is asked instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .. import telemetry, wire
from ..bus import Ear, LocalBus, Scope, listen
from ..domain import Channel, Place, Position
from ..errors import NotFound, Unavailable
from ..store import ChannelState, EventStore, Page, locate
from ..tasks import Background, complain
from .feed import Feed, Subscription
from .listener import Listener
from .reading import Reading
from .tops import TopCheck

LINGER = 30.0
"""Seconds that a channel stays subscribed on Redis without listeners, as between two long-polls."""

FIRST_PAGE = 100
PIECE_BYTES = 16 * 1024
PAGE_BYTES = 128 * 1024
"""A page of missed events that was smaller than this is followed by a larger one."""

WAVE = 200
"""How many listeners are sent elsewhere at a time, `WAVE_EVERY` seconds apart."""
WAVE_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a listener stands on a channel. `recovered` is false when there was a reset; `live` when it hears
    everything from now on; `closed` when there is nothing more to hear."""

    position: Position
    recovered: bool
    live: bool
    closed: bool


class Hub:
    """The channels of one web process."""

    def __init__(
        self,
        events: EventStore,
        bus: str | LocalBus,
        scope: Scope,
        *,
        top_check: float = 20.0,
        last_progress: Callable[[str], Awaitable[bytes | None]] | None = None,
    ) -> None:
        self._reading = Reading(events)
        self._topic = scope.topic
        self._feeds: dict[Channel, Feed] = {}
        self._ears: dict[bytes, Ear] = {}
        self._bus = listen(bus, self._ears, self._bus_changed, self._bus_changed)
        self._tops = TopCheck(events, self._bus, self._feeds, self._repair, top_check)
        self._last_progress = last_progress
        self._subscriptions: dict[Listener, dict[Channel, Subscription]] = {}
        self._paused: set[Listener] = set()
        self._background = Background()
        self._draining = False

    def start(self) -> None:
        self._bus.start()
        self._background.start("comparing channels with the store", self._tops.run(self._forget_idle))

    async def stop(self) -> None:
        await self._background.stop()
        await self._bus.stop()

    async def drain(self, within: float = 0.0) -> None:
        """Send every listener elsewhere, as this node is going away: in waves, over up to `within` seconds, so
        that other nodes do not get them all at once. Who attaches from now on is sent on at once."""
        self._draining = True
        listeners = list(self._subscriptions)
        waves = [listeners[at : at + WAVE] for at in range(0, len(listeners), WAVE)]
        for number, wave in enumerate(waves):
            if number:
                await asyncio.sleep(min(WAVE_EVERY, within / len(waves)))
            for listener in wave:
                listener.drain()

    def channels(self, listener: Listener) -> list[Channel]:
        return list(self._subscriptions.get(listener, ()))

    # Attaching and leaving

    async def attach(self, listener: Listener, channel: Channel, place: Place) -> Attached:
        """Attach to one channel; see `attach_all`."""
        return (await self.attach_all(listener, {channel: place}))[channel]

    async def attach_all(
        self,
        listener: Listener,
        places: Mapping[Channel, Place],
        located: Callable[[Mapping[Channel, Position], bool], None] | None = None,
    ) -> Mapping[Channel, Attached]:
        """Deliver what lies after each channel's place, then everything that comes. Attaching to a channel
        again changes nothing.

        `located` is called once, before anything is delivered, with where each new channel goes on from, and
        whether nothing was missed that is gone by now.
        Raises NotFound if a channel is that of a job which does not exist, Unavailable without PostgreSQL: then
        none of them is attached.
        """
        held = self._subscriptions.get(listener, {})
        answers = {c: Attached(held[c].feed.position, True, True, False) for c in places if c in held}
        entered: dict[Channel, Subscription] = {}
        try:
            for channel in places:
                if channel not in held:
                    entered[channel] = self._enter(listener, channel)
            await self._bus.subscribe_all([self._topic(channel) for channel in entered])
            states = await self._reading.states({channel: places[channel] for channel in entered})
            starts = {channel: locate(channel, places[channel], states[channel]) for channel in entered}
            if located is not None:
                missed = await self._reading.missed(starts, states)
                located({channel: position for channel, (position, _) in starts.items()}, not missed)
            # Those with nothing to read first: they are live before the others have begun.
            for channel in sorted(entered, key=lambda c: starts[c][0].offset < states[c].top):
                position, reset = starts[channel]
                place = position if reset is None else places[channel]
                answers[channel] = await self._read_on(entered[channel], place, states[channel])
        except BaseException:
            for subscription in entered.values():
                self._drop(subscription)
            raise
        if self._draining:
            listener.drain()
        return answers

    def _enter(self, listener: Listener, channel: Channel) -> Subscription:
        feed = self._feeds.get(channel)
        if feed is None:
            name = self._topic(channel).encode()
            feed = self._feeds[channel] = Feed(channel, self._repair)
            self._ears[name] = feed.hear
        subscription = feed.enter(listener)
        self._subscriptions.setdefault(listener, {})[channel] = subscription
        return subscription

    def detach(self, listener: Listener, channel: Channel) -> None:
        subscription = self._subscriptions.get(listener, {}).get(channel)
        if subscription is not None:
            self._drop(subscription)

    def leave(self, listener: Listener) -> None:
        """Detach from every channel: in every path by which a connection ends."""
        for subscription in list(self._subscriptions.get(listener, {}).values()):
            self._drop(subscription)
        self._subscriptions.pop(listener, None)
        self._paused.discard(listener)

    def _drop(self, subscription: Subscription) -> None:
        feed = subscription.feed
        feed.leave(subscription)
        held = self._subscriptions.get(subscription.listener)
        if held is not None and held.get(feed.channel) is subscription:
            del held[feed.channel]
            if not held:
                del self._subscriptions[subscription.listener]
        if feed.idle:
            feed.idle_since = time.monotonic()

    # The one reading

    async def _read_on(self, subscription: Subscription, place: Place, state: ChannelState | None = None) -> Attached:
        """Deliver from the store until the subscription can join what is live. `state` is where its channel has
        just been seen: who has nothing to read needs no other look."""
        feed, listener = subscription.feed, subscription.listener
        recovered, closed = True, False
        limit = min(listener.page, FIRST_PAGE)
        following: Page | None = None
        while True:
            if not await listener.ready() or subscription not in feed:
                # A position that is gone by now stays as it is, so that the next reading finds the reset.
                assert isinstance(place, Position)
                self._drop(subscription)
                return Attached(place, recovered, False, False)
            page = following or await self._reading.page(feed.channel, place, limit, state)
            state, following = None, page.following
            if subscription not in feed:
                continue
            if page.reset is not None:
                recovered = False
                listener.reset(feed.channel, page.reset)
            place, closed = page.position, page.closed
            for piece, taken in _pieces(page.events, PIECE_BYTES if listener.writer else 0):
                _deliver(listener, feed.channel, piece)
                if listener in self._paused and taken < len(page.events):
                    # Its socket is full: the rest is read again when it has drained.
                    place, limit, following = piece[-1][0], taken, None
                    break
            subscription.place = place
            if place == page.position and not page.more:
                if self._join(subscription, page.position):
                    break
                if not page.events:
                    # Redis is ahead of what the store shows, or the other way about: for a moment.
                    await asyncio.sleep(0.01)
            if sum(len(event) for _, event in page.events) < PAGE_BYTES:
                limit = min(4 * limit, listener.page)
        await self._snapshot(subscription)
        return Attached(page.position, recovered, True, closed)

    def _join(self, subscription: Subscription, position: Position) -> bool:
        feed = subscription.feed
        if not feed.live and not feed.go_live(position):
            self._repair(feed)
        here = feed.position
        if here.epoch != position.epoch or position.offset > here.offset:
            # The reader is ahead of what Redis has brought here: let everybody catch up.
            self._repair(feed)
        # What it had missed may have filled its socket already.
        return feed.join(subscription, position, full=subscription.listener in self._paused)

    async def _snapshot(self, subscription: Subscription) -> None:
        channel = subscription.feed.channel
        if channel.kind == "job" and self._last_progress is not None:
            item = await self._last_progress(channel.key)
            if item is not None and subscription in subscription.feed:
                subscription.listener.progress(channel, item)

    # Slow sockets

    def pause(self, listener: Listener) -> None:
        """The listener's socket is full: keep its places, write nothing more."""
        if listener in self._subscriptions:
            self._paused.add(listener)
        for subscription in self._subscriptions.get(listener, {}).values():
            subscription.feed.fall_behind(subscription)
        telemetry.emit("hub.behind", {"count": 1})

    def resume(self, listener: Listener) -> None:
        """It has drained: read on from the store, for each channel where it fell behind."""
        self._paused.discard(listener)
        for subscription in list(self._subscriptions.get(listener, {}).values()):
            position = subscription.feed.catch_up(subscription)
            if position is not None:
                subscription.place = position
                self._background.start("catching up", self._catch_up(subscription))

    async def _catch_up(self, subscription: Subscription) -> None:
        while subscription in subscription.feed:
            try:
                await self._read_on(subscription, subscription.place)
                return
            except Unavailable:
                await asyncio.sleep(1.0)
            except NotFound:
                self._drop(subscription)
                return
            except Exception as error:
                complain("reading what a slow connection missed", error)
                await asyncio.sleep(1.0)

    # What Redis brings

    def _bus_changed(self) -> None:
        """Connected: something may have been missed. Lost: from now on PostgreSQL is asked."""
        self._tops.soon()

    def _repair(self, feed: Feed) -> None:
        if not feed.repairing:
            feed.begin_repair()
            self._background.start("reading a gap", self._read_gap(feed))

    async def _read_gap(self, feed: Feed) -> None:
        """Read what is missing between the feed's top and the store's, then take what came meanwhile."""
        count = 0
        following: Page | None = None
        try:
            while True:
                try:
                    page = following or await self._reading.page(feed.channel, feed.position, FIRST_PAGE)
                except Unavailable:
                    await asyncio.sleep(0.5)
                    continue
                except NotFound:
                    return
                following = page.following
                count += len(page.events)
                feed.repaired(page.events, page.position, page.reset)
                if not page.more:
                    break
        finally:
            feed.repairing = False
        telemetry.emit("hub.gap", {"events": count})
        if not feed.receive_early():
            # Redis was ahead of what the store shows; it will not be for long.
            await asyncio.sleep(0.05)
            self._repair(feed)

    def _forget_idle(self) -> None:
        horizon = time.monotonic() - LINGER
        for channel, feed in list(self._feeds.items()):
            if feed.idle_since is not None and feed.idle_since < horizon and feed.idle and not feed.repairing:
                del self._feeds[channel], self._ears[self._topic(channel).encode()]
                self._bus.unsubscribe(self._topic(channel))


Events = Sequence[tuple[Position, bytes]]


def _pieces(events: Events, least: int) -> Iterator[tuple[Events, int]]:
    """What is written at a time, of at least so many bytes, and how many events that makes in all: in between it
    is seen whether the socket is full."""
    begin = size = 0
    for end, (_, event) in enumerate(events, 1):
        size += len(event)
        if size >= least or end == len(events):
            yield events[begin:end], end
            begin, size = end, 0


def _deliver(listener: Listener, channel: Channel, events: Events) -> None:
    deliveries = [wire.Delivery(channel, position, event) for position, event in events]
    if listener.writer is not None:
        listener.writer(b"".join([delivery.ws for delivery in deliveries]))
        return
    for delivery in deliveries:
        listener.deliver(delivery)
