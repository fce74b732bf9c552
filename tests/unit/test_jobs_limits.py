"""How many jobs of a kind run at once, who goes first, and what a job waits for: on real engines."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from pushsvc import JobContext, Service, Settings
from pushsvc.access import Tokens
from pushsvc.errors import BadRequest, JobCancelled, JobFailed, SettingsError
from pushsvc.store import Limit

from ..contract.kit import Kit, opened, soon, submission, until

TWO_PLACES = {"max_jobs": 2}


@asynccontextmanager
async def working(*services: Service) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(service.work(stop)) for service in services]
    try:
        yield
        assert not any(task.done() for task in tasks), "a worker ended"
    finally:
        stop.set()
        await soon(asyncio.gather(*tasks))
        for service in services:
            await service.close()


class Running:
    """What runs just now, and how much of it at most."""

    def __init__(self) -> None:
        self.now: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()

    @contextmanager
    def counted(self, *kinds: Any) -> Iterator[None]:
        for kind in kinds:
            self.now[kind] += 1
            self.most[kind] = max(self.most[kind], self.now[kind])
        try:
            yield
        finally:
            for kind in kinds:
                self.now[kind] -= 1


def app(settings: Settings, running: Running, order: list[tuple[str | None, str]] | None = None) -> Service:
    """A service of which several workers can be made; they share what they count."""
    service = Service(settings=settings)
    seen = [] if order is None else order

    @service.job(max_running=3, max_running_each=2)
    async def scarce(ctx: JobContext, fails: bool = False, ms: int = 5) -> str:
        with running.counted("scarce", ("scarce", ctx.user)):
            await asyncio.sleep(ms / 1000)
        if fails:
            raise ValueError("as it was asked to")
        return "done"

    @service.job
    async def free(ctx: JobContext, ms: int = 5) -> str:
        seen.append((ctx.user, ctx.id))
        with running.counted("free"):
            await asyncio.sleep(ms / 1000)
        return "done"

    @service.job(queue="reports", priority="low")
    async def report() -> str:
        return "done"

    return service


@pytest.fixture
def running() -> Running:
    return Running()


async def test_no_more_than_the_limits_allow_run_over_all_workers_and_all_come_to_their_end(
    settings: Settings, running: Running
) -> None:
    services = [app(settings, running) for _ in range(2)]
    async with working(*services):
        handles = [
            await services[n % 2].options(owner=f"owner {n % 4 // 2}").submit("scarce", fails=n % 7 == 0)
            for n in range(60)
        ]
        ends = await soon(asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True))
    assert sum(end == "done" for end in ends) == 51
    assert sum(isinstance(end, JobFailed) for end in ends) == 9
    assert running.most["scarce"] == 3, "no more, and no less"
    assert max(running.most["scarce", f"owner {n}"] for n in range(2)) == 2


async def test_what_waits_for_a_limit_keeps_no_place_from_others(settings: Settings, running: Running) -> None:
    service = app(settings.model_copy(update=TWO_PLACES), running)
    async with working(service):
        held = await service.options(owner="one").submit("scarce", ms=60_000)
        await until(lambda: running.now["scarce"] == 1)
        other = await service.options(owner="one").submit("scarce", ms=60_000)
        await until(lambda: running.now["scarce"] == 2)
        third = await service.options(owner="one").submit("scarce", ms=1)
        await held.cancel()
        with pytest.raises(JobCancelled):
            await soon(held.result())
        assert await soon(third.result()) == "done"
        assert await soon((await service.submit("free")).result()) == "done"
        await other.cancel()


async def test_a_worker_that_died_keeps_a_limit_only_as_long_as_its_lease(
    settings: Settings, running: Running
) -> None:
    async with opened(settings) as kit:
        limits = [Limit("scarce", 1, None)]
        dead, waiting = [await kit.store(submission(name="scarce")) for _ in range(2)]
        claims, refused = await kit.jobs.start_limited([dead.id, waiting.id], "dead", 0.5, limits)
        assert list(claims) == [dead.id]
        assert refused == [(waiting.id, False)], "not its owner's limit"
        assert await kit.jobs.running(["scarce"]) == {("scarce", "default", "me"): 1}
        service = app(settings, running)
        async with working(service):
            for job in (dead, waiting):
                await until(partial(ended, kit, job.id))


async def ended(kit: Kit, job: str) -> bool:
    found = await kit.jobs.get("default", job)
    return found is not None and found.status.terminal


async def test_one_owners_many_jobs_let_anothers_one_start_next(settings: Settings, running: Running) -> None:
    order: list[tuple[str | None, str]] = []
    service = app(settings.model_copy(update=TWO_PLACES), running, order)
    async with working(service):
        many = [await service.options(owner="many").submit("free", ms=3) for _ in range(150)]
        await until(lambda: len(order) > 20)
        single = await service.options(owner="single").submit("free")
        at = len(order)
        await soon(single.result())
        started = [owner for owner, _ in order]
        assert started.index("single") - at <= 10, "those that had been claimed before"
        await soon(asyncio.gather(*(handle.result() for handle in many)))


async def test_each_start_is_decided_for_itself_whoever_else_starts(settings: Settings) -> None:
    """Many at once, in PostgreSQL alone."""
    limits = [Limit("scarce", 5, 2)]
    async with opened(settings) as kit, opened(settings) as other:
        jobs = [(await kit.store(submission(name="scarce", owner=f"owner {n % 4}"))).id for n in range(40)]
        shuffled = [random.sample(jobs, 10) for _ in range(12)]
        asked = [
            (kit if n % 2 else other).jobs.start_limited(some, "w", 60, limits) for n, some in enumerate(shuffled)
        ]
        await soon(asyncio.gather(*asked))
        counts = await kit.jobs.running(["scarce"])
        assert sum(counts.values()) == 5
        assert max(counts.values()) <= 2


async def test_a_queue_that_nobody_serves_says_so(
    settings: Settings, running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushsvc.jobs.sweeper.UNSERVED", 0.0)
    monkeypatch.setattr("pushsvc.jobs.sweeper.UNSERVED_EVERY", 0.0)
    caplog.set_level(logging.WARNING)
    service = app(settings.model_copy(update={"queues": ("default",)}), running)
    async with working(service):
        handle = await service.options(owner="me").submit("report")
        assert (await seen(service, handle.id))["waiting_for"] == "a worker"
        await until(lambda: "which no worker serves" in caplog.text)
        assert "1 jobs wait on the queue reports" in caplog.text
        reports = app(settings.model_copy(update={"queues": ("reports",)}), running)
        async with working(reports):
            assert await soon(handle.result()) == "done"


async def seen(service: Service, job: str) -> dict[str, Any]:
    """As its owner sees it."""
    secret = service.settings.need("secret")
    headers = {"Authorization": f"Bearer {Tokens(secret).mint('me')}"}
    transport = httpx.ASGITransport(service.asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        answer = await client.get(f"/v1/jobs/{job}")
        found: dict[str, Any] = answer.json()
        return found


async def test_a_job_says_what_it_waits_for(settings: Settings, running: Running) -> None:
    service = app(settings.model_copy(update=TWO_PLACES), running)
    mine = service.options(owner="me")
    async with working(service):
        holding = [await mine.submit("scarce", ms=60_000) for _ in range(2)]
        await until(lambda: running.now["scarce"] == 2)
        turn = await mine.submit("free")
        await until(lambda: is_waiting(service, turn.id, "its turn"))
        assert (await seen(service, turn.id))["queue_position"] == 0
        await holding[0].cancel()
        assert await soon(turn.result()) == "done"
        limited = [await mine.submit("scarce", ms=60_000) for _ in range(2)]
        await until(lambda: is_waiting(service, limited[1].id, "its turn", "a limit"))
        for each in (holding[1], *limited):
            await each.cancel()
        with pytest.raises(JobCancelled):
            await soon(limited[1].result())
        view = await seen(service, limited[1].id)
        assert (view["queue_position"], view["waiting_for"]) == (None, None)


async def is_waiting(service: Service, job: str, *whats: str) -> bool:
    return (await seen(service, job))["waiting_for"] in whats


async def test_a_submission_says_on_which_queue_and_how_urgently(
    settings: Settings, running: Running, database_url: str
) -> None:
    service = app(settings, running)
    try:
        own = await service.submit("report")
        other = await service.options(queue="mail", priority="high").submit("report")
        connection = await asyncpg.connect(database_url)
        rows = await connection.fetch("SELECT id, queue, priority FROM pushsvc.jobs ORDER BY id")
        await connection.close()
        assert [tuple(row) for row in rows] == [(own.id, "reports", -1), (other.id, "mail", 1)]
        with pytest.raises(BadRequest, match="a queue's name"):
            await service.options(queue="no way").submit("report")
    finally:
        await service.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_running": 0}, "max_running is a number from 1"),
        ({"max_running_each": True}, "max_running_each is a number from 1"),
        ({"queue": "a b"}, "a queue's name has letters"),
        ({"priority": "urgent"}, "priority is one of high, normal, low"),
    ],
)
def test_what_can_not_be_is_refused_where_it_stands(settings: Settings, given: dict[str, Any], says: str) -> None:
    service = Service(settings=settings)
    with pytest.raises(SettingsError, match=says):

        @service.job(**given)
        def wrong() -> None: ...


async def test_whatever_is_asked_each_job_ends_once_and_no_limit_is_exceeded(
    settings: Settings, running: Running
) -> None:
    """Owners, priorities, failures, cancels and workers that come and go, at random."""
    chance = random.Random(14)
    first = app(settings.model_copy(update={"max_jobs": 5}), running)
    kept: list[Any] = []

    async def come_and_go() -> None:
        while True:
            another = app(settings.model_copy(update={"max_jobs": 3, "drain": 0.05}), running)
            async with working(another):
                await asyncio.sleep(chance.random() * 0.3)

    async with working(first):
        coming = asyncio.create_task(come_and_go())
        try:
            for _ in range(150):
                options = first.options(
                    owner=chance.choice(["one", "two", "three"]), priority=chance.choice(["high", "normal", "low"])
                )
                if chance.random() < 0.5:
                    kept.append(await options.submit("free", ms=chance.randrange(8)))
                else:
                    fails, ms = chance.random() < 0.1, chance.randrange(8)
                    kept.append(await options.submit("scarce", fails=fails, ms=ms))
                if chance.random() < 0.1:
                    await asyncio.gather(chance.choice(kept).cancel(), return_exceptions=True)
            ends = await soon(asyncio.gather(*(each.result() for each in kept), return_exceptions=True))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
    assert all(end == "done" or isinstance(end, JobFailed | JobCancelled) for end in ends), ends
    assert running.most["scarce"] <= 3
    assert max(running.most["scarce", owner] for owner in ("one", "two", "three")) <= 2
    assert not +running.now
