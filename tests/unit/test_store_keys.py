"""Keys: they outlive their jobs, and nobody waits in a batch for one that an open transaction holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pushsvc.errors import Gone, KeyReused, Unavailable
from pushsvc.settings import Settings
from pushsvc.store import Retention, Within

from ..contract.kit import Kit, opened, soon, submission, succeeded


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


async def test_the_key_of_a_purged_job_is_gone_for_a_week_and_free_afterwards(kit: Kit) -> None:
    job = await kit.submit(key="k", digest="d", retention=0.0)
    await kit.jobs.finish(succeeded(job.id, 1))
    retention = Retention(kit.postgres)
    assert await retention.purge(10) == 1
    assert await retention.forget_keys(10) == 0
    with pytest.raises(Gone):
        await kit.submit(key="k", digest="d")
    with pytest.raises(KeyReused):
        await kit.submit(key="k", digest="another")
    await kit.postgres.fetch("UPDATE pushsvc.keys SET expires_at = now() - interval '1 second'")
    assert await retention.forget_keys(10) == 1
    assert (await kit.submit(key="k", digest="d")).id != job.id


async def test_a_key_lives_as_long_as_its_job(kit: Kit) -> None:
    job = await kit.submit(key="k", digest="d")
    await kit.postgres.fetch("UPDATE pushsvc.keys SET expires_at = now() - interval '1 second'")
    assert await Retention(kit.postgres).forget_keys(10) == 0
    assert (await kit.submit(key="k", digest="d")).id == job.id


async def test_one_key_at_the_same_time_is_one_job(kit: Kit) -> None:
    asked = [submission(key="k", digest="d") for _ in range(20)]
    assert len({job.job.id for job in await asyncio.gather(*map(kit.jobs.insert, asked))}) == 1


async def test_nobody_waits_in_a_batch_for_a_key_that_an_open_transaction_holds(kit: Kit) -> None:
    within = Within(kit.postgres)
    place = await within.place()
    async with (await kit.postgres.pool()).acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        held = await within.insert(connection, submission(key="k", digest="d"), place)
        same = asyncio.create_task(kit.jobs.insert(submission(key="k", digest="d")))
        others = await soon(asyncio.gather(*(kit.submit(key=f"other {n}", digest="d") for n in range(5))))
        assert len(others) == 5
        assert not same.done()
        await transaction.commit()
    assert (await soon(same)).job.id == held


async def test_who_waits_for_a_key_has_it_when_that_transaction_is_rolled_back(kit: Kit) -> None:
    within = Within(kit.postgres)
    async with (await kit.postgres.pool()).acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await within.insert(connection, submission(key="k", digest="d"), await within.place())
        same = submission(key="k", digest="d")
        waiting = asyncio.create_task(kit.jobs.insert(same))
        await asyncio.sleep(0)
        await transaction.rollback()
    assert (await soon(waiting)).job.id == same.id


async def test_who_waits_too_long_for_a_key_is_told(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushsvc.store.jobs.PATIENCE", 0.1)
    within = Within(kit.postgres)
    async with (await kit.postgres.pool()).acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await within.insert(connection, submission(key="k", digest="d"), await within.place())
        with pytest.raises(Unavailable, match="transaction that is still open"):
            await kit.jobs.insert(submission(key="k", digest="d"))
        await transaction.rollback()


async def test_all_of_a_batch_are_stored_or_none(kit: Kit) -> None:
    await kit.submit(key="taken", digest="d")
    before = await kit.jobs.queued(100)
    with pytest.raises(KeyReused):
        await kit.jobs.insert_all([submission(), submission(key="taken", digest="another"), submission()])
    assert await kit.jobs.queued(100) == before
    accepted = await kit.jobs.insert_all([submission(), submission(key="taken", digest="d")])
    assert len(accepted) == 2
    assert await kit.jobs.queued(100) == before + 1
