"""A web process of the service inside the test's own loop: uvicorn, a port, and the parts behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from pushsvc import Service
from pushsvc.hub import Hub
from pushsvc.settings import Settings
from pushsvc.transports import DirectHttp, DirectProtocol

from .kit import until

WS_CLASSES: dict[str, Any] = {"direct": DirectProtocol, "asgi": "websockets-sansio"}
"""How uvicorn serves WebSockets: by our protocol, and by its own, as under any other ASGI server."""


class _Server(uvicorn.Server):
    """uvicorn as `pushsvc serve` runs it, but for the signals."""

    drain: Callable[[], Awaitable[None]]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self.drain()
        await super().shutdown(sockets)


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
    def listeners(self) -> list[object]:
        """Who is attached to the hub, but for the process itself, which hears of revocations."""
        own = self.service.parts.revocation_listener
        return [listener for listener in self.hub._subscriptions if listener is not own]

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def token(self, sub: str = "me", **claims: Any) -> str:
        return self.service.token(sub, **claims)


@asynccontextmanager
async def serving(
    settings: Settings, ws: str = "direct", port: int = 0, service: Service | None = None
) -> AsyncIterator[Node]:
    """A node with these settings, its sockets served by `ws`, one of WS_CLASSES; `service` may have jobs."""
    service = Service(settings=settings) if service is None else service
    config = uvicorn.Config(
        service.asgi(),
        http=DirectHttp if ws == "direct" else "auto",
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
    server.drain = service.drain
    # That it is TCP is said, or asyncio leaves Nagle's algorithm on in what it accepts: 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(2048)
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
