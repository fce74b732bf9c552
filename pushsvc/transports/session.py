"""One WebSocket session of `pushsvc.v1`: frames in, frames out, over whatever socket it is given."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .. import telemetry, wire
from ..access import Admission, may_hear, need_scope
from ..domain import (
    Accepted,
    Channel,
    Cursor,
    Job,
    Position,
    Principal,
    check_channel,
    format_cursor,
    inbox,
    new_job_id,
)
from ..errors import BadCursor, BadFrame, Forbidden, PushsvcError, TooManyChannels, Unauthorized
from ..hub import Hub
from ..settings import Settings
from ..store import Device
from ..tasks import complain
from ..wire import Delivery
from .cursors import Cursors
from .gate import Gate

PENDING_FRAMES = 32
"""Client frames that may wait for their turn; with more, nothing is read from the socket until they are answered."""


GOING_AWAY = 4001
LOGIN_CHECK = 4008
"""The login that came with the handshake is to be looked at again: come back."""
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

    def hold(self) -> None:
        """Read no more messages for now; those that have been read already still come."""

    def release(self) -> None:
        """Go on reading."""


class Door(Protocol):
    """By which a job is accepted, whatever it comes as."""

    async def submit(
        self, principal: Principal, job: str, params: Mapping[str, Any], key: str | None = None
    ) -> Accepted:
        """The job of this name, with the cursor from which on its submitter hears of it."""


class Views(Protocol):
    """What a job looks like."""

    async def view(self, job: Job, cursor: str | None = None, mark: str | None = None) -> bytes:
        """The job as JSON."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the sessions of a process share. `prefix` is where the API is found from outside."""

    hub: Hub
    gate: Gate
    admission: Admission
    cursors: Cursors
    door: Door
    views: Views
    settings: Settings
    prefix: str = ""


class Session:
    """A connection from its handshake to its end; a Listener of the hub."""

    __slots__ = (
        "_closed",
        "_desk",
        "_device",
        "_frames",
        "_held",
        "_principal",
        "_socket",
        "_task",
        "_timer",
        "_welcome",
        "_who",
    )

    page = 1000

    def __init__(self, desk: Desk, socket: Socket, who: Principal | str | None = None) -> None:
        """`who` is what the handshake brought: a token in its Authorization header, or, by a ticket or the app's
        own login, a principal. Then `hello` needs no token."""
        self._desk = desk
        self._socket = socket
        self._who = who
        self._principal: Principal | None = None
        self._device: Device | None = None
        self._frames: deque[str | bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._held = False
        self._welcome = False
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(desk.settings.hello_timeout, self._no_hello)
        telemetry.emit("connection.opened", {"count": 1}, {"transport": "websocket"})

    # What the socket says

    def received(self, text: str | bytes) -> None:
        """A text message from the client."""
        if self._closed:
            return
        if self._frames is None:
            self._frames = deque()
        self._frames.append(text)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        if len(self._frames) >= PENDING_FRAMES and not self._held:
            self._held = True
            self._socket.hold()

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
        self._frames = None
        if self._held:
            # So that the client's own Close, or the end of its connection, is read.
            self._socket.release()
        if self._timer is not None:
            self._timer.cancel()
        if self._principal is not None:
            self._desk.admission.connections.give_back(self._principal.holder, self)
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

    # Its token (Connection)

    def revoked(self) -> None:
        principal = self._known()
        try:
            self._desk.admission.tokens.need_valid(principal)
        except Unauthorized as error:
            self._refuse(principal, error)

    # What the client asks

    async def _work(self) -> None:
        """Answer the waiting frames, one after another; ends when there are none, to hold no memory idle."""
        try:
            while self._frames:
                await self._answer(self._frames.popleft())
                if self._held and self._frames is not None and len(self._frames) < PENDING_FRAMES // 2:
                    self._held = False
                    self._socket.release()
            self._frames = None
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # Such as sys.exit in a validator of the app's own: it ends this session, and not the process.
            complain("a WebSocket session", error)
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
            else:
                self._desk.admission.count(self._known())
                await _ANSWERS[type(frame)](self, frame)
        except PushsvcError as error:
            number = error.extra.pop("request", number)
            self._socket.send(wire.error_frame(number, error))
            if not self._welcome:
                self._fail(error)

    def _known(self) -> Principal:
        if self._principal is None:
            raise Unauthorized("the first frame must be hello")
        return self._principal

    async def _hello(self, frame: wire.Hello) -> None:
        if self._principal is not None:
            raise BadFrame("hello has been said already")
        who = frame.token or self._who
        if who is None:
            raise Unauthorized("hello needs a token")
        principal = self._desk.admission.tokens.verify(who) if isinstance(who, str) else who
        self._desk.admission.tokens.need_valid(principal)
        need_scope(principal, "read")
        if frame.device is not None:
            self._device = Device(principal.tenant, principal.subject, frame.device)
        cursor = await self._desk.cursors.start(self._device, frame.cursor)
        if self._closed:
            return
        self._desk.admission.connections.take(principal.holder, self)
        self._principal, self._who = principal, None
        # It may have been revoked while the device was looked up, when nobody was here to be told.
        self._desk.admission.tokens.need_valid(principal)
        self._end_with(principal)
        ping = self._desk.settings.ping
        about = {
            "session": f"ses_{new_job_id()}",
            "user": principal.subject,
            "ping": int(ping) if ping.is_integer() else ping,
        }
        await self._join(frame.id, [inbox(principal.subject), *frame.channels], cursor, about)
        self._welcome = True

    async def _subscribe(self, frame: wire.Subscribe) -> None:
        cursor = await self._desk.cursors.start(self._device, frame.cursor)
        await self._join(frame.id, frame.channels, cursor, {})

    async def _unsubscribe(self, frame: wire.Unsubscribe) -> None:
        for name in [check_channel(name) for name in frame.channels]:
            self._desk.hub.detach(self, Channel(self._known().tenant, name))
        self._socket.send(wire.ok_frame(frame.id, {}))

    async def _ack(self, frame: wire.Ack) -> None:
        if self._device is None:
            raise BadFrame("hello named no device, so there is nothing to remember the position by")
        positions = self._desk.cursors.positions(frame.cursor)
        heard = {channel.name for channel in self._desk.hub.channels(self)}
        if foreign := positions.keys() - heard:
            raise BadCursor(f"{min(foreign):.80} is not subscribed")
        await self._desk.cursors.ack(self._device, positions)
        self._socket.send(wire.ok_frame(frame.id, {}))

    async def _refresh(self, frame: wire.Refresh) -> None:
        """Take another token of the same subject; channels that it does not name any more are left."""
        before, principal = self._known(), self._desk.admission.tokens.verify(frame.token)
        if principal.holder != before.holder:
            raise Forbidden("the token is another subject's")
        need_scope(principal, "read")
        self._principal = principal
        self._end_with(principal)
        left = [
            channel
            for channel in self._desk.hub.channels(self)
            if channel.kind != "job" and not may_hear(principal, channel.name)
        ]
        for channel in left:
            self._desk.hub.detach(self, channel)
        self._socket.send(wire.ok_frame(frame.id, {"unsubscribed": [channel.name for channel in left]}))

    async def _submit(self, frame: wire.Submit) -> None:
        principal = self._known()
        need_scope(principal, "submit")
        accepted = await self._desk.door.submit(principal, frame.job, frame.params, frame.key)
        view = await self._desk.views.view(accepted.job, accepted.cursor, accepted.mark)
        self._socket.send(wire.ok_frame_of(frame.id, view))

    def _end_with(self, principal: Principal) -> None:
        """From now on the timer is the token's: the connection does not outlive it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if principal.expires_at is not None:
            self._timer = asyncio.get_running_loop().call_later(principal.left(math.inf), self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._refuse(self._known(), Unauthorized("the token has expired"))

    def _refuse(self, principal: Principal, error: PushsvcError) -> None:
        """A token that is void stays so; a login is asked for anew, with the next handshake's cookie."""
        if principal.login:
            self.goodbye(LOGIN_CHECK, RETRY_MS)
        else:
            self._fail(error)

    async def _join(
        self, number: int | None, names: Sequence[str], cursor: Cursor, about: Mapping[str, object]
    ) -> None:
        """Say where each channel goes on from, then deliver: the `ok` always comes before its events."""
        hub = self._desk.hub
        held = set(hub.channels(self))
        channels = [c for c in await self._desk.gate.channels(self._known(), names) if c not in held]
        if len(held) + len(channels) > self._desk.settings.channel_limit:
            raise TooManyChannels(f"at most {self._desk.settings.channel_limit} channels a connection")

        told = False

        def located(positions: Mapping[Channel, Position], whole: bool) -> None:
            nonlocal told
            told = True
            where = format_cursor((channel.name, position) for channel, position in positions.items())
            self._socket.send(wire.ok_frame(number, {**about, "cursor": where, "recovered": whole}))

        if self._closed:
            return
        try:
            await hub.attach_all(self, {channel: cursor.place(channel.name) for channel in channels}, located)
        except PushsvcError as error:
            if not told:
                raise
            # It has its answer, and may have had events: its cursor knows how far, the next connection goes on.
            self._fail(error)

    def _no_hello(self) -> None:
        self._timer = None
        self._fail(Unauthorized("no hello in time"))

    def _fail(self, error: PushsvcError) -> None:
        self.goodbye(error.close_code, RETRY_MS if error.close_code < 4400 else None)


_ANSWERS: Mapping[type, Callable[[Session, Any], Awaitable[None]]] = {
    wire.Subscribe: Session._subscribe,
    wire.Unsubscribe: Session._unsubscribe,
    wire.Ack: Session._ack,
    wire.Refresh: Session._refresh,
    wire.Submit: Session._submit,
}
