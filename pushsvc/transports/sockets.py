"""Two ways to a WebSocket: uvicorn's protocol with its transport laid open, and plain ASGI.

The first writes shared frames straight to the transport and lets the ASGI task end after the handshake (a
connection costs less memory so); the second runs under any ASGI server, a sender task for each connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame

from ..tasks import stop
from ..wire import text_frame
from .session import Session

EXTENSION = "pushsvc.socket"
"""The scope's extension by which the endpoint gets hold of the protocol that serves it."""


class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which can be handed over to a Session (`uvicorn.Config(ws=…)`).

    Until `attach` it is just uvicorn's. After, messages go to the session, and the session's frames go to the
    transport. In every path by which the connection ends, the session is told before anything is written, so
    that no frame ever follows a Close.
    """

    session: Session | None = None
    backlog_limit = 0

    # For the session (Socket)

    def attach(self, session: Session, backlog_limit: int) -> None:
        """Hand the socket over. `backlog_limit` is how many bytes may wait in it."""
        self.session = session
        self.backlog_limit = backlog_limit
        self.transport.set_write_buffer_limits(high=backlog_limit)
        while not self.queue.empty():
            self._pass_on(self.queue.get_nowait())
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    @property
    def writer(self) -> Callable[[bytes], object]:
        return self.transport.write

    def send_message(self, message: bytes) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(text_frame(message))

    def close(self, code: int, reason: str = "") -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self._tell_closed(code)
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    async def drained(self) -> bool:
        await self.writable.wait()
        return not (self.disconnected or self.close_sent)

    # Under uvicorn

    async def run_asgi(self) -> None:
        # Set here, before the app is called, so that no task factory can start the app without it.
        extensions: Any = self.scope["extensions"]
        extensions[EXTENSION] = self
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete:
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if self.close_timer is None and self.session is None:
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        if self.session is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.close(1003, "text frames only")
            return
        try:
            self.session.received(bytes(data).decode())
        except UnicodeDecodeError:
            self.conn.fail(1007)
            self.handle_parser_exception()

    def _pass_on(self, message: Any) -> None:
        assert self.session is not None
        if message["type"] == "websocket.receive":
            self.session.received(message.get("text") or message.get("bytes") or b"")
        elif message["type"] == "websocket.disconnect":
            self._tell_closed(message.get("code"))

    def _tell_closed(self, code: int | None) -> None:
        if self.session is not None:
            self.session.closed(code)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.session is not None:
            self.session.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.session is not None and not self.close_sent:
            self.session.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_closed(1006)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._tell_closed(1012)
        super().shutdown()

    def handle_close(self, event: Frame) -> None:
        received: Close | None = self.conn.close_rcvd
        self._tell_closed(received.code if received else 1005)
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        self._tell_closed(1002)
        super().handle_parser_exception()

    def keepalive_timeout(self) -> None:
        self._tell_closed(1011)
        super().keepalive_timeout()


class DirectSocket:
    """A DirectProtocol as the session sees it."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: DirectProtocol) -> None:
        self._protocol = protocol

    @property
    def writer(self) -> Callable[[bytes], object]:
        return self._protocol.writer

    def send(self, message: bytes) -> None:
        self._protocol.send_message(message)

    def close(self, code: int, reason: str = "") -> None:
        self._protocol.close(code, reason)

    async def drained(self) -> bool:
        return await self._protocol.drained()


class AsgiSocket:
    """A WebSocket under any ASGI server: a bounded backlog, and one task that sends it."""

    writer: Callable[[bytes], object] | None = None

    def __init__(self, websocket: WebSocket, backlog_limit: int) -> None:
        self._websocket = websocket
        self._limit = backlog_limit
        self._backlog: deque[bytes] = deque()
        self._bytes = 0
        self._close: tuple[int, str] | None = None
        self._something = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._over = False
        self.session: Session | None = None

    def send(self, message: bytes) -> None:
        if self._close is not None or self._over:
            return
        self._backlog.append(message)
        self._bytes += len(message)
        self._something.set()
        if self._bytes > self._limit and self._drained.is_set():
            self._drained.clear()
            if self.session is not None:
                self.session.paused()

    def close(self, code: int, reason: str = "") -> None:
        if self._close is None:
            self._close = (code, reason)
            self._something.set()

    async def drained(self) -> bool:
        await self._drained.wait()
        return self._close is None and not self._over

    async def serve(self, session: Session) -> None:
        """Until the connection ends."""
        self.session = session
        sender = asyncio.create_task(self._send_all())
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    session.closed(message.get("code"))
                    return
                if message.get("text") is None:
                    session.closed(1003)
                    self.close(1003, "text frames only")
                else:
                    session.received(message["text"])
        finally:
            self._over = True
            self._drained.set()
            session.closed(1006)
            await stop(sender)

    async def _send_all(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                await self._something.wait()
                while self._backlog:
                    message = self._backlog.popleft()
                    await self._websocket.send_text(message.decode())
                    self._bytes -= len(message)
                if self._close is not None:
                    await self._websocket.close(*self._close)
                    return
                self._something.clear()
                if not self._drained.is_set():
                    self._drained.set()
                    if self.session is not None:
                        self.session.resumed()
