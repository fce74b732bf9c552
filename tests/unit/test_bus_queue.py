"""ARQ's queue under ARQ's keys: batch claims, leases, wake-ups."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest_asyncio
from arq.jobs import Job, JobStatus

from pushsvc import wire
from pushsvc.bus import Queued
from pushsvc.domain import Progress, new_job_id
from pushsvc.settings import Settings

from ..contract.kit import Kit, me, opened, soon, until


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


def due(in_seconds: float = 0.0) -> Queued:
    return Queued(new_job_id(), "report", time.time() + in_seconds)


def stock(kit: Kit, job: str) -> Job:
    """ARQ's own view of a job."""
    return Job(kit.queue.arq_id(job), kit.redis, _queue_name=kit.queue.name, _deserializer=wire.load)


async def tokens(kit: Kit) -> int:
    return int(await kit.redis.llen(f"{kit.queue.name}:wake"))  # type: ignore[misc]


async def test_a_stock_arq_job_sees_each_state(kit: Kit) -> None:
    job = due(-0.01)
    seen = stock(kit, job.id)
    assert await seen.status() is JobStatus.not_found
    await kit.queue.enqueue([job])
    assert await seen.status() is JobStatus.queued
    info = await seen.info()
    assert info is not None
    assert info.function == "report"
    assert not info.args
    assert not info.kwargs
    assert (await kit.queue.claim(1, 60, "w")).ids == [job.id]
    assert await seen.status() is JobStatus.in_progress
    await kit.queue.finish([(job.id, kit.queue.result_of(job.id, "report", True, "/v1/jobs/x/result"))])
    assert await seen.status() is JobStatus.complete
    assert await seen.result(timeout=1) == "/v1/jobs/x/result"
    assert await kit.redis.zcard(kit.queue.name) == 0


async def test_a_deferred_job_is_not_claimed_and_says_when_it_is_due(kit: Kit) -> None:
    job = due(30)
    await kit.queue.enqueue([job])
    assert await stock(kit, job.id).status() is JobStatus.deferred
    claimed = await kit.queue.claim(5, 60, "w")
    assert claimed.ids == []
    assert claimed.next_due is not None
    assert 25 < claimed.next_due <= 30
    assert await tokens(kit) == 0, "nobody is woken for it"


async def test_an_empty_queue_has_nothing_next(kit: Kit) -> None:
    claimed = await kit.queue.claim(5, 60, "w")
    assert (claimed.ids, claimed.next_due) == ([], None)


async def test_jobs_are_claimed_by_due_time(kit: Kit) -> None:
    jobs = [due(-n) for n in range(5)]
    await kit.queue.enqueue(jobs)
    assert (await kit.queue.claim(3, 60, "w")).ids == [job.id for job in reversed(jobs)][:3]


async def test_each_job_is_claimed_by_exactly_one_of_many_workers(kit: Kit, settings: Settings) -> None:
    jobs = [due(-1) for _ in range(200)]
    await kit.queue.enqueue(jobs)
    got: list[str] = []

    async def work(mine: Kit, name: str) -> None:
        while ids := (await mine.queue.claim(7, 60, name)).ids:
            got.extend(ids)

    async with opened(settings) as b, opened(settings) as c:
        await asyncio.gather(*(work(each, str(n)) for n, each in enumerate([kit, b, c] * 3)))
    assert sorted(got) == sorted(job.id for job in jobs)


async def test_more_running_jobs_than_a_look_takes_in_do_not_hide_those_that_wait(kit: Kit) -> None:
    await kit.queue.enqueue([due(-10) for _ in range(300)])
    assert len((await kit.queue.claim(300, 60, "w")).ids) == 300
    job = due(-0.01)
    await kit.queue.enqueue([job])
    assert (await kit.queue.claim(1, 60, "w")).ids == [job.id]


async def test_jobs_that_a_stock_worker_runs_are_passed_over(kit: Kit) -> None:
    jobs = [due(-10 - n) for n in range(200)]
    await kit.queue.enqueue(jobs)
    for job in jobs[1:]:
        await kit.redis.set(f"arq:in-progress:{kit.queue.arq_id(job.id)}", b"1", px=60_000)
    claimed: list[str] = []

    async def found() -> bool:
        claimed.extend((await kit.queue.claim(1, 60, "w")).ids)
        return bool(claimed)

    await until(found)
    assert claimed == [jobs[0].id]


async def test_a_lease_that_ran_out_gives_the_job_back(kit: Kit) -> None:
    job = due(-1)
    await kit.queue.enqueue([job])
    first = await kit.queue.claim(1, 0.05, "dead")
    assert first.ids == [job.id]
    claimed: list[str] = []

    async def back() -> bool:
        claimed.extend((await kit.queue.claim(1, 60, "alive")).ids)
        return bool(claimed)

    await until(back)
    assert claimed == [job.id]
    assert await kit.redis.get(f"arq:in-progress:{kit.queue.arq_id(job.id)}") == b"alive"


async def test_a_renewed_lease_keeps_the_job(kit: Kit) -> None:
    job = due(-1)
    await kit.queue.enqueue([job])
    claimed = await kit.queue.claim(1, 0.2, "w")
    await kit.queue.renew(claimed.ids, 60, "w")
    assert await kit.redis.pttl(f"arq:in-progress:{kit.queue.arq_id(job.id)}") > 50_000
    again = await kit.queue.claim(1, 60, "other")
    assert again.ids == []
    assert again.next_due is not None
    assert again.next_due > 50


async def test_a_job_given_back_is_due_when_it_says_so(kit: Kit) -> None:
    now, later = due(-1), due(-1)
    await kit.queue.enqueue([now, later])
    await kit.queue.claim(2, 60, "w")
    while await kit.queue.token(0.01):
        pass
    await kit.queue.release([(later.id, 30)])
    assert await tokens(kit) == 0
    await kit.queue.release([(now.id, 0)])
    assert await tokens(kit) == 1
    claimed = await kit.queue.claim(2, 60, "w")
    assert claimed.ids == [now.id]
    assert claimed.next_due is not None
    assert 25 < claimed.next_due <= 30


async def test_enqueueing_again_changes_nothing(kit: Kit) -> None:
    job = due(-1)
    await kit.queue.enqueue([job])
    assert (await kit.queue.claim(1, 60, "w")).ids == [job.id]
    await kit.queue.enqueue([job])
    assert (await kit.queue.claim(1, 60, "other")).ids == []
    assert await kit.queue.missing([job.id, "unknown"]) == ["unknown"]


# Wake-ups


async def test_a_token_waits_for_a_worker_that_is_not_listening_yet_and_names_the_job(kit: Kit) -> None:
    job = due(-1)
    await kit.queue.enqueue([job])
    assert await kit.queue.token(5) == (job.id, "default"), (
        "so that PostgreSQL may start it while Redis is still claiming it"
    )
    assert not await kit.queue.token(0.01)


async def test_a_token_wakes_exactly_one_of_several_waiters(kit: Kit, settings: Settings) -> None:
    async with opened(settings) as b, opened(settings) as c:
        waiting = [asyncio.create_task(each.queue.token(60)) for each in (kit, b, c)]

        async def blocked() -> bool:
            return int((await kit.redis.info("clients"))["blocked_clients"]) == 3

        await until(blocked)
        await kit.queue.enqueue([due(-1)])
        done, waiting_still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert len(done) == 1
        assert all(task.result() for task in done)
        assert len(waiting_still) == 2
        assert await tokens(kit) == 0
        await kit.queue.wake()
        more, _ = await asyncio.wait(waiting_still, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert len(more) == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_many_jobs_leave_one_token_and_a_claim_that_leaves_some_leaves_another(kit: Kit) -> None:
    for _ in range(5):
        await kit.queue.enqueue([due(-1) for _ in range(3)])
    assert await tokens(kit) == 1
    assert await kit.queue.token(1)
    assert len((await kit.queue.claim(10, 60, "w")).ids) == 10
    assert await tokens(kit) == 1, "five are left, somebody else should look"
    assert await kit.queue.token(1)
    assert len((await kit.queue.claim(10, 60, "v")).ids) == 5
    assert await tokens(kit) == 0


async def test_workers_that_only_follow_tokens_find_every_job(kit: Kit, settings: Settings) -> None:
    """No polling: if a wake-up were ever lost, a job would stay."""
    got: list[str] = []
    total = 120

    async def work(mine: Kit, name: str) -> None:
        while True:
            if await mine.queue.token(60):
                got.extend((await mine.queue.claim(3, 60, name)).ids)

    async with opened(settings) as b, opened(settings) as c:
        workers = [asyncio.create_task(work(each, str(n))) for n, each in enumerate([kit, b, c])]
        for _ in range(total // 4):
            await kit.queue.enqueue([due(-0.01) for _ in range(4)])
        await until(lambda: len(got) == total)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    assert len(set(got)) == total


# What is in Redis


async def test_nothing_in_redis_is_pickled(kit: Kit) -> None:
    running, waiting, finished = due(-3), due(60), due(-2)
    await kit.queue.enqueue([running, waiting, finished])
    await kit.queue.claim(5, 60, "w")
    await kit.queue.finish([(finished.id, kit.queue.result_of(finished.id, "report", False, "/x"))])
    await kit.queue.mark()
    await kit.publisher.progress([me()], Progress(running.id, 0.5, "é"))
    seen = set()
    async for key in kit.redis.scan_iter():
        if await kit.redis.type(key) != b"string":
            continue
        value = await kit.redis.get(key)
        assert isinstance(value, bytes)
        prefix = key.decode().replace(f":{kit.scope.id}", "").rpartition(":")[0]
        seen.add(prefix)
        if prefix == "arq:in-progress":
            assert value == b"w"
        else:
            json.loads(value)
    assert {"arq:job", "arq:result", "arq:in-progress", "pushsvc:progress"} <= seen
    async for key in kit.redis.scan_iter("arq:*"):
        if key.decode().startswith(("arq:job:", "arq:result:", "arq:in-progress:")):
            assert await kit.redis.ttl(key) > 0, "and everything about a job goes away by itself"


async def test_a_redis_that_lost_its_memory_is_noticed(kit: Kit) -> None:
    assert not await kit.queue.marked()
    await kit.queue.mark()
    assert await kit.queue.marked()
    await kit.redis.flushall()
    assert not await kit.queue.marked()


async def test_the_scripts_survive_a_script_flush(kit: Kit) -> None:
    await kit.queue.enqueue([due(-1)])
    await kit.redis.script_flush()
    assert len((await kit.queue.claim(1, 60, "w")).ids) == 1


async def test_two_queues_do_not_mix(kit: Kit) -> None:
    from pushsvc.bus import Queue

    other = Queue(kit.redis, kit.blocking, kit.scope, "arq:other")
    await other.enqueue([due(-1)])
    assert (await kit.queue.claim(1, 60, "w")).ids == []
    assert not await kit.queue.token(0.01)
    assert await soon(other.token(5))


async def test_a_token_that_names_no_job_tells_whether_a_worker_has_room(kit: Kit) -> None:
    taking = asyncio.create_task(kit.queue.taken("probe", 5))
    assert await kit.queue.token(5) == ("probe", "default")
    assert (await soon(taking) or 0) > 0
    assert await kit.queue.taken("probe", 0.05) is None
    assert await tokens(kit) == 0


async def test_a_forgotten_job_leaves_neither_its_place_nor_a_result(kit: Kit) -> None:
    jobs = [due(-0.01), due(30)]
    await kit.queue.enqueue(jobs)
    await kit.queue.finish([(jobs[0].id, kit.queue.result_of(jobs[0].id, "report", True, "/v1"))])
    await kit.queue.forget([job.id for job in jobs])
    assert await kit.redis.keys("arq:*") == [f"{kit.queue.name}:wake".encode()]
