"""One poisoned row, job, channel, message or connection harms itself only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from pushsvc import tasks
from pushsvc.bus import Publisher, Subscriber
from pushsvc.domain import Channel, Position
from pushsvc.hub import Hub
from pushsvc.hub.feed import Feed
from pushsvc.jobs import Sweeper
from pushsvc.settings import Settings
from pushsvc.store import Published, Requeue, Retention
from pushsvc.store.batching import Batcher
from pushsvc.transports.sweep import SHARES, Sweep

from ..contract.kit import Kit, opened, running, soon, submission, succeeded, until
from .test_hub_hub import Ear


@pytest.fixture
async def kit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(tasks, "_said", {})
    async with opened(settings) as kit:
        yield kit


def sweeper(kit: Kit) -> Sweeper:
    return Sweeper(kit.postgres, kit.jobs, Retention(kit.postgres), kit.queue, kit.announcer, kit.settings)


# Rows


async def test_a_job_that_can_not_be_ended_keeps_nobody_from_being_swept(kit: Kit) -> None:
    """No version comes after its own, so that the statement which ends it fails."""
    bad, overdue, lapsed, missing = [(await kit.jobs.insert(submission())).job.id for _ in range(4)]
    await kit.jobs.start([bad, overdue, lapsed], "a dead worker", 0.0)
    await kit.postgres.fetch("UPDATE pushsvc.jobs SET version = 2147483647 WHERE id = $1", bad)
    await kit.postgres.fetch("UPDATE pushsvc.jobs SET deadline = now() WHERE id = ANY($1)", [bad, overdue])
    await sweeper(kit).sweep()
    states = {row["id"]: row["status"] for row in await kit.postgres.fetch("SELECT id, status FROM pushsvc.jobs")}
    assert states == {bad: "running", overdue: "expired", lapsed: "running", missing: "queued"}
    assert await kit.queue.missing([lapsed, missing]) == []


@pytest.mark.parametrize("retention", ["Infinity", "-Infinity", "NaN", "1e300", "-1"])
async def test_whatever_stands_in_a_row_for_its_retention_it_ends_like_others(kit: Kit, retention: str) -> None:
    jobs = [(await kit.jobs.insert(submission())).job for _ in range(3)]
    await kit.postgres.fetch(
        "UPDATE pushsvc.jobs SET retention = $2::text::float, max_attempts = 32767, attempt = 32767, failures = 32766"
        " WHERE id = $1",
        jobs[1].id,
        retention,
    )
    claims = await kit.jobs.start([job.id for job in jobs], "w", 60)
    assert set(claims) == {job.id for job in jobs}
    requeued = Requeue(jobs[1].id, claims[jobs[1].id].job.version, 0.0, "failed")
    assert await kit.jobs.requeue(requeued) is not None
    again = await kit.jobs.start([jobs[1].id], "w", 60)
    versions = {job: claim.job.version for job, claim in {**claims, **again}.items()}
    ended = await asyncio.gather(*(kit.jobs.finish(succeeded(job.id, versions[job.id])) for job in jobs))
    assert all(finished is not None for finished in ended)
    await kit.events.publish(Published("evt_1", Channel("default", "user:me"), b"{}", float(retention)))
    await kit.retention.purge_published(10)
    await kit.retention.purge(10)
    left = {row["id"] for row in await kit.postgres.fetch("SELECT id FROM pushsvc.jobs")}
    assert left >= {jobs[0].id, jobs[2].id}
    assert await kit.events.read(Channel("default", "user:me"), "start") is not None


async def test_a_row_that_somebody_has_locked_keeps_no_other_lease_from_being_renewed(kit: Kit) -> None:
    """It still counts as held."""
    jobs = [(await kit.jobs.insert(submission())).job.id for _ in range(3)]
    claims = await kit.jobs.start(jobs, "w", 1.0)
    held = [(claim.job.id, claim.job.version) for claim in claims.values()]
    locker = await asyncpg.connect(kit.settings.need("database_url"))
    try:
        async with locker.transaction():
            await locker.execute("SELECT 1 FROM pushsvc.jobs WHERE id = $1 FOR UPDATE", jobs[1])
            assert await soon(kit.jobs.renew(held, 3600.0)) == dict.fromkeys(jobs, False)
            rows = await kit.postgres.fetch(
                "SELECT id FROM pushsvc.jobs WHERE lease_until > now() + interval '1 min'"
            )
    finally:
        await locker.close()
    assert {row["id"] for row in rows} == {jobs[0], jobs[2]}


# A batch


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
async def test_whatever_a_batch_raises_goes_to_its_callers_and_ends_nothing(error: type[BaseException]) -> None:
    async def write(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise error
        return items

    batch: Batcher[int, int] = Batcher("of a test", write)
    answers = await soon(asyncio.gather(*(batch(n) for n in range(4)), return_exceptions=True))
    assert isinstance(answers.pop(2), ValueError if error is ValueError else RuntimeError)
    assert answers == [0, 1, 3]
    assert await soon(batch(7)) == 7


async def test_a_batch_that_answers_too_little_leaves_nobody_waiting() -> None:
    async def write(items: Sequence[int]) -> Sequence[int]:
        return []

    batch: Batcher[int, int] = Batcher("of a test", write)
    answers = await soon(asyncio.gather(batch(1), batch(2), return_exceptions=True))
    assert all(isinstance(answer, ValueError) for answer in answers)


# The queue


async def test_what_is_no_job_on_the_queue_keeps_no_job_from_being_claimed(kit: Kit) -> None:
    job = b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
    await kit.redis.zadd(kit.queue.name, {b"\xff\xfe": 1, b"a\x00b": 2, job: 3})
    claimed = await kit.queue.claim(10, 1.0, "w")
    assert job.decode() in claimed.ids
    assert len(claimed.ids) == 3


# Channels, messages, connections

BAD = Channel("default", "user:a\ud800")


async def test_a_topic_that_can_not_be_written_is_refused_and_the_others_are_heard(kit: Kit) -> None:
    heard: list[bytes] = []
    good = kit.scope.topic(Channel("default", "user:me"))
    subscriber = Subscriber(kit.settings.bus, {good.encode(): heard.extend})
    subscriber.start()
    try:
        await until(lambda: subscriber.connected)
        with pytest.raises(ValueError):
            await subscriber.subscribe_all([good, kit.scope.topic(BAD)])
        assert await subscriber.subscribe(good)
        subscriber.renew()
        await until(lambda: not subscriber.connected)
        await until(lambda: subscriber.connected)
        await kit.redis.publish(good, b"x")
        await until(lambda: heard == [b"x"])
    finally:
        await subscriber.stop()


async def test_a_channel_that_can_not_be_named_leaves_the_hub_as_it_was(kit: Kit) -> None:
    hub = Hub(kit.events, kit.settings.bus, kit.scope)
    async with running(hub):
        ear, me = Ear(), Channel("default", "user:me")
        with pytest.raises(ValueError):
            await hub.attach_all(ear, {me: "now", BAD: "now"})
        assert hub.channels(ear) == []
        assert BAD not in hub._feeds
        await hub.attach(ear, me, "now")
        job = (await kit.jobs.insert(submission())).job
        await kit.jobs.start([job.id], "w", 8.0)
        finished = await kit.jobs.finish(succeeded(job.id, 2))
        assert finished is not None
        await kit.announcer.finished(finished)
        await until(lambda: len(ear.heard) == 1)


async def test_a_channel_whose_state_can_not_be_read_keeps_no_other_from_being_compared(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was logged and never published is found for the others."""
    hub = Hub(kit.events, kit.settings.bus, kit.scope, top_check=0.02)
    states = kit.events.states

    async def poisoned(channels: Sequence[Channel]) -> Any:
        if any(channel.name == "group:bad" for channel in channels):
            raise ValueError("it can't be decoded")
        return await states(channels)

    async with running(hub):
        ears = {name: Ear() for name in ("group:bad", "user:me")}
        for name, ear in ears.items():
            await hub.attach(ear, Channel("default", name), "now")
        monkeypatch.setattr(kit.events, "states", poisoned)
        job = (await kit.jobs.insert(submission())).job
        await kit.jobs.start([job.id], "w", 8.0)
        await kit.jobs.finish(succeeded(job.id, 2))
        await until(lambda: len(ears["user:me"].heard) == 1)


class Broken(Ear):
    def deliver(self, delivery: Any) -> None:
        raise RuntimeError("broken")

    def _write(self, data: bytes) -> None:
        raise RuntimeError("broken")


@pytest.mark.parametrize("direct", [True, False])
def test_a_connection_that_raises_ends_and_the_others_hear_all(direct: bool) -> None:
    feed = Feed(Channel("default", "user:me"), lambda feed: None)
    feed.go_live(Position("e", 0))
    ears = [Ear(direct=direct), Broken(direct=direct), Ear(direct=direct)]
    for ear in ears:
        assert feed.join(feed.enter(ear), Position("e", 0))
    feed.repaired([(Position("e", 1), b'{"n":1}')], Position("e", 1), None)
    assert [len(ear.heard) for ear in ears] == [1, 0, 1]
    assert [ear.drains for ear in ears] == [0, 1, 0]


async def test_a_message_that_can_not_be_taken_keeps_back_none_before_or_behind_it(kit: Kit) -> None:
    hub = Hub(kit.events, kit.settings.bus, kit.scope)
    async with running(hub):
        ear = Ear(direct=True)
        channel = Channel("default", "user:me")
        await hub.attach(ear, channel, "now")
        feed = hub._feeds[channel]
        sent: list[bytes] = []
        hub._ears[kit.scope.topic(channel).encode()] = sent.extend
        publisher = Publisher(kit.redis, kit.scope)
        for _ in range(2):
            job = (await kit.jobs.insert(submission())).job
            await kit.jobs.start([job.id], "w", 8.0)
            finished = await kit.jobs.finish(succeeded(job.id, 2))
            assert finished is not None
            await publisher.event(finished.places, b'{"type":"job.succeeded"}')
        await until(lambda: len(sent) == 2)
        feed.hear([sent[0], b"0 \xff\xff garbage", sent[1]])
        assert len(ear.heard) == 2
        publisher.close()


class Socket:
    """What the sweep pings."""

    share = 0
    unanswered = False

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.pings = 0

    def ping(self, frame: bytes) -> None:
        self.pings += 1
        self.unanswered = False
        if self.broken:
            raise RuntimeError("broken")

    def moving(self) -> bool:
        return False

    def lost(self) -> None: ...


async def test_a_socket_that_can_not_be_pinged_does_not_end_the_pings_of_others() -> None:
    sweep = Sweep(0.01 * SHARES)
    sockets = [Socket(broken=True), *(Socket() for _ in range(SHARES))]
    for socket in sockets:
        sweep.add(socket)
    await until(lambda: all(socket.pings >= 2 for socket in sockets))
    for socket in sockets:
        sweep.discard(socket)
