"""The probe goes all the way on real engines, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio

from pushsvc import Service
from pushsvc.domain import JobStatus
from pushsvc.errors import UnknownJob
from pushsvc.jobs import Registry
from pushsvc.ops import probe
from pushsvc.ops.probe import NAME, TENANT, Probe, Probed, ProbedRegistry
from pushsvc.settings import Settings

from ..contract.kit import Kit, opened, soon, submission, until


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest.fixture
def service(settings: Settings) -> Service:
    return Service(settings=settings)


@asynccontextmanager
async def working(service: Service) -> AsyncIterator[None]:
    """A worker, until the end."""
    stop = asyncio.Event()
    worker = asyncio.create_task(service.work(stop))
    try:
        yield
    finally:
        stop.set()
        await soon(worker)


async def sent(kit: Kit, *databases: str) -> Probed:
    return await soon(Probe(kit.jobs, kit.retention, kit.queue, kit.publisher, kit.settings.bus).run(databases))


async def nothing_left(kit: Kit) -> bool:
    rows = await kit.postgres.fetch("SELECT id FROM pushsvc.jobs UNION ALL SELECT name FROM pushsvc.channels")
    keys = [key.decode() for key in await kit.redis.keys("*")]
    # What a worker leaves of its own.
    return not rows and set(keys) <= {f"{kit.queue.name}:pushsvc", f"{kit.queue.name}:workers:default"}


async def test_with_a_worker_it_is_stored_run_and_pushed_and_leaves_nothing(kit: Kit, service: Service) -> None:
    async with working(service):
        found = await sent(kit, "primary")
        assert found.error is None
        assert found.taken is not None
        assert found.stored is not None
        assert found.done == found.pushed
        assert found.pushed is not None
        assert 0 < found.stored < found.pushed
        await until(lambda: nothing_left(kit))


async def test_without_a_worker_nothing_is_submitted_and_nothing_is_left(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "WORKER_PATIENCE", 0.05)
    assert await sent(kit, "primary") == Probed(None)
    assert await nothing_left(kit)
    assert await kit.redis.keys("*") == []


async def test_a_worker_that_can_not_ask_a_database_fails_it_with_the_reason(kit: Kit, service: Service) -> None:
    async with working(service):
        found = await sent(kit, "primary", "replica")
        assert found.error is not None
        assert found.error.startswith("it failed: there is no database named 'replica'")
        await until(lambda: nothing_left(kit))


async def test_one_that_no_worker_ends_is_given_up_and_leaves_nothing(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a worker of an older version, which does not know it."""
    monkeypatch.setattr(probe, "PATIENCE", 0.1)
    monkeypatch.setattr(probe, "WORKER_PATIENCE", 0.3)

    async def take() -> None:
        assert await kit.queue.token(5)

    found, _ = await asyncio.gather(sent(kit, "primary"), take())
    assert found.error == "it was not done within 0.1 s"
    await kit.queue.token(0.01)
    assert await nothing_left(kit)


async def test_a_worker_that_gives_the_wake_up_back_has_no_room(kit: Kit) -> None:
    taking = asyncio.create_task(kit.queue.taken("probe", 0.2))
    for _ in range(3):
        assert await kit.queue.token(5) == ("probe", "default")
        await kit.queue.wake("probe")
    assert await taking is None
    assert await kit.redis.keys("*") == []


async def test_workers_know_the_probe_and_nobody_else_does(service: Service) -> None:
    registry = Registry()
    probed = ProbedRegistry(registry)
    registry.add(replace(probed.get(NAME), name="report"))
    assert probed.get(NAME).name == NAME
    assert probed.get("report").name == "report"
    assert (len(probed), [spec.name for spec in probed]) == (1, ["report"])
    for each, name in ((registry, NAME), (service.jobs, NAME), (probed, "another")):
        with pytest.raises(UnknownJob):
            each.get(name)


async def test_should_the_doctor_die_the_deadline_and_the_retention_have_it_deleted(kit: Kit) -> None:
    job = await kit.store(probe._submission(submission().id, ["primary"]))
    row = (await kit.postgres.fetch("SELECT deadline - now() < '61 s' AS soon, retention FROM pushsvc.jobs"))[0]
    assert row["soon"]
    assert row["retention"] <= 0.001
    assert (job.tenant, job.owner, job.status) == (TENANT, None, JobStatus.QUEUED)
