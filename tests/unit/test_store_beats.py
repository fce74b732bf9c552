"""Beats: time in which no lease could be written counts against none, and keeps no dead worker's jobs for ever.

The clock is PostgreSQL's; what lies in the past is put there by a statement, so that no test waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from pushsvc.domain import DEFAULT_DEPLOYMENT, Outcome, new_job_id
from pushsvc.settings import Settings
from pushsvc.store import Beats

from ..contract.kit import Kit, opened, submission, succeeded

LEASE = 8.0


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


def beats_of(kit: Kit) -> Beats:
    return Beats(kit.postgres, DEFAULT_DEPLOYMENT, LEASE)


async def running(kit: Kit, **options: object) -> str:
    """A job that a worker has just started."""
    job = await kit.store(submission(**options))
    assert job.id in await kit.jobs.start([job.id], "its worker", LEASE)
    return job.id


async def passes(kit: Kit, seconds: float) -> None:
    """So long nobody has written a beat, nor a lease."""
    past = f"make_interval(secs => {seconds})"
    await kit.postgres.fetch(
        f"UPDATE pushsvc.beats SET beat_at = beat_at - {past}, overdue_at = overdue_at - {past},"
        f" grace_until = grace_until - {past}"
    )
    await kit.postgres.fetch(f"UPDATE pushsvc.jobs SET lease_until = lease_until - {past}")


async def left(kit: Kit, job: str) -> float:
    """Seconds of the job's lease."""
    rows = await kit.postgres.fetch(
        "SELECT extract(epoch FROM lease_until - now())::float FROM pushsvc.jobs WHERE id = $1", job
    )
    return float(rows[0][0])


async def taken(kit: Kit, job: str) -> bool:
    """Whether another worker gets it."""
    return job in await kit.jobs.start([job], "another worker", LEASE)


async def test_beats_in_time_give_nothing_back(kit: Kit) -> None:
    beats, job = beats_of(kit), await running(kit)
    assert await beats.beat() == 0
    for _ in range(8):
        await passes(kit, 1.0)
        assert await beats.beat() == 0
    assert await left(kit, job) < 0.1
    await passes(kit, 0.5)
    assert [found[0].id for found in await kit.jobs.lapsed(10)] == [job]
    assert await taken(kit, job)


async def test_while_a_beat_is_overdue_nobody_takes_over_and_nobody_ends_what_runs(kit: Kit) -> None:
    """Not before the first beat after a spell, either: that one sets things right."""
    await beats_of(kit).beat()
    job = await running(kit)
    await kit.postgres.fetch("UPDATE pushsvc.jobs SET deadline = now() - interval '1 second'")
    await passes(kit, 20)
    assert await kit.jobs.lapsed(10) == []
    assert await kit.jobs.overdue(10) == []
    await kit.postgres.fetch("UPDATE pushsvc.jobs SET deadline = NULL")
    assert not await taken(kit, job)


async def test_what_waits_is_started_though_beats_are_overdue(kit: Kit) -> None:
    await beats_of(kit).beat()
    await passes(kit, 20)
    job = await kit.store(submission())
    assert await taken(kit, job.id)


async def test_after_a_spell_a_worker_has_a_whole_lease_to_renew(kit: Kit) -> None:
    for seconds in (3.0, 5.0, 20.0, 3600.0):
        await kit.postgres.fetch("DELETE FROM pushsvc.beats")
        beats = beats_of(kit)
        await beats.beat()
        job = await running(kit)
        await passes(kit, seconds)
        assert seconds <= await beats.beat() < seconds + 1
        assert LEASE - 1 < await left(kit, job) <= LEASE
        assert not await taken(kit, job)
        # Its worker has died: one lease later, it is another's.
        for _ in range(9):
            await passes(kit, 1.0)
            await beats.beat()
        assert await taken(kit, job)


async def test_spell_after_spell_each_gives_back_what_it_took_and_no_more(kit: Kit) -> None:
    """Beats that always come too late keep a dead worker's job longer, and not for ever."""
    beats = beats_of(kit)
    await beats.beat()
    job = await running(kit)
    spells = 0
    while spells < 100:
        spells += 1
        await passes(kit, 4.0)
        await beats.beat()
        if await taken(kit, job):
            break
        assert await left(kit, job) > 0
    assert 3 < spells < 15


async def test_a_lease_that_is_renewed_in_between_outlives_any_series_of_spells(kit: Kit) -> None:
    beats = beats_of(kit)
    await beats.beat()
    job = await running(kit)
    for seconds in (3, 7, 3, 9, 30, 3, 3, 3, 7.9, 100, 3):
        await passes(kit, seconds)
        assert not await taken(kit, job)
        await beats.beat()
        assert await left(kit, job) > LEASE / 2
        assert not await taken(kit, job)
        await passes(kit, LEASE / 3)  # until its worker comes to renew
        await beats.beat()
        assert job in await kit.jobs.renew([(job, 2)], LEASE)  # type: ignore[list-item]


async def test_a_spell_of_one_deployment_is_not_anothers(kit: Kit) -> None:
    await beats_of(kit).beat()
    job = await running(kit)
    await passes(kit, 20)
    await Beats(kit.postgres, "another", LEASE).beat()
    assert not await taken(kit, job)
    assert await left(kit, job) < 0


async def test_what_has_ended_meanwhile_stays_ended(kit: Kit) -> None:
    beats = beats_of(kit)
    await beats.beat()
    job = await running(kit)
    await passes(kit, 20)
    assert await kit.jobs.finish(Outcome(job, 2, succeeded(job, 2).status, result=b"1")) is not None  # type: ignore[arg-type]
    assert await beats.beat() > 0
    rows = await kit.postgres.fetch("SELECT status, lease_until FROM pushsvc.jobs WHERE id = $1", job)
    assert (rows[0]["status"], rows[0]["lease_until"]) == ("succeeded", None)


async def test_a_service_that_never_had_beats_takes_over_as_ever(kit: Kit) -> None:
    job = await running(kit)
    await passes(kit, 9)
    assert await taken(kit, job)
    assert not await taken(kit, new_job_id())
