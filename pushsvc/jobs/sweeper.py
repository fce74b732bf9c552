"""What PostgreSQL knows and Redis does not: found again, so that nothing accepted is ever lost.

Every worker process sweeps, one at a time for each database (an advisory lock): jobs missing from the queue
go back on it, lost ones are ended or offered again, deadlines and retention are kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Set
from datetime import UTC, datetime
from functools import partial

from .. import telemetry, wire
from ..bus import FAULTS, Queue, Queued, away
from ..domain import JobId, JobStatus, Outcome
from ..errors import JobCancelled, JobExpired, PushsvcError, Unavailable, WorkerLost
from ..settings import Settings
from ..store import MAX_LOSSES, Connection, JobStore, Postgres, Retention
from ..store.statements import SWEEP_LOCK
from ..tasks import contained, each_apart, forever, tolerated
from .announce import Announcer
from .limited import Limited
from .registry import Registry
from .unserved import unserved

logger = logging.getLogger(__name__)

PAGE = 500
SWEEP_WITHIN = 60.0
"""Seconds that one look may take."""
PURGE_EVERY = 15.0
"""Seconds between two looks for what is past its retention."""

UNSERVED_EVERY = 5.0
UNSERVED = 5.0
"""Seconds between two looks for queues that nobody serves, and after which a job waits there for too long."""

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
        limited: Limited | None = None,
    ) -> None:
        self._limited = Limited(Registry(), store, queue) if limited is None else limited
        self._postgres = postgres
        self._store = store
        self._retention = retention
        self._queue = queue
        self._announcer = announcer
        self._settings = settings
        self._after = _START
        self._looked_at = self._purged_at = 0.0
        self._unserved: Set[str] = frozenset()

    async def run(self) -> None:
        """Sweep for ever; whatever goes wrong is tried again at the next look."""
        await forever("sweeping", self._look)

    async def _look(self) -> None:
        try:
            await self._postgres.run(self._alone, within=SWEEP_WITHIN, transaction=True)
        except Unavailable:
            logger.debug("no sweep, PostgreSQL is away")
        await asyncio.sleep(self._settings.sweep * random.uniform(0.75, 1.25))

    async def _alone(self, connection: Connection) -> None:
        if await connection.fetchval(SWEEP_LOCK, self._postgres.deployment):
            await self.sweep()

    async def sweep(self) -> None:
        """One look at everything: what goes wrong in one part of it keeps nobody from the others."""
        swept = {"enqueued": 0, "returned": 0, "expired": 0, "purged": 0}
        for doing, part in (
            ("ending jobs past their deadline", self._sweep_overdue),
            ("ending cancelled jobs", self._sweep_cancelled),
            ("sweeping up after lost workers", self._sweep_lapsed),
            ("sweeping the queue", self._sweep_queue),
            ("letting parked jobs go on", self._sweep_parked),
            ("looking for queues that nobody serves", self._sweep_unserved),
            ("deleting what is past its retention", self._sweep_old),
        ):
            with tolerated(doing, (Unavailable,)):
                await part(swept)
        if any(swept.values()):
            telemetry.emit("sweep.done", swept)
            logger.info("swept: %s", ", ".join(f"{count} {what}" for what, count in swept.items() if count))

    async def _sweep_overdue(self, swept: dict[str, int]) -> None:
        swept["expired"] += await self._end(await self._store.overdue(PAGE), JobStatus.EXPIRED, JobExpired)

    async def _sweep_cancelled(self, swept: dict[str, int]) -> None:
        """Those that were cancelled while their worker died, or before they were started again."""
        swept["expired"] += await self._end(
            await self._store.unended_cancels(PAGE), JobStatus.CANCELLED, JobCancelled
        )

    async def _sweep_lapsed(self, swept: dict[str, int]) -> None:
        lapsed = await self._store.lapsed(PAGE)
        lost = [(JobId(job.id), version) for job, version, losses in lapsed if losses > MAX_LOSSES]
        swept["expired"] += await self._end(
            lost, JobStatus.FAILED, lambda: WorkerLost(f"{MAX_LOSSES + 1} workers died")
        )
        again = [Queued(*job._replace(due=time.time())) for job, _, losses in lapsed if losses <= MAX_LOSSES]
        try:
            swept["returned"] += await self._ensure_queued(again)
        except FAULTS as error:
            away("sweeping the queue", error)

    async def _sweep_queue(self, swept: dict[str, int]) -> None:
        try:
            swept["enqueued"] += await self._requeue_missing()
        except FAULTS as error:
            away("sweeping the queue", error)

    async def _sweep_parked(self, swept: dict[str, int]) -> None:
        """Where a limit has room: whoever made it may have died before it could say so."""
        try:
            swept["returned"] += await self._limited.let_go()
        except FAULTS as error:
            away("letting parked jobs go on", error)

    async def _sweep_unserved(self, swept: dict[str, int]) -> None:
        """Say once of each queue that jobs wait there for a worker, and none serves it."""
        if time.monotonic() - self._looked_at < UNSERVED_EVERY:
            return
        self._looked_at = time.monotonic()
        try:
            found = await unserved(self._store, self._queue, UNSERVED)
        except FAULTS as error:
            return away("looking for queues that nobody serves", error)
        for name in sorted(found.keys() - self._unserved):
            logger.warning(
                "%d jobs wait on the queue %s, which no worker serves: start one with `pushsvc worker … --queues %s`",
                found[name],
                name,
                name,
            )
        self._unserved = found.keys()

    async def _sweep_old(self, swept: dict[str, int]) -> None:
        swept["purged"] += await self._purge()

    async def _end(
        self, jobs: Iterable[tuple[JobId, int]], status: JobStatus, error: Callable[[], PushsvcError]
    ) -> int:
        text = wire.dump(error().problem()).decode()
        ended = 0

        async def end(job: JobId, version: int) -> None:
            nonlocal ended
            finished = await self._store.finish(Outcome(job, version, status, error=text))
            if finished is not None:
                ended += 1
                await self._announcer.finished(finished)

        # Each is contained: one that can't be ended keeps none of the others from it.
        await asyncio.gather(*(contained("ending a job", end(job, version)) for job, version in jobs))
        return ended

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
        self._after = (page[-1][1], page[-1][0].id) if more else _START
        return await self._ensure_queued([Queued(*job) for job, _ in page]), more

    async def _ensure_queued(self, jobs: list[Queued]) -> int:
        if not jobs:
            return 0
        missing = set(await self._queue.missing([job.id for job in jobs]))
        wanted = [job for job in jobs if job.id in missing]
        return len(wanted) - len(await each_apart("queueing a job again", wanted, self._queue.enqueue, FAULTS))

    async def _purge(self) -> int:
        if time.monotonic() - self._purged_at < PURGE_EVERY:
            return 0
        keep, settings = self._retention, self._settings
        counts: list[int] = []
        for doing, purge in (
            ("purging jobs", partial(keep.purge, PAGE)),
            ("purging published events", partial(keep.purge_published, PAGE)),
            ("trimming channels", partial(keep.trim, settings.channel_events, PAGE)),
            ("forgetting devices", partial(keep.forget_devices, settings.device_retention, PAGE)),
            ("forgetting keys", partial(keep.forget_keys, PAGE)),
            ("forgetting ticks", partial(keep.forget_ticks, PAGE)),
            ("forgetting tickets", partial(keep.forget_tickets, PAGE)),
            ("forgetting recorded requests", partial(keep.forget_records, PAGE)),
        ):
            with tolerated(doing, (Unavailable,)):
                counts.append(await purge())
        if max(counts, default=0) < PAGE:
            self._purged_at = time.monotonic()
        return sum(counts)
