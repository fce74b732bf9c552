"""One channel at this node: where it stands, who hears it, and the bytes that go out.

No I/O and no clock: messages in, deliveries out, and the word that something is missing.

A live subscription has had everything up to where the feed stands. One that is still reading what it missed is
`joining`: what comes meanwhile is kept in its buffer, and `join` puts the two together without a gap or a repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..domain import Channel, Place, Position
from ..tasks import complain, tolerated
from ..wire import Delivery, parse_bus, progress_frame, text_frame
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
    """The state of a channel at this node. It is live once it is known where the channel stands."""

    __slots__ = (
        "_at",
        "_behind",
        "_deliveries",
        "_early",
        "_joining",
        "_live",
        "_on_gap",
        "_others",
        "_plain",
        "_writers",
        "channel",
        "idle_since",
        "repairing",
    )

    def __init__(self, channel: Channel, on_gap: Callable[[Feed], None]) -> None:
        """`on_gap` is told when something is missing before what the bus brought: the store must be read."""
        self.channel = channel
        self._on_gap = on_gap
        self.repairing = False
        self.idle_since: float | None = None
        self._at = b""
        """Position of the last event accepted; empty until the first subscription has read the store. It is kept as
        the bus says it, which is all that most messages need."""
        self._plain = False
        """Whether an event is for live sockets only, as those of most channels are."""
        self._early: list[Delivery] = []
        self._deliveries: list[Delivery] = []
        """What whoever is no socket is to get, within a call: nothing waits from one to the next."""
        self._live: set[Subscription] = set()
        # Most feeds have one subscription, live: an empty set for the others would be most of their memory.
        self._joining: set[Subscription] | None = None
        self._behind: dict[Subscription, Position] | None = None
        self._writers: Sequence[Callable[[bytes], object]] | None = None
        self._others: Sequence[Subscription] = ()

    @property
    def live(self) -> bool:
        return bool(self._at)

    @property
    def position(self) -> Position:
        """Position of the last event accepted."""
        return Position.parse(self._at.decode()) if self._at else Position("", 0)

    @property
    def top(self) -> int | None:
        return self.position.offset if self._at else None

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

    def hear(self, messages: Iterable[bytes]) -> None:
        """What one read of the bus brought: to each socket it goes in one write."""
        frames: list[bytes] = []
        for message in messages:
            parts = message.split(b" ", 2)
            if self._plain and parts[0] == self._at and len(parts) == 3:
                # The usual case: nothing needs to be parsed.
                _, self._at, frame = parts
                frames.append(frame)
                continue
            try:
                self._hear_out(message, frames)
            except Exception as error:
                # What was accepted before it is still to be written, and what comes behind it to be heard.
                complain("taking a message from the bus", error)
        self._flush(frames)

    def _hear_out(self, message: bytes, frames: list[bytes]) -> None:
        heard = parse_bus(message)
        if isinstance(heard, bytes):
            self._flush(frames)
            frames.clear()
            self.progress(heard)
        elif heard is not None:
            if self._receive(Delivery.heard(self.channel, *heard), frames):
                self._plain = self._only_sockets()
            else:
                self._on_gap(self)

    def _only_sockets(self) -> bool:
        if not self._at or self.repairing or self._joining or not self._live:
            return False
        return bool(self._prepared()) and not self._others

    def _receive(self, delivery: Delivery, frames: list[bytes]) -> bool:
        """An event. False: something before it is missing, and the store must be read."""
        if not self._at or self.repairing:
            self._early.append(delivery)
            return True
        here, there = self.position, delivery.position
        if there.epoch == here.epoch:
            if there.offset <= here.offset:
                return True
            if there.offset == here.offset + 1:
                self._accept(delivery, frames)
                return True
        self._early.append(delivery)
        return False

    def go_live(self, position: Position) -> bool:
        """Where the channel stands, from the store; then what came early. False: something is missing."""
        self._stand(position)
        for subscription in self._joining or ():
            subscription.base = position.offset
        return self.receive_early()

    def _stand(self, position: Position) -> None:
        self._at = str(position).encode()
        self._plain = False

    def receive_early(self) -> bool:
        early, self._early = self._early, []
        frames: list[bytes] = []
        whole = all([self._receive(delivery, frames) for delivery in early])
        self._flush(frames)
        return whole

    def begin_repair(self) -> None:
        """The store is about to be read: what came before is in it, or belongs to an epoch that is over; or it is
        ahead of what the store shows as yet, and is kept."""
        self.repairing = True
        self._plain = False
        here = self.position
        self._early = [e for e in self._early if e.position.epoch == here.epoch and e.position.offset > here.offset]

    def repaired(self, events: Iterable[tuple[Position, bytes]], position: Position, reset: Position | None) -> None:
        """What the store has after `position` of before: it is the truth, whatever its offsets."""
        if reset is not None:
            self._stand(reset)
            # Being told may fill a socket, which then falls behind.
            for subscription in tuple(self._live):
                subscription.listener.reset(self.channel, reset)
            for subscription in self._joining or ():
                # Their own reading will find the reset by itself.
                subscription.overflowed = True
        frames: list[bytes] = []
        for at, event in events:
            self._accept(Delivery(self.channel, at, event), frames)
        self._stand(position)
        self._flush(frames)

    def _accept(self, delivery: Delivery, frames: list[bytes]) -> None:
        self._stand(delivery.position)
        for subscription in self._joining or ():
            if len(subscription.buffer) < BUFFERED:
                subscription.buffer.append(delivery)
            else:
                subscription.overflowed = True
        if self._prepared():
            frames.append(delivery.ws)
        if self._others:
            self._deliveries.append(delivery)

    # Deliveries out

    def _flush(self, frames: list[bytes]) -> None:
        """Give every live subscription what has been accepted: one join, one write each."""
        if frames:
            self._write(frames[0] if len(frames) == 1 else b"".join(frames), self._writers or self._prepared())
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            for subscription in self._others:
                try:
                    self._deliver(subscription, deliveries)
                except Exception as error:
                    self._fell_over(subscription, error)

    def _write(self, data: bytes, writers: Iterable[Callable[[bytes], object]]) -> None:
        """To one after another; one that raises harms itself only."""
        rest = iter(writers)
        while True:
            try:
                for write in rest:
                    write(data)
                return
            except Exception as error:
                for subscription in [each for each in self._live if each.listener.writer == write]:
                    self._fell_over(subscription, error)

    def _fell_over(self, subscription: Subscription, error: Exception) -> None:
        """It may lack what it could not take: its connection ends, and the client goes on from its cursor."""
        complain("delivering to a connection", error)
        with tolerated("ending a connection"):
            subscription.listener.drain()

    def _deliver(self, subscription: Subscription, deliveries: Iterable[Delivery]) -> None:
        """Deliver one after another, until its socket is full: the rest is read again when it has drained."""
        for delivery in deliveries:
            subscription.listener.deliver(delivery)
            if subscription not in self._live:
                if self._behind and subscription in self._behind:
                    self._behind[subscription] = delivery.position
                return

    def progress(self, item: bytes) -> None:
        writers = self._prepared()
        if writers:
            self._write(text_frame(progress_frame(item)), writers)
        for subscription in self._others:
            with tolerated("showing progress to a connection"):
                subscription.listener.progress(self.channel, item)

    def _prepared(self) -> Sequence[Callable[[bytes], object]]:
        """The live subscriptions' writers, prebuilt: a check per subscriber and event costs a sixth."""
        if self._writers is None:
            writers = [(subscription, subscription.listener.writer) for subscription in self._live]
            self._writers = tuple([writer for _, writer in writers if writer is not None])
            self._others = tuple([subscription for subscription, writer in writers if writer is None])
        return self._writers

    def _changed(self) -> None:
        """Who hears the channel is not as before."""
        self._writers = None
        self._plain = False

    def _join_up(self, subscription: Subscription) -> None:
        if self._joining is None:
            self._joining = set()
        self._joining.add(subscription)
        self._plain = False

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

    def join(self, subscription: Subscription, position: Position, *, full: bool = False) -> bool:
        """Go live from `position`, which its reading has reached; or fall behind there, if its socket is `full`.
        False: it must read on from there first."""
        if subscription not in self:
            return True
        if not self._at or position.epoch != self.position.epoch or position.offset > self.position.offset:
            return False
        if subscription.overflowed or position.offset < (subscription.base or 0):
            self.reread(subscription)
            return False
        rest = [delivery for delivery in subscription.buffer if delivery.position.offset > position.offset]
        subscription.buffer = []
        self._joined(subscription)
        if full:
            self._fall_behind(subscription, position)
            return True
        self._live.add(subscription)
        self._changed()
        self._deliver(subscription, rest)
        return True

    def reread(self, subscription: Subscription) -> None:
        subscription.buffer = []
        subscription.overflowed = False
        subscription.base = self.top

    def fall_behind(self, subscription: Subscription) -> None:
        """Its socket is full: write nothing more to it, and remember where it stands."""
        if subscription in self._live:
            self._live.discard(subscription)
            self._fall_behind(subscription, self.position)
            self._changed()

    def _fall_behind(self, subscription: Subscription, position: Position) -> None:
        if self._behind is None:
            self._behind = {}
        self._behind[subscription] = position

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
