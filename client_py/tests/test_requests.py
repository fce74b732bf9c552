"""Requests that are repeated, tokens that are renewed, and refusals as errors; the network is a function."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import pushsvc_client as client
import pytest
from pushsvc_client import errors
from pushsvc_client.errors import error_of
from pushsvc_client.retries import Retries, back_off, retry_after
from pushsvc_client.tokens import Tokens

import pushsvc.errors

VIEW = {
    "id": "01J",
    "job": "report",
    "status": "queued",
    "version": 1,
    "cursor": "user:me@k1.1,job:01J@1.1",
    "links": {},
}
Step = Callable[[httpx.Request], httpx.Response]


class Wire:
    """Answers each request by the next step, and keeps what was asked."""

    def __init__(self, *steps: Step) -> None:
        self.asked: list[httpx.Request] = []
        self._steps = iter(steps)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return next(self._steps)(request)

    def client(self, **options: Any) -> client.AsyncClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return client.AsyncClient("http://service.example/push", options.pop("token", "t"), http=http, **options)


def problem(code: str, status: int, **headers: str) -> Step:
    body = {"code": code, "status": status, "title": code}
    media = {"content-type": "application/problem+json"}
    return lambda request: httpx.Response(status, json=body, headers=media | headers)


def accepted(request: httpx.Request) -> httpx.Response:
    return httpx.Response(202, json=VIEW, headers={"location": "/push/v1/jobs/01J"})


def broken(kind: type[httpx.TransportError]) -> Step:
    def step(request: httpx.Request) -> httpx.Response:
        raise kind("gone", request=request)

    return step


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited; nobody waits here."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("pushsvc_client.http.asyncio.sleep", at_once)
    return waits


async def test_a_submission_is_repeated_with_its_key_until_it_is_answered(pauses: list[float]) -> None:
    steps = [
        broken(httpx.ConnectError),
        broken(httpx.ReadError),
        problem("unavailable", 503),
        problem("queue_full", 429, **{"retry-after": "7"}),
        accepted,
    ]
    wire = Wire(*steps)
    async with wire.client() as me:
        handle = await me.submit("report")
    assert handle.id == "01J"
    assert {request.headers["idempotency-key"] for request in wire.asked} == {handle.key}
    assert len(wire.asked) == 5
    assert [wait >= 7 for wait in pauses] == [False, False, False, True]


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (problem("invalid_params", 422), client.InvalidParams),
        (problem("too_many_devices", 429), client.TooManyDevices),
        (problem("internal", 500), client.PushsvcError),
        (lambda request: httpx.Response(404, text="nginx"), client.NotFound),
    ],
)
async def test_what_does_not_help_is_not_repeated(step: Step, kind: type[Exception]) -> None:
    wire = Wire(step)
    async with wire.client() as me:
        with pytest.raises(kind):
            await me.submit("report")
    assert len(wire.asked) == 1


async def test_a_service_that_stays_away_is_given_up_and_the_key_is_told() -> None:
    wire = Wire(*[broken(httpx.ReadError)] * 3)
    async with wire.client(retry_for=0) as me:
        with pytest.raises(client.ConnectionFailed) as raised:
            await me.submit("report", key="mine")
    assert "key='mine'" in raised.value.__notes__[0]


async def test_a_shared_submission_has_no_key_and_is_not_repeated_once_it_may_have_arrived() -> None:
    wire = Wire(broken(httpx.ConnectError), broken(httpx.ReadError))
    async with wire.client() as me:
        with pytest.raises(client.ConnectionFailed):
            await me.submit("report", shared=True)
        with pytest.raises(ValueError, match="one of"):
            await me.submit("report", shared=True, key="k")
    assert len(wire.asked) == 2
    assert "idempotency-key" not in wire.asked[0].headers


async def test_a_jobs_id_is_read_from_a_202_that_breaks_off() -> None:
    async def body() -> Any:
        yield b'{"id":'
        raise httpx.ReadError("gone")

    wire = Wire(lambda request: httpx.Response(202, content=body(), headers={"location": "/push/v1/jobs/01J?x=1"}))
    async with wire.client() as me:
        assert (await me.submit("report")).id == "01J"


async def test_a_refused_token_is_renewed_once() -> None:
    tokens = iter("abc")
    wire = Wire(problem("unauthorized", 401), accepted, problem("unauthorized", 401), problem("unauthorized", 401))
    async with wire.client(token=lambda: next(tokens)) as me:
        await me.submit("report")
        with pytest.raises(client.Unauthorized):
            await me.submit("report")
    assert [request.headers["authorization"][-1] for request in wire.asked] == ["a", "b", "b", "c"]


async def test_the_token_is_shown_to_nobody_but_the_service() -> None:
    wire = Wire(lambda request: httpx.Response(200), lambda request: httpx.Response(200))
    async with wire.client(headers={"X-Own": "1"}) as me:
        await me.request("GET", "https://elsewhere.example/")
        await me.request("GET", "/airports")
    elsewhere, ours = wire.asked
    assert "authorization" not in elsewhere.headers
    assert "x-own" not in elsewhere.headers
    assert (str(ours.url), ours.headers["authorization"]) == ("http://service.example/airports", "Bearer t")
    assert "secret" not in repr(client.AsyncClient("http://service.example", "secret"))


async def test_a_request_that_changes_something_is_repeated_only_with_a_key() -> None:
    for key, count in ((None, 1), ("k", 2)):
        wire = Wire(broken(httpx.ReadError), lambda request: httpx.Response(201))
        async with wire.client() as me:
            if key is None:
                with pytest.raises(client.ConnectionFailed):
                    await me.request("POST", "/orders")
            else:
                assert (await me.request("POST", "/orders", key=key)).status_code == 201
        assert len(wire.asked) == count


async def test_a_moment_without_a_time_zone_and_what_is_no_url_are_refused_here() -> None:
    wire = Wire()
    async with wire.client() as me:
        with pytest.raises(ValueError, match="time zone"):
            await me.submit("report", run_at=datetime(2026, 1, 1))
    for url in ("service.example", "ws://service.example", ""):
        with pytest.raises(ValueError, match="is not a URL"):
            client.AsyncClient(url)
    with pytest.raises(ValueError, match="transports are"):
        client.AsyncClient("http://service.example", transports=["pigeon"])


# Waiting


def test_waits_are_at_random_up_to_a_bound_that_doubles() -> None:
    assert [back_off(tries, 1.0) for tries in range(8)] == [0.5, 1, 2, 4, 8, 16, 20, 20]
    assert back_off(3, 0.0) == 0


def test_what_the_server_asked_for_comes_first_and_the_time_is_bounded() -> None:
    assert Retries(60).wait(1, 0.0, 7.0, 0.5) == 7.25
    assert Retries(60).wait(1, 58.0, 7.0, 0.5) is None
    assert Retries(0).wait(1, 0.0, None, 0.5) is None


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert retry_after({"retry-after": "7"}, 0) == 7
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 50) == 10
    assert retry_after({"retry-after": "soon"}, 0) is None
    assert retry_after({}, 0) is None


# Tokens


def jwt(expires: float, issued: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires, "iat": issued}).encode()).decode().rstrip("=")
    return f"e30.{claims}.signature"


async def test_a_token_is_renewed_before_it_expires_and_by_one_for_all() -> None:
    now, given = 1000.0, []

    async def source() -> str:
        given.append(jwt(now + 3600, now))
        await asyncio.sleep(0)
        return given[-1]

    tokens = Tokens(source, lambda: now)
    assert await asyncio.gather(*(tokens.current() for _ in range(5))) == [given[0]] * 5
    assert tokens.due() == 3570
    now += 3571
    await tokens.current()
    assert len(given) == 2


async def test_a_source_that_keeps_its_token_to_the_end_is_not_asked_all_the_time() -> None:
    now, asked = 1000.0, 0

    def source() -> str:
        nonlocal asked
        asked += 1
        return jwt(1020.0, 0.0)

    tokens = Tokens(source, lambda: now)
    for step in range(400):
        now = 1000.0 + step / 10
        await tokens.current()
    assert asked <= 12


# Errors


def classes(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        if each.__module__ in (pushsvc.errors.__name__, errors.__name__):
            yield each
            yield from classes(each)


@pytest.mark.parametrize("theirs", [*classes(pushsvc.errors.RequestError), *classes(pushsvc.errors.JobError)])
def test_each_error_of_the_servers_is_one_here(theirs: Any) -> None:
    if theirs is pushsvc.errors.BadSignature:
        return  # of webhooks: it is raised where they are received
    ours = getattr(client, theirs.__name__)
    assert (ours.code, ours.status, ours.temporary) == (theirs.code, theirs.status, theirs.temporary)
    if issubclass(theirs, pushsvc.errors.RequestError) and theirs.code != "bad_request":
        assert type(error_of(theirs("why").problem(), theirs.status)) is ours
        assert str(error_of(theirs("why").problem(), theirs.status)).endswith("why")


def test_an_answer_of_something_in_between_is_an_error_by_its_status() -> None:
    assert type(error_of(None, 502)) is client.Unavailable
    assert error_of("<html>", 418).status == 418
