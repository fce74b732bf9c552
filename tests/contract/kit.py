"""What the tests of the store, the bus, the hub and the transports share: the parts on a test's own engines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from pushsvc import wire
from pushsvc.bus import Publisher, Queue, RedisClient, Scope, connect
from pushsvc.domain import Channel, Job, JobId, JobStatus, Outcome, Submission, new_job_id
from pushsvc.hub import Hub
from pushsvc.jobs import Announcer
from pushsvc.settings import Settings
from pushsvc.store import Connection, EventStore, Finished, JobStore, Postgres, Retention

PATIENCE = 45.0
"""Seconds after which a condition that should have come true has failed; nothing waits for them to pass."""

T = TypeVar("T")


async def until(condition: Callable[[], Any | Awaitable[Any]], what: str = "") -> None:
    """Return as soon as the condition holds; fail when it still does not after PATIENCE seconds."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + PATIENCE
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert loop.time() < give_up, f"never: {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.005)


async def soon(work: Awaitable[T]) -> T:
    """The answer of something that must not hang."""
    async with asyncio.timeout(PATIENCE):
        return await work


def submission(**changes: Any) -> Submission:
    """A job as a submission would store it."""
    made = Submission(
        id=new_job_id(),
        tenant="default",
        owner="me",
        name="report",
        params="{}",
        timeout=30.0,
        retention=3600.0,
        max_attempts=1,
        digest="d",
    )
    return replace(made, **changes)


def succeeded(job: str, version: int, result: bytes = b"1", **changes: Any) -> Outcome:
    return replace(Outcome(JobId(job), version, JobStatus.SUCCEEDED, result=result), **changes)


LOG = """
WITH gone AS (SELECT set_config('session_replication_role', 'replica', true)), c AS (
    INSERT INTO pushsvc.channels AS c (deployment, tenant, name, top) SELECT $5, $1, $2, $3 FROM gone
    ON CONFLICT (deployment, tenant, name) DO UPDATE SET top = c.top + $3 RETURNING id, top
), j AS (
    INSERT INTO pushsvc.jobs (deployment, id, tenant, owner, name, params, timeout, retention, max_attempts, digest,
        status, version, run_at, finished_at, expires_at, result)
    SELECT $5, '0' || upper(left(md5(c.id || '.' || c.top), 15)) || lpad(n::text, 10, '0'), $1, substr($2, 6),
        'report', '{}', 30, 3600, 1, 'd', 'succeeded', 3, now(), now(), now() + interval '1 hour',
        coalesce($4, (c.top - $3 + n)::text)
    FROM c, generate_series(1, $3) n RETURNING id
)
INSERT INTO pushsvc.events (channel, "offset", job)
SELECT c.id, c.top - $3 + right(j.id, 10)::bigint, j.id FROM c, j
"""


class Kit:
    """The store and the bus of one process, and the tenant for whom it writes."""

    def __init__(self, settings: Settings, tenant: str = "default") -> None:
        self.settings = settings
        self.tenant = tenant
        self.postgres = Postgres(settings.need("database_url"), settings.store_connections, settings.deployment)
        self.jobs = JobStore(self.postgres)
        self.events = EventStore(self.postgres)
        self.retention = Retention(self.postgres)
        self.redis: RedisClient = connect(settings.need("redis_url"))
        self.blocking: RedisClient = connect(settings.need("redis_url"), blocking=True)
        self.scope = Scope(settings.deployment, self.postgres.identity)
        self.queue = Queue(self.redis, self.blocking, self.scope, settings.queue)
        self.publisher = Publisher(self.redis, self.scope)
        self.announcer = Announcer(self.publisher, self.queue)

    def of(self, tenant: str) -> Kit:
        """The same parts, for another tenant."""
        kit = copy(self)
        kit.tenant = tenant
        return kit

    def hub(self, **changes: Any) -> Hub:
        options: dict[str, Any] = {"top_check": 3600.0, "last_progress": self.publisher.last_progress}
        return Hub(self.events, self.settings.bus, self.scope, **(options | changes))

    async def store(self, asked: Submission) -> Job:
        """The job of a submission."""
        return (await self.jobs.insert(asked)).job

    async def submit(self, **changes: Any) -> Job:
        """A job of the tenant's."""
        return await self.store(submission(**{"tenant": self.tenant} | changes))

    async def finish(self, value: Any = None, *, publish: bool = True, **changes: Any) -> Finished:
        """A job of `me`, stored and finished with `value`; `publish=False` is a message that Redis lost."""
        job = await self.submit(**changes)
        result = wire.dump(value)
        finished = await self.jobs.finish(succeeded(job.id, job.version, result))
        assert finished is not None
        if publish:
            await self.publisher.event(finished.places, wire.event(finished.job, result))
        return finished

    async def finish_many(self, values: Sequence[Any], *, publish: bool = True, **changes: Any) -> None:
        """As many jobs, one after another in the inbox."""
        for value in values:
            await self.finish(value, publish=publish, **changes)

    async def log(self, count: int, result: str | None = None, name: str = "user:me") -> None:
        """As many finished jobs in the inbox, by one statement and without a word on Redis. Each result is
        `result`, or else its own offset."""

        async def in_one(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(LOG, self.tenant, name, count, result, self.postgres.deployment)

        await self.postgres.run(in_one)

    async def close(self) -> None:
        await self.postgres.close()
        for client in (self.redis, self.blocking):
            await client.aclose(close_connection_pool=True)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Kit]:
    kit = Kit(settings)
    try:
        await kit.postgres.fetch("SELECT 1")  # from now on it is known whose names they are in Redis
        yield kit
    finally:
        await kit.close()


@asynccontextmanager
async def running(hub: Hub) -> AsyncIterator[Hub]:
    """The hub, connected to Redis."""
    hub.start()
    try:
        await until(lambda: hub._bus.connected, "the hub is connected")
        yield hub
    finally:
        await hub.stop()


def me(name: str = "user:me") -> Channel:
    return Channel("default", name)
