"""A job in the author's own transaction: it exists if, and only if, that is committed; then it starts at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import asyncpg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pushsvc import Service, Settings
from pushsvc.domain import JobStatus
from pushsvc.errors import BadRequest, KeyReused

from ..contract.kit import soon, until
from .test_submit import working


class RolledBack(Exception):
    pass


def made(settings: Settings) -> tuple[Service, Any]:
    service = Service(settings=settings)

    @service.job
    async def report(origin: str) -> str:
        return origin

    return service, report


def async_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://")


# Each gives something to submit with, whose transaction is committed at the block's end, or rolled back by an error.


@asynccontextmanager
async def by_async_session(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(async_url(url), poolclass=NullPool)
    async with AsyncSession(engine) as session, session.begin():
        yield session


@asynccontextmanager
async def by_async_connection(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(async_url(url), poolclass=NullPool)
    async with engine.begin() as connection:
        yield connection


@asynccontextmanager
async def by_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def by_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as connection, connection.transaction():
        yield connection


WAYS = [by_async_session, by_async_connection, by_asyncpg, by_asyncpg_pool]
Way = Callable[[str], Any]


async def _roll_back(way: Any, service: Service, report: Any, lost: list[str]) -> None:
    async with way as transaction:
        lost.append((await service.options(owner="me", session=transaction).submit(report, "LGA")).id)
        raise RolledBack


@pytest.mark.parametrize("way", WAYS)
async def test_it_exists_if_and_only_if_the_transaction_is_committed(
    settings: Settings, database_url: str, way: Way
) -> None:
    service, report = made(settings)
    async with working(service):
        lost: list[str] = []
        with pytest.raises(RolledBack):
            await _roll_back(way(database_url), service, report, lost)
        async with way(database_url) as transaction:
            handle = await service.options(owner="me", connection=transaction).submit(report, origin="JFK")
            assert await service.parts.store.get("default", handle.id) is None
        assert await soon(handle.result()) == "JFK"
        assert await service.parts.store.get("default", lost[0]) is None


async def test_a_plain_session_holds_it_too_from_a_thread_as_in_a_plain_endpoint(
    settings: Settings, database_url: str
) -> None:
    service, report = made(settings)
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)

    def lost() -> str:
        with Session(engine) as session, session.begin():
            handle = asyncio.run(_submitted(service.options(session=session).submit(report, "LGA")))
            session.rollback()
        return str(handle.id)

    def kept() -> Any:
        with engine.begin() as connection:
            return asyncio.run(_submitted(service.options(connection=connection).submit(report, "JFK")))

    async with working(service):
        gone, handle = await asyncio.to_thread(lost), await asyncio.to_thread(kept)
        assert await soon(handle.result()) == "JFK"
        assert await service.parts.store.get("default", gone) is None


async def _submitted(submitting: Awaitable[Any]) -> Any:
    return await submitting


async def test_it_starts_at_once_after_the_commit(settings: Settings, database_url: str) -> None:
    """Told by NOTIFY: long before the table of wake-ups or the sweeper would be looked at again."""
    service, report = made(settings.model_copy(update={"sweep": 60.0}))
    async with working(service):
        await until(lambda: _listens(service))
        took = []
        for _ in range(5):
            async with by_asyncpg(database_url) as transaction:
                handle = await service.options(session=transaction).submit(report, "JFK")
            began = time.monotonic()
            await soon(handle.result())
            took.append(time.monotonic() - began)
        assert min(took) < 0.5


async def _listens(service: Service) -> bool:
    """Whether a connection has said LISTEN, and nothing since."""
    listening = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    return bool(await service.parts.postgres.fetch(listening))


async def test_without_a_listener_the_table_alone_does(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler, where nothing that is told comes through."""

    async def deaf(_ear: object, _heard: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("pushsvc.store.Ear.listen", deaf)
    service, report = made(settings.model_copy(update={"sweep": 60.0}))
    async with working(service):
        async with by_asyncpg(database_url) as transaction:
            handle = await service.options(session=transaction).submit(report, "JFK")
        assert await soon(handle.result()) == "JFK"


async def test_who_dies_between_the_table_and_the_queue_loses_nothing(settings: Settings, database_url: str) -> None:
    service, report = made(settings)
    async with by_asyncpg(database_url) as transaction:
        handle = await service.options(session=transaction).submit(report, "JFK")
    assert [job for job, *_ in await service.parts.within.take_wakeups(10)] == [handle.id]
    async with working(service):
        assert await soon(handle.result()) == "JFK"


async def test_a_key_is_one_job_in_a_transaction_too(settings: Settings, database_url: str) -> None:
    service, report = made(settings)
    first = await service.options(owner="me", key="k").submit(report, "JFK")
    async with by_asyncpg(database_url) as transaction:
        within = service.options(owner="me", key="k", session=transaction)
        assert (await within.submit(report, "JFK")).id == first.id
        with pytest.raises(KeyReused):
            await within.submit(report, "LGA")
        # The transaction goes on all the same.
        assert await transaction.fetchval("SELECT 1") == 1
    await service.close()


async def test_what_is_no_transaction_of_this_database_is_refused(
    settings: Settings, database_url: str, empty_database_url: str
) -> None:
    service, report = made(settings)
    with pytest.raises(BadRequest, match="not object"):
        await service.options(session=object()).submit(report, "JFK")
    connection = await asyncpg.connect(database_url)
    with pytest.raises(BadRequest, match="in no transaction"):
        await service.options(connection=connection).submit(report, "JFK")
    await connection.close()
    with pytest.raises(BadRequest, match="another database"):
        async with by_asyncpg(empty_database_url) as transaction:
            await service.options(session=transaction).submit(report, "JFK")
    with create_engine("sqlite://").connect() as other, pytest.raises(BadRequest, match="sqlite"):
        await service.options(connection=other).submit(report, "JFK")
    assert await service.parts.store.queued(10) == 0
    await service.close()


KILLED = """
import asyncio, os, signal, sys
import asyncpg
from pushsvc import Service, Settings

service = Service()

@service.job
async def report(origin: str) -> str:
    return origin

async def main():
    connection = await asyncpg.connect(os.environ["PUSHSVC_DATABASE_URL"])
    transaction = connection.transaction()
    await transaction.start()
    handle = await service.options(session=connection).submit(report, "JFK")
    if sys.argv[1] == "after":
        await transaction.commit()
    print(handle.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_is_killed_at_the_commit_loses_nothing_and_makes_nothing_up(settings: Settings, when: str) -> None:
    service, _ = made(settings)
    environment = {
        **os.environ,
        "PUSHSVC_DATABASE_URL": settings.need("database_url"),
        "PUSHSVC_REDIS_URL": settings.need("redis_url"),
        "PUSHSVC_DEPLOYMENT": settings.deployment,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, when, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == -signal.SIGKILL
    job = out.decode().strip()
    async with working(service):
        if when == "after":

            async def done() -> bool:
                found = await service.parts.store.get("default", job)
                return found is not None and found.status is JobStatus.SUCCEEDED

            await until(done)
        else:
            assert await service.parts.store.get("default", job) is None


async def test_of_many_transactions_those_that_are_committed_have_their_jobs_and_no_other(
    settings: Settings, database_url: str
) -> None:
    """Several jobs in each, some under keys that others use at the same time, ended either way at random."""
    service, report = made(settings)
    choose = Random(7)
    kept: dict[str, None] = {}
    refused: set[str] = set()

    async def transaction(number: int) -> None:
        ids, commits = [], choose.random() < 0.5
        connection = await pool.acquire()
        try:
            trial = connection.transaction()
            await trial.start()
            for n in range(choose.randint(1, 3)):
                key = f"shared {number % 5}" if n == 0 and number % 3 == 0 else None
                within = service.options(owner="me", key=key, session=connection)
                ids.append((await within.submit(report, "JFK")).id)
            await (trial.commit() if commits else trial.rollback())
        finally:
            await pool.release(connection)
        if commits:
            kept.update(dict.fromkeys(ids))
        else:
            refused.update(ids)

    async with asyncpg.create_pool(database_url, min_size=4, max_size=4) as pool, working(service):
        await asyncio.gather(*(transaction(number) for number in range(120)))

        async def all_have_run() -> bool:
            rows = await service.parts.postgres.fetch("SELECT id, status FROM pushsvc.jobs")
            assert {row["id"] for row in rows} == set(kept)
            return all(row["status"] == "succeeded" for row in rows)

        await until(all_have_run)
        assert refused - set(kept), "some were rolled back"
        assert await service.parts.postgres.fetch("SELECT 1 FROM pushsvc.wakeups") == []
