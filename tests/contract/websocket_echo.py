"""Echo servers: the protocol classes with nothing of the service behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from pushsvc.transports import EXTENSION, DirectHttp, DirectProtocol, DirectSocket

from .kit import until


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


BACKLOG = 32 * 1024**2


class EchoSession:
    """Answers every message with itself."""

    def __init__(self, socket: DirectSocket) -> None:
        self._socket = socket
        self._closed = False

    def received(self, text: str) -> None:
        assert not self._closed, "nothing comes after the end"
        self._socket.send(text.encode())

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def closed(self, code: int | None = None) -> None:
        assert not self._closed, "the end comes once"
        self._closed = True


async def echo_by_asgi(_scope: Any, receive: Any, send: Any) -> None:
    """As any author's endpoint: a coroutine that receives and sends."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        body = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **body})


async def echo_by_session(scope: Any, receive: Any, send: Any) -> None:
    """Handed over to a session after the handshake, as `/v1/ws` is."""
    await receive()
    await send({"type": "websocket.accept"})
    protocol = scope["extensions"][EXTENSION]
    socket = DirectSocket(protocol, BACKLOG)
    socket.attach(EchoSession(socket), protocol)


@dataclass(frozen=True)
class EchoServer:
    """How a server is made, and what must be known of it to judge it."""

    ws: Any
    app: Any
    text_only: bool = False


ECHOES = {
    "stock": EchoServer("websockets-sansio", echo_by_asgi),
    "plain": EchoServer(DirectProtocol, echo_by_asgi),
    "direct": EchoServer(DirectProtocol, echo_by_session, text_only=True),
}
"""uvicorn's own class; ours under an author's endpoint; ours with a session."""


@asynccontextmanager
async def echoing(kind: EchoServer, limit: int, **options: Any) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """A running echo server and its port; messages of more than `limit` bytes are too large."""
    config = uvicorn.Config(
        kind.app,
        ws=kind.ws,
        http=DirectHttp if kind.ws is DirectProtocol else "auto",
        ws_max_size=limit,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
        access_log=False,
        log_config=None,
        **options,
    )
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started or task.done(), "the server has started")
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        listener.close()
