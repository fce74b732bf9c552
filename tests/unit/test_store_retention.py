"""What is kept no longer: the floor rises first, and whoever writes never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pushsvc import wire
from pushsvc.domain import Channel, Position, new_job_id
from pushsvc.jobs import Publications
from pushsvc.settings import Settings
from pushsvc.store import Published, Retention

from ..contract.kit import Kit, me, opened, soon, submission, succeeded

OPS = me("group:ops")


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


def note(n: int, retention: float = 3600.0, channel: Channel = OPS) -> Published:
    return Published(f"evt_{new_job_id()}", channel, b'{"n":%d}' % n, retention)


async def kept(kit: Kit, channel: Channel = OPS) -> tuple[int, list[int]]:
    """The floor, and the offsets that a reader from the start gets."""
    state = (await kit.events.states([channel]))[channel]
    page, offsets = await kit.events.read(channel, "start", 1000), []
    while page is not None:
        offsets += [position.offset for position, _ in page.events]
        page = page.following
    return state.floor, offsets


# Publishing


async def test_published_events_are_logged_in_order_with_those_of_jobs(kit: Kit) -> None:
    first, body = await kit.events.publish(note(1))
    assert body == b'{"n":1}'
    await kit.finish("a job's", channels=("group:ops",))
    rest = await asyncio.gather(*(kit.events.publish(note(n)) for n in range(2, 5)))
    assert [p.offset for p in (first, *(position for position, _ in rest))] == [1, 3, 4, 5]
    page = await kit.events.read(OPS, "start")
    assert page is not None
    bodies = [body for _, body in page.events]
    assert (bodies[0], bodies[2:]) == (b'{"n":1}', [b'{"n":2}', b'{"n":3}', b'{"n":4}'])
    assert b'"data":"a job\'s"' in bodies[1]


async def test_publishing_the_same_event_again_changes_nothing(kit: Kit) -> None:
    """As when the answer to the first try was lost on its way."""
    event, other = note(1), note(2)
    where = await kit.events.publish(event)
    second = (Position(where[0].epoch, 2), other.body)
    assert await asyncio.gather(*(kit.events.publish(e) for e in (event, other, event))) == [where, second, where]
    assert await kept(kit) == (0, [1, 2])


async def test_a_key_publishes_once_in_each_channel(kit: Kit) -> None:
    """The second is told by the bytes of the first, or those who missed the first would have others."""
    publications = Publications(kit.events, kit.publisher, 100)
    first = await publications.publish(OPS, "deploy.done", 1, 60, "deploy-7")
    assert await publications.publish(OPS, "deploy.done", 2, 60, "deploy-7") == first
    assert (await publications.publish(OPS, "deploy.done", 3, 60, "deploy-8")).offset == 2
    other = await publications.publish(me("group:other"), "deploy.done", 4, 60, "deploy-7")
    assert (other.offset, other.epoch) != (first.offset, first.epoch)
    page = await kit.events.read(OPS, "start")
    assert page is not None
    assert [wire.load(body)["data"] for _, body in page.events] == [1, 3]


async def test_what_is_published_by_two_at_once_is_logged_once(kit: Kit) -> None:
    async with opened(kit.settings) as other:
        for _ in range(20):
            event = note(1)
            here, there = await asyncio.gather(kit.events.publish(event), other.events.publish(event))
            assert here == there
    assert (await kept(kit))[1] == list(range(1, 21))


async def test_an_app_publishes_what_a_job_may_return_and_nothing_else(kit: Kit) -> None:
    publications = Publications(kit.events, kit.publisher, 100)
    await publications.publish(OPS, "deploy.done", {"ö": [1.5, None]}, 60)
    for kind, data, channel in (
        ("job.succeeded", 1, OPS),
        ("", 1, OPS),
        ("two words", 1, OPS),
        ("x", object(), OPS),
        ("x", "y" * 100, OPS),
        ("x", 1, me(f"job:{new_job_id()}")),
    ):
        with pytest.raises(Exception, match=r"type|form|bytes|job's"):
            await publications.publish(channel, kind, data, 60)
    page = await kit.events.read(OPS, "start")
    assert page is not None
    ((_, body),) = page.events
    assert body.startswith(b'{"id":"evt_')
    assert b'"type":"deploy.done","at":"' in body
    assert body.endswith('"final":false,"data":{"ö":[1.5,null]}}'.encode())


# Age


async def test_published_events_go_when_they_are_too_old(kit: Kit) -> None:
    for n, retention in enumerate((0.0001, 3600, 0.0001, 3600)):
        await kit.events.publish(note(n, retention))
    assert await kit.retention.purge_published(1) == 1
    assert await kept(kit) == (1, [2, 3, 4])
    # What lies below a newer one that is gone lives on.
    assert await kit.retention.purge_published(100) == 1
    assert await kept(kit) == (1, [2, 4])
    assert await kit.retention.purge_published(100) == 0


async def test_events_of_jobs_go_with_their_jobs_and_readers_below_get_a_reset(kit: Kit) -> None:
    await kit.finish_many(range(3), retention=0.0001, channels=("group:ops",))
    await kit.finish(3, channels=("group:ops",))
    assert await kit.retention.purge(2) == 2
    assert await kit.retention.purge(100) == 1
    assert await kept(kit) == (3, [4])
    state = (await kit.events.states([OPS]))[OPS]
    page = await kit.events.read(OPS, Position(state.epoch, 1))
    assert page is not None
    assert page.reset == Position(state.epoch, 3)
    assert [position.offset for position, _ in page.events] == [4]


# Length


async def test_a_log_is_no_longer_than_allowed(kit: Kit) -> None:
    for n in range(12):
        await kit.events.publish(note(n))
    await kit.events.publish(note(0, channel=me("group:short")))
    await kit.events.publish(note(0, channel=Channel("", "group:revocations")))
    assert await kit.retention.trim(5, 3) == 7, "all of it, whatever fits into a batch"
    assert await kept(kit) == (7, [8, 9, 10, 11, 12])
    assert await kept(kit, me("group:short")) == (0, [1])
    assert await kit.retention.trim(5, 100) == 0
    assert await kit.retention.trim(1, 100) == 4


async def test_the_log_of_revocations_is_never_trimmed(kit: Kit) -> None:
    own = Channel("", "group:revocations")
    for n in range(3):
        await kit.events.publish(note(n, channel=own))
    assert await kit.retention.trim(1, 100) == 0
    assert await kept(kit, own) == (0, [1, 2, 3])


# Beside writers


async def test_deleting_waits_for_no_writer_and_no_writer_for_it(kit: Kit) -> None:
    """With a batch of deletions held open in a transaction, jobs still finish into the very same channels."""
    await kit.finish_many(range(5), retention=0.0001, channels=("group:ops",))
    for n in range(10):
        await kit.events.publish(note(n))
    async with opened(kit.settings) as other:
        pool = await other.postgres.pool()
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute('DELETE FROM pushsvc.events WHERE "offset" <= 3')
            finished = await soon(kit.finish("beside it", channels=("group:ops",)))
            assert {position.offset for _, position in finished.places} == {2, 16, 6}
            await transaction.rollback()


async def test_purging_beside_many_writers_loses_nothing_and_deadlocks_never(kit: Kit) -> None:
    names = [f"group:{n}" for n in range(6)]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = (await kit.postgres.fetch(deadlocks))[0][0]
    writing = True

    async def write(turn: int) -> None:
        for n in range(15):
            channels = tuple(names[turn % 3 :: 2] if n % 2 else reversed(names[turn % 2 :: 3]))
            job = await kit.store(submission(channels=channels, retention=0.0001 if n % 3 else 3600))
            await kit.jobs.finish(succeeded(job.id, job.version))
            await kit.events.publish(note(n, 0.0001 if n % 4 else 3600, me(names[n % 6])))

    async def purge(retention: Retention) -> None:
        while writing:
            await retention.purge(5)
            await retention.purge_published(5)
            await retention.trim(20, 5)

    async with opened(kit.settings) as other:
        purging = asyncio.create_task(purge(other.retention))
        await asyncio.gather(*(write(turn) for turn in range(6)))
        writing = False
        await soon(purging)
    assert (await kit.postgres.fetch(deadlocks))[0][0] == before
    for name in names:
        floor, offsets = await kept(kit, me(name))
        top = (await kit.events.states([me(name)]))[me(name)].top
        assert all(floor < offset <= top for offset in offsets)
        assert offsets == sorted(set(offsets))
