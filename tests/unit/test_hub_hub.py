"""The hub with a real store and a real bus: attaching without a race, and finding what Redis did not bring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial

import pytest
import pytest_asyncio

from pushsvc import wire
from pushsvc.bus import Publisher
from pushsvc.domain import Channel, Job, Place, Position, Progress, new_job_id
from pushsvc.errors import NotFound
from pushsvc.hub import Hub, tops
from pushsvc.hub import hub as hub_module
from pushsvc.settings import Settings
from pushsvc.store import ChannelState, EventStore, Requeue
from pushsvc.store.events import Page
from pushsvc.wire import Delivery

from ..contract.kit import Kit, me, opened, running, soon, submission, succeeded, until


class Ear:
    """A listener that remembers what it heard."""

    def __init__(self, *, page: int = 100, direct: bool = False) -> None:
        self.page = page
        self.heard: list[tuple[str, Position, bytes]] = []
        self.resets: list[tuple[str, Position]] = []
        self.items: list[bytes] = []
        self.drains = 0
        self.open = asyncio.Event()
        self.open.set()
        self.wants_more = True
        self._direct = direct

    @property
    def writer(self) -> Callable[[bytes], object] | None:
        return self._write if self._direct else None

    def _write(self, data: bytes) -> None:
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            frame, data = data[start : start + size], data[start + size :]
            parsed = wire.load(frame)
            if parsed["op"] == "progress":
                self.items.append(frame)
            else:
                event = frame.partition(b',"event":')[2][:-1]
                self.heard.append((parsed["channel"], Position.parse(parsed["position"]), event))

    def deliver(self, delivery: Delivery) -> None:
        self.heard.append((delivery.channel.name, delivery.position, delivery.event))

    def progress(self, channel: Channel, item: bytes) -> None:
        self.items.append(item)

    def reset(self, channel: Channel, position: Position) -> None:
        self.resets.append((channel.name, position))

    async def ready(self) -> bool:
        await self.open.wait()
        return self.wants_more

    def drain(self) -> None:
        self.drains += 1

    def offsets(self, channel: str = "user:me") -> list[int]:
        return [position.offset for name, position, _ in self.heard if name == channel]


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest_asyncio.fixture
async def hub(kit: Kit) -> AsyncIterator[Hub]:
    async with running(kit.hub()) as made:
        yield made


async def start_of(kit: Kit, name: str = "user:me") -> Position:
    state = (await kit.events.states([me(name)]))[me(name)]
    return Position(state.epoch, 0)


async def kill_subscribers(kit: Kit) -> None:
    await kit.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]


# Attaching


@pytest.mark.parametrize("direct", [False, True])
async def test_events_committed_while_attaching_come_once_and_in_order(kit: Kit, hub: Hub, direct: bool) -> None:
    """Listeners attach from the start, again and again, while results come in without a pause."""
    start = await start_of(kit)
    done = asyncio.Event()

    async def write() -> None:
        await kit.finish_many(range(60))
        done.set()

    work = asyncio.create_task(write())
    ears: list[Ear] = []
    while not done.is_set():
        ear = Ear(page=7, direct=direct)
        ears.append(ear)
        await hub.attach(ear, me(), start)
        if len(ears) > 20:
            hub.leave(ears.pop(0))
    await work
    assert len(ears) > 5
    await until(lambda: all(len(ear.heard) == 60 for ear in ears))
    for ear in ears:
        assert ear.offsets() == list(range(1, 61))
        assert ear.heard == ears[0].heard, "the same bytes for everybody"
        assert ear.resets == []


@pytest.mark.parametrize("before", [True, False], ids=["before the look", "after the look"])
@pytest.mark.parametrize("missed", [0, 1])
async def test_a_result_that_is_committed_and_published_during_the_reading_comes_once(
    kit: Kit, before: bool, missed: int
) -> None:
    """Whether the reader has something to read, or only looks where the channel stands."""
    armed = ""

    async def in_between(look: str) -> bool:
        nonlocal armed
        if armed != look:
            return False
        armed = ""
        await kit.finish("in between")
        return before

    class Slow(EventStore):
        async def states(self, channels: Sequence[Channel]) -> Mapping[Channel, ChannelState]:
            states = await super().states(channels)
            return await super().states(channels) if await in_between("states") else states

        async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
            page = await super().read(channel, place, limit)
            return await super().read(channel, place, limit) if await in_between("read") else page

    async with running(Hub(Slow(kit.postgres), kit.settings.bus, kit.scope, top_check=3600)) as hub:
        for _ in range(10):
            ear = Ear()
            start = (await kit.events.states([me()]))[me()].end
            await kit.finish_many(range(missed))
            armed = "read" if missed else "states"
            await hub.attach(ear, me(), start)
            assert armed == ""
            await kit.finish("after")
            await until(partial(heard_at_least, ear, missed + 2))
            assert ear.offsets() == [start.offset + n + 1 for n in range(missed + 2)]
            hub.leave(ear)


def heard_at_least(ear: Ear, count: int) -> bool:
    return len(ear.heard) >= count


async def test_two_listeners_with_different_places_each_get_what_they_lack(kit: Kit, hub: Hub) -> None:
    await kit.finish_many(range(5), publish=False)
    start = await start_of(kit)
    ears = {offset: Ear(page=2) for offset in (0, 3, 5)}
    await asyncio.gather(*(hub.attach(ear, me(), Position(start.epoch, n)) for n, ear in ears.items()))
    await kit.finish()
    await until(lambda: all(6 in ear.offsets() for ear in ears.values()))
    for offset, ear in ears.items():
        assert ear.offsets() == list(range(offset + 1, 7))


async def test_attaching_says_where_the_listener_stands(kit: Kit, hub: Hub) -> None:
    await kit.finish_many(range(3), publish=False)
    start = await start_of(kit)
    now, old, foreign = Ear(), Ear(), Ear()
    attached = await hub.attach(now, me(), "now")
    assert (attached.position.offset, attached.recovered, attached.live, attached.closed) == (3, True, True, False)
    attached = await hub.attach(old, me(), start)
    assert (attached.position.offset, attached.recovered) == (3, True)
    attached = await hub.attach(foreign, me(), Position("k0", 1))
    assert (attached.position, attached.recovered) == (Position(start.epoch, 3), False)
    assert foreign.resets == [("user:me", Position(start.epoch, 3))]
    assert foreign.heard == now.heard == []


async def test_attaching_twice_changes_nothing(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    await hub.attach(ear, me(), "now")
    attached = await hub.attach(ear, me(), "start")
    await kit.finish()
    await until(lambda: ear.heard)
    assert attached.live
    assert ear.offsets() == [1]
    assert hub.channels(ear) == [me()]


async def test_the_channel_of_an_unknown_job_is_not_found_and_leaves_nothing_behind(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    places: Sequence[Place] = ("now", "start", Position("1", 3))
    for place in places:
        with pytest.raises(NotFound):
            await hub.attach(ear, me(f"job:{new_job_id()}"), place)
    assert hub.channels(ear) == []
    assert hub._subscriptions == {}


async def test_a_listener_that_wants_no_more_keeps_its_place(kit: Kit, hub: Hub) -> None:
    """A long-poll whose answer is full must be able to go on from where it was."""
    await kit.finish_many(range(3), publish=False)
    start = await start_of(kit)
    ear = Ear()
    ear.wants_more = False
    attached = await hub.attach(ear, me(), Position(start.epoch, 1))
    assert (attached.position, attached.live) == (Position(start.epoch, 1), False)
    assert hub.channels(ear) == []


async def test_a_reset_is_not_swallowed_by_a_listener_that_wants_no_more(kit: Kit, hub: Hub) -> None:
    """Its place is gone; whoever goes on from the answer must still come to know that."""
    await kit.finish_many(range(3), publish=False, retention=0.001)
    await kit.retention.purge(2)
    start = await start_of(kit)
    ear = Ear()
    ear.wants_more = False
    attached = await hub.attach(ear, me(), start)
    again = Ear()
    attached_again = await hub.attach(again, me(), attached.position)
    assert not attached.recovered or not attached_again.recovered
    assert ear.resets or again.resets


async def test_detaching_ends_delivery_and_leaving_ends_all(kit: Kit, hub: Hub) -> None:
    ear, other = Ear(), Ear()
    for name in ("user:me", "group:ops"):
        await hub.attach(ear, me(name), "now")
        await hub.attach(other, me(name), "now")
    hub.detach(ear, me("group:ops"))
    await kit.finish(channels=("group:ops",))
    await until(lambda: len(other.heard) == 2 and ear.heard)
    assert [name for name, _, _ in ear.heard] == ["user:me"]
    hub.leave(ear)
    await kit.finish(channels=("group:ops",))
    await until(lambda: len(other.heard) == 4)
    assert len(ear.heard) == 1
    assert set(hub._subscriptions) == {other}


# What Redis does not bring


@pytest.mark.parametrize("direct", [False, True])
async def test_a_lost_message_is_found_at_the_next_one(kit: Kit, hub: Hub, direct: bool) -> None:
    ear = Ear(direct=direct)
    await hub.attach(ear, me(), "now")
    await kit.finish(1)
    await kit.finish(2, publish=False)
    await kit.finish(3, publish=False)
    await kit.finish(4)
    await until(lambda: len(ear.heard) == 4)
    assert ear.offsets() == [1, 2, 3, 4]
    assert [wire.load(event)["data"] for _, _, event in ear.heard] == [1, 2, 3, 4]


async def test_a_lost_message_is_found_by_comparing_tops(kit: Kit) -> None:
    async with running(kit.hub(top_check=0.05)) as hub:
        ear, behind = Ear(), Ear()
        await hub.attach(ear, me(), "now")
        await hub.attach(behind, me(), "now")
        hub.pause(behind)
        await kit.finish_many(range(700), publish=False)
        await until(lambda: len(ear.heard) == 700)
        assert ear.offsets() == list(range(1, 701)), "more than one page of them"
        assert behind.heard == []


async def test_a_repeated_message_is_delivered_once(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    await hub.attach(ear, me(), "now")
    finished = await kit.finish(1)
    for _ in range(5):
        await kit.publisher.event(finished.places, wire.event(finished.job, b"1"))
    await kit.finish(2)
    await until(lambda: 2 in ear.offsets())
    assert ear.offsets() == [1, 2]


async def test_messages_in_any_order_are_delivered_in_theirs(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    await hub.attach(ear, me(), "now")
    finished = [await kit.finish(n, publish=False) for n in range(20)]
    for n in (5, 3, 19, 0, 11, 2, 2, 18, 1):
        await kit.publisher.event(finished[n].places, wire.event(finished[n].job, wire.dump(n)))
    await until(lambda: len(ear.heard) >= 20)
    assert ear.offsets() == list(range(1, 21))


async def test_a_message_of_a_former_epoch_does_not_keep_the_hub_reading_for_ever(kit: Kit) -> None:
    reads = 0

    class Counting(EventStore):
        async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
            nonlocal reads
            reads += 1
            return await super().read(channel, place, limit)

    async with running(Hub(Counting(kit.postgres), kit.settings.bus, kit.scope, top_check=3600)) as hub:
        ear = Ear()
        await hub.attach(ear, me(), "now")
        await kit.publisher.event([(me(), Position("k0", 99))], b'{"stale":1}')
        await kit.finish(1)
        await until(lambda: ear.heard)
        await until(lambda: not hub._feeds[me()].repairing)
        before = reads
        await kit.finish_many(range(10))
        await until(lambda: len(ear.heard) == 11)
        # ten more results took their time; nothing was read meanwhile
        assert reads - before <= 1
        assert ear.offsets() == list(range(1, 12))


async def test_what_is_no_message_of_ours_is_ignored(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    await hub.attach(ear, me(), "now")
    for garbage in (b"", b"z whatever", b"e", b"e nonsense {}", b"\xff\xfe", b"p"):
        await kit.redis.publish(kit.scope.topic(me()), garbage)
    await kit.finish(1)
    await until(lambda: ear.heard)
    assert ear.offsets() == [1]
    assert hub._bus.connected


async def test_a_killed_subscriber_connection_loses_nothing(kit: Kit, hub: Hub) -> None:
    ear = Ear()
    await hub.attach(ear, me(), "now")
    for round_ in range(4):
        await kill_subscribers(kit)
        await kit.finish_many(range(5))
        await until(partial(heard_at_least, ear, (round_ + 1) * 5))
    assert ear.offsets() == list(range(1, 21))


async def test_while_redis_is_away_the_database_is_asked_instead(kit: Kit) -> None:
    """A bus that never answers: results come a little later, and in order."""
    async with opened(kit.settings):
        hub = Hub(kit.events, "redis://127.0.0.1:1", kit.scope, top_check=3600)
        hub.start()
        try:
            ear = Ear()
            await soon(hub.attach(ear, me(), "now"))
            await kit.finish_many(range(3), publish=False)
            await until(lambda: len(ear.heard) == 3)
            assert ear.offsets() == [1, 2, 3]
        finally:
            await hub.stop()


async def test_a_new_epoch_is_an_explicit_reset_for_those_who_listen(kit: Kit) -> None:
    async with running(kit.hub(top_check=0.05)) as hub:
        ear, behind = Ear(), Ear()
        await hub.attach(ear, me(), "now")
        await hub.attach(behind, me(), "now")
        await kit.finish_many(range(5))
        await until(lambda: len(ear.heard) == len(behind.heard) == 5)
        hub.pause(behind)
        await kit.postgres.fetch("UPDATE pushsvc.channels SET epoch = 'k9', top = 8")
        await until(lambda: ear.resets)
        assert ear.resets == [("user:me", Position("k9", 8))]
        await kit.finish(6)
        await until(lambda: len(ear.heard) == 6)
        assert ear.heard[-1][1] == Position("k9", 9)
        assert behind.resets == []
        hub.resume(behind)
        await until(lambda: behind.resets)
        await kit.finish(7)
        await until(lambda: behind.heard[-1][1] == Position("k9", 10))


# Slow listeners


async def test_a_paused_listener_hears_nothing_and_then_everything(kit: Kit, hub: Hub) -> None:
    slow, quick = Ear(page=4), Ear()
    await hub.attach(slow, me(), "now")
    await hub.attach(quick, me(), "now")
    await kit.finish(0)
    await until(lambda: slow.heard and quick.heard)
    hub.pause(slow)
    await kit.finish_many(range(1, 30))
    await until(lambda: len(quick.heard) == 30)
    assert slow.offsets() == [1]
    hub.resume(slow)
    await kit.finish_many(range(30, 40))
    await until(lambda: len(slow.heard) == 40 and len(quick.heard) == 40)
    assert slow.heard == quick.heard


async def test_pausing_and_resuming_all_the_time_neither_loses_nor_repeats(kit: Kit, hub: Hub) -> None:
    ears = [Ear(page=n + 1, direct=bool(n % 2)) for n in range(4)]
    for ear in ears:
        await hub.attach(ear, me(), "now")
    work = asyncio.create_task(kit.finish_many(range(80)))
    turn = 0
    while not work.done():
        ear = ears[turn % 4]
        hub.pause(ear)
        await asyncio.sleep(0)
        if turn % 3:
            hub.pause(ear)
        hub.resume(ear)
        hub.resume(ear)
        turn += 1
        await asyncio.sleep(0.001)
    await work
    await until(lambda: all(len(ear.heard) >= 80 for ear in ears))
    for ear in ears:
        assert ear.offsets() == list(range(1, 81))


async def test_a_listener_that_fills_up_while_it_reads_what_it_missed_gets_nothing_until_it_drains(
    kit: Kit, hub: Hub
) -> None:
    """It must not go live with a full socket: nobody would ever stop writing to it."""

    class Narrow(Ear):
        def deliver(self, delivery: Delivery) -> None:
            super().deliver(delivery)
            if self.open.is_set():
                self.open.clear()
                hub.pause(self)

    await kit.finish_many(range(3), publish=False)
    narrow, wide = Narrow(), Ear()
    attaching = asyncio.create_task(hub.attach(narrow, me(), await start_of(kit)))
    await until(lambda: narrow.heard)
    before = len(narrow.heard)
    await hub.attach(wide, me(), "now")
    await kit.finish_many(range(3, 23))
    await until(lambda: len(wide.heard) == 20)
    assert len(narrow.heard) == before
    while len(narrow.heard) < 23:
        narrow.open.set()
        hub.resume(narrow)
        await asyncio.sleep(0.005)
    await soon(attaching)
    assert narrow.offsets() == list(range(1, 24))


async def test_detaching_while_catching_up_ends_delivery(kit: Kit) -> None:
    """After the answer to `unsubscribe`, nothing of the channel comes any more."""
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Held(EventStore):
        async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
            page = await super().read(channel, place, limit)
            reading.set()
            await go_on.wait()
            return page

    await kit.finish_many(range(3), publish=False)
    async with running(Hub(Held(kit.postgres), kit.settings.bus, kit.scope, top_check=3600)) as hub:
        ear = Ear()
        attaching = asyncio.create_task(hub.attach(ear, me(), await start_of(kit)))
        await reading.wait()
        hub.detach(ear, me())
        go_on.set()
        await soon(attaching)
        assert ear.heard == []


async def test_leaving_while_attaching_leaves_nothing_behind(kit: Kit, hub: Hub) -> None:
    start = await start_of(kit)
    await kit.finish_many(range(5), publish=False)
    for turns in range(1, 13):
        ear = Ear(page=2)
        attaching = asyncio.create_task(hub.attach(ear, me(), start))
        for _ in range(turns):
            await asyncio.sleep(0)
        hub.leave(ear)
        await asyncio.wait([attaching])
        assert hub.channels(ear) == []
    assert hub._subscriptions == {}
    await until(lambda: all(feed.idle for feed in hub._feeds.values()))


async def test_attaching_that_is_given_up_leaves_nothing_behind(kit: Kit, hub: Hub) -> None:
    for turns in range(8):
        ear = Ear()
        attaching = asyncio.create_task(hub.attach(ear, me(), "now"))
        for _ in range(turns):
            await asyncio.sleep(0)
        attaching.cancel()
        await asyncio.wait([attaching])
        hub.leave(ear)
    assert hub._subscriptions == {}
    assert all(feed.idle for feed in hub._feeds.values())


# Jobs' channels


async def a_running_job(kit: Kit) -> Job:
    job = await kit.store(submission())
    return (await kit.jobs.start([job.id], "w", 60))[job.id].job


async def test_a_jobs_channel_tells_each_change_of_state(kit: Kit, hub: Hub) -> None:
    job = await kit.store(submission())
    ear = Ear()
    attached = await hub.attach(ear, me(f"job:{job.id}"), "start")
    assert (attached.position, attached.closed) == (Position("1", 1), False)
    started = (await kit.jobs.start([job.id], "w", 60))[job.id].job
    kit.announcer.changed(started)
    again = await kit.jobs.requeue(Requeue(job.id, 2, 0, why="failed"))
    assert again is not None
    kit.announcer.changed(again)
    kit.announcer.changed((await kit.jobs.start([job.id], "w", 60))[job.id].job)
    finished = await kit.jobs.finish(succeeded(job.id, 4, b"7"))
    assert finished is not None
    await kit.announcer.finished(finished, b"7")
    await until(lambda: len(ear.heard) == 5)
    assert [(p.offset, wire.load(e)["type"]) for _, p, e in ear.heard] == [
        (1, "job.queued"),
        (2, "job.started"),
        (3, "job.retrying"),
        (4, "job.started"),
        (5, "job.succeeded"),
    ]


async def test_a_jobs_channel_jumps_over_what_was_lost_to_the_present_state(kit: Kit, hub: Hub) -> None:
    job = await a_running_job(kit)
    ear = Ear()
    await hub.attach(ear, me(f"job:{job.id}"), "now")
    await kit.jobs.requeue(Requeue(job.id, 2, 0, why="failed"))
    await kit.jobs.start([job.id], "w", 60)
    finished = await kit.jobs.finish(succeeded(job.id, 4, b"7"))
    assert finished is not None
    await kit.announcer.finished(finished, b"7")
    await until(lambda: ear.heard)
    assert [(p.offset, wire.load(e)["type"]) for _, p, e in ear.heard] == [(5, "job.succeeded")]


async def test_a_finished_job_is_closed_and_its_last_event_is_there(kit: Kit, hub: Hub) -> None:
    finished = await kit.finish(7)
    ear, late = Ear(), Ear()
    name = f"job:{finished.job.id}"
    attached = await hub.attach(ear, me(name), Position("1", 1))
    assert attached.closed
    assert [wire.load(event)["data"] for _, _, event in ear.heard] == [7]
    assert (await hub.attach(late, me(name), "now")).closed
    assert late.heard == []


async def test_progress_comes_live_and_as_a_snapshot_on_attach(kit: Kit, hub: Hub) -> None:
    job = await a_running_job(kit)
    channels = [me(f"job:{job.id}"), me()]
    live, late = Ear(), Ear(direct=True)
    for channel in channels:
        await hub.attach(live, channel, "now")
    await kit.publisher.progress(channels, Progress(job.id, 0.25, "é"))
    await until(lambda: len(live.items) == 2)
    await hub.attach(late, channels[0], "now")
    assert late.items == live.items[:1]
    assert wire.load(late.items[0]) == {"job": job.id, "value": 0.25, "message": "é", "queries": []}
    await kit.publisher.progress(channels, Progress(job.id, 0.5))
    await until(lambda: len(late.items) == 2)
    assert wire.load(late.items[1])["op"] == "progress"


# Comings and goings of channels


async def test_a_channel_without_listeners_is_kept_a_while_and_then_forgotten(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def subscribed() -> int:
        answer = await kit.redis.execute_command("PUBSUB", "NUMSUB", kit.scope.topic(me()))  # type: ignore[no-untyped-call]
        return int(answer[1])

    async with running(kit.hub(top_check=0.05)) as hub:
        ear = Ear()
        await hub.attach(ear, me(), "now")
        hub.leave(ear)
        await kit.finish(1)
        await until(lambda: hub._feeds[me()].top == 1)
        again = Ear()
        attached = await hub.attach(again, me(), "now")
        assert attached.position.offset == 1
        hub.leave(again)
        assert await subscribed() == 1
        monkeypatch.setattr(hub_module, "LINGER", 0.0)
        await until(lambda: not hub._feeds)

        async def nobody() -> bool:
            return await subscribed() == 0

        await until(nobody)
        monkeypatch.setattr(hub_module, "LINGER", 30.0)
        await hub.attach(ear, me(), "now")
        await kit.finish(2)
        await until(lambda: ear.heard)
        assert ear.offsets() == [2]


async def test_forgetting_and_attaching_at_once_never_lose_an_event(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LINGER", 0.0)
    async with running(kit.hub(top_check=0.001)) as hub:
        start = await start_of(kit)
        for n in range(1, 25):
            ear = Ear()
            await hub.attach(ear, me(), "now")
            await kit.finish(n)
            await until(partial(heard_at_least, ear, 1))
            assert ear.heard[0][1] == Position(start.epoch, n)
            hub.leave(ear)


async def test_tenants_are_apart(kit: Kit, hub: Hub) -> None:
    ours, theirs = Ear(), Ear()
    await hub.attach(ours, Channel("default", "group:ops"), "now")
    await hub.attach(theirs, Channel("other", "group:ops"), "now")
    await kit.finish("ours", channels=("group:ops",))
    await kit.finish("theirs", channels=("group:ops",), tenant="other")
    await until(lambda: ours.heard and theirs.heard)
    assert [wire.load(event)["data"] for _, _, event in ours.heard] == ["ours"]
    assert [wire.load(event)["data"] for _, _, event in theirs.heard] == ["theirs"]


async def test_draining_tells_every_listener(kit: Kit, hub: Hub) -> None:
    ears: Sequence[Ear] = [Ear(), Ear()]
    for ear in ears:
        await hub.attach(ear, me(), "now")
        await hub.attach(ear, me("group:ops"), "now")
    await hub.drain()
    assert [ear.drains for ear in ears] == [1, 1]
    late = Ear()
    await hub.attach(late, me(), "now")
    assert late.drains == 1, "who comes to a node that goes away is sent on at once"


async def test_a_crowd_is_sent_elsewhere_in_waves_with_the_loop_free_between_them(kit: Kit, hub: Hub) -> None:
    ears = [Ear() for _ in range(1000)]
    await asyncio.gather(*(hub.attach(ear, me(), "now") for ear in ears))
    seen: set[int] = set()

    async def watch() -> None:
        while len(seen) < 5:
            seen.add(sum(ear.drains for ear in ears))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await soon(hub.drain(within=0.5))
    await soon(watching)
    assert sorted(seen)[:5] == [200, 400, 600, 800, 1000]
    assert all(ear.drains == 1 for ear in ears)


async def test_a_thousand_listeners_get_an_event_in_one_turn(kit: Kit, hub: Hub) -> None:
    ears = [Ear(direct=True) for _ in range(1000)]
    began = time.monotonic()
    await asyncio.gather(*(hub.attach(ear, me(), "now") for ear in ears))
    await Publisher(kit.redis, kit.scope).event([], b"")
    await kit.finish(1)
    await until(lambda: all(ear.heard for ear in ears))
    assert {ear.offsets()[0] for ear in ears} == {1}
    assert time.monotonic() - began < 60


async def test_a_connection_that_brings_nothing_though_it_is_open_is_made_anew(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look finds what was not heard: it comes from the store, and then Redis is asked again."""
    monkeypatch.setattr(tops, "GRACE", 0.01)
    async with running(kit.hub(top_check=0.05)) as hub:
        renewed: list[int] = []
        renew = hub._bus.renew

        def counted() -> None:
            renewed.append(len(ear.heard))
            renew()

        monkeypatch.setattr(hub._bus, "renew", counted)
        ear = Ear()
        await hub.attach(ear, me(), "now")
        while not renewed:
            await kit.finish(publish=False)
            await asyncio.sleep(0.02)
        assert renewed[0] >= 2, "nothing was lost meanwhile"
        await until(lambda: hub._bus.connected)
        before = len(ear.heard)
        await kit.finish("heard")
        await until(lambda: len(ear.heard) > before)
        assert ear.offsets() == list(range(1, len(ear.heard) + 1))
