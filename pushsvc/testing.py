"""For the tests of an app: run its jobs and endpoints inline, one thing after another, and leave nothing behind.

    async def test_the_report_counts_flights(service):
        async with rolled_back(service):
            async with service.queries() as db, db.transaction() as transaction:
                await transaction.execute(insert(Flight).values(origin="JFK"))
            run = await run_job(service, "airport_report", origin="JFK")
        assert run.result["flights"] == 1

Only PostgreSQL is needed: no Redis, no worker, no queue.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from .domain import Progress, new_job_id
from .errors import JobTimedOut
from .jobs import JobContext, encode
from .queries import Database, QueryRecord
from .service import Service


@dataclass(frozen=True, slots=True)
class JobRun:
    """What a job did: its result as a client would get it, its progress, and its queries."""

    result: Any
    progress: tuple[Progress, ...]
    queries: tuple[QueryRecord, ...]


async def run_job(
    service: Service, job: str, /, *, user: str | None = None, tenant: str = "default", **params: Any
) -> JobRun:
    """Run a job here and now, as a worker would, but with each query in the foreground when it is awaited.

    The parameters go through the same validation, and the result through JSON. Raises UnknownJob,
    InvalidParams, JobTimedOut, JobFailed for a result without a JSON form, and whatever the job raises.
    """
    async with service.lifetime.held():
        return await _run(service, job, user, tenant, params)


async def _run(service: Service, job: str, user: str | None, tenant: str, params: dict[str, Any]) -> JobRun:
    spec = service.jobs.get(job)
    arguments = spec.arguments(spec.validate(params))
    progress: list[Progress] = []
    records: list[QueryRecord] = []

    async def tell(value: Progress) -> None:
        progress.append(value)

    def watch(record: QueryRecord) -> None:
        if record not in records:
            records.append(record)

    job_id = new_job_id()
    databases = service.parts.databases
    context: JobContext = JobContext(
        id=job_id,
        name=job,
        attempt=1,
        tenant=tenant,
        user=user,
        open_database=lambda name, _observer: Database(
            databases[name],
            owner=job_id,
            tags={"job": job, "job_id": job_id},
            observer=watch,
            inline=True,
            pg_settings=context.pg_settings(),
        ),
        tell=tell,
        pg_settings=spec.pg_settings,
        state=service.state,
    )
    if spec.context is not None:
        arguments[spec.context] = context
    try:
        async with asyncio.timeout(spec.timeout):
            if spec.is_async:
                value = await spec.function(**arguments)
            else:
                value = await asyncio.to_thread(spec.function, **arguments)
    except TimeoutError as error:
        raise JobTimedOut(f"the job may take {spec.timeout:g} s") from error
    finally:
        await context.close()
    result = json.loads(encode(value, service.settings.result_limit))
    return JobRun(result, tuple(progress), tuple(records))


@asynccontextmanager
async def rolled_back(service: Service) -> AsyncIterator[None]:
    """All that is asked of the service's databases in this block happens in one transaction for each, and is undone.

    Queries run one after another on its connection, in the order in which they were scheduled, and see what
    was written in the block before; transactions inside it are savepoints. It holds for the block's task and
    those started in it, for jobs by `run_job`, and for endpoints called in the same task, as
    `httpx.ASGITransport` does. Raises Unavailable when a database is not there.
    """
    async with service.lifetime.held(), AsyncExitStack() as stack:
        for pool in service.parts.databases.values():
            database = await stack.enter_async_context(Database(pool, owner="rolled back", inline=True))
            transaction = await stack.enter_async_context(database.transaction())
            transaction.roll_back()
        yield
