"""`/v1/events` and `/v1/ws`: the delivery side's doors."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ..access import allowed_origin, bearer
from ..domain import Cursor, Principal
from ..errors import Forbidden
from ..tasks import stop
from ..transports import EXTENSION, AsgiSocket, DirectProtocol, DirectSocket, Poll, Session, own_inbox
from ..wire import SUBPROTOCOL
from .api import Api, query_number
from .jobs import JSON
from .problems import problem_response


class Events:
    """The handlers of events."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/events", self.poll, methods=["GET"]),
            WebSocketRoute("/v1/ws", self.websocket),
        ]

    async def poll(self, request: Request) -> Response:
        api = self._api
        principal = api.principal(request, "read")
        query = request.query_params
        # Percent-encoded as in a cursor, on top of the query string's own encoding: a name may hold a comma.
        names = [unquote(name) for name in query.get("channels", "").split(",") if name] or [own_inbox(principal)]
        cursor = Cursor.parse(query.get("cursor"), api.settings.cursor_limit)
        wait = query_number(request, "wait", 25, 0, api.settings.wait_limit)
        limit = int(query_number(request, "limit", 100, 1, 1000))
        channels = await api.gate.channels(principal, names)
        with api.desk.connections.held(_holder(principal)):
            work = asyncio.create_task(Poll(limit, api.prefix).run(api.hub, channels, cursor, wait))
            body = await _unless_gone(request, work)
        return Response(body, 200, {"Cache-Control": "no-store"}, JSON)

    async def websocket(self, websocket: WebSocket) -> None:
        """The handshake: origin and subprotocol; who it is, `hello` says."""
        api = self._api
        headers = websocket.headers
        if not allowed_origin(headers.get("origin"), headers.get("host"), api.settings.allowed_origins):
            await _refuse(websocket, Forbidden("this origin is not in PUSHSVC_ALLOWED_ORIGINS"))
            return
        offered = websocket.scope.get("subprotocols") or []
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        protocol: Any = (websocket.scope.get("extensions") or {}).get(EXTENSION)
        token = bearer(headers.get("authorization"))
        limit = api.settings.backlog_limit
        if isinstance(protocol, DirectProtocol):
            protocol.attach(Session(api.desk, DirectSocket(protocol), token), limit)
        else:
            socket = AsgiSocket(websocket, limit)
            await socket.serve(Session(api.desk, socket, token))


async def _refuse(websocket: WebSocket, error: Forbidden) -> None:
    await websocket.send_denial_response(problem_response(error))


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


def _holder(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.subject
