"""Beats: evidence that leases could be written. Time in which nobody could write one does not count against any.

While PostgreSQL is away, frozen or read-only, workers run on and can't renew. When it is back, their leases have run
out by its clock, though nobody died. So every worker writes a beat now and then; one that comes late ends a spell
without any, and gives each lease the time back. Nobody takes a job over while a beat is overdue.
"""

from __future__ import annotations

import asyncio
import logging
import random

from ..errors import Unavailable
from ..tasks import forever
from . import statements as sql
from .postgres import PATIENCE, Postgres

logger = logging.getLogger(__name__)

EVERY = 1 / 8
"""A beat's distance from the one before, as a part of the lease."""

OVERDUE_AFTER = 1 / 3
"""When the next one is overdue, likewise: leases are renewed as often, so each has twice as long left by then."""

LEAST = 0.1
"""Seconds between two beats, however short the lease."""


class Beats:
    """The beats of one deployment, whose jobs have leases of `lease` seconds. Any process may beat."""

    def __init__(self, postgres: Postgres, deployment: str, lease: float) -> None:
        self._postgres = postgres
        self._deployment = deployment
        self._lease = lease
        self._every = max(EVERY * lease, LEAST)
        self._overdue_after = max(OVERDUE_AFTER * lease, 3 * LEAST)

    async def beat(self, patience: float = PATIENCE) -> float:
        """Write a beat; how many seconds were given back to leases, which is 0 unless the last one was overdue.

        Raises Unavailable when PostgreSQL takes no changes right now.
        """
        while True:
            rows = await self._postgres.fetch(
                sql.BEAT,
                self._deployment,
                self._lease,
                self._overdue_after,
                self._every,
                patience=patience,
                within=patience,
            )
            if rows:
                break
            await self._postgres.fetch(
                sql.FIRST_BEAT, self._deployment, self._overdue_after, patience=patience, within=patience
            )
        silent: float = rows[0]["silent"]
        if rows[0]["spared"]:
            logger.warning("no lease could be written for %.1f s: %d jobs keep theirs", silent, rows[0]["spared"])
        return silent

    async def run(self) -> None:
        """Beat for ever."""
        await forever("writing beats", self._beat_after_a_pause)

    async def _beat_after_a_pause(self) -> None:
        await asyncio.sleep(self._every * random.uniform(0.75, 1.25))
        try:
            await self.beat(max(PATIENCE, self._lease))
        except Unavailable:
            logger.debug("no beat, PostgreSQL is away")
