"""Accepting jobs, finding again what was lost, and ending what nobody else ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import pytest_asyncio
from arq.jobs import Job as ArqJob
from arq.jobs import JobStatus as ArqStatus

from pushsvc import Service, wire
from pushsvc.bus import Queue, connect
from pushsvc.domain import Cursor, Job, JobId, JobStatus, Principal
from pushsvc.errors import (
    AlreadyFinished,
    BadRequest,
    Forbidden,
    InvalidParams,
    KeyReused,
    NotFound,
    QueueFull,
    UnknownJob,
)
from pushsvc.jobs import Canceller, JobRequest, Submitter, Sweeper
from pushsvc.jobs.wakeup import Wakeup
from pushsvc.settings import Settings
from pushsvc.store import MAX_LOSSES, Within

from ..contract.kit import Kit, me, opened, soon, submission, succeeded, until

ME = Principal("me")
SERVER = Principal("backend", scopes=frozenset({"submit", "submit:any"}))


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


def offered(settings: Settings) -> Service:
    service = Service(settings=settings)

    @service.job
    async def report(origin: str, month: int = 1) -> None: ...

    @service.job(coalesce=True)
    async def timed(at: datetime, tree: dict[str, Any]) -> None: ...

    @service.job(coalesce=True)
    async def shared(n: int = 1) -> None: ...

    return service


def submitter(kit: Kit, **changes: Any) -> Submitter:
    settings = kit.settings.model_copy(update=changes)
    return Submitter(offered(settings).jobs, kit.jobs, Within(kit.postgres), kit.events, kit.queue, settings)


async def submit(to: Submitter, job: str = "report", who: Principal = ME, key: str | None = None, **body: Any) -> Job:
    if job == "report":
        body.setdefault("params", {"origin": "JFK"})
    request = JobRequest.model_validate({"job": job} | body)
    return (await to.submit(who, request.job, request.params, key, request.options)).job


async def stored(kit: Kit) -> int:
    return await kit.jobs.queued(1000)


def now(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# Submission


async def test_an_accepted_job_is_stored_and_then_queued(kit: Kit) -> None:
    job = await submit(submitter(kit), run_at=now(3600))
    assert (job.owner, job.status, job.name) == ("me", JobStatus.QUEUED, "report")
    arq = ArqJob(kit.queue.arq_id(job.id), kit.redis, _queue_name=kit.queue.name, _deserializer=wire.load)

    async def deferred() -> bool:
        return await arq.status() is ArqStatus.deferred

    await until(deferred)


async def test_a_submission_says_where_the_inbox_stood_before_its_result(kit: Kit) -> None:
    await kit.finish_many(range(3))
    accepted = await submitter(kit).submit(ME, "report", {"origin": "JFK"})
    positions = Cursor.parse(accepted.cursor).positions
    assert {name: position.offset for name, position in positions.items()} == {
        f"job:{accepted.job.id}": 1,
        "user:me": 3,
    }


async def test_who_has_never_submitted_has_an_inbox_to_start_from_too(kit: Kit) -> None:
    accepted = await submitter(kit).submit(Principal("new"), "report", {"origin": "JFK"})
    assert Cursor.parse(accepted.cursor).positions["user:new"].offset == 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"job": "nothing"}, UnknownJob),
        ({"params": {}}, InvalidParams),
        ({"params": {"origin": "JFK", "x": 1}}, InvalidParams),
        ({"channels": ["rubbish"]}, BadRequest),
        ({"channels": ["job:01J9ZZ8QG5V0000000000000AB"]}, BadRequest),
        ({"channels": ["user:you"]}, Forbidden),
        ({"channels": ["group:ops"]}, Forbidden),
        ({"deadline": "2020-01-01T00:00:00Z"}, BadRequest),
        ({"deadline": now(5).isoformat(), "run_at": now(10).isoformat()}, BadRequest),
    ],
)
async def test_a_request_that_can_not_be_served_stores_nothing(
    kit: Kit, body: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await submit(submitter(kit), **body)
    assert await stored(kit) == 0


async def test_a_server_may_submit_for_others(kit: Kit) -> None:
    job = await submit(submitter(kit), who=SERVER, channels=["user:you", "group:ops", "user:you", "user:backend"])
    finished = await kit.jobs.finish(succeeded(job.id, 1))
    assert finished is not None
    assert {channel.name for channel, _ in finished.places} == {
        f"job:{job.id}",
        "user:backend",
        "user:you",
        "group:ops",
    }


async def test_a_key_stands_for_its_payload(kit: Kit) -> None:
    to = submitter(kit)
    first = await submit(to, key="k")
    assert (await submit(to, key="k")).id == first.id
    assert (await submit(to, key="k", params={"origin": "JFK", "month": 1})).id == first.id, "as by default"
    for change in ({"params": {"origin": "LGA"}}, {"job": "shared", "params": {}}, {"run_at": now(60)}):
        with pytest.raises(KeyReused):
            await submit(to, key="k", **change)
    assert (await submit(to, key="k", who=Principal("you"))).id != first.id
    assert (await submit(to, key="k2")).id != first.id
    assert (await submit(to)).id != first.id


async def test_a_payload_is_the_same_however_its_json_and_its_instants_are_written(kit: Kit) -> None:
    to, at = submitter(kit), datetime(2099, 1, 1, tzinfo=UTC)
    east = timezone(timedelta(hours=5, minutes=45))

    def written(moment: datetime, *order: str, **changes: Any) -> dict[str, Any]:
        tree: dict[str, Any] = {"a": 1, "b": {"x": 1.5, "y": [None]}} | changes
        return {
            "params": {"at": moment.isoformat(), "tree": {name: tree[name] for name in order}},
            "run_at": moment,
            "deadline": moment + timedelta(hours=1),
        }

    first = await submit(to, "timed", key="k", **written(at, "a", "b"))
    again = written(at.astimezone(east), "b", "a", b={"y": [None], "x": 1.5}, a=1.0)
    assert (await submit(to, "timed", key="k", **again)).id == first.id
    later = written(at + timedelta(seconds=1), "a", "b")
    for change in (written(at, "a", "b", a=True), written(at, "a"), {**again, "params": later["params"]}, later):
        with pytest.raises(KeyReused):
            await submit(to, "timed", key="k", **change)
    shared = await submit(to, "timed", **written(at, "a", "b"))
    assert (await submit(to, "timed", **again)).id == shared.id, "what coalesces goes by the same rule"


async def test_equal_jobs_that_coalesce_are_one(kit: Kit) -> None:
    to = submitter(kit)
    jobs = await asyncio.gather(*(submit(to, "shared") for _ in range(5)))
    assert len({job.id for job in jobs}) == 1
    assert (await submit(to, "shared", params={"n": 2})).id != jobs[0].id
    assert (await submit(to, "shared", key="k")).id != jobs[0].id, "a key asks for a job of its own"


async def test_a_full_queue_refuses_and_says_when_to_come_again(kit: Kit) -> None:
    to = submitter(kit, queue_limit=3)

    async def refused() -> bool:
        try:
            await submit(to)
        except QueueFull as error:
            return bool(error.extra["retry_after"] > 0)
        return False

    for _ in range(3):
        await submit(to)
    to._depth_at = float("-inf")
    await until(refused)
    before = await stored(kit)
    assert await refused()
    assert await stored(kit) == before


async def test_without_redis_a_job_is_accepted_all_the_same(kit: Kit) -> None:
    away = connect("redis://127.0.0.1:1")
    to = Submitter(
        offered(kit.settings).jobs,
        kit.jobs,
        Within(kit.postgres),
        kit.events,
        Queue(away, away, kit.scope),
        kit.settings,
    )
    job = await soon(submit(to))
    assert (await kit.jobs.get("default", job.id)) == job
    await away.aclose(close_connection_pool=True)


# Cancelling


async def test_a_queued_job_is_cancelled_at_once_and_only_once(kit: Kit) -> None:
    canceller = Canceller(kit.jobs, kit.publisher, kit.announcer)
    job = await kit.store(submission())
    cancelled = await canceller.cancel(job)
    assert cancelled.status is JobStatus.CANCELLED
    with pytest.raises(AlreadyFinished):
        await canceller.cancel(cancelled)
    assert await canceller.cancel(job) == cancelled, "whoever asked at the same time has got what it asked for"
    page = await kit.events.read(me(), "start")
    assert page is not None
    assert [wire.load(event)["error"]["code"] for _, event in page.events] == ["job_cancelled"]


async def test_a_job_that_changes_while_it_is_being_cancelled_is_looked_at_again(kit: Kit) -> None:
    canceller = Canceller(kit.jobs, kit.publisher, kit.announcer)
    job = await kit.store(submission())
    await kit.jobs.start([job.id], "w", 60)
    asked = await canceller.cancel(job)
    assert asked.status is JobStatus.RUNNING
    assert await kit.jobs.renew([(job.id, 2)], 60) == {job.id: True}
    await kit.postgres.fetch("DELETE FROM pushsvc.jobs")
    with pytest.raises(NotFound):
        await canceller.cancel(job)


async def test_of_a_cancel_and_an_end_at_once_exactly_one_counts(kit: Kit, settings: Settings) -> None:
    async with opened(settings) as other:
        canceller = Canceller(kit.jobs, kit.publisher, kit.announcer)
        for _ in range(15):
            job = await kit.store(submission())
            answers = await asyncio.gather(
                canceller.cancel(job), other.jobs.finish(succeeded(job.id, 1)), return_exceptions=True
            )
            won = [not isinstance(answers[0], BaseException), answers[1] is not None]
            assert sorted(won) == [False, True]


# Sweeping


def sweeper(kit: Kit) -> Sweeper:
    return Sweeper(kit.postgres, kit.jobs, kit.retention, kit.queue, kit.announcer, kit.settings)


async def lapsed_job(kit: Kit, times: int = 1, **changes: Any) -> JobId:
    job = await kit.store(submission(**changes))
    for _ in range(times):
        assert job.id in await kit.jobs.start([job.id], "dead", -1)
    return job.id


async def state(kit: Kit, job: str) -> tuple[JobStatus, str | None]:
    found = await kit.jobs.get("default", job)
    assert found is not None
    return found.status, wire.load(found.error)["code"] if found.error else None


async def test_jobs_that_redis_forgot_are_queued_again(kit: Kit) -> None:
    to = submitter(kit)
    jobs = [(await submit(to)).id for _ in range(3)] + [(await submit(to, run_at=now(60))).id]
    sweep = sweeper(kit)
    await sweep.sweep()
    await kit.redis.flushall()
    await sweep.sweep()
    assert await kit.queue.missing(jobs) == []
    assert sorted((await kit.queue.claim(10, 60, "w")).ids) == sorted(jobs[:3])


async def test_more_forgotten_jobs_than_a_page_are_all_found_at_once(kit: Kit) -> None:
    asked = [submission() for _ in range(1100)]
    await asyncio.gather(*(kit.store(each) for each in asked))
    await sweeper(kit).sweep()
    assert await kit.queue.missing([each.id for each in asked]) == []


async def test_a_job_of_a_dead_worker_is_offered_again(kit: Kit) -> None:
    job = await lapsed_job(kit)
    await sweeper(kit).sweep()
    assert (await kit.queue.claim(1, 60, "w")).ids == [job]
    assert job in await kit.jobs.start([job], "w", 60)


async def test_a_job_under_which_too_many_workers_died_fails_as_that(kit: Kit) -> None:
    job = await lapsed_job(kit, MAX_LOSSES + 1)
    kept = await lapsed_job(kit, MAX_LOSSES)
    await sweeper(kit).sweep()
    assert await state(kit, job) == (JobStatus.FAILED, "worker_lost")
    assert await state(kit, kept) == (JobStatus.RUNNING, None)
    page = await kit.events.read(me(), "start")
    assert page is not None
    assert [wire.load(event)["error"]["code"] for _, event in page.events] == ["worker_lost"]


async def test_overdue_jobs_expire_unless_a_living_worker_has_them(kit: Kit) -> None:
    queued = (await kit.store(submission(deadline=now(-1)))).id
    fine = (await kit.store(submission(deadline=now(60)))).id
    dead, alive = [(await kit.store(submission(deadline=now(60)))).id for _ in range(2)]
    await kit.jobs.start([dead], "w", -1)
    await kit.jobs.start([alive], "w", 60)
    await kit.postgres.fetch("UPDATE pushsvc.jobs SET deadline = now() WHERE id = ANY($1)", [dead, alive])
    await sweeper(kit).sweep()
    assert [(await state(kit, job))[0].value for job in (queued, fine, dead, alive)] == [
        "expired",
        "queued",
        "expired",
        "running",
    ]


async def test_what_is_past_its_retention_goes(kit: Kit) -> None:
    old = await kit.finish(1, retention=0.001)
    kept = await kit.finish(2)
    await sweeper(kit).sweep()
    assert await kit.jobs.get("default", old.job.id) is None
    assert await kit.jobs.get("default", kept.job.id) is not None


async def test_without_redis_a_sweep_does_what_it_can(kit: Kit) -> None:
    away = connect("redis://127.0.0.1:1")
    queued = (await kit.store(submission(deadline=now(-1)))).id
    await kit.store(submission())
    sweep = Sweeper(kit.postgres, kit.jobs, kit.retention, Queue(away, away, kit.scope), kit.announcer, kit.settings)
    await soon(sweep.sweep())
    assert (await state(kit, queued))[0] is JobStatus.EXPIRED
    await away.aclose(close_connection_pool=True)


async def test_sweeping_at_once_from_several_processes_ends_each_job_once(kit: Kit, settings: Settings) -> None:
    for _ in range(10):
        await kit.store(submission(deadline=now(-1)))
    async with opened(settings) as other:
        runs = [asyncio.create_task(sweeper(each).run()) for each in (kit, other)]

        async def all_logged() -> bool:
            page = await kit.events.read(me(), "start")
            return page is not None and len(page.events) >= 10

        await until(all_logged)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    page = await kit.events.read(me(), "start")
    assert page is not None
    assert len(page.events) == 10


# Wake-ups


async def test_a_worker_without_room_leaves_the_token_to_another(kit: Kit, settings: Settings) -> None:
    room = True
    busy = Wakeup(kit.queue, ["default"], lambda: room)
    busy.start()
    try:

        async def blocked() -> bool:
            return int((await kit.redis.info("clients"))["blocked_clients"]) == 1

        await until(blocked)
        room = False
        await submit(submitter(kit))

        async with opened(settings) as other:

            async def left() -> bool:
                return bool(await other.queue.token(0.1))

            await until(left)
    finally:
        await busy.stop()


async def test_a_token_a_call_or_time_wakes_the_worker(kit: Kit) -> None:
    wakeup = Wakeup(kit.queue, ["default"], lambda: True)
    wakeup.start()
    try:
        waiting = asyncio.create_task(wakeup.wait(60))
        await submit(submitter(kit))
        await soon(waiting)
        waiting = asyncio.create_task(wakeup.wait(60))
        await asyncio.sleep(0)
        wakeup.now()
        await soon(waiting)
        wakeup.now()
        await soon(wakeup.wait(60))
        await soon(wakeup.wait(0.01))
    finally:
        await wakeup.stop()
