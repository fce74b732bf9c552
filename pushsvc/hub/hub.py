"""The hub: which connection hears which channel at this node, and the recovery that every transport shares.

Attaching without a race: subscribe on Redis and wait for its word, keeping what comes; read the store from
the reader's position; put both together. The same reading serves a new connection, a resumed one, a gap
in what Redis brought, and a socket that was too slow. While Redis is away, PostgreSQL is asked instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from .. import telemetry, wire
from ..bus import Subscriber, channel_of, topic
from ..domain import Channel, Place, Position
from ..errors import NotFound, Unavailable
from ..store import EventStore
from ..tasks import stop
from .feed import Feed, Subscription
from .listener import Listener

logger = logging.getLogger(__name__)

LINGER = 30.0
"""Seconds that a channel stays subscribed on Redis without listeners, as between two long-polls."""

BUS_AWAY_CHECK = 0.5
"""Seconds between two looks at PostgreSQL while Redis brings nothing."""


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
        bus_url: str,
        *,
        top_check: float = 20.0,
        last_progress: Callable[[str], Awaitable[bytes | None]] | None = None,
    ) -> None:
        self._events = events
        self._bus = Subscriber(bus_url, self._message, self._bus_changed, self._bus_changed)
        self._top_check = top_check
        self._last_progress = last_progress
        self._feeds: dict[Channel, Feed] = {}
        self._subscriptions: dict[Listener, dict[Channel, Subscription]] = {}
        self._paused: set[Listener] = set()
        self._dirty: list[Feed] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._check_now = asyncio.Event()

    def start(self) -> None:
        self._bus.start()
        self._spawn(self._check_tops())

    async def stop(self) -> None:
        await stop(*self._tasks)
        await self._bus.stop()

    def drain(self) -> None:
        """Send every listener elsewhere: this node is going away."""
        for listener in list(self._subscriptions):
            listener.drain()

    def channels(self, listener: Listener) -> list[Channel]:
        return list(self._subscriptions.get(listener, ()))

    async def locate(self, channel: Channel, place: Place) -> tuple[Position, bool]:
        """Where a reader at `place` will go on from, and whether it has missed nothing that is gone by now.

        Raises NotFound if the channel is that of a job which does not exist.
        """
        found = await self._events.resolve(channel, place)
        if found is None:
            raise NotFound
        return found, not isinstance(place, Position) or found == place

    # Attaching and leaving

    async def attach(self, listener: Listener, channel: Channel, place: Place) -> Attached:
        """Deliver what lies after `place`, then everything that comes. Attaching again changes nothing.

        Raises NotFound if the channel is that of a job which does not exist, Unavailable without PostgreSQL.
        """
        held = self._subscriptions.setdefault(listener, {})
        if channel in held:
            return Attached(held[channel].feed.position, True, True, False)
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(channel, self._pending)
        subscription = held[channel] = feed.enter(listener)
        try:
            await self._bus.subscribe(topic(channel))
            return await self._read_on(subscription, place)
        except BaseException:
            self._drop(subscription)
            raise

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

    async def _read_on(self, subscription: Subscription, place: Place) -> Attached:
        """Deliver from the store until the subscription can join what is live."""
        feed, listener = subscription.feed, subscription.listener
        recovered, closed = True, False
        while True:
            if not await listener.ready() or subscription not in feed:
                # A position that is gone by now stays as it is, so that the next reading finds the reset.
                position = place if isinstance(place, Position) else await self._events.resolve(feed.channel, place)
                if position is None:
                    raise NotFound
                self._drop(subscription)
                return Attached(position, recovered, False, False)
            page = await self._events.read(feed.channel, place, listener.page)
            if page is None:
                raise NotFound
            if subscription not in feed:
                continue
            if page.reset is not None:
                recovered = False
                listener.reset(feed.channel, page.reset)
            for position, event in page.events:
                listener.deliver(wire.Delivery(feed.channel, position, event))
            place = subscription.place = page.position
            closed = page.closed
            if not page.more and self._join(subscription, page.position):
                break
        await self._snapshot(subscription)
        return Attached(place, recovered, True, closed)

    def _join(self, subscription: Subscription, position: Position) -> bool:
        feed = subscription.feed
        if feed.top is None and not feed.go_live(position):
            self._repair(feed)
        if feed.position.epoch != position.epoch or position.offset > (feed.top or 0):
            # The reader is ahead of what Redis has brought here: let everybody catch up.
            self._repair(feed)
        if not feed.join(subscription, position):
            return False
        if subscription.listener in self._paused:
            # What it had missed filled its socket already.
            feed.fall_behind(subscription)
        return True

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
                self._spawn(self._catch_up(subscription))

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

    # What Redis brings

    def _message(self, name: str, payload: bytes) -> None:
        feed = self._feeds.get(channel_of(name))
        if feed is None:
            return
        message = wire.parse_bus(payload)
        if isinstance(message, bytes):
            feed.progress(message)
        elif message is not None and not feed.receive(*message):
            self._repair(feed)

    def _pending(self, feed: Feed) -> None:
        """Called at a feed's first pending event: all that arrives in this turn of the loop goes out at once."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(feed)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for feed in dirty:
            feed.flush()

    def _repair(self, feed: Feed) -> None:
        if not feed.repairing:
            feed.begin_repair()
            self._spawn(self._read_gap(feed))

    async def _read_gap(self, feed: Feed) -> None:
        """Read what is missing between the feed's top and the store's, then take what came meanwhile."""
        count = 0
        try:
            while True:
                try:
                    page = await self._events.read(feed.channel, feed.position, 500)
                except Unavailable:
                    await asyncio.sleep(0.5)
                    continue
                if page is None:
                    return
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

    # Looking for what Redis did not bring

    def _bus_changed(self) -> None:
        """Connected: something may have been missed. Lost: from now on PostgreSQL is asked."""
        self._check_now.set()

    async def _check_tops(self) -> None:
        while True:
            pause = self._top_check * random.uniform(0.8, 1.2) if self._bus.connected else BUS_AWAY_CHECK
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._check_now.wait(), pause)
            self._check_now.clear()
            self._forget_idle()
            try:
                await self._compare_tops()
            except Unavailable:
                self._check_now.set()
                await asyncio.sleep(BUS_AWAY_CHECK)
            except Exception:
                logger.exception("tops not compared; they will be again")

    async def _compare_tops(self) -> None:
        live = [feed for feed in self._feeds.values() if feed.top is not None and not feed.idle]
        if not live:
            return
        states = await self._events.states([feed.channel for feed in live])
        for feed in live:
            state = states.get(feed.channel)
            if state is not None and (state.epoch != feed.epoch or state.top > (feed.top or 0)):
                self._repair(feed)

    def _forget_idle(self) -> None:
        horizon = time.monotonic() - LINGER
        for channel, feed in list(self._feeds.items()):
            if feed.idle_since is not None and feed.idle_since < horizon and feed.idle and not feed.repairing:
                del self._feeds[channel]
                self._bus.unsubscribe(topic(channel))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the hub failed at a background task", exc_info=error)
