"""Tickets: who a caller is, for one use, kept under the hash of a secret that only the caller holds."""

from __future__ import annotations

from . import device_statements as sql
from .postgres import Postgres


class TicketStore:
    """Any node takes what any other has stored; none takes it twice."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def put(self, id: str, claims: str, seconds: float) -> None:
        """Keep `claims` until they are taken, but no longer than `seconds`."""
        await self._postgres.ask(sql.PUT_TICKET, id, claims, seconds)

    async def take(self, id: str) -> str | None:
        """The claims, which are gone from now on; None if they were taken before, are too old, or never were.

        When the connection is lost just as they are taken, the repeated statement finds nothing: a ticket may
        be used up in vain, never used twice.
        """
        rows = await self._postgres.ask(sql.TAKE_TICKET, id)
        return str(rows[0]["claims"]) if rows and rows[0]["valid"] else None
