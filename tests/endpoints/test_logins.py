"""The app's own login, and cookies: whose a job is, whence requests come, and nothing brought back from the past."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from pushsvc import Principal, Service
from pushsvc.settings import Settings

from ..acceptance.clients import until
from .conftest import Site, opened


async def login(request: Request) -> Response:
    request.session["user"] = request.path_params["user"]
    return PlainTextResponse("welcome")


async def logout(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("bye")


async def visit(request: Request) -> Response:
    """A session that changes with every request, and a cookie besides."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    response = JSONResponse({"visits": request.session["visits"], "cart": request.cookies.get("cart")})
    response.set_cookie("cart", "full of tea")
    response.set_cookie("seen", "yes", httponly=True)
    return response


async def whoami(request: Request) -> Response:
    return JSONResponse({"user": request.session.get("user"), "cart": request.cookies.get("cart")})


def app_of(service: Service) -> Starlette:
    app = Starlette(
        routes=[
            Route("/login/{user}", login, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/visit", visit, methods=["GET", "POST"], middleware=[service.respond_async(wait=20)]),
            Route("/whoami", whoami),
        ],
        middleware=[Middleware(SessionMiddleware, secret_key="for tests")],
    )
    service.attach(app)
    return app


async def done(site: Site, http: Any, location: str) -> str:
    """The URL of the job's result, when it is there."""
    job = location.rpartition("/")[2]

    async def ended() -> bool:
        rows = await site.rows("SELECT 1 FROM pushsvc.jobs WHERE id = $1 AND finished_at IS NOT NULL", job)
        return bool(rows)

    await until(ended, "the job has finished")
    return f"{location}/result"


async def test_an_answer_in_time_sets_its_cookies_once(service: Service) -> None:
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        answer = await ann.get("/visit")
        names = sorted(cookie.partition("=")[0] for cookie in answer.headers.get_list("set-cookie"))
        assert names == ["cart", "seen", "session"]
        assert (await ann.get("/visit")).json() == {"visits": 2, "cart": "full of tea"}


async def test_cookies_are_in_no_event_and_no_json(service: Service) -> None:
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        later = await ann.get("/visit", headers={"Prefer": "respond-async"})
        await done(site, ann, later.headers["location"])
        events = await ann.get("/push/v1/events", params={"cursor": "start", "wait": 20})
        assert events.json()["events"][-1]["event"]["data"]["body"] == {"visits": 1, "cart": None}
        for text in (events.text, (await ann.get(later.headers["location"])).text):
            assert "full of tea" not in text
            assert "cookie" not in text.lower().replace('["vary","cookie"]', "").replace('"cookies":true', "")
        for table in ("jobs", "answers"):
            assert "full of tea" not in str(await site.rows(f"SELECT t::text FROM pushsvc.{table} t"))


async def test_an_answer_fetched_later_sets_cookies_only_while_nothing_happened_to_them(service: Service) -> None:
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        later = await ann.get("/visit", headers={"Prefer": "respond-async"})
        result = await done(site, ann, later.headers["location"])
        ann.cookies.set("cart", "changed since", domain="shop.example")
        fetched = await ann.get(result)
        assert sorted(cookie.partition("=")[0] for cookie in fetched.headers.get_list("set-cookie")) == [
            "seen",
            "session",
        ]
        assert ann.cookies["cart"] == "changed since"
        # `seen` is set by now, as it was not when the request was recorded; and so is a session with a visit more.
        again = await ann.get(result)
        assert again.headers.get_list("set-cookie") == []


async def test_who_has_logged_out_stays_so_and_has_no_job(service: Service) -> None:
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        later = await ann.get("/visit", headers={"Prefer": "respond-async"})
        result = await done(site, ann, later.headers["location"])
        await ann.post("/logout")
        assert (await ann.get(result)).status_code == 401
        assert (await ann.get("/whoami")).json()["user"] is None
        async with site.client() as bob:
            await bob.post("/login/bob")
            assert (await bob.get(result)).status_code == 404


OWN, SIBLING, FOREIGN = "http://shop.example", "http://blog.shop.example", "https://evil.example"


@pytest.mark.parametrize("path", ["/visit", "/push/v1/tickets"])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": OWN}, True),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://friend.example"}, True),
        ({"Origin": SIBLING, "Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null"}, False),
    ],
)
async def test_with_a_cookie_a_request_that_changes_something_comes_from_the_apps_own_pages(
    settings: Settings, path: str, headers: dict[str, str], allowed: bool
) -> None:
    """`*` is for pages that carry tokens: it allows nobody to use the cookies of others."""
    mine = settings.model_copy(update={"allowed_origins": ("https://friend.example", "*")})
    service = Service(settings=mine, principal=lambda request: request.session.get("user"))
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        answer = await ann.post(path, headers=headers)
        assert answer.status_code == ((200 if path == "/visit" else 201) if allowed else 403)
        assert bool(await site.rows("SELECT 1 FROM pushsvc.jobs")) == (allowed and path == "/visit")


async def test_a_principal_may_be_asked_for_asynchronously_and_be_a_whole_one(settings: Settings) -> None:
    async def principal(request: HTTPConnection) -> Principal | None:
        user = request.session.get("user")
        return None if user is None else Principal(user, tenant="acme", channels=frozenset({"group:ops"}))

    service = Service(settings=settings, principal=principal)
    async with opened(service, app_of(service)) as site, site.client() as ann:
        await ann.post("/login/ann")
        me = (await ann.get("/push/v1/me")).json()
        assert (me["tenant"], me["user"], me["channels"]) == ("acme", "ann", ["group:ops"])
        await ann.get("/visit")
        assert [tuple(row) for row in await site.rows("SELECT tenant, owner FROM pushsvc.jobs")] == [("acme", "ann")]


async def test_a_principal_that_is_none_of_these_is_said_so(settings: Settings, caplog: Any) -> None:
    service = Service(settings=settings, principal=lambda request: 7)  # type: ignore[arg-type,return-value]  # a fault
    async with opened(service, app_of(service)) as site, site.client() as http:
        assert (await http.get("/visit")).status_code == 503
        assert (await http.get("/push/v1/me")).status_code == 500
    assert "not int; a number is a name as str(number)" in caplog.text


# The handshake


def test_a_handshake_brings_the_login_and_hello_needs_no_token(service: Service) -> None:
    with TestClient(app_of(service)) as http:
        http.post("/login/ann")
        with http.websocket_connect("/push/v1/ws", subprotocols=["pushsvc.v1"]) as socket:
            socket.send_text(json.dumps({"id": 1, "op": "hello"}))
            assert json.loads(socket.receive_text())["ok"]["user"] == "ann"


@pytest.mark.parametrize("origin", [SIBLING, FOREIGN, "null"])
def test_a_foreign_page_gets_no_socket_with_a_victims_cookie(service: Service, origin: str) -> None:
    with TestClient(app_of(service)) as http:
        http.post("/login/ann")
        with pytest.raises(WebSocketDisconnect):
            with http.websocket_connect("/push/v1/ws", headers={"Origin": origin}):
                pass


def test_a_login_is_asked_for_anew_after_a_while(settings: Settings) -> None:
    """A handshake's cookie is never read again; so the connection ends, and comes back with the present one."""
    mine = settings.model_copy(update={"login_check": 0.2})
    service = Service(settings=mine, principal=lambda request: request.session.get("user"))
    with TestClient(app_of(service)) as http:
        http.post("/login/ann")
        with http.websocket_connect("/push/v1/ws") as socket:
            socket.send_text(json.dumps({"id": 1, "op": "hello"}))
            assert "ok" in json.loads(socket.receive_text())
            assert json.loads(socket.receive_text())["op"] == "bye"
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert 4000 <= closed.value.code < 4400


def test_revoking_a_subject_ends_the_connections_that_its_login_opened(service: Service) -> None:
    with TestClient(app_of(service)) as http:
        http.post("/login/ann")
        with http.websocket_connect("/push/v1/ws") as socket:
            socket.send_text(json.dumps({"id": 1, "op": "hello"}))
            assert "ok" in json.loads(socket.receive_text())
            assert http.portal is not None
            http.portal.call(service.revoke, "ann")
            assert json.loads(socket.receive_text()) == {"op": "bye", "code": 4008, "retry_ms": [500, 20000]}
        # And the login itself, which the app has not ended, is as good as ever.
        assert http.get("/push/v1/me").json()["user"] == "ann"
