"""A Redis that takes connections, and says nothing or takes no changes, keeps nobody from what PostgreSQL has."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TypeVar

import httpx
import pytest
import pytest_asyncio

from pushsvc import Service
from pushsvc.settings import Settings

from .redis_servers import FAST, Server, free_ports

T = TypeVar("T")

ANSWERED_WITHIN = 5.0
"""Seconds: a promise about time, so here time decides."""


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"), free_ports(1)[0], *FAST)
    yield server.start()
    server.kill()


@pytest_asyncio.fixture
async def service(settings: Settings, valkey: Server) -> AsyncIterator[Service]:
    """One that has been running for a while when its Redis falls silent."""
    values = settings.model_dump(exclude_unset=True) | {"redis_url": f"redis://127.0.0.1:{valkey.port}"}
    made = Service(settings=Settings.from_env({}, **values))

    @made.job
    async def waits() -> None: ...

    async with made.running():
        yield made


async def in_time(asking: Awaitable[T]) -> T:
    begun = time.monotonic()
    answer = await asking
    assert time.monotonic() - begun < ANSWERED_WITHIN
    return answer


async def test_jobs_are_accepted_looked_at_and_cancelled_and_events_published(
    service: Service, valkey: Server
) -> None:
    headers = {"Authorization": f"Bearer {service.token('alice')}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(service.asgi()), base_url="http://here", headers=headers
    ) as client:
        jobs = [(await client.post("/v1/jobs", json={"job": "waits"})).json()["id"] for _ in range(3)]
        queued, running, looked_at = jobs
        assert len(await service.parts.store.start([running, looked_at], "a worker", 60)) == 2
        valkey.signal(signal.SIGSTOP)
        try:
            assert (await in_time(client.post("/v1/jobs", json={"job": "waits"}))).status_code == 202
            assert (await in_time(client.get(f"/v1/jobs/{looked_at}"))).json()["status"] == "running"
            assert len((await in_time(client.get("/v1/jobs"))).json()["jobs"]) == 4
            for job in (queued, running):
                assert (await in_time(client.post(f"/v1/jobs/{job}/cancel"))).status_code == 202
            await in_time(service.publish("group:ops", "deploy.done", 1))
            ready = await in_time(client.get("/readyz"))
            assert (ready.status_code, ready.json()["causes"]) == (200, {"redis": "Redis does not answer"})
            await in_time(asyncio.gather(*(client.get(f"/v1/jobs/{looked_at}") for _ in range(50))))
        finally:
            valkey.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "SET", "maxmemory", "1"),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("ACL", "SETUSER", "default", "-@all", "+ping", "+hello", "+client"),
    ],
    ids=lambda command: command[0],
)
async def test_a_server_that_refuses_what_is_asked_of_it_refuses_nobody_else(
    service: Service, valkey: Server, command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": f"Bearer {service.token('alice')}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(service.asgi()), base_url="http://here", headers=headers
    ) as client:
        before = (await client.post("/v1/jobs", json={"job": "waits"})).json()["id"]
        valkey.client.execute_command(*command)
        after = await in_time(client.post("/v1/jobs", json={"job": "waits"}))
        assert after.status_code == 202
        assert (await in_time(client.get(f"/v1/jobs/{before}"))).status_code == 200
        assert (await in_time(client.post(f"/v1/jobs/{before}/cancel"))).status_code == 202
        await in_time(service.publish("group:ops", "deploy.done", 1))
        ready = await in_time(client.get("/readyz"))
        assert (ready.status_code, ready.json()["redis"]) == (200, False)
    assert [record for record in caplog.records if record.exc_info] == [], "nothing of it is unforeseen"
