"""One WebSocket session of `pushsvc.v1`: frames in, frames out, over whatever socket it is given."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from .. import telemetry, wire
from ..access import Slots, Tokens, need_scope
from ..domain import Channel, Cursor, Position, Principal, format_cursor, inbox, new_job_id
from ..errors import BadFrame, PushsvcError, Unauthorized
from ..hub import Hub
from ..settings import Settings
from ..wire import Delivery
from .gate import Gate

logger = logging.getLogger(__name__)

PENDING_FRAMES = 32
"""Client frames that may wait for their turn; a client that sends more without reading its answers is cut off."""


GOING_AWAY = 4001
RETRY_MS = (500, 20_000)
"""Between which milliseconds a client comes back, so that a node's clients do not come all at once."""


class Socket(Protocol):
    """A WebSocket that takes bytes without waiting, and says when it has had enough."""

    @property
    def writer(self) -> Callable[[bytes], object] | None:
        """Takes whole frames, straight to the socket; None if there is no such way."""

    def send(self, message: bytes) -> None:
        """Send a text message. After `close` it does nothing."""

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame; nothing is sent after it."""

    async def drained(self) -> bool:
        """Waits until the backlog is gone. False: the socket is closed."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every session of a process shares."""

    hub: Hub
    gate: Gate
    tokens: Tokens
    settings: Settings
    connections: Slots
    prefix: str = ""


class Session:
    """A connection from its handshake to its end; a Listener of the hub."""

    __slots__ = ("_closed", "_desk", "_frames", "_principal", "_socket", "_task", "_timer", "_token", "_welcome")

    page = 100

    def __init__(self, desk: Desk, socket: Socket, token: str | None = None) -> None:
        """`token` is what the handshake's Authorization header brought, for clients that can send one."""
        self._desk = desk
        self._socket = socket
        self._token = token
        self._principal: Principal | None = None
        self._frames: deque[str | bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        loop = asyncio.get_running_loop()
        self._welcome = False
        self._timer: asyncio.TimerHandle | None = loop.call_later(desk.settings.hello_timeout, self._no_hello)
        telemetry.emit("connection.opened", {"count": 1}, {"transport": "websocket"})

    # What the socket says

    def received(self, text: str | bytes) -> None:
        """A text message from the client."""
        if self._closed:
            return
        if len(self._frames) >= PENDING_FRAMES:
            self._fail(BadFrame("too many frames without waiting for their answers"))
            return
        self._frames.append(text)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def paused(self) -> None:
        """The socket's backlog is over its bound."""
        self._desk.hub.pause(self)

    def resumed(self) -> None:
        self._desk.hub.resume(self)

    def closed(self, code: int | None = None) -> None:
        """The connection is ending, whoever ended it: nothing may be written any more."""
        if self._closed:
            return
        self._closed = True
        self._desk.hub.leave(self)
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._principal is not None:
            self._desk.connections.give_back((self._principal.tenant, self._principal.subject))
        telemetry.emit("connection.closed", {"count": 1}, {"transport": "websocket", "code": code})

    def goodbye(self, code: int, retry_ms: tuple[int, int] | None = None) -> None:
        """Say `bye` and close: 4000 to 4399, come again within `retry_ms`; 4400 and up, don't."""
        if not self._closed:
            self.closed(code)
            self._socket.send(wire.bye_frame(code, retry_ms))
            self._socket.close(code)

    # What the hub says (Listener)

    @property
    def writer(self) -> Callable[[bytes], object] | None:
        return self._socket.writer

    def deliver(self, delivery: Delivery) -> None:
        self._socket.send(delivery.frame)

    def progress(self, channel: Channel, item: bytes) -> None:
        self._socket.send(wire.progress_frame(item))

    def reset(self, channel: Channel, position: Position) -> None:
        self._socket.send(wire.reset_frame(wire.reset_item(channel.name, position, self._desk.prefix)))

    async def ready(self) -> bool:
        return await self._socket.drained()

    def drain(self) -> None:
        self.goodbye(GOING_AWAY, RETRY_MS)

    # What the client asks

    async def _work(self) -> None:
        """Answer the waiting frames, one after another; ends when there are none, to hold no memory idle."""
        try:
            while self._frames and not self._closed:
                await self._answer(self._frames.popleft())
        except Exception:
            logger.exception("a WebSocket session failed")
            self.goodbye(PushsvcError.close_code, RETRY_MS)
        finally:
            self._task = None

    async def _answer(self, text: str | bytes) -> None:
        number: int | None = None
        try:
            frame = wire.parse_frame(text)
            number = frame.id
            if isinstance(frame, wire.Hello):
                await self._hello(frame)
            elif self._principal is None:
                raise Unauthorized("the first frame must be hello")
            elif isinstance(frame, wire.Subscribe):
                cursor = Cursor.parse(frame.cursor, self._desk.settings.cursor_limit)
                await self._join(frame.id, self._principal, frame.channels, cursor, {})
            else:
                for name in frame.channels:
                    self._desk.hub.detach(self, Channel(self._principal.tenant, name))
                self._socket.send(wire.ok_frame(frame.id, {}))
        except PushsvcError as error:
            number = error.extra.pop("request", number)
            self._socket.send(wire.error_frame(number, error))
            if not self._welcome:
                self._fail(error)

    async def _hello(self, frame: wire.Hello) -> None:
        if self._principal is not None:
            raise BadFrame("hello has been said already")
        token = frame.token or self._token
        if token is None:
            raise Unauthorized("hello needs a token")
        principal = self._desk.tokens.verify(token)
        need_scope(principal, "read")
        cursor = Cursor.parse(frame.cursor, self._desk.settings.cursor_limit)
        self._desk.connections.take((principal.tenant, principal.subject))
        self._principal, self._token = principal, None
        self._end_with(principal)
        ping = self._desk.settings.ping
        about = {
            "session": f"ses_{new_job_id()}",
            "user": principal.subject,
            "ping": int(ping) if ping.is_integer() else ping,
        }
        await self._join(frame.id, principal, [inbox(principal.subject), *frame.channels], cursor, about)
        self._welcome = True

    def _end_with(self, principal: Principal) -> None:
        """From now on the timer is the token's: the connection does not outlive it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if principal.expires_at is not None:
            left = (principal.expires_at - datetime.now(UTC)).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(max(left, 0.0), self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._fail(Unauthorized("the token has expired"))

    async def _join(
        self,
        number: int | None,
        principal: Principal,
        names: Sequence[str],
        cursor: Cursor,
        about: Mapping[str, object],
    ) -> None:
        """Say where each channel goes on from, then deliver: the `ok` always comes before its events."""
        hub = self._desk.hub
        held = set(hub.channels(self))
        channels = [c for c in await self._desk.gate.channels(principal, names) if c not in held]
        if len(held) + len(channels) > self._desk.settings.channel_limit:
            raise BadFrame(f"at most {self._desk.settings.channel_limit} channels a connection")
        places = {channel: await hub.locate(channel, cursor.place(channel.name)) for channel in channels}
        positions = [(channel.name, position) for channel, (position, _) in places.items()]
        recovered = all(whole for _, whole in places.values())
        answer = {**about, "cursor": format_cursor(positions), "recovered": recovered}
        self._socket.send(wire.ok_frame(number, answer))
        for channel, (position, whole) in places.items():
            place = position if whole else cursor.place(channel.name)
            if not self._closed:
                await hub.attach(self, channel, place)

    def _no_hello(self) -> None:
        self._timer = None
        self._fail(Unauthorized("no hello in time"))

    def _fail(self, error: PushsvcError) -> None:
        self.goodbye(error.close_code, RETRY_MS if error.close_code < 4400 else None)
