"""What is no longer kept: jobs and events past their age, logs past their length, devices not seen for long.

Always the floor first: from then on no reader looks below it, and a cursor from there gets a reset. Then what
lies below is deleted, in batches, with no lock that a writer could want.
"""

from __future__ import annotations

from . import statements as sql
from .postgres import Postgres


class Retention:
    """Deletes up to `limit` rows at a call, so that each is over soon; the answer is how many went."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def purge(self, limit: int) -> int:
        """Jobs past their retention, with their events."""
        rows = await self._postgres.fetch(sql.EXPIRED_JOBS, limit)
        if not rows:
            return 0
        jobs = [row["id"] for row in rows]
        await self._postgres.fetch(sql.RAISE_FLOORS_OF_JOBS, jobs)
        await self._postgres.fetch(sql.DELETE_EVENTS_OF_JOBS, jobs)
        return len(await self._postgres.fetch(sql.DELETE_JOBS, jobs))

    async def purge_published(self, limit: int) -> int:
        """Published events past their retention."""
        await self._postgres.fetch(sql.RAISE_FLOORS_OF_PUBLISHED, limit)
        return len(await self._postgres.fetch(sql.DELETE_PUBLISHED, limit))

    async def trim(self, length: int, limit: int) -> int:
        """The oldest events of logs that hold more than `length`."""
        rows = await self._postgres.fetch(sql.RAISE_FLOORS_OF_LONG, length, limit)
        if not rows:
            return 0
        channels = [row["id"] for row in rows]
        deleted = 0
        while gone := len(await self._postgres.fetch(sql.DELETE_BELOW_FLOORS, channels, limit)):
            deleted += gone
        return deleted

    async def forget_devices(self, seconds: float, limit: int) -> int:
        """Positions that no device has acknowledged anew for so long."""
        return len(await self._postgres.fetch(sql.FORGET_POSITIONS, seconds, limit))

    async def forget_tickets(self, limit: int) -> int:
        """Tickets that nobody has used in time."""
        return len(await self._postgres.fetch(sql.FORGET_TICKETS, limit))
