"""`/v1/events`, `/v1/events/stream` and `/v1/ws`: the delivery side's doors."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from ..access import Logins, allowed_origin, bearer
from ..domain import Channel, Cursor, Principal, check_name
from ..errors import Forbidden, PushsvcError
from ..store import Device, EventStore
from ..tasks import stop
from ..transports import (
    EXTENSION,
    RETRY_MS,
    STREAM_HEADERS,
    AsgiSocket,
    Cursors,
    Desk,
    DirectProtocol,
    DirectSocket,
    EventStream,
    Gate,
    Poll,
    Session,
    Streams,
    nothing_follows,
    own_inbox,
)
from ..wire import SUBPROTOCOL
from .callers import Callers
from .problems import deny
from .reading import JSON, query_number
from .tickets import Tickets


class Events:
    """The handlers of polls and streams."""

    def __init__(
        self,
        callers: Callers,
        tickets: Tickets,
        gate: Gate,
        cursors: Cursors,
        streams: Streams,
        events: EventStore,
    ) -> None:
        self._callers = callers
        self._tickets = tickets
        self._gate = gate
        self._cursors = cursors
        self._streams = streams
        self._events = events

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/events", self.poll, methods=["GET"]),
            Route("/v1/events/stream", self.stream, methods=["GET"]),
        ]

    async def poll(self, request: Request) -> Response:
        wait = query_number(request, "wait", 25, 0, self._streams.settings.wait_limit)
        limit = int(query_number(request, "limit", 100, 1, 1000))
        principal = await self._principal(request)
        channels = await self._channels(request, principal)
        cursor = await self._cursor(request, principal, request.query_params.get("cursor"))
        poll = Poll(limit, self._streams.prefix)
        with self._streams.admission.held(principal, poll):
            # Who asks for the head alone has no use for waiting.
            wait = 0 if request.method == "HEAD" else principal.left(wait)
            work = asyncio.create_task(poll.run(self._streams.hub, channels, cursor, wait))
            body = await _unless_gone(request, work)
        return Response(body, 200, {"Cache-Control": "no-store"}, JSON)

    async def stream(self, request: Request) -> ASGIApp:
        principal = await self._principal(request)
        channels = await self._channels(request, principal)
        # A browser sends the header by itself, to a URL that stays as it was.
        at = request.headers.get("last-event-id") or request.query_params.get("cursor")
        cursor = await self._cursor(request, principal, at)
        finite = all(channel.kind == "job" for channel in channels)
        if finite and nothing_follows(cursor, channels, await self._events.states(channels)):
            # The one answer after which an EventSource does not come back.
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        if request.method == "HEAD":
            return Response(headers=STREAM_HEADERS)
        return EventStream(self._streams, principal, channels, cursor)

    # What a request says

    async def _principal(self, request: Request) -> Principal:
        """Who asks, by the Authorization header, or by a ticket where there is none. Raises Unauthorized."""
        ticket = self._tickets.shown(request)
        if ticket is None or "authorization" in request.headers:
            names = request.query_params.get("channels", "").split(",")
            if all(name.startswith("job:") for name in names):
                # Those of nobody in particular are for whoever has their ids.
                return self._callers.reader(request)
            return self._callers.principal(request, "read")
        return await self._tickets.holder(ticket)

    async def _channels(self, request: Request, principal: Principal) -> list[Channel]:
        """The channels asked for, or else the inbox. Raises BadRequest, NotFound, Forbidden."""
        # Percent-encoded as in a cursor, on top of the query string's own encoding: a name may hold a comma.
        names = [unquote(name) for name in request.query_params.get("channels", "").split(",") if name]
        return await self._gate.channels(principal, names or [own_inbox(principal)])

    async def _cursor(self, request: Request, principal: Principal, text: str | None) -> Cursor:
        """Where to go on from: the cursor, or where there is none what the `device` has acknowledged last.

        Raises BadCursor, BadRequest.
        """
        name = request.query_params.get("device")
        device = None
        if name is not None:
            device = Device(principal.tenant, principal.subject, check_name(name, "a device", 100))
        return await self._cursors.start(device, text)


class Sockets:
    """The handler of WebSockets."""

    def __init__(self, desk: Desk, tickets: Tickets, logins: Logins) -> None:
        self._desk = desk
        self._tickets = tickets
        self._logins = logins

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/v1/ws", self.websocket)]

    async def websocket(self, websocket: WebSocket) -> None:
        """The handshake: origin and subprotocol; who it is, a ticket says, or else `hello`.

        A ticket that is not good is answered by a close code, since pages see no status of a handshake.
        """
        headers = websocket.headers
        if not allowed_origin(headers.get("origin"), headers.get("host"), self._desk.settings.allowed_origins):
            await deny(websocket, Forbidden("this origin is not in PUSHSVC_ALLOWED_ORIGINS"))
            return
        who: Principal | str | None = bearer(headers.get("authorization"))
        refusal: PushsvcError | None = None
        ticket = self._tickets.shown(websocket)
        if who is None and ticket is not None:
            try:
                who = await self._tickets.holder(ticket)
            except PushsvcError as error:
                refusal = error
        if who is None and refusal is None:
            try:
                who = await self._logins.login(websocket)
            except PushsvcError as error:
                await deny(websocket, error)
                return
        offered = websocket.scope.get("subprotocols") or []
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        protocol: Any = (websocket.scope.get("extensions") or {}).get(EXTENSION)
        limit = self._desk.settings.backlog_limit
        if isinstance(protocol, DirectProtocol):
            direct = DirectSocket(protocol, limit)
            session = Session(self._desk, direct, who)
            direct.attach(session, protocol)
            _turn_away(session, refusal)
        else:
            socket = AsgiSocket(websocket, limit)
            session = Session(self._desk, socket, who)
            _turn_away(session, refusal)
            await socket.serve(session)


def _turn_away(session: Session, refusal: PushsvcError | None) -> None:
    if refusal is not None:
        session.goodbye(refusal.close_code, RETRY_MS if refusal.close_code < 4400 else None)


async def _unless_gone(request: Request, work: asyncio.Task[bytes]) -> bytes:
    """The poll's answer; the poll is given up when its client goes away first."""
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else b""
    finally:
        await stop(work, gone)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
