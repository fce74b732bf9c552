"""Requests that wait (polls, `?wait=`, `Prefer: wait`) end with the token that they came with, as streams do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pushsvc import Service, Settings
from pushsvc.domain import new_job_id

from .kit import soon, until
from .node import Node, serving

LONG = 60


def offered(settings: Settings) -> Service:
    service = Service(settings=settings)

    @service.job
    async def report() -> None: ...

    return service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(shared_settings: Settings) -> AsyncIterator[Node]:
    few = shared_settings.model_copy(update={"connection_limit": 2})
    async with serving(few, service=offered(few)) as made:
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")

Ask = Callable[[httpx.AsyncClient, str], Any]
PREFER = {"Prefer": f"wait={LONG}"}
WAITING: dict[str, Ask] = {
    "poll": lambda http, _job: http.get(f"/v1/events?wait={LONG}"),
    "status": lambda http, job: http.get(f"/v1/jobs/{job}?wait={LONG}"),
    "preferred status": lambda http, job: http.get(f"/v1/jobs/{job}", headers=PREFER),
    "submission": lambda http, _job: http.post("/v1/jobs", json={"job": "report"}, headers=PREFER),
}
each_way = pytest.mark.parametrize("way", WAITING)


def client(node: Node, sub: str, **claims: Any) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {node.token(sub, **claims)}"}
    return httpx.AsyncClient(base_url=node.http, headers=headers, timeout=LONG + 30)


async def job_of(node: Node, sub: str) -> str:
    async with client(node, sub) as http:
        return str((await http.post("/v1/jobs", json={"job": "report"})).json()["id"])


def waits(node: Node, sub: str) -> int:
    return len(node.service.parts.connections.of(("default", sub)))


@each_way
async def test_what_waits_ends_when_its_token_expires(node: Node, way: str) -> None:
    sub = f"me {new_job_id()}"
    job = await job_of(node, sub)
    async with client(node, sub, ttl=1) as http:
        begun = time.monotonic()
        answer = await soon(WAITING[way](http, job))
        assert answer.status_code in (200, 202)
        assert time.monotonic() - begun < LONG / 2
    assert waits(node, sub) == 0


@each_way
async def test_what_waits_ends_when_its_token_is_revoked(node: Node, way: str) -> None:
    sub = f"me {new_job_id()}"
    job = await job_of(node, sub)
    async with client(node, sub) as http:
        waiting = asyncio.create_task(WAITING[way](http, job))
        await until(lambda: waits(node, sub) == 1)
        await node.service.revoke(sub)
        assert (await soon(waiting)).status_code in (200, 202)
        assert (await http.get("/v1/jobs")).status_code == 401
    assert waits(node, sub) == 0


async def test_what_waits_counts_as_a_connection_and_a_submission_is_accepted_all_the_same(node: Node) -> None:
    sub = f"me {new_job_id()}"
    job = await job_of(node, sub)
    async with client(node, sub) as http:
        waiting = [asyncio.create_task(WAITING["status"](http, job)) for _ in range(2)]
        await until(lambda: waits(node, sub) == 2)
        assert (await http.get("/v1/events?wait=60")).status_code == 429
        assert (await soon(WAITING["submission"](http, job))).status_code == 202
        await node.service.revoke(sub)
        await soon(asyncio.gather(*waiting))


# What is asked for


@pytest.mark.parametrize(
    ("headers", "applied"),
    [
        ([("Prefer", "wait=0")], "wait=0"),
        ([("Prefer", "WAIT = 0")], "wait=0"),
        ([("Prefer", 'wait="0"')], "wait=0"),
        ([("Prefer", "respond-async, wait=0")], "wait=0"),
        ([("Prefer", "respond-async;x=1"), ("Prefer", "wait=0; y")], "wait=0"),
        ([("Prefer", "wait=0, wait=60")], "wait=0"),
        ([("Prefer", 'x="a, wait=60"')], None),
        ([("Prefer", "respond-async; wait=60")], None),
        ([("Prefer", "nowait=60")], None),
        ([("Prefer", "wait=-1")], None),
        ([("Prefer", "wait=1.5")], None),
        ([("Prefer", "wait")], None),
        ([("Prefer", "wait=soon")], None),
        ([("Prefer", 'x="unfinished, wait=60')], None),
        ([("Prefer", ";;; " * 200 + "wait=60")], None),
    ],
    ids=str,
)
async def test_a_preference_is_read_as_its_rfc_says(
    node: Node, headers: list[tuple[str, str]], applied: str | None
) -> None:
    async with client(node, "me") as http:
        answer = await http.post("/v1/jobs", json={"job": "report"}, headers=headers)
        assert answer.status_code == 202
        assert answer.headers.get("preference-applied") == applied


async def test_two_idempotency_keys_are_refused(node: Node) -> None:
    """Also if they are equal: a proxy may have joined what two clients sent."""
    async with client(node, "me") as http:
        for first, second in (("a", "b"), ("a", "a")):
            headers = [("Idempotency-Key", first), ("Idempotency-Key", second)]
            answer = await http.post("/v1/jobs", json={"job": "report"}, headers=headers)
            assert answer.status_code == 400
            assert "Idempotency-Key" in answer.json()["detail"]
