"""What PostgreSQL knows and Redis does not: found again, so that nothing accepted is ever lost.

Every worker process sweeps, one at a time for each database (an advisory lock): jobs missing from the queue
go back on it, lost ones are ended or offered again, deadlines and retention are kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from .. import telemetry, wire
from ..bus import FAULTS, Queue, Queued, away
from ..domain import JobId, JobStatus, Outcome
from ..errors import JobExpired, PushsvcError, Unavailable, WorkerLost
from ..settings import Settings
from ..store import MAX_LOSSES, Connection, JobStore, Postgres, Retention
from ..store.statements import SWEEP_LOCK
from .announce import Announcer

logger = logging.getLogger(__name__)

PAGE = 500
SWEEP_WITHIN = 60.0
"""Seconds that one look may take."""
PURGE_EVERY = 15.0
"""Seconds between two looks for what is past its retention."""

_START = (datetime(1970, 1, 1, tzinfo=UTC), "")


class Sweeper:
    """Looks every `settings.sweep` seconds, and at start."""

    def __init__(
        self,
        postgres: Postgres,
        store: JobStore,
        retention: Retention,
        queue: Queue,
        announcer: Announcer,
        settings: Settings,
    ) -> None:
        self._postgres = postgres
        self._store = store
        self._retention = retention
        self._queue = queue
        self._announcer = announcer
        self._settings = settings
        self._after = _START
        self._purged_at = 0.0

    async def run(self) -> None:
        """Sweep for ever; whatever goes wrong is tried again at the next look."""
        while True:
            try:
                await self._postgres.run(self._alone, within=SWEEP_WITHIN)
            except Unavailable:
                logger.debug("no sweep, PostgreSQL is away")
            except Exception:
                logger.exception("a sweep failed; the next one tries again")
            await asyncio.sleep(self._settings.sweep * random.uniform(0.75, 1.25))

    async def _alone(self, connection: Connection) -> None:
        async with connection.transaction():
            if await connection.fetchval(SWEEP_LOCK):
                await self.sweep()

    async def sweep(self) -> None:
        """One look at everything."""
        expired = await self._end(await self._store.overdue(PAGE), JobStatus.EXPIRED, JobExpired)
        lapsed = await self._store.lapsed(PAGE)
        lost = [(job, version) for job, _, version, losses in lapsed if losses > MAX_LOSSES]
        expired += await self._end(lost, JobStatus.FAILED, lambda: WorkerLost(f"{MAX_LOSSES + 1} workers died"))
        enqueued = returned = 0
        try:
            again = [Queued(job, name, time.time()) for job, name, _, losses in lapsed if losses <= MAX_LOSSES]
            returned = await self._ensure_queued(again)
            enqueued = await self._requeue_missing()
        except FAULTS as error:
            away("sweeping the queue", error)
        purged = await self._purge()
        if enqueued or returned or expired or purged:
            measures = {"enqueued": enqueued, "returned": returned, "expired": expired, "purged": purged}
            telemetry.emit("sweep.done", measures)
            logger.info("swept: %s", ", ".join(f"{count} {what}" for what, count in measures.items() if count))

    async def _end(
        self, jobs: Iterable[tuple[JobId, int]], status: JobStatus, error: Callable[[], PushsvcError]
    ) -> int:
        text = wire.dump(error().problem()).decode()
        ended = await asyncio.gather(
            *(self._store.finish(Outcome(job, version, status, error=text)) for job, version in jobs)
        )
        for finished in filter(None, ended):
            await self._announcer.finished(finished)
        return sum(finished is not None for finished in ended)

    async def _requeue_missing(self) -> int:
        """All queued jobs at once if Redis has lost its memory, else a page of them at each look."""
        if not await self._queue.marked():
            count, self._after = 0, _START
            while True:
                found, more = await self._next_page()
                count += found
                if not more:
                    break
            await self._queue.mark()
            return count
        return (await self._next_page())[0]

    async def _next_page(self) -> tuple[int, bool]:
        page = await self._store.queued_page(self._after, PAGE)
        more = len(page) == PAGE
        self._after = (page[-1][3], page[-1][0]) if more else _START
        return await self._ensure_queued([Queued(job, name, due) for job, name, due, _ in page]), more

    async def _ensure_queued(self, jobs: list[Queued]) -> int:
        if not jobs:
            return 0
        missing = set(await self._queue.missing([job.id for job in jobs]))
        if missing:
            await self._queue.enqueue([job for job in jobs if job.id in missing])
        return len(missing)

    async def _purge(self) -> int:
        if time.monotonic() - self._purged_at < PURGE_EVERY:
            return 0
        keep, settings = self._retention, self._settings
        counts = (
            await keep.purge(PAGE),
            await keep.purge_published(PAGE),
            await keep.trim(settings.channel_events, PAGE),
            await keep.forget_devices(settings.device_retention, PAGE),
            await keep.forget_tickets(PAGE),
        )
        if max(counts) < PAGE:
            self._purged_at = time.monotonic()
        return sum(counts)
