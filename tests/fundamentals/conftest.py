"""A whole service inside the test: its web server and its worker in one event loop, on real engines."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pushsvc import Service, Settings
from pushsvc.transports import DirectProtocol

Frame = dict[str, Any]


class Running:
    """A running service, and `alice`, who is logged in to it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self.alice = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )

    async def submit(self, job: str, **params: Any) -> Frame:
        """Ask for a job; the answer is there before the job has run."""
        response = await self.alice.post("/v1/jobs", json={"job": job, "params": params})
        assert response.status_code == 202, response.text
        return dict(response.json())

    @asynccontextmanager
    async def listening(self, cursor: str | None = None) -> AsyncIterator[Callable[[], Any]]:
        """Alice's WebSocket, after its `hello`. What it gives waits for the next frame."""
        url = self._url.replace("http", "ws") + "/v1/ws"
        async with connect(url, subprotocols=[Subprotocol("pushsvc.v1")], proxy=None) as socket:

            async def next_frame() -> Frame:
                async with asyncio.timeout(30):
                    return dict(json.loads(await socket.recv()))

            await socket.send(json.dumps({"id": 1, "op": "hello", "token": self._token, "cursor": cursor}))
            assert "ok" in await next_frame()
            yield next_frame


Run = Callable[[Service], AbstractAsyncContextManager[Running]]


@pytest.fixture
def service(settings: Settings) -> Service:
    """A service with no jobs yet."""
    return Service(settings=settings)


@pytest.fixture
def run() -> Run:
    """`async with run(service) as running:` serves it and works for it meanwhile."""
    return _run


@asynccontextmanager
async def _run(service: Service) -> AsyncIterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(service.app, ws=DirectProtocol, ws_per_message_deflate=False, log_config=None)
    server = uvicorn.Server(config)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(service.work(stop))
        serving = tasks.create_task(server.serve([listener]))
        running = Running(url, service.token("alice"))
        try:
            async with running.alice:
                yield running
        finally:
            stop.set()
            await working
            server.should_exit = True
            await serving
