"""Server-sent events (WHATWG HTML, section 9.2): one answer that goes on, with the hub's recovery behind it.

Each event's id is the whole cursor, of all the stream's channels, so that `Last-Event-ID` resumes at any node.
The answer begins with the cursor it starts from: a client that is cut off before the first event loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from .. import telemetry, wire
from ..access import Admission
from ..domain import Channel, Cursor, Position, Principal
from ..errors import BadCursor, PushsvcError, Unauthorized
from ..hub import Hub
from ..settings import Settings
from ..store import ChannelState, locate
from ..tasks import complain, stop, tolerated
from ..wire import Delivery
from .kernel import TRANSPORT, bound_send_buffer
from .session import RETRY_MS

logger = logging.getLogger(__name__)

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    # nginx would keep what it gets until its buffer is full.
    "X-Accel-Buffering": "no",
}
RECONNECT_MS = (500, 3000)
"""Between which milliseconds a client comes back when the connection breaks; on drain it is RETRY_MS."""

PING = b":\n\n"
CLOSED = b": closed\n\n"
CHUNK = 64 * 1024
"""Bytes handed to the server at a time: what a slow client keeps from being dropped when the stream ends."""

_Block = tuple[bytes, ...]
"""An event in parts: the last one, which is large, is the same object in every stream's backlog."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What the streams of a process share. `prefix` is where the API is found from outside."""

    hub: Hub
    admission: Admission
    settings: Settings
    prefix: str = ""


class EventStream:
    """A stream from its request to its end: an ASGI app that answers, and a Listener of the hub."""

    writer: Callable[[bytes], object] | None = None
    page = 1000

    def __init__(self, streams: Streams, principal: Principal, channels: Iterable[Channel], cursor: Cursor) -> None:
        self._streams = streams
        self._principal = principal
        self._places = {channel: cursor.place(channel.name) for channel in channels}
        self._names = {channel.name: f"{quote(channel.name, safe=':')}@" for channel in self._places}
        self._at: dict[str, str] = {}
        """The cursor, a part for each channel."""
        self._closed: set[Channel] = set()
        self._backlog: deque[_Block] = deque()
        self._waiting = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._located: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The block that the answer begins with, once it is known where it starts."""
        self._over = False
        self._sender: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until the client goes away or there is nothing more to say.

        What this raises (NotFound, BadCursor, TooManyConnections, Unavailable) it raises before anything is sent.
        """
        self._send = send
        transport = (scope.get("extensions") or {}).get(TRANSPORT)
        if transport is not None:
            bound_send_buffer(transport)
        attaching: asyncio.Task[None] | None = None
        with self._streams.admission.held(self._principal, self):
            try:
                attaching = asyncio.create_task(self._attach())
                await self._serve(receive, await self._located)
            finally:
                self._leave()
                await stop(attaching, self._sender)

    async def _serve(self, receive: Receive, first: bytes) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
        telemetry.emit("connection.opened", {"count": 1}, {"transport": "sse"})
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": first, "more_body": True})
            self._sender = asyncio.create_task(self._send_all())
            self._set_timer()
            # It also comes after the end of the answer, which is how ASGI says that all has been sent.
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # A server that stops waits only so long for a client which does not read the end.
            if not self._over:
                raise
        finally:
            telemetry.emit("connection.closed", {"count": 1}, {"transport": "sse", "code": None})

    async def _attach(self) -> None:
        try:
            attached = await self._streams.hub.attach_all(self, self._places, self._locate)
        except Exception as error:
            if not self._located.done():
                self._located.set_exception(error)
                return
            if not isinstance(error, PushsvcError):
                logger.exception("an event stream failed")
            # Whoever comes again is told why, by the status of the answer.
            self._end((_retry(RETRY_MS),))
            return
        self._closed |= {channel for channel, each in attached.items() if each.closed}
        self._end_if_closed()

    def _locate(self, positions: Mapping[Channel, Position], whole: bool) -> None:
        """What the stream starts from. A place that is gone stays as it was asked for: the reset is still to come."""
        for channel, position in positions.items():
            place = self._places[channel]
            self._note(channel, place if isinstance(place, Position) else position)
        limit = self._streams.settings.cursor_limit
        if self._located.done():
            return
        if len(self._cursor()) > limit:
            # It could never be resumed.
            error = BadCursor(f"the cursor of these channels has more than {limit} characters; ask for fewer at once")
            self._located.set_exception(error)
        else:
            start = b": recovered\n" if whole else b": a reset follows\n"
            self._located.set_result(start + _retry(RECONNECT_MS)[:-1] + self._id() + b"\n")

    # Listener

    def deliver(self, delivery: Delivery) -> None:
        if self._over:
            return
        self._note(delivery.channel, delivery.position)
        self._write(self._id(), delivery.sse)
        if delivery.channel.kind == "job" and wire.is_final(delivery.event):
            self._closed.add(delivery.channel)
            self._end_if_closed()

    def progress(self, channel: Channel, item: bytes) -> None:
        self._write(wire.sse_block("progress", item))

    def reset(self, channel: Channel, position: Position) -> None:
        self._note(channel, position)
        self._write(
            self._id(), wire.sse_block("reset", wire.reset_item(channel.name, position, self._streams.prefix))
        )

    async def ready(self) -> bool:
        await self._drained.wait()
        return not self._over

    def drain(self) -> None:
        self._end((_retry(RETRY_MS),))

    # Its token (Connection)

    def revoked(self) -> None:
        try:
            self._streams.admission.tokens.need_valid(self._principal)
        except Unauthorized:
            self._end()

    # The cursor

    def _note(self, channel: Channel, position: Position) -> None:
        self._at[channel.name] = f"{self._names[channel.name]}{position}"

    def _cursor(self) -> str:
        return ",".join(self._at.values())

    def _id(self) -> bytes:
        return b"id: %b\n" % self._cursor().encode()

    # What goes out

    def _write(self, *block: bytes) -> None:
        """Send a whole block as soon as may be. Past the limit the hub writes nothing more, until all is sent."""
        if self._over:
            return
        self._backlog.append(block)
        self._waiting += _size(block)
        self._wake()
        if self._waiting > self._streams.settings.backlog_limit and self._drained.is_set():
            self._drained.clear()
            self._streams.hub.pause(self)

    def _wake(self) -> None:
        # Before the answer has begun, what there is waits for its beginning.
        if self._sender is None and self._timer is not None:
            self._sender = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send what waits. Ends when nothing does: an idle stream has no task but its request's."""
        try:
            while self._backlog:
                chunk = self._chunk()
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._waiting -= len(chunk)
            if self._over:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not self._drained.is_set():
                self._drained.set()
                self._streams.hub.resume(self)
        except asyncio.CancelledError:
            raise
        except OSError:
            # What a server other than uvicorn may raise when the client is gone.
            self._leave()
        except BaseException as error:
            complain("sending an event stream", error)
            self._leave()
        finally:
            self._sender = None

    def _chunk(self) -> bytes:
        """Whole blocks only, so that whatever the stream ends with can't run into the half of one."""
        parts = [*self._backlog.popleft()]
        size = _size(parts)
        while self._backlog and (size := size + _size(self._backlog[0])) <= CHUNK:
            parts += self._backlog.popleft()
        return b"".join(parts)

    def _set_timer(self) -> None:
        pause = self._principal.left(self._streams.settings.ping)
        self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        """Say that we are there, which also finds out whether the client is; end with the token."""
        if not self._principal.left(1.0):
            self._end()
            return
        with tolerated("pinging an event stream"):
            if not self._backlog:
                self._write(PING)
        self._set_timer()

    # The end

    def _end_if_closed(self) -> None:
        """Everything was delivered and nothing can follow: a client that comes back all the same gets a 204."""
        if not self._over and len(self._closed) == len(self._places):
            self._end(*self._backlog, (CLOSED,))

    def _end(self, *last: _Block) -> None:
        """End the answer with these blocks. What else waits is dropped: the client's cursor lies before it."""
        if self._over:
            return
        self._leave()
        self._backlog = deque(last)
        self._wake()

    def _leave(self) -> None:
        self._over = True
        self._streams.hub.leave(self)
        self._drained.set()
        if self._timer is not None:
            self._timer.cancel()


def nothing_follows(cursor: Cursor, channels: Iterable[Channel], states: Mapping[Channel, ChannelState]) -> bool:
    """Whether a reader at `cursor` has had everything that these channels will ever say."""
    return all(
        channel in states
        and states[channel].closed
        and locate(channel, cursor.place(channel.name), states[channel])[0] == states[channel].end
        for channel in channels
    )


def _size(parts: Iterable[bytes]) -> int:
    return sum(map(len, parts))


def _retry(between: tuple[int, int]) -> bytes:
    """When to come again, spread at random so that a node's clients do not come all at once."""
    return b"retry: %d\n\n" % random.randint(*between)
