"""PUSHSVC_BACKEND=inline: all in the process that serves, with the same records, URLs and events, without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pushsvc import JobContext, Service, current_job
from pushsvc.errors import SettingsError
from pushsvc.settings import Settings

from ..acceptance.clients import until
from .conftest import Site, opened


@pytest.fixture
def inline(settings: Settings) -> Settings:
    """No Redis at all."""
    return settings.model_copy(update={"backend": "inline", "redis_url": None, "lease": 0.6, "sweep": 0.1})


def service_of(settings: Settings) -> Service:
    service = Service(settings=settings, principal=lambda request: request.session.get("user"))

    @service.job(max_attempts=2)
    async def echo(ctx: JobContext, value: str, fail: bool = False) -> str:
        if fail and ctx.attempt == 1:
            raise LookupError("the first time")
        return value

    return service


def app_of(service: Service) -> Starlette:
    async def slow(request: Request) -> Response:
        await current_job().progress(0.5, "half")
        return JSONResponse([current_job().name, request.session.get("user"), (await request.body()).decode()])

    app = Starlette(
        routes=[Route("/slow", slow, methods=["GET", "POST"], middleware=[service.respond_async(wait=0)])],
        middleware=[Middleware(SessionMiddleware, secret_key="for tests")],
    )
    service.attach(app)
    return app


def asking(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.token('ann')}"}


async def test_an_endpoint_is_answered_when_it_has_ended(inline: Settings) -> None:
    service = service_of(inline)
    async with opened(service, app_of(service), worker=False) as site, site.client() as http:
        answer = await http.post("/slow", content=b"tea", headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.json()) == (200, ["slow", None, "tea"])
        assert "preference-applied" not in answer.headers
        (job,) = await site.rows("SELECT id, status FROM pushsvc.jobs")
        assert (await http.get(f"/push/v1/jobs/{job['id']}/result")).json() == answer.json()
        assert (await http.get("/push/readyz")).json() == {"status": "ok", "postgres": True}


async def test_a_job_is_answered_when_it_has_ended_and_its_event_is_there(inline: Settings) -> None:
    service = service_of(inline)
    async with opened(service, app_of(service), worker=False) as site, site.client(headers=asking(service)) as http:
        answer = await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "x"}})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        events = (await http.get("/push/v1/events", params={"cursor": "start"})).json()["events"]
        assert events[-1]["event"]["data"] == "x"
        polling = asyncio.create_task(http.get("/push/v1/events", params={"cursor": "now", "wait": 20}))
        await asyncio.sleep(0)
        await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "y"}})
        assert (await polling).json()["events"][-1]["event"]["data"] in ("x", "y")


async def test_what_no_request_waits_for_is_run_from_postgresql(inline: Settings) -> None:
    """A retry, a job for later, and what a process that is gone has left."""
    service = service_of(inline)
    async with opened(service, app_of(service), worker=False) as site, site.client(headers=asking(service)) as http:
        retried = await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "x", "fail": True}})
        assert retried.json()["status"] == "succeeded"
        at = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        later = await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "y"}, "run_at": at})
        assert later.status_code == 202
        await _until_succeeded(site, later.json()["id"])
        left = await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "z"}})
        await site.rows(
            "UPDATE pushsvc.jobs SET status = 'queued', finished_at = NULL, expires_at = NULL WHERE id = $1",
            left.json()["id"],
        )
        await _until_succeeded(site, left.json()["id"])


async def _until_succeeded(site: Site, job: str) -> None:
    async def succeeded() -> Any:
        return await site.rows("SELECT 1 FROM pushsvc.jobs WHERE id = $1 AND status = 'succeeded'", job)

    await until(succeeded, f"{job} has succeeded")


async def test_a_second_process_hears_by_postgresql(inline: Settings) -> None:
    settings = inline.model_copy(update={"web_processes": 2})
    one, two = service_of(settings), service_of(settings)
    async with opened(one, app_of(one), worker=False) as here, opened(two, app_of(two), worker=False) as there:
        async with here.client(headers=asking(one)) as http, there.client(headers=asking(two)) as other:
            cursor = (await other.get("/push/v1/events", params={"cursor": "now", "wait": 0})).json()["cursor"]
            polling = asyncio.create_task(other.get("/push/v1/events", params={"cursor": cursor, "wait": 20}))
            await http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "x"}})
            assert (await polling).json()["events"][-1]["event"]["data"] == "x"


async def test_a_worker_has_nothing_to_do(inline: Settings) -> None:
    with pytest.raises(SettingsError, match="need no worker"):
        await service_of(inline).work(asyncio.Event())


async def test_the_doctor_misses_neither_redis_nor_workers(inline: Settings) -> None:
    settings = Settings.from_env(
        {"PUSHSVC_BACKEND": "inline"}, database_url=inline.database_url, secret=inline.secret
    )
    found = await service_of(settings).examine()
    assert (found.lacking, found.redis) == ((), ())
    assert settings.worker_processes == 0
    assert all(each.fits for each in found.allotments)


async def test_an_endpoint_has_the_state_of_its_lifespan_and_ends_while_its_server_goes(inline: Settings) -> None:
    opened_gate, entered = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"engine": "on"}

    async def slow(request: Request) -> Response:
        entered.set()
        await opened_gate.wait()
        return JSONResponse(request.state.engine)

    service = Service(settings=inline)
    app = Starlette(routes=[Route("/slow", slow, middleware=[service.respond_async()])], lifespan=lifespan)
    service.attach(app)
    async with opened(service, app, worker=False) as site, site.client() as http:
        asking = asyncio.create_task(http.get("/slow"))
        await entered.wait()
        await service.drain()
        opened_gate.set()
        answer = await asking
        assert (answer.status_code, answer.json()) == (200, "on")
