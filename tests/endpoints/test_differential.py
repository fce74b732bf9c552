"""Sixty odd endpoints, answered directly and through a worker: the answers are equal, but for a list of headers.

Each endpoint is served by two apps, of which one has no mark; what a client would see of both is compared.
"""

from __future__ import annotations

import asyncio
import contextvars
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from pushsvc import Service
from pushsvc.settings import Settings

from .conftest import opened

DIFFERENT = {
    "vary",
    "preference-applied",
    "date",
    "server",
    "content-length",
    "content-encoding",
    "transfer-encoding",
}
"""Of one delivery. `Vary` is compared as a set, and has `Prefer` and `Accept` more."""

_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
Endpoint = Callable[..., Any]


@dataclass
class Case:
    """An endpoint, and the request that it gets."""

    endpoint: Any
    method: str = "GET"
    path: str = ""
    request: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(method: str = "GET", path: str = "", **request: Any) -> Callable[[Any], Any]:
    def add(endpoint: Any) -> Any:
        name = endpoint.__name__
        assert name not in CASES
        CASES[name] = Case(endpoint, method, path, request)
        return endpoint

    return add


# What is answered ---------------------------------------------------------------------------------

for _status in (
    200,
    201,
    202,
    203,
    204,
    205,
    206,
    207,
    226,
    300,
    304,
    400,
    401,
    402,
    404,
    409,
    410,
    418,
    422,
    429,
    451,
):

    async def _answer(request: Request, status: int = _status) -> Response:
        return Response(b"" if status in (204, 205, 304) else b"body", status, {"X-Status": str(status)})

    CASES[f"status_{_status}"] = Case(_answer)
for _status in (500, 501, 502, 503, 504, 507, 599):
    CASES[f"status_{_status}"] = Case(partial(_answer, status=_status))
for _status in (301, 302, 303, 307, 308):

    async def _redirect(request: Request, status: int = _status) -> Response:
        return RedirectResponse(request.url_for("plain"), status)

    CASES[f"redirect_{_status}"] = Case(_redirect)


@case()
async def plain(request: Request) -> Response:
    return PlainTextResponse("plain")


@case()
async def html_page(request: Request) -> Response:
    return HTMLResponse("<h1>ünïcode ☃ \x00 \u2028</h1>")


@case()
async def latin(request: Request) -> Response:
    return Response("café".encode("latin-1"), media_type="text/plain; charset=latin-1")


@case()
async def json_body(request: Request) -> Response:
    return JSONResponse({"a": [1, 2.5, None, True], "ü": "☃", "nested": {"deep": [[]]}})


@case()
async def json_with_blanks(request: Request) -> Response:
    return Response(b'{ "a" : 1,\n "b": 1e400 , "a": 2}\n', media_type="application/json")


@case()
async def json_that_is_none(request: Request) -> Response:
    return Response(b'{"a": NaN', media_type="application/json")


@case()
async def json_like_ours(request: Request) -> Response:
    return Response(
        b'{"status":1,"encoding":"json","body":2}', 200, {"X": '","encoding":"text","body":"'}, "application/json"
    )


@case()
async def empty_json(request: Request) -> Response:
    return Response(b"", media_type="application/json")


@case()
async def problem(request: Request) -> Response:
    return Response(b'{"title":"no"}', 422, media_type="application/problem+json")


@case()
async def binary(request: Request) -> Response:
    return Response(bytes(range(256)) * 10, media_type="image/png")


@case()
async def no_type(request: Request) -> Response:
    return Response(b"what is it?")


@case()
async def large(request: Request) -> Response:
    return PlainTextResponse("0123456789" * 300_000)


@case(headers={"Accept-Encoding": "gzip"})
async def compressed(request: Request) -> Response:
    return PlainTextResponse("again and " * 1000)


@case(headers={"Accept-Encoding": "identity"})
async def not_compressed(request: Request) -> Response:
    return PlainTextResponse("again and " * 1000)


@case(headers={"Accept-Encoding": "gzip"})
async def compressed_by_itself(request: Request) -> Response:
    return Response(gzip.compress(b"by itself", mtime=0), 200, {"Content-Encoding": "gzip"}, "text/plain")


@case()
async def cookies(request: Request) -> Response:
    response = PlainTextResponse("cookies")
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("a", "2", path="/other")
    response.delete_cookie("b")
    return response


@case()
async def headers_twice(request: Request) -> Response:
    response = PlainTextResponse("headers")
    response.raw_headers += [
        (b"link", b"<a>; rel=a"),
        (b"link", b"<b>; rel=b"),
        (b"x-odd", b"caf\xe9"),
        (b"X-Case", b"x"),
    ]
    return response


@case(headers={"If-None-Match": '"v1"'})
async def unchanged(request: Request) -> Response:
    if request.headers.get("if-none-match") == '"v1"':
        return Response(status_code=304, headers={"ETag": '"v1"'})
    return Response(b"v1", headers={"ETag": '"v1"'})


@case(headers={"If-None-Match": '"v1"'})
async def changed(request: Request) -> Response:
    return Response(b"v2", headers={"ETag": '"v2"'})


@case()
async def stream(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(5):
            await asyncio.sleep(0)
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@case()
async def stream_of_a_thread(request: Request) -> Response:
    def lines() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(100))

    return StreamingResponse(lines(), 201, media_type="application/octet-stream")


@case()
async def empty_stream(request: Request) -> Response:
    async def nothing() -> AsyncIterator[bytes]:
        for _ in ():
            yield b""

    return StreamingResponse(nothing())


@case()
async def file(request: Request) -> Response:
    return FileResponse(__file__, filename="tëst.py")


@case()
async def background(request: Request) -> Response:
    async def after() -> None:
        await asyncio.sleep(0)

    return PlainTextResponse("now", background=BackgroundTask(after))


@case()
async def bare_asgi(request: Request) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/x")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    return app


# What goes wrong ----------------------------------------------------------------------------------


@case()
async def raises(request: Request) -> Response:
    raise LookupError("secret detail")


@case()
async def http_exception(request: Request) -> Response:
    raise HTTPException(409, "taken", {"X-Why": "because"})


@case()
async def handled(request: Request) -> Response:
    raise KeyError("handled")


@case()
async def raises_in_its_stream(request: Request) -> Response:
    response = PlainTextResponse("so far so good", background=BackgroundTask(_raise))
    return response


async def _raise() -> None:
    raise LookupError("after the answer")


@case("PATCH")
async def not_allowed(request: Request) -> Response:
    return PlainTextResponse("never")


# What is asked ------------------------------------------------------------------------------------


@case("POST", content=b"")
async def empty_body(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@case("POST", json={"a": ["ü", 1]})
async def json_asked(request: Request) -> Response:
    return JSONResponse([await request.json(), request.headers["content-length"]])


@case("PUT", content=b"x" * 300_000)
async def two_pieces(request: Request) -> Response:
    body = await request.body()
    return JSONResponse([len(body), request.headers["content-length"]])


@case("POST", content=b"\x00\x01" * (20 * 1024**2))
async def forty_mebibytes(request: Request) -> Response:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return PlainTextResponse(str(size))


@case("POST", content="chunked")
async def chunked_upload(request: Request) -> Response:
    return JSONResponse([(await request.body()).decode(), "content-length" in request.headers])


@case("POST", data={"name": "Zoë", "many": ["1", "2"]})
async def form(request: Request) -> Response:
    async with request.form() as found:
        return JSONResponse(found.multi_items())


@case(
    "POST",
    data={"k": "v"},
    files=[("f", ("ünï ☃.txt", b"text", "text/plain")), ("f", ("b.bin", b"\x00" * 2_000_000))],
)
async def multipart(request: Request) -> Response:
    async with request.form() as found:
        files: Any = found.getlist("f")
        told = [[f.filename, f.content_type, len(await f.read())] for f in files]
        return JSONResponse([found["k"], *told])


@case("DELETE", content=b"why not")
async def delete(request: Request) -> Response:
    return PlainTextResponse((await request.body()).decode())


@case("OPTIONS")
async def options(request: Request) -> Response:
    return PlainTextResponse("options")


@case("HEAD")
async def head(request: Request) -> Response:
    return PlainTextResponse("head")


@case(path="/ü/%2F%20x?a=1&a=2&b=%C3%BC&c=+")
async def url(request: Request) -> Response:
    return JSONResponse([str(request.url), request.url.path, request.query_params.multi_items(), request.path_params])


@case(headers={"X-Many": "1", "Authorization": "Basic YTpi", "Accept-Language": "de", "Cookie": 'a="b c"; d=e'})
async def headers(request: Request) -> Response:
    dropped = {"accept-encoding", "connection", "prefer"}
    return JSONResponse([sorted((k, v) for k, v in request.headers.items() if k not in dropped), request.cookies])


@case()
async def client(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse([request.client.host, request.client.port, request.method, request.scope["scheme"]])


@case()
async def links(request: Request) -> Response:
    return JSONResponse(
        [str(request.url_for("plain")), str(request.base_url), str(request.app.url_path_for("plain"))]
    )


@case()
async def state(request: Request) -> Response:
    return JSONResponse([request.state.engine, request.state.by_middleware, request.app.state.title])


@case()
async def context(request: Request) -> Response:
    return PlainTextResponse(_who.get())


@case()
async def user(request: Request) -> Response:
    return JSONResponse([request.user.display_name, request.auth.scopes])


@case()
async def session(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


@case(headers={"Origin": "https://friend.example"})
async def other_origin(request: Request) -> Response:
    return PlainTextResponse("read me")


@case(headers={"Origin": "https://stranger.example"})
async def strange_origin(request: Request) -> Response:
    return PlainTextResponse("read me not")


@case("OPTIONS", headers={"Origin": "https://friend.example", "Access-Control-Request-Method": "PUT"})
async def preflight(request: Request) -> Response:
    return PlainTextResponse("never")


@case(headers={"Host": "elsewhere.example"})
async def another_host(request: Request) -> Response:
    return PlainTextResponse("never")


@case()
def in_a_thread(request: Request) -> Response:
    return PlainTextResponse(f"in a thread, as {_who.get()}")


@case("POST")
class by_class(HTTPEndpoint):
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("by class")


@case()
async def asks_whether_one_is_there(request: Request) -> Response:
    return PlainTextResponse(str(await request.is_disconnected()))


# The app ------------------------------------------------------------------------------------------


class Noting(BaseHTTPMiddleware):
    """The kind of middleware that most have."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.by_middleware = "noted"
        _who.set("known by middleware")
        response = await call_next(request)
        response.headers["X-Noted"] = request.url.path
        return response


class Basic(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> Any:
        return AuthCredentials(["all"]), SimpleUser("somebody")


async def on_key_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"handled {error}", 418)


def app_of(marked: Callable[[], list[Any]]) -> Starlette:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"engine": "on"}

    def route(name: str, case: Case) -> Route:
        known = ("plain",) if name == "plain" else ()
        methods = None if isinstance(case.endpoint, type) else ["POST"] if name == "not_allowed" else [case.method]
        path = f"/{name}" + ("/{rest:path}" if case.path else "")
        return Route(path, case.endpoint, methods=methods, name=name if known else f"r_{name}", middleware=marked())

    routes = [route(name, each) for name, each in CASES.items()]
    app = Starlette(
        routes=[Mount("/sub", routes=routes), *routes],
        lifespan=lifespan,
        exception_handlers={KeyError: on_key_error},
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["https://friend.example"],
                allow_methods=["PUT"],
                expose_headers=["X-A"],
            ),
            Middleware(TrustedHostMiddleware, allowed_hosts=["shop.example"]),
            Middleware(SessionMiddleware, secret_key="for tests"),
            Middleware(AuthenticationMiddleware, backend=Basic()),
            Middleware(Noting),
            Middleware(GZipMiddleware),
        ],
    )
    app.state.title = "the app"
    return app


@pytest.fixture
def plain_service(settings: Settings) -> Service:
    return Service(settings=settings)


async def parts() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"part"


async def ask(http: httpx.AsyncClient, prefix: str, name: str, case: Case) -> httpx.Response:
    request = dict(case.request)
    if request.get("content") == "chunked":
        request["content"] = parts()
    return await http.request(case.method, f"{prefix}/{name}{case.path}", **request)


def seen(answer: httpx.Response) -> dict[str, Any]:
    """What is compared."""
    headers = [(k.lower(), v) for k, v in answer.headers.multi_items() if k.lower() not in DIFFERENT]
    varies = {name.strip().lower() for name in answer.headers.get("vary", "").split(",") if name.strip()}
    return {
        "status": answer.status_code,
        "headers": sorted(headers),
        # What varies by Origin says so of the 500 too, which Starlette makes outside of all middleware.
        "vary": varies - {"prefer", "accept", "origin"},
        "body": answer.content,
    }


@pytest.mark.parametrize("prefix", ["", "/sub"])
async def test_an_endpoint_answers_as_ever_through_a_worker(plain_service: Service, prefix: str) -> None:
    """All of them in one test: what is compared is named where they differ."""
    service = plain_service
    direct = app_of(list)
    later = app_of(lambda: [service.respond_async(wait=30)])
    service.attach(later)
    different: dict[str, Any] = {}
    async with opened(service, later) as site:
        from ..unit.test_hosting import lifespan_of

        async with lifespan_of(direct) as state, site.client() as through:
            directly = httpx.AsyncClient(
                transport=httpx.ASGITransport(_with(direct, state), raise_app_exceptions=False),
                base_url="http://shop.example",
            )
            async with directly:
                for name, each in CASES.items():
                    if prefix and name == "forty_mebibytes":
                        continue
                    expected = seen(await ask(directly, prefix, name, each))
                    found = seen(await ask(through, prefix, name, each))
                    if found != expected:
                        different[name] = [(k, expected[k], found[k]) for k in found if found[k] != expected[k]]
        print(*(f"{name}: {what}"[:600] for name, what in different.items()), sep="\n")
        assert different == {}
        async with site.client() as http:
            for name, encoding in (
                ("compressed", "gzip"),
                ("not_compressed", None),
                ("compressed_by_itself", "gzip"),
            ):
                answer = await ask(http, prefix, name, CASES[name])
                assert answer.headers.get("content-encoding") == encoding
        untouched = {"not_allowed", "options", "head", "preflight", "another_host"}
        jobs = {row["name"] for row in await site.rows("SELECT name FROM pushsvc.jobs")}
        assert len(jobs) == len(CASES) - len(untouched) - bool(prefix)
    assert len(CASES) > 60


def _with(app: Starlette, state: dict[str, Any]) -> Any:
    """The app as a server calls it: each request has the lifespan's state."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return served
