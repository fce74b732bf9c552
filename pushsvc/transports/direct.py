"""A WebSocket after its handshake, with its transport laid open: as little as a connection can be.

uvicorn's protocol object has done its work when a session is attached; this one takes its place behind the
transport. What it has not got makes it small: no queue, no scope, no timer, and a parser only while there is
something to parse.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableSet
from types import GeneratorType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from ..wire import text_frame
from .ending import answer_pings, end_in_time, hang_up, stop_close_timer
from .kernel import bound_send_buffer, has_unread, reachable
from .sweep import Sweep

SPARE = 16
"""Parsers that are kept for the next who needs one."""

_logger = logging.getLogger("uvicorn.error")


class Attached(Protocol):
    """What the socket tells, and whom: a session."""

    def received(self, text: str) -> None:
        """A text message."""

    def paused(self) -> None:
        """The socket's backlog is over its bound."""

    def resumed(self) -> None:
        """It has drained."""

    def closed(self, code: int | None = None) -> None:
        """The connection is ending. It is told before anything is written, so no frame ever follows a Close."""


class Sockets:
    """What the sockets of one server share: its list of connections, the pings, and parsers that nobody needs now."""

    def __init__(self, config: uvicorn.Config, connections: MutableSet[Any]) -> None:
        self.connections = connections
        self.sweep = Sweep(config.ws_ping_interval) if config.ws_ping_interval else None
        self._max_size = config.ws_max_size
        self._spare: list[ServerProtocol] = []

    def parser(self) -> ServerProtocol:
        if self._spare:
            return self._spare.pop()
        return ServerProtocol(state=State.OPEN, max_size=self._max_size, logger=_logger)

    def give_back(self, parser: ServerProtocol) -> None:
        # One that has seen a handshake still holds it.
        if len(self._spare) < SPARE and not parser.accept_called:
            self._spare.append(parser)


_of_servers: WeakKeyDictionary[uvicorn.Config, Sockets] = WeakKeyDictionary()


def _shared(protocol: WebSocketsSansIOProtocol) -> Sockets:
    config = protocol.config
    found = _of_servers.get(config)
    if found is None or found.connections is not protocol.connections:
        found = _of_servers[config] = Sockets(config, protocol.connections)
    return found


class DirectSocket(asyncio.Protocol):
    """The connection of an uvicorn protocol whose handshake is done, as its session sees it (Socket).

    `backlog_limit` is how many bytes may wait in it.
    """

    __slots__ = (
        "_binary",
        "_drained",
        "_frames",
        "_held",
        "_left",
        "_parser",
        "_session",
        "_shared",
        "close_sent",
        "close_timer",
        "share",
        "transport",
        "unanswered",
    )

    def __init__(self, protocol: WebSocketsSansIOProtocol, backlog_limit: int) -> None:
        self.transport = protocol.transport
        self.unanswered = False
        self.share = 0
        self._shared = _shared(protocol)
        self._session: Attached | None = None
        self._drained: asyncio.Event | None = None
        """Set when the backlog is gone; there is none while it is within its bound."""
        self._parser: ServerProtocol | None = None if _at_rest(protocol.conn) else protocol.conn
        self._frames: list[bytes] | None = None
        """What has come of a message in fragments."""
        self._binary = False
        self._held = False
        self._left = 0
        self.close_sent = protocol.close_sent
        self.close_timer: asyncio.TimerHandle | None = None
        self.transport.set_write_buffer_limits(high=backlog_limit)
        bound_send_buffer(self.transport)

    def attach(self, session: Attached, protocol: WebSocketsSansIOProtocol) -> None:
        """Take the protocol's place: from now on messages go to the session, first those that it has read already."""
        self._session = session
        protocol.stop_keepalive()
        ended = protocol.disconnected or self.close_sent or self.transport.is_closing()
        if not ended:
            self._take_place(protocol)
        while not protocol.queue.empty():
            self._pass_on(protocol.queue.get_nowait())
        if ended:
            self._tell_closed(1006)
        else:
            self._read_or_wait()

    def _take_place(self, protocol: WebSocketsSansIOProtocol) -> None:
        self._shared.connections.discard(protocol)
        self._shared.connections.add(self)
        self.transport.set_protocol(self)
        if self._shared.sweep is not None:
            self._shared.sweep.add(self)
        if not protocol.writable.is_set():
            self.pause_writing()
        if protocol.frames:
            self._frames, self._binary = list(protocol.frames), protocol.curr_msg_data_type == "bytes"

    def _pass_on(self, message: Any) -> None:
        if message["type"] == "websocket.disconnect":
            self._tell_closed(message.get("code"))
        elif message.get("text") is None:
            self.close(1003, "text frames only")
        elif not self.close_sent and self._session is not None:
            self._session.received(message["text"])

    # For the session

    @property
    def writer(self) -> Callable[[bytes], object]:
        return self.transport.write

    def send(self, message: bytes) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(text_frame(message))

    def close(self, code: int, reason: str = "") -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self._tell_closed(code)
        parser = self._parsing()
        if parser.state is State.OPEN:
            parser.send_close(code, reason)
        # Else the peer's own Close came in the same segment: it is answered instead.
        self.transport.write(b"".join(parser.data_to_send()))
        self.close_sent = True
        end_in_time(self)

    async def drained(self) -> bool:
        if self._drained is not None:
            await self._drained.wait()
        return not (self._session is None or self.close_sent)

    def hold(self) -> None:
        self._held = True
        self._read_or_wait()

    def release(self) -> None:
        self._held = False
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        """Who does not read is not listened to either, or the answers to what it sends would pile up.

        After our Close nothing is answered any more, and the peer's own, or its end, is waited for.
        """
        if (self._held or self._drained is not None) and not self.close_sent:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # What the peer says

    def _parsing(self) -> ServerProtocol:
        if self._parser is None:
            self._parser = self._shared.parser()
        return self._parser

    def data_received(self, data: bytes) -> None:
        parser = self._parsing()
        parser.receive_data(data)
        answer_pings(self, parser)
        # What came before an error counts, also when one segment brought both.
        for event in parser.events_received():
            if isinstance(event, Frame):
                self._take(event)
        if parser.parser_exc is not None:
            self._misunderstood(parser)
        elif self._frames is None and _at_rest(parser):
            self._parser = None
            self._shared.give_back(parser)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.unanswered = False
        elif frame.opcode is Opcode.CLOSE:
            self._peer_closes()
        elif frame.opcode is not Opcode.PING:
            if frame.opcode is not Opcode.CONT or self._frames is None:
                self._frames, self._binary = [], frame.opcode is Opcode.BINARY
            self._frames.append(bytes(frame.data))
            if frame.fin:
                self._message()

    def _message(self) -> None:
        data, self._frames = b"".join(self._frames or ()), None
        if self.close_sent or self._session is None:
            return
        if self._binary:
            self.close(1003, "text frames only")
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            parser = self._parsing()
            parser.fail(1007, "invalid UTF-8")
            self._misunderstood(parser)
            return
        self._session.received(text)

    # What the transport says

    def pause_writing(self) -> None:
        self._drained = asyncio.Event()
        self._read_or_wait()
        if self._session is not None:
            self._session.paused()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        self._read_or_wait()
        if self._session is not None and not self.close_sent:
            self._session.resumed()

    # What the sweep says

    def ping(self, frame: bytes) -> None:
        if self._drained is None and not self.close_sent:
            self.transport.write(frame)
        self._left = self.transport.get_write_buffer_size()

    def moving(self) -> bool:
        before, self._left = self._left, self.transport.get_write_buffer_size()
        # More than before is no sign of life: it may be what nobody takes.
        return 0 < self._left < before or has_unread(self.transport) or (self._left > 0 and reachable(self.transport))

    def lost(self) -> None:
        self._tell_closed(1011)
        if self.close_sent or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            # Nobody is there to read it.
            self.transport.abort()
            return
        parser = self._parsing()
        parser.fail(1011, "keepalive ping timeout")
        self.transport.write(b"".join(parser.data_to_send()))
        self.close_sent = True
        self.transport.close()

    # In every way that it ends

    def _tell_closed(self, code: int | None) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.closed(code)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_closed(1006)
        self._shared.connections.discard(self)
        if self._shared.sweep is not None:
            self._shared.sweep.discard(self)
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        stop_close_timer(self)
        if exc is None:
            self.transport.close()

    def shutdown(self) -> None:
        """uvicorn is stopping."""
        self._tell_closed(1012)
        parser = self._parsing()
        if not self.close_sent and parser.state is State.OPEN and not self.transport.is_closing():
            parser.send_close(1012)
            self.transport.write(b"".join(parser.data_to_send()))
            self.close_sent = True
        stop_close_timer(self)
        self.transport.close()

    def _peer_closes(self) -> None:
        received: Close | None = self._parsing().close_rcvd
        self._tell_closed(received.code if received else 1005)
        if not self.close_sent:
            hang_up(self, self._parsing())
        elif self.close_timer is not None:
            # It has answered our Close: the closing handshake is complete.
            stop_close_timer(self)
            self.transport.close()

    def _misunderstood(self, parser: ServerProtocol) -> None:
        sent: Close | None = parser.close_sent
        self._tell_closed(sent.code if sent else 1006)
        hang_up(self, parser)


def _at_rest(parser: ServerProtocol) -> bool:
    """Whether it waits for the beginning of a message, so that another one could do so just as well."""
    if parser.state is not State.OPEN or parser.extensions or parser.current_size is not None:
        return False
    waiting: Any = parser.parser
    while isinstance(waiting, GeneratorType) and waiting.gi_yieldfrom is not None:
        waiting = waiting.gi_yieldfrom
    return getattr(waiting, "gi_code", None) is _AT_EOF


_AT_EOF = StreamReader.at_eof.__code__
"""Where a parser stands between two frames; anywhere else, it has read a part of one."""
