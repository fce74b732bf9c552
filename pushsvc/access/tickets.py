"""Tickets: what stands for a bearer token where neither a header nor a frame can carry one.

A ticket is 256 random bits, good for one use within `LIFETIME`; only its hash is ever stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime

from pydantic import TypeAdapter

from ..domain import Principal
from ..errors import Unauthorized

LIFETIME = 30
"""Seconds from when it is made until it must have been used."""

_TICKET = re.compile(r"[A-Za-z0-9_-]{43}")
_principals: TypeAdapter[Principal] = TypeAdapter(Principal)


def new_ticket() -> str:
    return secrets.token_urlsafe(32)


def ticket_id(ticket: str) -> str:
    """What it is stored under. Raises Unauthorized on what can't be a ticket."""
    if not _TICKET.fullmatch(ticket):
        raise Unauthorized("the ticket is not valid")
    return hashlib.sha256(ticket.encode()).hexdigest()


def claims_of(principal: Principal) -> str:
    """Everything that the principal is, as JSON."""
    return _principals.dump_json(principal).decode()


def ticket_holder(claims: str | None) -> Principal:
    """Whom a ticket with these claims stands for. Raises Unauthorized if there are none, or if the token that
    it was made with has expired."""
    if claims is None:
        raise Unauthorized("the ticket has been used, or is too old: fetch a new one for each connection")
    principal = _principals.validate_json(claims)
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise Unauthorized("the token that the ticket was made with has expired")
    return principal
