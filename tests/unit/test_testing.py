"""`pushsvc.testing` and `service.queries()`: the same surface outside a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import insert, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pushsvc import JobContext, Service, Settings
from pushsvc.errors import InvalidParams, JobFailed, JobTimedOut, SettingsError, UnknownJob
from pushsvc.testing import rolled_back, run_job

from .queries_support import Flight, Server, behind

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights")

NEW = insert(Flight.__table__).values(id=6, origin="JFK", carrier="ZZ", air_time=1.0, fare=1)  # type: ignore[arg-type]


def make_service(postgres_url: str) -> Service:
    service = Service(settings=Settings.from_env({}, database_url=postgres_url))

    @service.job
    async def report(ctx: JobContext, origin: str, month: int = 1) -> dict[str, Any]:
        flights = ctx.db.async_count(Flight, where=Flight.origin == origin)
        rows = ctx.db.async_json(select(Flight.id).where(Flight.origin == origin).order_by(Flight.id))
        await ctx.progress(0.5, "half")
        return {"flights": await flights, "rows": await rows, "month": month}

    @service.job
    def threaded(ctx: JobContext, origin: str) -> int:
        ctx.progress(0.5)
        first, second = ctx.db.async_count(Flight), ctx.db.async_count(Flight, where=Flight.origin == origin)
        return first.value() * 10 + second.then(lambda count: count).value()

    @service.job
    async def forgetful(ctx: JobContext) -> Any:
        return {"flights": ctx.db.async_count(Flight)}

    @service.job(timeout=0.05)
    async def slow(ctx: JobContext) -> None:
        await ctx.db.load_async(behind(1))

    return service


@pytest_asyncio.fixture
async def service(postgres_url: str) -> AsyncIterator[Service]:
    made = make_service(postgres_url)
    try:
        yield made
    finally:
        await made.close()


async def test_a_job_is_run_as_a_client_would_see_it(service: Service) -> None:
    run = await run_job(service, "report", origin="JFK")
    assert run.result == {"flights": 3, "rows": [{"id": 1}, {"id": 2}, {"id": 3}], "month": 1}
    assert [(record.name, record.mode, record.reason) for record in run.queries] == [
        ("Flight Count", "foreground", "inline"),
        ("Flight JSON", "foreground", "inline"),
    ]
    assert run.progress[0].message == "half"


async def test_a_job_that_is_a_plain_function_asks_from_its_thread(service: Service) -> None:
    assert (await run_job(service, "threaded", origin="EWR")).result == 52


async def test_what_is_wrong_with_a_job_is_told_as_a_worker_would(service: Service, server: Server) -> None:
    with pytest.raises(UnknownJob):
        await run_job(service, "nothing")
    with pytest.raises(InvalidParams):
        await run_job(service, "report", origin="JFK", month="x")
    with pytest.raises(JobFailed, match="flights is a promise; await it"):
        await run_job(service, "forgetful")
    async with server.gate(1):
        with pytest.raises(JobTimedOut):
            await run_job(service, "slow")
        await server.until_running(0)


async def test_what_a_test_writes_is_seen_by_the_job_and_then_undone(service: Service, server: Server) -> None:
    async with rolled_back(service):
        async with service.queries() as db, db.transaction() as transaction:
            await transaction.execute(NEW)
        run = await run_job(service, "report", origin="JFK")
        assert run.result["flights"] == 4
        assert {record.reason for record in run.queries} == {"transaction"}
        assert (await server.fetch("SELECT count(*) FROM queries_flights"))[0][0] == 5
    assert (await run_job(service, "report", origin="JFK")).result["flights"] == 3


@pytest_asyncio.fixture
async def undone(service: Service) -> AsyncIterator[Service]:
    async with rolled_back(service):
        yield service


async def test_it_may_be_a_fixture(undone: Service, server: Server) -> None:
    async with undone.queries() as db, db.transaction() as transaction:
        await transaction.execute(NEW)
    async with undone.queries() as db:
        assert await db.async_count(Flight) == 6
    assert (await server.fetch("SELECT count(*) FROM queries_flights"))[0][0] == 5


def endpoint(service: Service) -> Starlette:
    async def dashboard(request: Request) -> Response:
        async with service.queries() as db:
            flights = db.async_count(Flight)
            texts = db.async_find_by_sql("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            return JSONResponse({"flights": await flights, "text": (await texts)[0]})

    return Starlette(routes=[Route("/", dashboard)])


async def test_an_endpoint_asks_in_parallel_under_its_own_name(service: Service) -> None:
    transport = httpx.ASGITransport(app=endpoint(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = (await client.get("/")).json()
    assert answer["flights"] == 5
    assert answer["text"].startswith("/*endpoint='dashboard'*/ SELECT /*endpoint='dashboard'*/ query")


def test_one_service_is_used_in_one_event_loop_after_another(postgres_url: str) -> None:
    service = make_service(postgres_url)
    for _ in range(2):
        # Without its context manager, each request of a TestClient has an event loop of its own.
        assert TestClient(endpoint(service)).get("/").json()["flights"] == 5


async def test_what_an_endpoint_does_not_await_is_cancelled_at_the_end_of_the_block(
    service: Service, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.gate(1):
        async with service.queries("dashboard") as db:
            promise = db.load_async(behind(1))
            await server.until_running(1)
        assert promise.status == "cancelled"
        assert await server.running() == []
    assert [record.levelno for record in caplog.records if "never awaited" in record.message] == [logging.WARNING]


async def test_endpoints_that_hold_each_other_up_share_the_bound_and_all_come_through(service: Service) -> None:
    async def nested(depth: int) -> int:
        async with service.queries("nested") as db:
            promises = [db.async_count(Flight, where=Flight.id > -number) for number in range(10)]
            inner = await nested(depth - 1) if depth else 0
            return inner + sum(await asyncio.gather(*promises))

    pool = service.parts.databases["primary"]
    assert await asyncio.gather(*(nested(3) for _ in range(15))) == [200] * 15
    assert pool.connections.idle <= pool.size
    assert (pool.active, pool.waiting) == (0, 0)


async def test_a_database_that_is_not_there_is_refused_by_name(service: Service) -> None:
    with pytest.raises(SettingsError, match="replica"):
        service.queries(database="replica")
