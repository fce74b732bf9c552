"""The Python client at endpoints that may answer later: a 202 is followed to the endpoint's own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pushsvc_client as client
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pushsvc import Service
from pushsvc.settings import Settings

from .conftest import Site, opened


class Gate:
    """Holds back the endpoint, whose entries are counted."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def site(settings: Settings, gate: Gate) -> AsyncIterator[Site]:
    service = Service(settings=settings)

    async def report(request: Request) -> Response:
        gate.entered += 1
        await gate.open.wait()
        if request.path_params["code"] == "broken":
            raise RuntimeError("a fault of the endpoint's")
        return JSONResponse({"code": request.path_params["code"]}, 418, {"X-Own": "yes"})

    path, mark = "/airports/{code}/report", service.respond_async(wait=0.05)
    app = Starlette(routes=[Route(path, report, methods=["GET", "POST"], middleware=[mark])])
    service.attach(app, at="/push")
    async with opened(service, app) as site:
        yield site


def client_of(site: Site, sub: str | None = "me") -> client.AsyncClient:
    """In the test's own process, where no socket can be upgraded."""
    token = None if sub is None else site.service.token(sub)
    return client.AsyncClient("http://shop.example/push", token, http=site.client(), transports=["longpoll"])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("sub", ["me", None])
async def test_an_answer_that_comes_later_is_the_endpoints_own(
    site: Site, gate: Gate, method: str, sub: str | None
) -> None:
    """Of somebody's, and of nobody's in particular. The job is known as soon as there is one."""
    accepted: list[client.AsyncHandle] = []
    async with client_of(site, sub) as me:
        path, prefer = "/airports/JFK/report", "respond-async, wait=0.05"
        asking = me.request(method, path, on_accepted=accepted.append, prefer=prefer)
        answering = asyncio.create_task(asking)
        while not accepted:
            await asyncio.wait([answering], timeout=0.01)
            assert not answering.done()
        gate.open.set()
        response = await asyncio.wait_for(answering, 30)
        assert (response.status_code, response.json(), response.headers["x-own"]) == (418, {"code": "JFK"}, "yes")
        assert gate.entered == 1
        assert (await accepted[0].status()).status == "succeeded"


async def test_an_answer_that_comes_at_once_is_given_as_it_is(site: Site, gate: Gate) -> None:
    gate.open.set()
    async with client_of(site) as me:
        response = await me.request("GET", "/airports/JFK/report", prefer="wait=20")
        missing = await me.request("GET", "/nowhere")
    assert (response.status_code, missing.status_code) == (418, 404)
    assert isinstance(response, httpx.Response)


async def test_letting_go_of_a_request_leaves_the_endpoint_running(site: Site, gate: Gate) -> None:
    accepted: list[client.AsyncHandle] = []
    async with client_of(site) as me:
        with pytest.raises(TimeoutError):
            await me.request("GET", "/airports/JFK/report", timeout=0.05, on_accepted=accepted.append)
        gate.open.set()
        assert (await accepted[0].response(timeout=30)).status_code == 418
    assert gate.entered == 1
