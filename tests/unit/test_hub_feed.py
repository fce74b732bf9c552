"""The feed as the pure machine it is: whatever Redis does to the messages, every listener hears everything once.

The state machine below is the hub with its awaits laid open: each reading of the store is two steps, looking
and applying, and between them anything may happen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pushsvc import wire
from pushsvc.domain import Channel, Place, Position, Progress
from pushsvc.hub.feed import BUFFERED, Feed, Subscription
from pushsvc.store.events import Page
from pushsvc.wire import Delivery

CHANNEL = Channel("default", "user:me")


def body(epoch: str, offset: int) -> bytes:
    return b'{"n":"%s.%d"}' % (epoch.encode(), offset)


class Store:
    """A channel in the store: what is committed, what is gone, in which epoch."""

    def __init__(self) -> None:
        self.epoch, self.floor, self.top = "k1", 0, 0

    def resolve(self, place: Place) -> tuple[Position, Position | None]:
        end, start = Position(self.epoch, self.top), Position(self.epoch, self.floor)
        if place == "now":
            return end, None
        if place == "start":
            return start, None
        assert isinstance(place, Position)
        if place.epoch != self.epoch or place.offset > self.top:
            return end, end
        return (start, start) if place.offset < self.floor else (place, None)

    def read(self, place: Place, limit: int) -> Page:
        after, reset = self.resolve(place)
        last = min(self.top, after.offset + limit)
        events = tuple((Position(self.epoch, n), body(self.epoch, n)) for n in range(after.offset + 1, last + 1))
        return Page(events, Position(self.epoch, last), reset, more=len(events) == limit)


@dataclass(eq=False)
class Ear:
    """A listener that checks what it hears: each event once, in order, or an explicit reset."""

    direct: bool
    at: Position | None = None
    """Where it stands; None until its first position is known."""
    resets: int = 0
    progressed: list[bytes] = field(default_factory=list)
    page: int = 3

    @property
    def writer(self) -> Callable[[bytes], object] | None:
        return self._write if self.direct else None

    def _write(self, data: bytes) -> None:
        while data:
            assert data[0] == 0x81
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            frame = wire.load(data[start : start + size])
            data = data[start + size :]
            if frame["op"] == "event":
                self._hear(Position.parse(frame["position"]), wire.dump(frame["event"]))

    def deliver(self, delivery: Delivery) -> None:
        self._hear(delivery.position, delivery.event)

    def _hear(self, position: Position, event: bytes) -> None:
        assert self.at is not None
        assert position == Position(self.at.epoch, self.at.offset + 1), f"at {self.at}, then {position}"
        assert event == body(position.epoch, position.offset)
        self.at = position

    def progress(self, channel: Channel, item: bytes) -> None:
        self.progressed.append(item)

    def reset(self, channel: Channel, position: Position) -> None:
        self.resets += 1
        self.at = position

    async def ready(self) -> bool:
        return True

    def drain(self) -> None: ...


@dataclass(eq=False)
class Recorder(Ear):
    """One that remembers each write."""

    writes: list[bytes] = field(default_factory=list)

    def _write(self, data: bytes) -> None:
        self.writes.append(data)
        super()._write(data)


@dataclass(eq=False)
class Reading:
    """`Hub._read_on` between two awaits."""

    subscription: Subscription
    ear: Ear
    place: Place
    page: Page | None = None


class FeedMachine(RuleBasedStateMachine):
    """A channel, its store, a bus that loses, repeats and reorders, and listeners that come, lag and go."""

    messages = Bundle("messages")

    @initialize()
    def begin(self) -> None:
        self.store = Store()
        self.feed = Feed(CHANNEL, self._need_repair)
        self.ears: dict[Ear, Subscription] = {}
        self.readings: dict[Ear, Reading] = {}
        self.repair: Page | None = None

    # The store and the bus

    @rule(target=messages)
    def commit(self) -> tuple[Position, bytes]:
        self.store.top += 1
        return Position(self.store.epoch, self.store.top), body(self.store.epoch, self.store.top)

    @rule(message=consumes(messages))
    def deliver(self, message: tuple[Position, bytes]) -> None:
        """In any order, as late as you like."""
        self._hear(message)

    @rule(some=st.lists(consumes(messages), max_size=5))
    def deliver_together(self, some: list[tuple[Position, bytes]]) -> None:
        self._hear(*some)

    @rule(message=messages)
    def deliver_twice(self, message: tuple[Position, bytes]) -> None:
        self._hear(message, message)

    @rule(message=consumes(messages))
    def lose(self, message: tuple[Position, bytes]) -> None:
        """Redis brings it to nobody."""

    @rule(upto=st.integers(0, 3))
    def purge(self, upto: int) -> None:
        self.store.floor = max(self.store.floor, self.store.top - upto)

    @rule(top=st.integers(0, 3))
    def new_epoch(self, top: int) -> None:
        self.store.epoch = f"k{int(self.store.epoch[1:]) + 1}"
        self.store.floor, self.store.top = 0, top

    def _hear(self, *messages: tuple[Position, bytes]) -> None:
        self.feed.hear([wire.bus_event(CHANNEL, *message) for message in messages])

    # The hub's reading

    @rule(
        direct=st.booleans(),
        back=st.integers(0, 6),
        how=st.sampled_from(["now", "start", "place", "old epoch", "ahead"]),
    )
    def enter(self, direct: bool, back: int, how: str) -> None:
        ear = Ear(direct)
        place: Place
        if how == "now" or how == "start":
            place = how  # type: ignore[assignment]
        elif how == "place":
            place = Position(self.store.epoch, max(0, self.store.top - back))
        else:
            place = Position("k0" if how == "old epoch" else self.store.epoch, self.store.top + back)
        self.ears[ear] = self.feed.enter(ear)
        self.readings[ear] = Reading(self.ears[ear], ear, place)
        if isinstance(place, Position):
            ear.at = place

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        reading = self._some([r for r in self.readings.values() if r.page is None], data)
        if reading is not None:
            reading.page = self.store.read(reading.place, reading.ear.page)
            if reading.ear.at is None:
                reading.ear.at = self.store.resolve(reading.place)[0]

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        reading = self._some([r for r in self.readings.values() if r.page is not None], data)
        if reading is not None:
            self._apply(reading)

    def _apply(self, reading: Reading) -> None:
        page, reading.page = reading.page, None
        assert page is not None
        if page.reset is not None:
            reading.ear.reset(CHANNEL, page.reset)
        for position, event in page.events:
            reading.ear.deliver(Delivery(CHANNEL, position, event))
        reading.place = page.position
        if not page.more and self._join(reading.subscription, page.position):
            del self.readings[reading.ear]

    def _join(self, subscription: Subscription, position: Position) -> bool:
        feed = self.feed
        if not feed.live and not feed.go_live(position):
            self._need_repair(self.feed)
        if feed.position.epoch != position.epoch or position.offset > feed.position.offset:
            self._need_repair(self.feed)
        return feed.join(subscription, position)

    def _need_repair(self, feed: Feed) -> None:
        if not feed.repairing:
            feed.begin_repair()

    @rule()
    def repair_look(self) -> None:
        if self.feed.repairing and self.repair is None:
            self.repair = self.store.read(self.feed.position, 4)

    @rule()
    def repair_apply(self) -> None:
        page, self.repair = self.repair, None
        if page is None:
            return
        self.feed.repaired(page.events, page.position, page.reset)
        if not page.more:
            self.feed.repairing = False
            if not self.feed.receive_early():
                self._need_repair(self.feed)

    @rule()
    def compare_tops(self) -> None:
        feed = self.feed
        behind = self.store.epoch != feed.position.epoch or self.store.top > feed.position.offset
        if feed.live and not feed.idle and behind:
            self._need_repair(self.feed)

    # Slow sockets, and those that go

    @rule(data=st.data())
    def fall_behind(self, data: st.DataObject) -> None:
        ear = self._some([ear for ear in self.ears if ear not in self.readings], data)
        if ear is not None:
            self.feed.fall_behind(self.ears[ear])

    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        ear = self._some(list(self.ears), data)
        if ear is not None:
            self._catch_up(ear)

    def _catch_up(self, ear: Ear) -> None:
        place = self.feed.catch_up(self.ears[ear])
        if place is not None:
            assert place == ear.at, "it reads on from where it stopped hearing"
            self.readings[ear] = Reading(self.ears[ear], ear, place)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ear = self._some(list(self.ears), data)
        if ear is not None:
            self.feed.leave(self.ears.pop(ear))
            self.readings.pop(ear, None)

    @rule()
    def progress(self) -> None:
        self.feed.progress(b'{"job":"j"}')

    def _some(self, choices: list[Any], data: st.DataObject) -> Any:
        return data.draw(st.sampled_from(choices)) if choices else None

    # What must hold

    @invariant()
    def nothing_waits_to_be_written(self) -> None:
        assert not self.feed._deliveries

    @invariant()
    def events_are_taken_unparsed_only_where_live_sockets_are_all_there_is(self) -> None:
        feed = self.feed
        if feed._plain:
            assert feed.live
            assert not feed.repairing
            assert feed._joining is None
            assert not feed._others

    @invariant()
    def who_is_live_has_had_everything_up_to_where_the_feed_stands(self) -> None:
        for ear, subscription in self.ears.items():
            if subscription in self.feed._live:
                assert ear.at == self.feed.position

    def teardown(self) -> None:
        """When the storm is over, everybody has everything, and the feed rests."""
        for ear in self.ears:
            self._catch_up(ear)
        for _ in range(60):
            self.compare_tops()
            self.repair_look()
            self.repair_apply()
            for reading in list(self.readings.values()):
                reading.page = reading.page or self.store.read(reading.place, reading.ear.page)
                if reading.ear.at is None:
                    reading.ear.at = self.store.resolve(reading.place)[0]
                self._apply(reading)
        assert not self.readings, "somebody never went live"
        assert not self.feed.repairing, "repairing never ends"
        for ear in self.ears:
            assert ear.at == Position(self.store.epoch, self.store.top)


STORMS = settings(
    max_examples=250, stateful_step_count=60, deadline=None, database=None, derandomize=True, print_blob=False
)


def test_through_any_interleaving_each_listener_gets_every_event_after_its_place_once_or_a_reset() -> None:
    run_state_machine_as_test(FeedMachine, settings=STORMS)


# A few of its turns by themselves


gaps: list[Feed] = []
"""The feeds that missed something."""


def live_feed(*ears: Ear, top: int = 0) -> tuple[Feed, list[Subscription]]:
    feed = Feed(CHANNEL, gaps.append)
    subscriptions = [feed.enter(ear) for ear in ears]
    for ear, subscription in zip(ears, subscriptions, strict=True):
        ear.at = Position("k1", top)
        if not feed.live:
            feed.go_live(ear.at)
        assert feed.join(subscription, ear.at)
    return feed, subscriptions


def message(offset: int, epoch: str = "k1") -> bytes:
    return wire.bus_event(CHANNEL, Position(epoch, offset), body(epoch, offset))


def frames(*offsets: int) -> bytes:
    return b"".join(wire.text_frame(Delivery(CHANNEL, Position("k1", n), body("k1", n)).frame) for n in offsets)


def arrive(feed: Feed, *offsets: int, epoch: str = "k1") -> bool:
    """All in one read. False: something is missing before them."""
    gaps.clear()
    feed.hear([message(n, epoch) for n in offsets])
    return not gaps


def test_everything_that_one_read_brought_goes_out_in_one_write() -> None:
    ear, other = Recorder(True), Ear(False)
    feed, _ = live_feed(ear, other)
    assert arrive(feed, 1, 2, 3)
    assert ear.at == other.at == Position("k1", 3)
    assert arrive(feed, 4, 5)
    assert ear.writes == [frames(1, 2, 3), frames(4, 5)]


def test_what_nobody_has_to_parse_is_the_same_frame() -> None:
    """The first message of a feed is read to the end; of the next ones it is seen only what they follow."""
    ear = Recorder(True)
    feed, _ = live_feed(ear, top=7)
    for n in range(8, 12):
        arrive(feed, n)
    assert ear.writes == [frames(n) for n in range(8, 12)]


def test_once_all_is_as_usual_somebody_who_reads_what_was_missed_still_hears_what_comes() -> None:
    live, joining, polling = Ear(True), Ear(True), Ear(False)
    feed, _ = live_feed(live)
    arrive(feed, 1, 2)
    for ear in (joining, polling):
        ear.at = Position("k1", 1)
    subscriptions = [feed.enter(joining), feed.enter(polling)]
    arrive(feed, 3)
    for subscription in subscriptions:
        assert not feed.join(subscription, Position("k1", 1)), "it has not read the second yet"
        subscription.listener.deliver(Delivery(CHANNEL, Position("k1", 2), body("k1", 2)))
    for ear in (joining, polling):
        assert ear.at == Position("k1", 2)
    joining.deliver(Delivery(CHANNEL, Position("k1", 3), body("k1", 3)))
    polling.deliver(Delivery(CHANNEL, Position("k1", 3), body("k1", 3)))
    assert all(feed.join(subscription, Position("k1", 3)) for subscription in subscriptions)
    arrive(feed, 4, 5)
    assert live.at == joining.at == polling.at == Position("k1", 5)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"k1.1", b"k1.1 k1.2", b"x k1.1 k1.2 {}", b"x", b"p", b"q {}"],
)
def test_a_message_of_another_version_or_of_no_kind_changes_nothing(garbage: bytes) -> None:
    ear = Ear(True)
    feed, _ = live_feed(ear)
    arrive(feed, 1)
    feed.hear([garbage, message(2)])
    assert ear.at == Position("k1", 2)


def test_a_gap_is_reported_and_what_came_early_is_kept() -> None:
    ear = Ear(False)
    feed, _ = live_feed(ear)
    assert not arrive(feed, 1, 3)
    feed.begin_repair()
    assert arrive(feed, 4, 5), "kept until the store has been read"
    feed.repaired([(Position("k1", n), body("k1", n)) for n in (2, 3)], Position("k1", 3), None)
    feed.repairing = False
    assert feed.receive_early()
    assert ear.at == Position("k1", 5)


def test_a_message_of_a_former_epoch_is_dropped_and_is_no_reason_to_read_the_store_for_ever() -> None:
    ear = Ear(False)
    feed, _ = live_feed(ear, top=5)
    needs_repair = not arrive(feed, 9, epoch="k0")
    for _ in range(5):
        if needs_repair:
            feed.begin_repair()
            feed.repaired([], Position("k1", 5), None)
            feed.repairing = False
            needs_repair = not feed.receive_early()
    assert not needs_repair
    assert ear.at == Position("k1", 5)


def test_a_listener_that_joins_after_others_left_hears_nothing_twice() -> None:
    """What comes while nobody listens moves where the channel stands all the same."""
    first, second = Ear(False), Ear(False)
    feed, [subscription] = live_feed(first)
    arrive(feed, 1)
    feed.leave(subscription)
    arrive(feed, 2)
    late = feed.enter(second)
    second.at = Position("k1", 2)
    assert feed.join(late, Position("k1", 2))
    feed.fall_behind(late)
    assert feed.catch_up(late) == Position("k1", 2)


def test_a_joining_listener_that_misses_more_than_is_kept_reads_on_from_the_store() -> None:
    live, joining = Ear(False), Ear(False)
    feed, _ = live_feed(live)
    joining.at = Position("k1", 0)
    subscription = feed.enter(joining)
    arrive(feed, *range(1, BUFFERED + 3))
    assert not feed.join(subscription, Position("k1", 0))
    for n in range(1, BUFFERED + 3):
        joining.deliver(Delivery(CHANNEL, Position("k1", n), body("k1", n)))
    assert feed.join(subscription, Position("k1", BUFFERED + 2))
    arrive(feed, BUFFERED + 3)
    assert joining.at == live.at == Position("k1", BUFFERED + 3)


def test_whoever_falls_behind_while_its_own_write_fills_the_socket_hears_nothing_twice() -> None:
    """`pause_writing` is called from inside the write."""
    ear = Ear(False)
    feed, [subscription] = live_feed(ear)
    heard = ear.deliver

    def deliver(delivery: Delivery) -> None:
        heard(delivery)
        feed.fall_behind(subscription)

    ear.deliver = deliver  # type: ignore[method-assign]
    arrive(feed, 1, 2)
    assert ear.at == Position("k1", 1), "one that is full gets no more"
    arrive(feed, 3)
    assert feed.catch_up(subscription) == ear.at


def test_whoever_joins_with_a_full_socket_gets_nothing_of_what_came_meanwhile() -> None:
    joining = Ear(False)
    feed, _ = live_feed(Ear(False))
    joining.at = Position("k1", 0)
    subscription = feed.enter(joining)
    arrive(feed, 1, 2, 3)
    assert feed.join(subscription, Position("k1", 0), full=True)
    assert joining.at == Position("k1", 0)
    assert feed.catch_up(subscription) == joining.at


def test_whoever_falls_behind_while_it_joins_gets_no_more_of_what_came_meanwhile() -> None:
    live, joining = Ear(False), Ear(False)
    feed, _ = live_feed(live)
    joining.at = Position("k1", 0)
    subscription = feed.enter(joining)
    arrive(feed, 1, 2, 3)
    heard = joining.deliver

    def deliver(delivery: Delivery) -> None:
        heard(delivery)
        if delivery.position.offset == 2:
            feed.fall_behind(subscription)

    joining.deliver = deliver  # type: ignore[method-assign]
    assert feed.join(subscription, Position("k1", 0))
    assert feed.catch_up(subscription) == joining.at == Position("k1", 2)
    assert live.at == Position("k1", 3)


def test_whoever_falls_behind_while_it_is_told_of_a_reset_goes_on_from_the_reset() -> None:
    ears = [Ear(True), Ear(True)]
    feed, subscriptions = live_feed(*ears)
    told = ears[0].reset

    def reset(channel: Channel, position: Position) -> None:
        told(channel, position)
        feed.fall_behind(subscriptions[0])

    ears[0].reset = reset  # type: ignore[method-assign]
    feed.begin_repair()
    feed.repaired([(Position("k2", 5), body("k2", 5))], Position("k2", 5), Position("k2", 4))
    assert feed.catch_up(subscriptions[0]) == ears[0].at == Position("k2", 4)
    assert ears[1].at == Position("k2", 5)
    assert [ear.resets for ear in ears] == [1, 1]


def test_leaving_twice_or_never_having_joined_does_no_harm() -> None:
    ear = Ear(True)
    feed, [subscription] = live_feed(ear)
    assert not feed.idle
    feed.leave(subscription)
    feed.leave(subscription)
    feed.leave(feed.enter(Ear(True)))
    assert feed.join(subscription, Position("k1", 0)), "one that has left has nothing more to read"
    assert feed.idle


def test_progress_comes_after_the_events_before_it_and_only_to_the_live() -> None:
    live, joining = Ear(False), Ear(False)
    feed, _ = live_feed(live)
    feed.enter(joining)
    feed.hear([message(1), wire.bus_progress(Progress("j", 0.5))])
    assert live.at == Position("k1", 1)
    assert live.progressed == [wire.dump(wire.progress_item(Progress("j", 0.5)))]
    assert joining.progressed == []
