"""What is no longer kept: jobs and events past their age, logs past their length, devices not seen for long.

Each event lives as long as was said. First its channel learns that it goes, then it is deleted, in batches, with no
lock that a writer could want; a cursor from before it gets a reset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import retention_statements as sql
from . import tick_statements as ticks
from .postgres import Postgres
from .record_statements import DROP_ORPHANS

ORPHANED_AFTER = 3600.0
"""Seconds since anything of a record was written, after which no job is expected for it any more."""

CHANNELS_AT_ONCE = 50_000
"""Channels whose length is looked at in one statement; the next call goes on from there."""


class Retention:
    """Deletes up to `limit` rows at a call, so that each is over soon; the answer is how many went."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._trimmed = 0

    async def purge(self, limit: int) -> int:
        """Jobs past their retention, with their events."""
        rows = await self._postgres.ask(sql.EXPIRED_JOBS, limit)
        if not rows:
            return 0
        await self._leave_gaps(row for row in rows if row["channel"] is not None)
        jobs = list({row["id"]: None for row in rows})
        return len(await self._postgres.ask(sql.DELETE_JOBS, jobs))

    async def purge_published(self, limit: int) -> int:
        """Published events past their retention."""
        rows = await self._postgres.ask(sql.EXPIRED_EVENTS, limit)
        if not rows:
            return 0
        channels, offsets = await self._leave_gaps(rows)
        return len(await self._postgres.ask(sql.DELETE_EXPIRED_EVENTS, channels, offsets))

    async def _leave_gaps(self, events: Iterable[Any]) -> tuple[list[int], list[int]]:
        places = [(event["channel"], event["offset"]) for event in events]
        channels, offsets = [channel for channel, _ in places], [offset for _, offset in places]
        if places:
            await self._postgres.ask(sql.LEAVE_GAPS, channels, offsets)
        return channels, offsets

    async def trim(self, length: int, limit: int) -> int:
        """The oldest events of logs that hold more than `length`."""
        row = (await self._postgres.ask(sql.TRIM_CHANNELS, self._trimmed, CHANNELS_AT_ONCE, length))[0]
        self._trimmed = row["last"] if row["looked"] == CHANNELS_AT_ONCE else 0
        deleted = 0
        while row["cut"] and (gone := len(await self._postgres.ask(sql.DELETE_BELOW_FLOORS, row["cut"], limit))):
            deleted += gone
        return deleted

    async def forget_devices(self, seconds: float, limit: int) -> int:
        """Positions that no device has acknowledged anew for so long."""
        return len(await self._postgres.ask(sql.FORGET_POSITIONS, seconds, limit))

    async def forget_keys(self, limit: int) -> int:
        """Keys that are old enough, and whose jobs are gone."""
        return len(await self._postgres.ask(sql.FORGET_KEYS, limit))

    async def forget_ticks(self, limit: int) -> int:
        """Ticks of periodic jobs more than a day ago, but for the last of each schedule."""
        return len(await self._postgres.ask(ticks.FORGET_TICKS, limit))

    async def forget_tickets(self, limit: int) -> int:
        """Tickets that nobody has used in time."""
        return len(await self._postgres.ask(sql.FORGET_TICKETS, limit))

    async def forget_records(self, limit: int) -> int:
        """Recorded requests for which no job has come, nor anything more of their bodies, for so long."""
        return len(await self._postgres.ask(DROP_ORPHANS, ORPHANED_AFTER, limit))
