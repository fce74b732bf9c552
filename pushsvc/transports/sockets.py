"""Two ways to a WebSocket: uvicorn's protocol with its transport laid open, and plain ASGI.

The first writes shared frames straight to the transport and lets the ASGI task end after the handshake (a
connection costs less memory so); the second runs under any ASGI server, a sender task for each connection.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close
from websockets.protocol import State

from ..tasks import complain, stop
from .ending import answer_pings, hang_up
from .kernel import TRANSPORT
from .session import Session

EXTENSION = "pushsvc.socket"
"""The scope's extension by which the endpoint gets hold of the protocol that serves it."""


class DirectHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol (`uvicorn.Config(http=…)`), which lets an event stream get hold of its transport.

    It is more exact with handshakes: what comes right behind one is not dropped, and one over HTTP/1.0 is none
    (RFC 6455, section 4.1).
    """

    head_limit = 64 * 1024
    """Bytes of a request's line and headers."""
    head_within = 15.0
    """Seconds for them to come."""
    stalled_after = 30.0
    """Seconds after which a body of which nothing more comes will not end any more."""

    _segment = b""
    _head: int | None = None
    """Bytes of the head that is not complete yet, in the segments after its first."""
    _too_large = False
    _heard = _head_at = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # uvicorn waits for ever for the first request; for the next it does not.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head, self._head_at = 0, self._heard
        super().on_message_begin()
        scope: Any = self.scope
        scope["extensions"] = {TRANSPORT: self.transport}

    def on_headers_complete(self) -> None:
        self._head = None
        self._too_large = (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.head_limit
        )
        if self._too_large:
            raise ValueError("the head is too large")  # the parser ends with it
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        before, self._heard = self._head, self.loop.time()
        self._segment = data
        super().data_received(data)
        self._segment = b""
        if self._head is not None and before is not None:
            self._head += len(data)
            self._too_large = self._head > self.head_limit
            if self._too_large:
                self.send_400_response("")
        if self._timer is None and self._unfinished:
            self._timer = self.loop.call_later(self.head_within, self._look)

    @property
    def _unfinished(self) -> bool:
        """Whether a request has begun and not come whole."""
        if self.transport.is_closing():
            return False
        return self._head is not None or (self.cycle is not None and self.cycle.more_body)

    def _look(self) -> None:
        """A head gets its time, and a body as long as something comes, or we read nothing ourselves."""
        self._timer = None
        if not self._unfinished:
            return
        now = self.loop.time()
        if self.flow.read_paused:
            self._heard = now
        if self._head is not None and now - self._head_at >= self.head_within:
            self._refuse(b"408 Request Timeout")
        elif self._head is None and now - self._heard >= self.stalled_after:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(min(self.head_within, self.stalled_after), self._look)

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse(b"431 Request Header Fields Too Large")
        else:
            super().send_400_response(msg)

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return self.parser.get_http_version() != "1.0" and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        # httptools says by its exception where the request ends; uvicorn does not look.
        upgrade = sys.exception()
        super().handle_websocket_upgrade()
        rest = self._segment[upgrade.args[0] :] if upgrade is not None and upgrade.args else b""
        protocol = self.transport.get_protocol()
        if rest and isinstance(protocol, DirectProtocol):
            protocol.data_received(rest)
        # The two hold each other, as uvicorn knows at any other end of theirs.
        self.parser = None  # type: ignore[assignment]  # nobody asks it again


class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, in whose place a DirectSocket can be put (`uvicorn.Config(ws=…)`).

    Until then it is uvicorn's, to the letter of RFC 6455 where that was not.
    """

    _early = b""
    """What came before the handshake was answered."""

    async def run_asgi(self) -> None:
        # Set here, before the app is called, so that no task factory can start the app without it.
        extensions: Any = self.scope["extensions"]
        extensions[EXTENSION] = self
        try:
            await self.app(self.scope, self.receive, self.send)
        except (ClientDisconnected, WebSocketDisconnect):
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete and not self.transport.is_closing():
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if self.transport.get_protocol() is not self:
            self._fall_apart()
        elif self.close_timer is None:
            self.transport.close()

    def _fall_apart(self) -> None:
        """Another has taken its place: let go of all it holds now, not when the collector finds the scope's cycle."""
        tasks = self.tasks
        self.__dict__.clear()
        self.tasks = tasks

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            if self.conn.state is State.OPEN:
                self.transport.resume_reading()
                self.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            # A client has to wait for the answer (RFC 6455, section 4.1); what one sends sooner waits for it here.
            self._early += data
            self.transport.pause_reading()
            return
        self.conn.receive_data(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()
            return
        answer_pings(self, self.conn)
        # What came before an error counts, also when one segment brought both.
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _refuse_handshake(self) -> None:
        """The request could not be read: too long, or malformed. uvicorn would leave the client waiting."""
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or self.conn.reject(400, "Invalid handshake request\n").serialize())
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.close()

    def handle_ping(self) -> None:
        """Answered already."""

    def send_receive_event_to_app(self) -> None:
        if self.close_sent:
            self.frames = []
            return
        if self.curr_msg_data_type == "text":
            try:
                str(b"".join(self.frames), "utf-8")
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(1007, "invalid UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    # In every way that it ends

    def shutdown(self) -> None:
        if self.handshake_complete and self.conn.state is not State.OPEN:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    def handle_parser_exception(self) -> None:
        sent: Close | None = self.conn.close_sent
        if not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code if sent else 1006})
            # What the app still sends is nobody's fault.
            self.disconnected = True
        self.stop_keepalive()
        hang_up(self, self.conn)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            # Nobody is there to read it.
            self.transport.abort()


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
        self._reading = asyncio.Event()
        self._reading.set()
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

    def hold(self) -> None:
        self._reading.clear()

    def release(self) -> None:
        self._reading.set()

    async def serve(self, session: Session) -> None:
        """Until the connection ends."""
        self.session = session
        sender = asyncio.create_task(self._send_all())
        try:
            while True:
                await self._reading.wait()
                # Who does not read its answers gets no more of them.
                await self._drained.wait()
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
        try:
            await self._send_until_closed()
        except (WebSocketDisconnect, RuntimeError, OSError, asyncio.CancelledError):
            # A cancel comes from `serve` alone, at its end.
            pass
        except BaseException as error:
            complain("sending to a WebSocket", error)
        finally:
            self._over = True
            self._drained.set()

    async def _send_until_closed(self) -> None:
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
