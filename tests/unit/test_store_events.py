"""Reading channels back: the same bytes as were pushed, in order, and an explicit reset where something is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256

import pytest
import pytest_asyncio

from pushsvc import wire
from pushsvc.domain import Channel, JobStatus, Outcome, Position, new_job_id
from pushsvc.errors import JobFailed
from pushsvc.jobs.results import success
from pushsvc.settings import Settings
from pushsvc.store import Requeue
from pushsvc.store.events import Page

from ..contract.kit import Kit, me, opened, submission, succeeded, until


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


async def read(kit: Kit, place: Position | str, limit: int = 100, name: str = "user:me") -> Page:
    page = await kit.events.read(me(name), place, limit)  # type: ignore[arg-type]
    assert page is not None
    return page


def offsets(page: Page) -> list[int]:
    return [position.offset for position, _ in page.events]


ENDINGS = {
    "plain": (b'{"flights":3}', None),
    "unicode": ('{"Zürich":"naïve 🚀 \u2028 \\u0000"}'.encode(), None),
    "hostile": (b'"\\",\\"final\\":false,\\"x\\":\\""', None),
    "null": (b"null", None),
    "large": (b'"' + b"x" * 70_000 + b'"', None),
    "failed": (None, wire.dump(JobFailed("it broke: \u00e9 \n \U0001f4a5").problem()).decode()),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_event_is_read_back_with_the_bytes_that_were_pushed(kit: Kit, ending: str) -> None:
    result, error = ENDINGS[ending]
    job = await kit.store(submission(name="report", channels=("group:ops",)))
    await kit.jobs.start([job.id], "w", 60)
    outcome = (
        success(job.id, 2, result, 64 * 1024)
        if result is not None
        else Outcome(job.id, 2, JobStatus.FAILED, error=error)
    )
    finished = await kit.jobs.finish(outcome)
    assert finished is not None
    pushed = wire.event(finished.job, result)
    for name in ("user:me", "group:ops", f"job:{job.id}"):
        page = await read(kit, "start", name=name)
        assert [event for _, event in page.events] == [pushed]
    assert wire.is_final(pushed)
    parsed = wire.load(pushed)
    if ending == "large":
        assert result is not None
        href = f"/v1/jobs/{job.id}/result"
        assert parsed["ref"] == {"href": href, "bytes": len(result), "sha256": sha256(result).hexdigest()}
    elif result is not None:
        assert parsed["data"] == wire.load(result)
    else:
        assert parsed["error"]["code"] == "job_failed"


async def test_a_channel_without_history_has_an_epoch_and_nothing_to_read(kit: Kit) -> None:
    page = await read(kit, "start")
    assert (page.events, page.reset, page.more, page.closed) == ((), None, False, False)
    assert page.position.offset == 0
    assert await read(kit, "now") == page, "reading does not change the epoch"


async def test_many_readers_of_a_new_channel_agree_on_its_epoch(kit: Kit, settings: Settings) -> None:
    async with opened(settings) as other:
        pages = await asyncio.gather(*(read(each, "now") for each in (kit, other) * 10))
    assert len({page.position for page in pages}) == 1


async def test_pages_follow_each_other_without_gap_or_repeat(kit: Kit) -> None:
    await kit.finish_many(range(7), publish=False)
    seen: list[int] = []
    place = (await read(kit, "start")).position
    place = Position(place.epoch, 0)
    more = True
    while more:
        page = await read(kit, place, 3)
        seen += offsets(page)
        place, more = page.position, page.more
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert (await read(kit, place)).events == ()


async def test_another_epoch_and_a_place_ahead_of_the_top_are_reset_to_the_end(kit: Kit) -> None:
    await kit.finish_many(range(3), publish=False)
    end = (await read(kit, "now")).position
    for place in (Position("k000000", 1), Position(end.epoch, 4)):
        page = await read(kit, place)
        assert (page.events, page.reset, page.position) == ((), end, end)


async def test_what_is_purged_raises_the_floor_and_resets_the_readers_below_it(kit: Kit) -> None:
    await kit.finish_many(range(3), retention=0.001, publish=False)
    await kit.finish_many(range(2), publish=False)
    assert await kit.retention.purge(2) == 2
    epoch = (await read(kit, "now")).position.epoch
    page = await read(kit, Position(epoch, 0))
    assert page.reset == Position(epoch, 2)
    assert offsets(page) == [3, 4, 5]
    assert (await read(kit, Position(epoch, 2))).reset is None
    assert offsets(await read(kit, "start")) == [3, 4, 5]
    assert (await read(kit, "start")).reset is None, "who asks for what is there has missed nothing"
    assert await kit.retention.purge(100) == 1
    assert await kit.retention.purge(100) == 0
    assert (await read(kit, Position(epoch, 5))).reset is None


async def test_events_that_expire_out_of_order_are_a_reset_and_never_a_silent_gap(kit: Kit) -> None:
    await kit.finish(1, publish=False)
    await kit.finish(2, publish=False, retention=0.001)
    await kit.finish(3, publish=False)
    assert await kit.retention.purge(100) == 1
    epoch = (await read(kit, "now")).position.epoch
    page = await read(kit, Position(epoch, 1))
    assert (page.reset, offsets(page), page.more) == (Position(epoch, 2), [3], False)
    for place in (Position(epoch, 0), "start"):
        page = await read(kit, place)
        assert (page.reset, offsets(page), page.more) == (None, [1], True), "it lives as long as was said"
        assert page.following is not None
        assert (page.following.reset, offsets(page.following)) == (Position(epoch, 2), [3])


async def test_purging_while_reading_and_finishing_never_skips_silently(kit: Kit, settings: Settings) -> None:
    """A reader follows its pages while retention deletes below it and results come in above."""
    done = asyncio.Event()

    async def write() -> None:
        for n in range(60):
            await kit.finish(n, publish=False, retention=0.001 if n % 2 else 3600.0, channels=("group:ops",))
        done.set()

    async with opened(settings) as other:

        async def purge() -> None:
            while not done.is_set():
                await other.retention.purge(3)
                await asyncio.sleep(0)

        work = asyncio.gather(write(), purge())
        epoch = (await read(kit, "now")).position.epoch
        place, resets = Position(epoch, 0), 0
        while not (done.is_set() and place.offset >= 60):
            page = await read(kit, place, 5)
            expected = place.offset + 1
            if page.reset is not None:
                resets += 1
                expected = page.reset.offset + 1
            assert offsets(page) == list(range(expected, expected + len(page.events))) or page.reset is None
            for offset in offsets(page):
                assert offset == expected
                expected += 1
            assert page.position.offset >= place.offset
            place = page.position
        await work
    assert place == Position(epoch, 60)


async def test_a_jobs_channel_shows_its_present_state_once(kit: Kit) -> None:
    job = await kit.store(submission())
    name = f"job:{job.id}"
    page = await read(kit, "start", name=name)
    assert [(str(p), wire.load(e)["type"]) for p, e in page.events] == [("1.1", "job.queued")]
    assert (await read(kit, Position("1", 1), name=name)).events == ()
    await kit.jobs.start([job.id], "w", 60)
    await kit.jobs.requeue(Requeue(job.id, 2, 0, why="failed", error='{"secret":1}'))
    page = await read(kit, Position("1", 1), name=name)
    parsed = [(str(p), wire.load(e)) for p, e in page.events]
    assert [(p, e["type"], e["final"], e["data"]) for p, e in parsed] == [
        ("1.3", "job.retrying", False, {"attempt": 1})
    ]
    assert not page.closed
    await kit.jobs.finish(succeeded(job.id, 3, b"7"))
    page = await read(kit, Position("1", 3), name=name)
    assert (str(page.position), page.closed) == ("1.4", True)
    assert (await read(kit, "now", name=name)).closed
    assert await kit.events.read(me(f"job:{new_job_id()}"), "now") is None


async def test_states_of_many_channels_are_read_at_once(kit: Kit) -> None:
    finished = await kit.finish(channels=("group:ops",))
    channels = [me(), me("group:ops"), me("group:new"), me(f"job:{finished.job.id}"), me(f"job:{new_job_id()}")]
    states = await kit.events.states([*channels, me()])
    assert {channel.name: state.top for channel, state in states.items()} == {
        "user:me": 1,
        "group:ops": 1,
        "group:new": 0,
        f"job:{finished.job.id}": 2,
    }
    assert await kit.events.states([Channel("other", f"job:{finished.job.id}")]) == {}


async def test_the_prefix_of_a_mounted_api_stands_in_the_links(kit: Kit) -> None:
    from pushsvc.store import EventStore

    job = await kit.store(submission())
    await kit.jobs.finish(success(job.id, 1, b'"' + b"x" * 100 + b'"', 50))
    page = await EventStore(kit.postgres, "/push").read(me(), "start")
    assert page is not None
    assert wire.load(page.events[0][1])["ref"]["href"] == f"/push/v1/jobs/{job.id}/result"


async def test_times_are_those_of_the_database(kit: Kit) -> None:
    before = datetime.now(UTC)
    finished = await kit.finish()
    assert finished.job.finished_at is not None
    assert abs((finished.job.finished_at - before).total_seconds()) < 60
    assert wire.load(wire.event(finished.job, b"1"))["at"].endswith("Z")


async def test_deadlocks_between_purging_and_finishing_never_surface(kit: Kit, settings: Settings) -> None:
    """Both change several channels' rows; whoever loses is simply run again."""
    groups = tuple(f"group:{n}" for n in range(5))
    for _ in range(20):
        await kit.finish(publish=False, retention=0.001, channels=groups)
    async with opened(settings) as other:
        work = asyncio.gather(*(kit.finish(publish=False, channels=groups) for _ in range(20)))

        async def purged() -> bool:
            return await other.retention.purge(1) == 0

        await until(purged)
        await work
    assert len((await read(kit, "start", name="group:0")).events) == 20
