"""A marked endpoint: answered in time as it is, later as a job; replayed through the whole app in a worker."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pushsvc import Service, current_job

from ..acceptance.clients import until
from .conftest import opened

SESSIONS = Middleware(SessionMiddleware, secret_key="for tests")


async def login(request: Request) -> Response:
    request.session["user"] = request.path_params["user"]
    return PlainTextResponse("welcome")


async def report(request: Request) -> Response:
    return JSONResponse({"code": request.path_params["code"], "user": request.session.get("user")})


class Gate:
    """An endpoint that answers when it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0

    async def __call__(self, request: Request) -> Response:
        self.entered += 1
        await self.open.wait()
        return JSONResponse({"user": request.session.get("user"), "body": (await request.body()).decode()})


def site_of(
    service: Service, endpoint: Any, *, methods: tuple[str, ...] = ("GET", "POST"), **options: Any
) -> Starlette:
    async def slow(request: Request) -> Response:
        response = await endpoint(request)
        assert isinstance(response, Response)
        return response

    mark = service.respond_async(**options)
    app = Starlette(
        routes=[
            Route("/login/{user}", login, methods=["POST"]),
            Route("/slow/{code}", slow, methods=["GET", "POST"], middleware=[mark]),
        ],
        middleware=[SESSIONS],
    )
    service.attach(app)
    return app


async def test_what_is_done_in_time_goes_back_as_it_is(service: Service) -> None:
    app = site_of(service, report, wait=20)
    async with opened(service, app) as site, site.client() as http:
        await http.post("/login/ann")
        answer = await http.get("/slow/JFK")
        assert (answer.status_code, answer.json()) == (200, {"code": "JFK", "user": "ann"})
        assert answer.headers["content-type"] == "application/json"
        assert "Prefer" in answer.headers["vary"]
        jobs = await site.rows("SELECT name, owner, status FROM pushsvc.jobs")
        assert [tuple(job) for job in jobs] == [("slow", "ann", "succeeded")]
        assert await site.rows("SELECT 1 FROM pushsvc.records") == []


async def test_what_takes_longer_is_a_job_with_the_answer_for_its_result(service: Service) -> None:
    gate = Gate()
    app = site_of(service, gate)
    async with opened(service, app) as site, site.client() as http:
        await http.post("/login/ann")
        answer = await http.post("/slow/JFK", content=b"flights", headers={"Prefer": "respond-async"})
        assert answer.status_code == 202
        assert answer.headers["location"].startswith("/push/v1/jobs/")
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["retry-after"] == "1"
        view = answer.json()
        assert (view["job"], view["links"]["self"]) == ("slow", answer.headers["location"])
        assert (await http.get(view["links"]["result"])).status_code == 202
        gate.open.set()
        done = await http.get(answer.headers["location"], headers={"Prefer": "wait=20"})
        assert done.json()["status"] == "succeeded"
        result = await http.get(view["links"]["result"])
        assert (result.status_code, result.json()) == (200, {"user": "ann", "body": "flights"})
        events = (await http.get("/push/v1/events", params={"cursor": view["cursor"], "wait": 20})).json()["events"]
        assert events[-1]["event"]["data"] == {
            "status": 200,
            "headers": [["content-type", "application/json"], ["vary", "Cookie"]],
            "encoding": "json",
            "body": {"user": "ann", "body": "flights"},
        }
        assert gate.entered == 1


async def test_a_job_is_its_principals_only(service: Service) -> None:
    app = site_of(service, report)
    async with opened(service, app) as site, site.client() as ann, site.client() as bob, site.client() as nobody:
        await ann.post("/login/ann")
        await bob.post("/login/bob")
        where = (await ann.get("/slow/JFK", headers={"Prefer": "respond-async"})).headers["location"]
        assert (await ann.get(where)).status_code == 200
        assert (await bob.get(where)).status_code == 404
        assert (await nobody.get(where)).status_code == 401


async def test_a_job_of_nobody_is_for_whoever_has_its_id(service: Service) -> None:
    app = site_of(service, report)
    async with opened(service, app) as site, site.client() as nobody, site.client() as bob:
        where = (await nobody.get("/slow/JFK", headers={"Prefer": "respond-async"})).headers["location"]
        await bob.post("/login/bob")
        for reader in (nobody, bob):
            assert (await reader.get(where, headers={"Prefer": "wait=20"})).json()["status"] == "succeeded"
            assert (await reader.get(f"{where}/result")).json() == {"code": "JFK", "user": None}


async def test_nobody_submits_an_endpoints_job_by_its_name(service: Service) -> None:
    """With a record of somebody else's, it would be run as him."""
    app = site_of(service, report)
    async with opened(service, app) as site, site.client() as http:
        token = {"Authorization": f"Bearer {service.token('eve')}"}
        answer = await http.post("/push/v1/jobs", json={"job": "slow", "params": {"record": "x"}}, headers=token)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


async def test_an_error_that_nobody_handles_is_the_apps_own_500_and_a_failed_job(service: Service) -> None:
    async def broken(request: Request) -> Response:
        raise LookupError("no such flight")

    app = site_of(service, broken, wait=20)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.get("/slow/JFK")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        (job,) = await site.rows("SELECT id, status, error FROM pushsvc.jobs")
        assert job["status"] == "failed"
        again = await http.get(f"/push/v1/jobs/{job['id']}/result")
        assert (again.status_code, again.text) == (500, "Internal Server Error")


async def test_an_endpoint_knows_its_job_and_tells_its_progress(service: Service) -> None:
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        job = current_job()
        seen.append((bool(job), job.name))
        await job.progress(0.5, "half")
        return PlainTextResponse("done")

    app = site_of(service, endpoint, wait=20)
    async with opened(service, app) as site, site.client() as http:
        await http.get("/slow/JFK")
        assert seen == [(True, "slow")]
    assert not current_job()
    await current_job().progress(0.5)


async def test_a_large_upload_is_recorded_in_pieces_and_read_back_whole(service: Service) -> None:
    async def endpoint(request: Request) -> Response:
        size, chunks = 0, 0
        async for chunk in request.stream():
            size, chunks = size + len(chunk), chunks + bool(chunk)
        return JSONResponse([size, chunks])

    async def parts() -> Any:
        for _ in range(50):
            yield b"x" * 20_000

    app = site_of(service, endpoint, wait=20)
    async with opened(service, app) as site, site.client() as http:
        assert (await http.post("/slow/x", content=parts())).json() == [1_000_000, 4]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_413_and_leaves_nothing(settings: Any, chunked: bool) -> None:
    service = Service(settings=settings.model_copy(update={"record_limit": 600_000}), principal=_session)

    async def parts() -> Any:
        for _ in range(50):
            yield b"x" * 20_000

    app = site_of(service, report)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.post("/slow/x", content=parts() if chunked else b"x" * 700_000)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        for table in ("jobs", "records", "record_pieces"):
            assert await site.rows(f"SELECT 1 FROM pushsvc.{table}") == []


def _session(request: Any) -> Any:
    return request.session.get("user")


async def test_what_a_request_says_is_nowhere_in_clear(service: Service) -> None:
    gate = Gate()
    app = site_of(service, gate)
    async with opened(service, app) as site, site.client(headers={"X-Key": "tell-nobody"}) as http:
        await http.post("/login/ann")
        cookie = http.cookies["session"]
        await http.post("/slow/x?code=whispered", content=b"very-secret", headers={"Prefer": "respond-async"})
        await until(lambda: _entered(gate), "the endpoint runs")
        for table in ("jobs", "records", "record_pieces", "answers", "events"):
            text = str([tuple(row) for row in await site.rows(f"SELECT t::text FROM pushsvc.{table} t")])
            for word in ("tell-nobody", "whispered", "very-secret", cookie, b"very-secret".hex()):
                assert word not in text, table
        gate.open.set()


async def _entered(gate: Gate) -> bool:
    return gate.entered > 0


async def test_background_tasks_go_on_after_the_answer(service: Service) -> None:
    from starlette.background import BackgroundTask

    told, finished = asyncio.Event(), asyncio.Event()

    async def after() -> None:
        await told.wait()
        finished.set()

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(after))

    app = site_of(service, endpoint, wait=20)
    async with opened(service, app) as site, site.client() as http:
        assert (await http.get("/slow/x")).text == "done"
        told.set()
        await asyncio.wait_for(finished.wait(), 10)


async def test_a_cancel_reaches_the_endpoint(service: Service) -> None:
    gate = Gate()
    app = site_of(service, gate)
    async with opened(service, app) as site, site.client() as http:
        view = (await http.get("/slow/x", headers={"Prefer": "respond-async"})).json()
        await until(lambda: _entered(gate), "the endpoint runs")
        token = {"Authorization": f"Bearer {service.token('ann')}"}
        assert (await http.post(view["links"]["cancel"], headers=token)).status_code == 202
        done = await http.get(view["links"]["self"], headers={"Prefer": "wait=20"})
        assert done.json()["status"] == "cancelled"
        assert await site.rows("SELECT 1 FROM pushsvc.records") == []


async def test_a_large_answer_is_referred_to_by_what_is_kept(service: Service) -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("ü" * 100_000)

    app = site_of(service, endpoint)
    async with opened(service, app) as site, site.client() as http:
        await http.post("/login/ann")
        view = (await http.get("/slow/x", headers={"Prefer": "respond-async"})).json()
        await http.get(view["links"]["self"], headers={"Prefer": "wait=20"})
        events = (await http.get("/push/v1/events", params={"cursor": view["cursor"], "wait": 20})).json()["events"]
        ref = events[-1]["event"]["ref"]
        assert (await http.get(ref["href"])).text == "ü" * 100_000
        kept = await http.get(ref["href"], headers={"Accept": "application/vnd.pushsvc.answer+json"})
        assert (len(kept.content), hashlib.sha256(kept.content).hexdigest()) == (ref["bytes"], ref["sha256"])
        assert kept.json()["body"] == "ü" * 100_000
