"""A worker with real engines that are not as they should be, and what its keeper is told."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import hiredis
import pytest
import uvloop
from pydantic import SecretStr
from redis.asyncio.connection import AbstractConnection

from pushsvc import JobContext, Service
from pushsvc.bus import FAULTS
from pushsvc.domain import JobId, new_job_id
from pushsvc.jobs import Holds, attempt
from pushsvc.jobs.holds import Held
from pushsvc.settings import Settings

from ..contract.kit import Kit, opened, soon, submission, until
from .test_store_postgres import a_role


@pytest.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as kit:
        yield kit


@asynccontextmanager
async def working(service: Service) -> AsyncIterator[None]:
    """The service works; it has to be still at it in the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(service.work(stop))
    try:
        await until(lambda: service._workplace.parts is not None)
        yield
        assert not task.done(), "the worker ended"
    finally:
        stop.set()
        await soon(task)


async def submitted(kit: Kit, name: str) -> JobId:
    return (await kit.jobs.insert(submission(name=name))).job.id


async def reached(kit: Kit, job: str, status: str) -> Any:
    found = await kit.jobs.get("default", job)
    assert found is not None
    return found if found.status == status else None


# What a job needs is away


async def test_a_job_whose_database_takes_no_connections_waits_and_no_try_is_used_up(
    kit: Kit, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than workers may die under it."""
    monkeypatch.setattr(attempt, "backoff", lambda tries: 0.01)
    async with a_role(settings.need("database_url")) as (url, admin):
        role = url.partition("//")[2].partition("@")[0].partition(":")[0]
        service = Service(settings=settings.model_copy(update={"poll": 0.02}), databases={"primary": url})

        @service.job
        async def asking(ctx: JobContext) -> int:
            return await ctx.db.async_count_by_sql("SELECT 7")

        async with working(service):
            await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            job = await submitted(kit, "asking")

            async def has_waited() -> bool:
                found = await kit.jobs.get("default", job)
                assert found is not None
                assert not found.status.terminal, found.error
                return found.error is not None and json.loads(found.error)["waits"] >= 6

            await until(has_waited)
            await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await until(lambda: reached(kit, job, "succeeded"))
        assert (await reached(kit, job, "succeeded")).attempt == 1


What = Literal["garbage", "tls", "fin", "redis"]


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path)
    return await asyncio.open_connection(parts.hostname, parts.port)


class Door:
    """The way to Redis, which may lead to something that is no Redis."""

    def __init__(self, url: str) -> None:
        self._redis = url
        self._open: set[asyncio.StreamWriter] = set()
        self.behind: What = "redis"

    async def __aenter__(self) -> Door:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    def lead_to(self, what: What) -> None:
        """From now on; connections that are open find it at their other end, too, and then FIN."""
        self.behind = what
        for writer in self._open:
            self._answer(writer)

    def _answer(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):
            writer.write(
                {"garbage": b"\xff\x00nonsense", "tls": b"\x15\x03\x01\x00\x02\x02\x50"}.get(self.behind, b"")
            )
            writer.write_eof()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.behind != "redis":
            await reader.read(100)
            self._answer(writer)
            return
        self._open.add(writer)
        source, sink = await connect(self._redis)

        async def pass_on(here: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
            with suppress(OSError, RuntimeError):
                while data := await here.read(1 << 16):
                    there.write(data)

        passing = [asyncio.create_task(pass_on(reader, sink)), asyncio.create_task(pass_on(source, writer))]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(writer)
            for task in passing:
                task.cancel()
            sink.transport.abort()
            writer.transport.abort()


def test_whatever_answers_in_the_place_of_redis_the_worker_lives_and_works_when_it_is_back(
    settings: Settings,
) -> None:
    """On uvloop, whose connections raise RuntimeError when they are closed."""

    async def run() -> None:
        async with opened(settings) as kit, Door(settings.need("redis_url")) as door:
            changes = {"redis_url": SecretStr(door.url), "poll": 0.02, "sweep": 0.05}
            service = Service(settings=settings.model_copy(update=changes))

            @service.job
            async def quick() -> int:
                return 1

            async with working(service):
                for what in get_args(What):
                    job = await submitted(kit, "quick")
                    await until(partial(reached, kit, job, "succeeded"), what)
                    door.lead_to(what)
                    await asyncio.sleep(0.5)  # an outage, within which nothing is to happen
                    door.lead_to("redis")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), hiredis.ProtocolError(), AttributeError()])
@pytest.mark.parametrize("where", ["send_packed_command", "read_response", "can_read_destructive", "connect"])
async def test_whatever_redis_py_raises_is_a_fault_of_redis_and_another_connection_follows(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    assert await kit.redis.ping()
    fail = [error]
    plain = getattr(AbstractConnection, where)

    async def failing(self: Any, *args: Any, **options: Any) -> Any:
        if fail:
            raise fail.pop()
        return await plain(self, *args, **options)

    monkeypatch.setattr(AbstractConnection, where, failing)
    with suppress(*FAULTS):
        await kit.queue.marked()
    assert not fail
    assert await kit.queue.marked() is False


# What the keeper is told


def held(job: str | None = None, **changes: Any) -> Held:
    values: dict[str, Any] = {
        "job": JobId(job or new_job_id()),
        "version": 2,
        "until": time.monotonic() + 10,
        "timeout": 5.0,
        "on_limit": "failed",
        "tries": 1,
    }
    return Held(**(values | changes))


def test_what_a_worker_holds_is_seen_through_shared_memory() -> None:
    seen, file = Holds.shared(3)
    try:
        worker = Holds.opened(file)
    finally:
        os.close(file)
    assert (seen.silent, seen.held(), seen.blamed, math.isinf(seen.stopping_since)) == (0.0, [], None, True)
    worker.begin("host:1:ABC")
    jobs = [held(), held(on_limit="retried", tries=3), held(on_limit="expired", version=99)]
    for job in jobs:
        worker.hold(job)
    assert sorted(seen.held(), key=lambda each: each.job) == sorted(jobs, key=lambda each: each.job)
    worker.keep_on(jobs[0].job)
    assert {each.until for each in seen.held() if each.job == jobs[0].job} == {math.inf}
    for job in jobs[:2]:
        worker.drop(job.job)
    assert seen.held() == [jobs[2]]
    worker.blame(jobs[2].job)
    assert (seen.blamed, seen.worker) == (jobs[2].job, "host:1:ABC")
    worker.blame(None)
    assert seen.blamed is None


def test_to_be_told_to_stop_counts_once_and_before_the_beginning_too() -> None:
    holds = Holds.of_this_process(1)
    holds.stopping()
    first = holds.stopping_since
    holds.begin("w")
    holds.stopping()
    assert holds.stopping_since == first


def test_a_place_that_is_being_written_is_not_believed() -> None:
    memory = bytearray(1000)
    holds = Holds(memory)
    job = held()
    holds.hold(job)
    at = memory.index(job.job.encode())
    memory[at] ^= 1
    assert Holds(memory).held() == []
    memory[at] ^= 1
    assert Holds(memory).held() == [job]


# A context beyond its job's end


@pytest.mark.parametrize("use", [lambda ctx: ctx.db, lambda ctx: ctx.progress(0.5)], ids=["db", "progress"])
async def test_a_context_is_refused_after_its_jobs_end(
    kit: Kit, settings: Settings, use: Callable[[JobContext], object]
) -> None:
    service = Service(settings=settings)
    kept: list[JobContext] = []

    @service.job
    async def keeping(ctx: JobContext) -> None:
        kept.append(ctx)

    async with working(service):
        job = await submitted(kit, "keeping")
        await until(lambda: reached(kit, job, "succeeded"))
        with pytest.raises(Exception, match=f"job keeping {job} has ended: its .* can't be used any more"):
            use(kept[0])


def test_jobs_that_have_lent_their_places_hold_leases_besides() -> None:
    holds = Holds.of_this_process(1)
    jobs = [Held(new_job_id(), 1, 1.0, 1.0, "failed", 1) for _ in range(200)]
    for job in jobs:
        holds.hold(job)
    assert len(holds.held()) == 200
    more = [held() for _ in range(200)]
    for job in more:
        holds.hold(job)  # for some there is no place, which harms nobody
    assert 200 < len(holds.held()) < 400
    jobs += more
    for job in jobs:
        holds.drop(job.job)
    assert holds.held() == []
