"""What an author may say of an endpoint: sharing, old clients, what to do when the service can't, going away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, Router

from pushsvc import Service
from pushsvc.errors import SettingsError, Unavailable
from pushsvc.settings import Settings

from ..acceptance.clients import until
from .conftest import Site, opened


class Counting:
    """An endpoint that says how often it was run, and waits while it is closed."""

    def __init__(self) -> None:
        self.runs = 0
        self.open = asyncio.Event()
        self.open.set()
        self.headers: dict[str, str] = {}
        self.status = 200

    async def __call__(self, request: Request) -> Response:
        self.runs += 1
        run = self.runs
        await self.open.wait()
        return JSONResponse([run, request.session.get("user")], self.status, self.headers)

    async def entered(self) -> bool:
        return self.runs > 0


def app_of(service: Service, endpoint: Any, **options: Any) -> Starlette:
    async def login(request: Request) -> Response:
        request.session["user"] = request.path_params["user"]
        return PlainTextResponse("welcome")

    async def slow(request: Request) -> Response:
        response = await endpoint(request)
        assert isinstance(response, Response)
        return response

    mark = service.respond_async(**{"wait": 20} | options)
    app = Starlette(
        routes=[
            Route("/login/{user}", login, methods=["POST"]),
            Route("/slow", slow, methods=["GET", "POST"], middleware=[mark]),
        ],
        middleware=[Middleware(SessionMiddleware, secret_key="for tests")],
    )
    service.attach(app)
    return app


async def jobs(site: Site) -> int:
    return len(await site.rows("SELECT 1 FROM pushsvc.jobs"))


# Sharing


async def test_equal_gets_in_flight_are_one_job(service: Service) -> None:
    endpoint = Counting()
    endpoint.open.clear()
    async with opened(service, app_of(service, endpoint, coalesce=True)) as site, site.client() as ann:
        await ann.post("/login/ann")
        asked = [asyncio.create_task(ann.get("/slow", headers={"User-Agent": str(n)})) for n in range(3)]
        other = asyncio.create_task(ann.get("/slow?x=1"))

        async def all_there() -> bool:
            rows = await site.rows("SELECT sum(audience) AS n FROM pushsvc.jobs")
            return bool(rows[0]["n"] == 4)

        await until(all_there, "all have been taken in")
        endpoint.open.set()
        assert len({(await each).text for each in asked}) == 1
        await other
        assert (endpoint.runs, await jobs(site)) == (2, 2)
        assert await site.rows("SELECT 1 FROM pushsvc.records") == []


async def test_two_users_never_share_one(service: Service) -> None:
    endpoint = Counting()
    options = {"coalesce": True, "cache_for": "60s"}
    async with opened(service, app_of(service, endpoint, **options)) as site, site.client() as ann:
        async with site.client() as bob, site.client() as nobody:
            await ann.post("/login/ann")
            await bob.post("/login/bob")
            for _ in range(2):
                assert [(await http.get("/slow")).json()[1] for http in (ann, bob, nobody)] == ["ann", "bob", None]
            assert endpoint.runs == 3
            # Nobody, and yet with a cookie that may be somebody's.
            for _ in range(2):
                await nobody.get("/slow", headers={"Cookie": "theirs=1"})
            assert endpoint.runs == 5


async def test_a_fresh_enough_answer_is_given_again(service: Service) -> None:
    endpoint = Counting()
    async with opened(service, app_of(service, endpoint, cache_for="60s")) as site, site.client() as ann:
        await ann.post("/login/ann")
        assert [(await ann.get("/slow")).json()[0] for _ in range(3)] == [1, 1, 1]
        await site.rows("UPDATE pushsvc.answers SET fresh_until = now() - interval '1 second'")
        assert (await ann.get("/slow")).json()[0] == 2
        assert (await ann.post("/slow")).json()[0] == 3


@pytest.mark.parametrize(
    ("headers", "status"), [({"Set-Cookie": "a=b"}, 200), ({"Cache-Control": "no-store"}, 200), ({}, 404)]
)
async def test_an_answer_that_is_ones_own_or_an_error_is_not_given_again(
    service: Service, headers: dict[str, str], status: int
) -> None:
    endpoint = Counting()
    endpoint.headers, endpoint.status = headers, status
    async with opened(service, app_of(service, endpoint, cache_for="60s")) as site, site.client() as http:
        for run in (1, 2):
            answer = await http.get("/slow")
            http.cookies.clear()
            assert (answer.status_code, answer.json()[0]) == (status, run)


async def test_the_same_key_is_the_same_job_and_never_anothers(service: Service) -> None:
    endpoint = Counting()
    async with opened(service, app_of(service, endpoint)) as site, site.client() as ann, site.client() as bob:
        await ann.post("/login/ann")
        await bob.post("/login/bob")
        key = {"Idempotency-Key": "k1"}
        for _ in range(2):
            assert (await ann.post("/slow", content=b"tea", headers=key)).json() == [1, "ann"]
        assert (await bob.post("/slow", content=b"tea", headers=key)).json() == [2, "bob"]
        other = await ann.post("/slow", content=b"coffee", headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "key_reused")
        async with site.client(cookies={"a": "1"}) as one, site.client(cookies={"a": "2"}) as two:
            first = await one.post("/slow", content=b"tea", headers=key)
            assert (await two.post("/slow", content=b"tea", headers=key)).json() != first.json()
        assert await site.rows("SELECT 1 FROM pushsvc.records") == []


# Old clients


async def test_nobody_who_did_not_ask_gets_a_202(service: Service) -> None:
    endpoint = Counting()
    endpoint.open.clear()
    options = {"only_if_asked": True, "wait": 0}
    async with opened(service, app_of(service, endpoint, **options)) as site, site.client() as http:
        asked = await http.get("/slow", headers={"Prefer": "wait=0"})
        assert asked.status_code == 202

        async def running(count: int) -> bool:
            return endpoint.runs == count

        await until(lambda: running(1), "the first runs")
        old = asyncio.create_task(http.get("/slow"))
        await until(lambda: running(2), "both run")
        assert not old.done()
        endpoint.open.set()
        assert (await old).json()[0] == 2


# When the service can't


class Away:
    """PostgreSQL is away for this kind of statement."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, service: Service, *names: str) -> None:
        async def away(*args: Any, **options: Any) -> Any:
            raise Unavailable("PostgreSQL can't be reached right now")

        parts = service._host.parts
        assert parts is not None
        for name in names:
            monkeypatch.setattr({"record": parts.records, "insert": parts.store}[name], *_what(name), away)


def _what(name: str) -> tuple[str]:
    return ("put",) if name == "record" else ("insert",)


async def test_a_queue_that_is_full_is_a_503(settings: Settings) -> None:
    service = Service(settings=settings, principal=lambda request: request.session.get("user"))
    endpoint = Counting()
    async with opened(service, app_of(service, endpoint)) as site, site.client() as http:
        parts = service._host.parts
        assert parts is not None
        parts.submitter._depth = 10**9
        answer = await http.get("/slow")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert endpoint.runs == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", ["record", "insert"])
@pytest.mark.parametrize("otherwise", ["run", "refuse"])
async def test_without_postgresql_an_endpoint_is_refused_or_run_where_it_came(
    service: Service, monkeypatch: pytest.MonkeyPatch, method: str, what: str, otherwise: str
) -> None:
    """Where the job may have been stored in spite of all, only what is read may be run besides."""
    endpoint = Counting()
    app = app_of(service, endpoint, otherwise=otherwise)
    async with opened(service, app) as site, site.client() as http:
        await http.post("/login/ann")
        Away(monkeypatch, service, what)
        answer = await http.request(method, "/slow", content=b"tea" if method == "POST" else None)
        runs = otherwise == "run" and (method == "GET" or what == "record")
        if runs:
            assert (answer.status_code, answer.json()) == (200, [1, "ann"])
        else:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert endpoint.runs == int(runs)


async def test_what_is_run_where_it_came_has_its_whole_body(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    app = app_of(service, endpoint, otherwise="run")
    async with opened(service, app) as site, site.client() as http:
        Away(monkeypatch, service, "record")
        assert (await http.post("/slow", content=b"x" * 3_000_000)).text == "3000000"


# Going away


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_goes_away_cancels_only_if_the_author_says_so(service: Service, cancels: bool) -> None:
    endpoint = Counting()
    endpoint.open.clear()
    app = app_of(service, endpoint, cancel_on_disconnect=cancels)
    async with opened(service, app) as site:
        gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/slow",
            "raw_path": b"/slow",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"shop.example")],
        }
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there to hear it")

        request = asyncio.create_task(app(scope, receive, send))
        await until(endpoint.entered, "the endpoint runs")
        gone.set()
        await request

        async def ended() -> str | None:
            rows = await site.rows("SELECT status FROM pushsvc.jobs WHERE finished_at IS NOT NULL")
            return rows[0]["status"] if rows else None

        if cancels:
            assert await until(ended, "the job has finished") == "cancelled"
        endpoint.open.set()
        assert await until(ended, "the job has finished") == ("cancelled" if cancels else "succeeded")


# Where marks stand


async def test_a_mark_on_a_mount_marks_all_its_routes(service: Service) -> None:
    async def one(request: Request) -> Response:
        return PlainTextResponse(str(request.url_for("inner:one")))

    inner = Router(routes=[Route("/one", one, name="one")])
    app = Starlette(
        routes=[Mount("/inner", inner, name="inner", middleware=[service.respond_async(wait=20)])],
        middleware=[Middleware(SessionMiddleware, secret_key="for tests")],
    )
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        assert (await http.get("/inner/one")).text == "http://shop.example/inner/one"
        assert [row["name"] for row in await site.rows("SELECT name FROM pushsvc.jobs")] == ["inner"]
        assert (await http.get("/inner/two")).status_code == 404


async def test_a_mark_on_no_route_is_refused_at_start(service: Service) -> None:
    async def one(request: Request) -> Response:
        return PlainTextResponse("one")

    Route("/one", one, middleware=[service.respond_async()])
    app = Starlette()
    service.attach(app)
    with pytest.raises(AssertionError, match="stand on no route"):
        async with opened(service, app, worker=False):
            pass


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"wait": -1}, "wait"),
        ({"timeout": 0}, "timeout"),
        ({"cache_for": "soon"}, "cache_for"),
        ({"otherwise": "hope"}, "otherwise"),
    ],
)
def test_options_are_checked_where_they_are_said(service: Service, options: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        service.respond_async(**options)


async def test_head_and_options_pass_untouched(service: Service) -> None:
    endpoint = Counting()
    async with opened(service, app_of(service, endpoint)) as site, site.client() as http:
        assert (await http.head("/slow")).status_code == 200
        assert (await http.options("/slow")).status_code == 405
        assert await jobs(site) == 0
