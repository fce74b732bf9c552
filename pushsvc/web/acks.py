"""`POST /v1/ack`: the durable position of a device that has no socket open."""

from __future__ import annotations

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..access import may_hear
from ..errors import Forbidden
from ..store import Device
from ..text import DeviceName
from ..transports import Cursors
from .callers import Callers
from .reading import read_body


class AckRequest(BaseModel, extra="forbid"):
    """The body of `POST /v1/ack`."""

    cursor: str = Field(min_length=1)
    device: DeviceName


class Acks:
    """The handler of `/v1/ack`."""

    def __init__(self, callers: Callers, cursors: Cursors, body_limit: int) -> None:
        self._callers = callers
        self._cursors = cursors
        self._body_limit = body_limit

    def routes(self) -> list[Route]:
        return [Route("/v1/ack", self.ack, methods=["POST"])]

    async def ack(self, request: Request) -> Response:
        principal = self._callers.principal(request, "read")
        body = await read_body(request, AckRequest, self._body_limit)
        positions = self._cursors.positions(body.cursor)
        for name in positions:
            # A job's channel that is foreign, or gone by now, has nothing to be remembered: the store sees to that.
            if not name.startswith("job:") and not may_hear(principal, name):
                raise Forbidden(f"the token does not name {name}")
        device = Device(principal.tenant, principal.subject, body.device)
        await self._cursors.ack(device, positions)
        return Response(status_code=204)
