"""A web process of the service inside the test's own loop: uvicorn, a port, and the parts behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from pushsvc import Service
from pushsvc.hub import Hub
from pushsvc.settings import Settings
from pushsvc.transports import DirectProtocol

from .kit import until

WS_CLASSES: dict[str, Any] = {"direct": DirectProtocol, "asgi": "websockets-sansio"}
"""How uvicorn serves WebSockets: by our protocol, and by its own, as under any other ASGI server."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Node:
    """One running web process."""

    def __init__(self, service: Service, port: int, server: uvicorn.Server) -> None:
        self.service = service
        self.port = port
        self.server = server

    @property
    def hub(self) -> Hub:
        return self.service.parts.hub

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def token(self, sub: str = "me", **claims: Any) -> str:
        return self.service.token(sub, **claims)


@asynccontextmanager
async def serving(settings: Settings, ws: str = "direct") -> AsyncIterator[Node]:
    """A node with these settings, its sockets served by `ws`, one of WS_CLASSES."""
    service = Service(settings=settings)
    config = uvicorn.Config(
        service.asgi(),
        ws=WS_CLASSES[ws],
        ws_max_size=settings.frame_limit,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping,
        ws_ping_timeout=settings.ping,
        timeout_graceful_shutdown=1,
        lifespan="on",
        access_log=False,
        log_config=None,
    )
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started or task.done(), "the server has started")
        node = Node(service, listener.getsockname()[1], server)
        await until(lambda: node.hub._bus.connected, "the node hears Redis")
        yield node
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        listener.close()
