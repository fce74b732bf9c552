"""Looks at everything `pushsvc doctor` reports: facts only, which `diagnosis` judges and `report` shows.

Nothing here raises because something is broken: what could not be learnt is a fact, too. No fact holds a
password or the secret.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg
from redis.exceptions import RedisError

from ..bus import FAULTS, BusClient, Publisher, Queue, Scope, connect, connect_bus
from ..errors import PushsvcError
from ..jobs import Registry, unserved
from ..masking import mask_url
from ..settings import Settings
from ..store import JobStore, Postgres, Retention
from ..store.schema import head
from .budget import Allotment
from .probe import Probe, Probed
from .row_security import RowSecurity, read_row_security
from .servers import STORE, Connection, Pool, ServerLimits, allotments, connected, pools, read_limits
from .slow_queries import JobTime, Queries, read_job_times, read_queries

ROUND_TRIPS = 5
"""How often each engine is asked; the fastest answer counts."""

IN_USE = "SELECT coalesce(sum(numbackends), 0)::int FROM pg_stat_database"

SCHEMA = "SELECT to_regclass('pushsvc.alembic_version') IS NOT NULL"
SCHEMA_VERSION = "SELECT version_num FROM pushsvc.alembic_version"

# Both counts through partial indexes, and bounded.
BACKLOG = """
SELECT (SELECT count(*) FROM (
        SELECT 1 FROM pushsvc.jobs WHERE deployment = $1 AND status = 'queued' AND run_at <= now() LIMIT 10000
    ) q) AS waiting,
    (SELECT extract(epoch FROM now() - run_at)::float FROM pushsvc.jobs
        WHERE deployment = $1 AND status = 'queued' ORDER BY run_at LIMIT 1) AS longest,
    (SELECT count(*) FROM pushsvc.jobs
        WHERE deployment = $1 AND status = 'running' AND lease_until > now()) AS running
"""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One PostgreSQL database. `round_trip` and `skew` in seconds; a positive skew is its clock ahead of ours,
    as far as half a round trip can tell. `error` says why nothing else is known."""

    names: tuple[str, ...]
    url: str
    error: str | None = None
    limits: ServerLimits | None = None
    round_trip: float = 0.0
    skew: float = 0.0
    in_use: int = 0
    """Connections to the server, everybody's."""
    queries: Queries | str | None = None
    """What it knows of its queries, or why it does not say; None where no job asks it."""
    row_security: RowSecurity | None = None
    """Whether policies hold for the role; None where that is not known, or no job asks it."""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """One Redis. `round_trip` in seconds; `error` says why nothing else is known."""

    names: tuple[str, ...]
    url: str
    error: str | None = None
    version: str = ""
    round_trip: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The service's own tables: their version and the one needed, and the jobs that wait and run."""

    needed: str
    version: str | None = None
    waiting: int = 0
    longest: float = 0.0
    """Seconds that the first of the waiting is overdue."""
    running: int = 0
    job_times: Mapping[str, JobTime] | None = None
    error: str | None = None
    unserved: tuple[tuple[str, int], ...] = ()
    """Queues on which jobs wait that no worker serves, and how many."""


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found. What depends on something missing is None."""

    settings: Mapping[str, str]
    lacking: tuple[str, ...]
    secret_length: int
    executor_concurrency: int
    databases: tuple[DatabaseFacts, ...] = ()
    redis: tuple[RedisFacts, ...] = ()
    store: StoreFacts | None = None
    allotments: tuple[Allotment, ...] = ()
    pools: tuple[Pool, ...] = ()
    probed: Probed | str | None = None
    """What became of the probe, or why it broke off; None if it was not sent."""


class Doctor:
    """Examines a service: its settings, its engines, and what they know of it.

    `databases` are the URLs of those that jobs query, by name; none stands for `primary` at the store's.
    """

    def __init__(self, settings: Settings, jobs: Registry, databases: Mapping[str, str]) -> None:
        self._settings = settings
        self._jobs = frozenset(spec.name for spec in jobs)
        self._store_url = settings.database_url.get_secret_value() if settings.database_url else None
        self._urls = dict(databases) or ({} if self._store_url is None else {"primary": self._store_url})

    async def examine(self) -> Examination:
        """Look at everything, side by side where that does not disturb what is measured."""
        needed = ("database_url", "secret") if self._settings.inline else ("database_url", "redis_url", "secret")
        lacking = [name for name in needed if getattr(self._settings, name) is None]
        named = self._urls if self._store_url is None else {**self._urls, STORE: self._store_url}
        databases = [await self._database(url, names) for url, names in _by_url(named)]
        engines = [await _redis(url, names) for url, names in _by_url(self._redis_urls())]
        limits = {name: each.limits for each in databases if each.limits for name in each.names}
        asked: list[DatabaseFacts | RedisFacts] = [*databases, *engines]
        reachable = {name for each in asked if each.error is None for name in each.names}
        store = await self._store() if STORE in reachable else None
        probed = None
        if store and store.version == store.needed and {"queue", "bus"} <= reachable:
            probed, unserved_queues = await self._at_work()
            store = replace(store, unserved=unserved_queues)
        secret = self._settings.secret
        return Examination(
            settings=self._settings.masked(),
            lacking=tuple(lacking),
            secret_length=len(secret.get_secret_value()) if secret else 0,
            executor_concurrency=self._settings.executor_concurrency,
            databases=tuple(databases),
            redis=tuple(engines),
            store=store,
            allotments=tuple(allotments(self._settings, limits)),
            pools=tuple(pools(self._settings, limits)),
            probed=probed,
        )

    def _redis_urls(self) -> dict[str, str]:
        if self._settings.redis_url is None or self._settings.inline:
            return {}
        return {"queue": self._settings.need("redis_url"), "bus": self._settings.bus}

    async def _database(self, url: str, names: tuple[str, ...]) -> DatabaseFacts:
        try:
            async with connected(url) as connection:
                limits = await read_limits(connection)
                round_trip, skew = await _clock(connection)
                in_use = await connection.fetchval(IN_USE)
                row_security = None if names == (STORE,) else await read_row_security(connection)
            queries = None if names == (STORE,) else await self._queries(url)
            return DatabaseFacts(names, mask_url(url), None, limits, round_trip, skew, in_use, queries, row_security)
        except Exception as error:
            return DatabaseFacts(names, mask_url(url), said(error))

    async def _queries(self, url: str) -> Queries | str:
        # A connection of its own: an error here ends the transaction.
        try:
            async with connected(url) as connection:
                return await read_queries(connection, self._jobs)
        except Exception as error:
            return said(error)

    async def _store(self) -> StoreFacts:
        needed = await asyncio.to_thread(head)
        try:
            async with connected(self._settings.need("database_url")) as connection:
                if not await connection.fetchval(SCHEMA):
                    return StoreFacts(needed)
                version = str(await connection.fetchval(SCHEMA_VERSION))
                if version != needed:
                    return StoreFacts(needed, version)
                backlog = await connection.fetchrow(BACKLOG, self._settings.deployment)
                assert backlog is not None
                times = await read_job_times(connection, self._settings.deployment)
        except Exception as error:
            return StoreFacts(needed, error=said(error))
        longest = max(backlog["longest"] or 0.0, 0.0)
        return StoreFacts(needed, version, backlog["waiting"], longest, backlog["running"], times)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[Postgres, Queue, Publisher]]:
        url = self._settings.need("database_url")
        postgres = Postgres(url, 2, self._settings.deployment, pooler=self._settings.pooler)
        redis, bus = connect(self._settings.need("redis_url")), connect_bus(self._settings.bus)
        scope = Scope(self._settings.deployment, postgres.identity)
        publisher = Publisher(bus, scope)
        try:
            await postgres.fetch("SELECT 1")  # connecting is no part of what is measured
            yield postgres, Queue(redis, redis, scope, self._settings.queue), publisher
        finally:
            await postgres.close()
            publisher.close()
            for client in (redis, bus):
                await _closed(client)

    async def _at_work(self) -> tuple[Probed | str, tuple[tuple[str, int], ...]]:
        """What became of the probe, or why it broke off; and the queues that nobody serves."""
        try:
            async with self._opened() as (postgres, queue, publisher):
                store = JobStore(postgres)
                probe = Probe(store, Retention(postgres), queue, publisher, self._settings.bus)
                probed = await probe.run(list(self._urls))
                return probed, tuple((await unserved(store, queue)).items())
        except Exception as error:
            return said(error), ()


def _by_url(named: Mapping[str, str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Each URL once, with the names that it goes by."""
    for url in dict.fromkeys(named.values()):
        yield url, tuple(name for name, its in named.items() if its == url)


async def _clock(connection: Connection) -> tuple[float, float]:
    """The fastest round trip, and by how much the server's clock is ahead, both in seconds."""
    best: tuple[float, float] | None = None
    for _ in range(ROUND_TRIPS):
        sent, began = time.time(), time.perf_counter()
        there: datetime = await connection.fetchval("SELECT clock_timestamp()")
        took = time.perf_counter() - began
        if best is None or took < best[0]:
            best = (took, there.timestamp() - (sent + took / 2))
    assert best is not None
    return best


async def _redis(url: str, names: tuple[str, ...]) -> RedisFacts:
    try:
        client: BusClient = connect(url, connections=1) if "queue" in names else connect_bus(url, connections=1)
    except PushsvcError as error:
        return RedisFacts(names, mask_url(url), said(error))
    try:
        took = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            await client.ping()
            took.append(time.perf_counter() - began)
        return RedisFacts(names, mask_url(url), None, await _redis_version(client), min(took))
    except FAULTS as error:
        return RedisFacts(names, mask_url(url), said(error))
    finally:
        await _closed(client)


async def _redis_version(client: BusClient) -> str:
    try:
        info: Mapping[str, Any] = await client.info("server")
    except RedisError:  # an access list may well forbid it
        return "Redis"
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '')}".strip()


async def _closed(client: BusClient) -> None:
    with suppress(*FAULTS):
        await client.aclose(close_connection_pool=True)


def said(error: BaseException) -> str:
    """What an error says, in one line; of one whose text might hold a URL, its class only."""
    if isinstance(error, asyncpg.PostgresError | PushsvcError | RedisError):
        text = str(error)
    elif isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = ""
    return f"{type(error).__name__}: {' '.join(text.split())}" if text else type(error).__name__
