"""`GET /v1/me`: who the caller is, and until when."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..domain import timestamp
from .callers import Callers
from .reading import JSON


class Me:
    """The handler of `/v1/me`."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def routes(self) -> list[Route]:
        return [Route("/v1/me", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """A client names what it keeps by tenant and user; `channels` are the groups that the credentials name."""
        principal = self._callers.principal(request, "read")
        ends = principal.expires_at
        body = {
            "tenant": principal.tenant,
            "user": principal.subject,
            "channels": sorted(principal.channels),
            "expires_at": timestamp(ends) if ends else None,
        }
        return Response(wire.dump(body), 200, {"Cache-Control": "no-store"}, JSON)
