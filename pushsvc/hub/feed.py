"""One channel at this node: where it stands, who hears it, and the bytes that go out.

No I/O and no clock: messages in, deliveries out, and the word that something is missing.

A live subscription has had everything up to `sent`. One that is still reading what it missed is `joining`:
what comes meanwhile is kept in its buffer, and `join` puts the two together without a gap or a repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..domain import Channel, Place, Position
from ..wire import Delivery, bus_head, event_frame, event_head, parse_bus, progress_frame, text_frame
from .listener import Listener

BUFFERED = 1000
"""Events kept for a joining subscription; beyond that it reads on from the store instead."""


class Subscription:
    """One listener on one channel."""

    __slots__ = ("base", "buffer", "feed", "listener", "overflowed", "place")

    def __init__(self, listener: Listener, feed: Feed) -> None:
        self.listener = listener
        self.feed = feed
        self.buffer: list[Delivery] = []
        self.overflowed = False
        self.base = feed.top
        """The buffer holds everything after this offset."""
        self.place: Place = "now"
        """How far its reading has come."""


class Feed:
    """The state of a channel at this node. It is live once `top` is known."""

    __slots__ = (
        "_behind",
        "_deliveries",
        "_early",
        "_expected",
        "_head",
        "_joining",
        "_live",
        "_on_pending",
        "_others",
        "_pending",
        "_writers",
        "channel",
        "epoch",
        "idle_since",
        "repairing",
        "sent",
        "top",
    )

    def __init__(self, channel: Channel, on_pending: Callable[[Feed], None]) -> None:
        self.channel = channel
        self.epoch = ""
        self.top: int | None = None
        """Offset of the last event accepted; None until the first subscription has read the store."""
        self.sent = 0
        """Offset of the last event written to the live subscriptions."""
        self.repairing = False
        self.idle_since: float | None = None
        self._on_pending = on_pending
        self._early: list[Delivery] = []
        self._pending: list[bytes] = []
        """Frames for the sockets."""
        self._deliveries: list[Delivery] = []
        """The same events for whoever is no socket."""
        self._live: set[Subscription] = set()
        # Most feeds have one subscription, live: an empty set for the others would be most of their memory.
        self._joining: set[Subscription] | None = None
        self._behind: dict[Subscription, Position] | None = None
        self._writers: list[Callable[[bytes], object]] | None = None
        self._others: Sequence[Listener] = ()
        self._head = b""
        """How every event frame of the channel begins."""
        self._expected = b""
        """How the next message begins, if only sockets have to hear of it; empty if there is more to consider."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top or 0)

    def __contains__(self, subscription: object) -> bool:
        """Whether it has not left."""
        return (
            subscription in self._live
            or subscription in (self._joining or ())
            or subscription in (self._behind or ())
        )

    @property
    def idle(self) -> bool:
        return not (self._live or self._joining or self._behind)

    # Messages in

    def hear(self, message: bytes) -> bool:
        """A message from the bus. False: something before it is missing, and the store must be read."""
        head = self._expected
        if not head or not message.startswith(head):
            return self._hear_out(message)
        # The usual case: nothing needs to be parsed.
        self.top = top = (self.top or 0) + 1
        self._expected = bus_head(self.epoch, top + 1)
        if not self._pending:
            self._on_pending(self)
        self._pending.append(event_frame(self._head, head[2:-1], message[len(head) :]))
        return True

    def _hear_out(self, message: bytes) -> bool:
        heard = parse_bus(message)
        if isinstance(heard, bytes):
            self.progress(heard)
        elif heard is not None:
            if not self.receive(*heard):
                return False
            if not self._expected and self._only_sockets:
                self._head = self._head or event_head(self.channel.name)
                self._expected = bus_head(self.epoch, (self.top or 0) + 1)
        return True

    @property
    def _only_sockets(self) -> bool:
        """Whether an event concerns nobody but live sockets."""
        if self.top is None or self.repairing or self._joining or not self._live:
            return False
        return bool(self._prepared()) and not self._others

    def receive(self, position: Position, event: bytes) -> bool:
        """An event. False: something before it is missing, and the store must be read."""
        delivery = Delivery(self.channel, position, event)
        if self.top is None or self.repairing:
            self._early.append(delivery)
            return True
        if position.epoch == self.epoch:
            if position.offset <= self.top:
                return True
            if position.offset == self.top + 1:
                self._accept(delivery)
                return True
        self._early.append(delivery)
        return False

    def go_live(self, position: Position) -> bool:
        """Where the channel stands, from the store; then what came early. False: something is missing."""
        self.epoch, self.top = position.epoch, position.offset
        self.sent = position.offset
        self._expected = b""
        for subscription in self._joining or ():
            subscription.base = position.offset
        return self.receive_early()

    def receive_early(self) -> bool:
        early, self._early = self._early, []
        return all([self.receive(delivery.position, delivery.event) for delivery in early])

    def begin_repair(self) -> None:
        """The store is about to be read: what came before is in it, or belongs to an epoch that is over; or it is
        ahead of what the store shows as yet, and is kept."""
        self.repairing = True
        self._expected = b""
        here = self.position
        self._early = [e for e in self._early if e.position.epoch == here.epoch and e.position.offset > here.offset]

    def repaired(self, events: Iterable[tuple[Position, bytes]], position: Position, reset: Position | None) -> None:
        """What the store has after `position` of before: it is the truth, whatever its offsets."""
        if reset is not None:
            self.flush()
            for subscription in self._live:
                subscription.listener.reset(self.channel, reset)
            for subscription in self._joining or ():
                # Their own reading will find the reset by itself.
                subscription.overflowed = True
            self.epoch, self.top, self.sent = reset.epoch, reset.offset, reset.offset
        for at, event in events:
            self._accept(Delivery(self.channel, at, event))
        self.top = position.offset

    def _accept(self, delivery: Delivery) -> None:
        self.top = delivery.position.offset
        self._expected = b""
        for subscription in self._joining or ():
            if len(subscription.buffer) < BUFFERED:
                subscription.buffer.append(delivery)
            else:
                subscription.overflowed = True
        if not self._live:
            self.sent = self.top
            return
        if not self._pending and not self._deliveries:
            self._on_pending(self)
        if self._prepared():
            self._pending.append(delivery.ws)
        if self._others:
            self._deliveries.append(delivery)

    # Deliveries out

    def flush(self) -> None:
        """Write what is pending to every live subscription: one join, one write each."""
        if self._pending or self._deliveries:
            self.sent = self.top or 0
        if self._pending:
            pending, self._pending = self._pending, []
            data = pending[0] if len(pending) == 1 else b"".join(pending)
            for write in self._prepared():
                write(data)
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            self._prepared()
            for listener in tuple(self._others):
                for delivery in deliveries:
                    listener.deliver(delivery)

    def progress(self, item: bytes) -> None:
        self.flush()
        writers = self._prepared()
        if writers:
            data = text_frame(progress_frame(item))
            for write in writers:
                write(data)
        for listener in tuple(self._others):
            listener.progress(self.channel, item)

    def _prepared(self) -> list[Callable[[bytes], object]]:
        """The live subscriptions' writers, prebuilt: a check per subscriber and event costs a sixth."""
        if self._writers is None:
            writers = [(subscription.listener, subscription.listener.writer) for subscription in self._live]
            self._writers = [writer for _, writer in writers if writer is not None]
            self._others = tuple(listener for listener, writer in writers if writer is None)
        return self._writers

    def _changed(self) -> None:
        """Who hears the channel is not as before."""
        self._writers = None
        self._expected = b""

    def _join_up(self, subscription: Subscription) -> None:
        if self._joining is None:
            self._joining = set()
        self._joining.add(subscription)
        self._expected = b""

    def _joined(self, subscription: Subscription) -> None:
        if self._joining is not None:
            self._joining.discard(subscription)
            self._joining = self._joining or None

    # Subscriptions

    def enter(self, listener: Listener) -> Subscription:
        """A new subscription, joining: it reads what it missed, then calls `join`."""
        subscription = Subscription(listener, self)
        self._join_up(subscription)
        self.idle_since = None
        return subscription

    def join(self, subscription: Subscription, position: Position) -> bool:
        """Go live from `position`, which its reading has reached. False: it must read on from there first."""
        if subscription not in self:
            return True
        if self.top is None or position.epoch != self.epoch or position.offset > self.top:
            return False
        if subscription.overflowed or position.offset < (subscription.base or 0):
            self.reread(subscription)
            return False
        self.flush()
        for delivery in subscription.buffer:
            if delivery.position.offset > position.offset:
                subscription.listener.deliver(delivery)
        subscription.buffer = []
        self._joined(subscription)
        self._live.add(subscription)
        self._changed()
        return True

    def reread(self, subscription: Subscription) -> None:
        subscription.buffer = []
        subscription.overflowed = False
        subscription.base = self.top

    def fall_behind(self, subscription: Subscription) -> None:
        """Its socket is full: write nothing more to it, and remember where it stands."""
        if subscription in self._live:
            self._live.discard(subscription)
            if self._behind is None:
                self._behind = {}
            self._behind[subscription] = Position(self.epoch, self.sent)
            self._changed()

    def catch_up(self, subscription: Subscription) -> Position | None:
        """It has drained: it is joining again, from the answer. None if it was not behind."""
        position = self._behind.pop(subscription, None) if self._behind else None
        if position is not None:
            self.reread(subscription)
            self._join_up(subscription)
        return position

    def leave(self, subscription: Subscription) -> None:
        self._joined(subscription)
        if self._behind:
            self._behind.pop(subscription, None)
        if subscription in self._live:
            self._live.discard(subscription)
            self._changed()
