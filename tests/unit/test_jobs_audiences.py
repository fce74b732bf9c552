"""Several submissions of one job: it is cancelled when the last is, and nobody joins what is being cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pushsvc import Service
from pushsvc.domain import Accepted, Job, JobId, JobStatus, Outcome
from pushsvc.errors import AlreadyFinished, NotFound
from pushsvc.jobs import Canceller, Sweeper
from pushsvc.settings import Settings
from pushsvc.store import Requeue

from ..contract.drivers import WebSocketSubscriber
from ..contract.kit import Kit, me, opened, submission, succeeded
from ..contract.node import serving

ORIGIN = (datetime(1970, 1, 1, tzinfo=UTC), "")


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


def canceller(kit: Kit) -> Canceller:
    return Canceller(kit.jobs, kit.publisher, kit.announcer)


async def join(kit: Kit, mark: str, digest: str = "d") -> Accepted:
    return await kit.jobs.insert(submission(coalesce=True, mark=mark, digest=digest))


async def found(kit: Kit, job: JobId) -> Job:
    made = await kit.jobs.get("default", job)
    assert made is not None
    return made


async def status(kit: Kit, job: JobId) -> JobStatus:
    found = await kit.jobs.get("default", job)
    assert found is not None
    return found.status


async def test_each_submission_gets_a_mark_of_its_own_and_the_last_cancel_ends_the_job(kit: Kit) -> None:
    accepted = [await join(kit, mark) for mark in "abc"]
    job = accepted[0].job
    assert [each.mark for each in accepted] == ["a", "b", "c"]
    assert {each.job.id for each in accepted} == {job.id}
    for mark in ("a", "a", "b", "a"):
        assert (await canceller(kit).cancel(job, mark)).status is JobStatus.QUEUED, "c still wants it"
    assert (await canceller(kit).cancel(job, "c")).status is JobStatus.CANCELLED
    assert (await canceller(kit).cancel(job, "c")).status is JobStatus.CANCELLED, "asked while it was in flight"
    with pytest.raises(AlreadyFinished):
        await canceller(kit).cancel(await found(kit, job.id), "c")


async def test_without_a_mark_it_is_cancelled_for_all(kit: Kit) -> None:
    job = (await join(kit, "a")).job
    await join(kit, "b")
    assert (await canceller(kit).cancel(job)).status is JobStatus.CANCELLED


async def test_a_mark_that_nobody_was_given_cancels_nothing(kit: Kit) -> None:
    job, other = (await join(kit, "a")).job, (await join(kit, "b", "another")).job
    for each, mark in ((job, "b"), (job, ""), (other, "a"), (await kit.submit(), "a")):
        with pytest.raises(NotFound):
            await canceller(kit).cancel(each, mark)
    assert await status(kit, job.id) is await status(kit, other.id) is JobStatus.QUEUED


async def test_a_running_job_is_stopped_when_the_last_has_cancelled_and_then_not_joined(kit: Kit) -> None:
    job = (await join(kit, "a")).job
    await join(kit, "b")
    await kit.jobs.start([job.id], "w", 60)
    held = [(job.id, 2)]
    await canceller(kit).cancel(job, "a")
    assert await kit.jobs.renew(held, 60) == {job.id: False}
    assert (await join(kit, "c")).job.id == job.id
    await canceller(kit).cancel(job, "b")
    assert await kit.jobs.renew(held, 60) == {job.id: False}
    await canceller(kit).cancel(job, "c")
    assert await kit.jobs.renew(held, 60) == {job.id: True}
    another = await join(kit, "d")
    assert another.job.id != job.id, "what is being cancelled is not joined"
    assert (await join(kit, "e")).job.id == another.job.id
    await kit.jobs.finish(Outcome(job.id, 2, JobStatus.CANCELLED))
    assert (await join(kit, "f")).job.id == another.job.id


async def test_a_submission_that_is_repeated_counts_once(kit: Kit) -> None:
    """As when the answer to the first try was lost on its way."""
    first = submission(coalesce=True, mark="a")
    second = submission(coalesce=True, mark="b")
    jobs = [(await kit.jobs.insert(each)).job for each in (first, second, second, first, second)]
    assert len({job.id for job in jobs}) == 1
    await canceller(kit).cancel(jobs[0], "a")
    assert (await canceller(kit).cancel(jobs[0], "b")).status is JobStatus.CANCELLED


@pytest.mark.parametrize("end", ["handed back", "worker dies", "failed"])
async def test_a_cancel_outlives_the_worker_that_was_to_obey_it(kit: Kit, end: str) -> None:
    job = (await kit.submit(max_attempts=3)).id
    await kit.jobs.start([job], "w", -1 if end == "worker dies" else 60)
    await canceller(kit).cancel(await found(kit, job))
    if end != "worker dies":
        await kit.jobs.requeue(Requeue(job, 2, 0.0, "failed" if end == "failed" else "handed back"))
    assert await kit.jobs.start([job], "w2", 60) == {}, "nobody begins it again"
    await Sweeper(kit.postgres, kit.jobs, kit.retention, kit.queue, kit.announcer, kit.settings).sweep()
    assert await status(kit, job) is JobStatus.CANCELLED


async def test_of_cancels_at_once_of_one_queued_job_all_are_granted_and_it_ends_once(
    kit: Kit, settings: Settings
) -> None:
    async with opened(settings) as other:
        for _ in range(10):
            job = await kit.submit()
            cancels = [canceller(each).cancel(job) for each in (kit, other, kit, other)]
            assert {each.status for each in await asyncio.gather(*cancels)} == {JobStatus.CANCELLED}
            with pytest.raises(AlreadyFinished):
                await canceller(other).cancel(await found(kit, job.id))
        page = await kit.events.read(me(), "start")
        assert page is not None
        assert len(page.events) == 10


async def test_a_post_and_a_frame_are_answered_with_a_link_that_cancels_for_them_alone(settings: Settings) -> None:
    service = Service(settings=settings)

    @service.job(coalesce=True)
    async def shared(n: int = 1) -> None: ...

    @service.job
    async def single(n: int = 1) -> None: ...

    async with serving(settings, service=service) as node:
        socket = WebSocketSubscriber(node)
        await socket.open([], None)
        headers = {"Authorization": f"Bearer {node.token()}"}
        async with httpx.AsyncClient(base_url=node.http, headers=headers, trust_env=False) as http:

            async def post(job: str, **headers: str) -> dict[str, Any]:
                answer = await http.post("/v1/jobs", json={"job": job}, headers=headers)
                assert answer.status_code == 202
                made: dict[str, Any] = answer.json()
                return made

            first = await post("shared")
            second = await socket._ask({"op": "submit", "job": "shared", "params": {}})
            path, _, mark = first["links"]["cancel"].partition("?mark=")
            assert second["id"] == first["id"]
            assert second["links"]["cancel"].startswith(f"{path}?mark=")
            assert second["links"]["cancel"] != first["links"]["cancel"]
            assert len(mark) >= 16
            for plain in (await post("single"), await post("shared", **{"Idempotency-Key": "k"})):
                assert plain["links"]["cancel"] == f"/v1/jobs/{plain['id']}/cancel", "nobody else shares it"
            assert (await http.post(f"{path}?mark={mark}x")).status_code == 404
            for _ in range(2):
                answer = await http.post(first["links"]["cancel"])
                assert (answer.status_code, answer.json()["status"]) == (202, "queued")
            answer = await http.post(second["links"]["cancel"])
            assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
            assert (await http.post(second["links"]["cancel"])).status_code == 409
            assert (await post("shared"))["id"] != first["id"]
        await socket.close()


@pytest.mark.parametrize("seed", range(4))
async def test_joins_cancels_starts_and_ends_at_once_leave_nobody_without_a_job_he_wants(
    kit: Kit, settings: Settings, seed: int
) -> None:
    """Two processes, each with submitters who join and cancel, and workers who start and end."""
    draw = random.Random(seed)
    wanted: dict[str, JobId] = {}
    cancelled: dict[JobId, set[str]] = {}
    everybody: dict[JobId, set[str]] = {}

    async def come_and_go(mine: Kit, number: int) -> None:
        for turn in range(6):
            mark = f"{number}.{turn}"
            accepted = await join(mine, mark)
            everybody.setdefault(accepted.job.id, set()).add(mark)
            await asyncio.sleep(draw.random() * 0.004)
            if draw.random() < 0.7:
                cancelled.setdefault(accepted.job.id, set()).add(mark)
                try:
                    await canceller(mine).cancel(accepted.job, mark)
                except AlreadyFinished:
                    continue
            else:
                wanted[mark] = accepted.job.id

    async def work(mine: Kit) -> None:
        while True:
            page = await mine.jobs.queued_page(ORIGIN, 10)
            for claim in (await mine.jobs.start([row[0].id for row in page], "w", 60)).values():
                await asyncio.sleep(draw.random() * 0.01)
                held = await mine.jobs.renew([(claim.job.id, claim.job.version)], 60)
                stopped = held.get(claim.job.id, False)
                ending = Outcome(claim.job.id, claim.job.version, JobStatus.CANCELLED)
                await mine.jobs.finish(ending if stopped else succeeded(claim.job.id, claim.job.version))
            await asyncio.sleep(0.001)

    async with opened(settings) as other:
        workers = [asyncio.create_task(work(each)) for each in (kit, other)]
        await asyncio.gather(*(come_and_go((kit, other)[n % 2], n) for n in range(6)))
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await drain(kit)
    for job, marks in everybody.items():
        ended = await status(kit, job)
        assert ended.terminal
        if ended is JobStatus.CANCELLED:
            assert cancelled.get(job, set()) >= marks, "only when all who had joined have cancelled"
    for mark, job in wanted.items():
        assert await status(kit, job) is JobStatus.SUCCEEDED, mark


async def drain(kit: Kit) -> None:
    """End what is left."""
    sweeper = Sweeper(kit.postgres, kit.jobs, kit.retention, kit.queue, kit.announcer, kit.settings)
    await sweeper.sweep()
    rows = await kit.postgres.fetch(
        "SELECT id, version, status, cancel_requested FROM pushsvc.jobs WHERE status IN ('queued', 'running')"
    )
    for row in rows:
        if row["cancel_requested"]:
            await kit.jobs.finish(Outcome(row["id"], row["version"], JobStatus.CANCELLED))
        else:
            await kit.jobs.finish(succeeded(row["id"], row["version"]))
