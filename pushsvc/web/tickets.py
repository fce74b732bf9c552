"""`POST /v1/tickets`: for a plain EventSource, or a handshake that can carry neither header nor frame."""

from __future__ import annotations

import re

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..access import LIFETIME, Tokens, claims_of, need_scope, new_ticket, ticket_holder, ticket_id
from ..domain import Principal
from ..store import TicketStore
from .callers import Callers
from .reading import JSON

_TICKET = re.compile(rb"((?:^|&)ticket=)[^&]*")


class Tickets:
    """Makes tickets, and takes them."""

    def __init__(self, callers: Callers, tokens: Tokens, store: TicketStore) -> None:
        self._callers = callers
        self._tokens = tokens
        self._store = store

    def routes(self) -> list[Route]:
        return [Route("/v1/tickets", self.make, methods=["POST"])]

    async def make(self, request: Request) -> Response:
        """A ticket stands for the bearer of the token, with all that the token names, once, at any node."""
        principal = self._callers.principal(request, "read")
        ticket = new_ticket()
        await self._store.put(ticket_id(ticket), claims_of(principal), LIFETIME)
        body = wire.dump({"ticket": ticket, "expires_in": LIFETIME})
        return Response(body, 201, {"Cache-Control": "no-store"}, JSON)

    def shown(self, request: HTTPConnection) -> str | None:
        """The ticket in the request's URL, which from now on hides it: servers log URLs when they answer."""
        ticket = request.query_params.get("ticket")
        request.scope["query_string"] = _TICKET.sub(rb"\1***", request.scope["query_string"])
        return ticket

    async def holder(self, ticket: str) -> Principal:
        """Whom the ticket stands for; from now on, for nobody. Raises Unauthorized, Forbidden, Unavailable."""
        principal = ticket_holder(await self._store.take(ticket_id(ticket)))
        self._tokens.need_valid(principal)
        need_scope(principal, "read")
        return principal
