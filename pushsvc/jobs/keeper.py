"""Keeps a worker's leases while its event loop is blocked, and ends the process when that takes too long.

It has an event loop and connections of its own, in the parent of the worker's process or in a thread of it. As long
as the worker's loop turns it does nothing: then the worker renews its leases itself, and hears what that brings.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from .. import wire
from ..bus import FAULTS, Queue, away
from ..domain import JobId, JobStatus, Outcome
from ..errors import JobError, JobExpired, JobTimedOut, Unavailable
from ..settings import Settings
from ..store import Beats, JobStore, Requeue
from ..tasks import contained, forever, tolerated
from .announce import Announcer
from .holds import Held, Holds, first_to_go
from .limits import CLEAN_UP, REDIS_MARGIN, backoff

logger = logging.getLogger(__name__)

SILENT_AFTER = 1 / 8
"""After which part of a lease without a turn the event loop counts as blocked: before a beat is overdue, and while
leases that were renewed a third ago still have half of their time."""

BEAT_EVERY = 1 / 8
"""A beat's distance from the one before, as a part of the lease, while it is the keeper that beats."""

LEAST, MOST = 0.05, 0.5
"""Seconds between two looks."""

SETTLED_WITHIN = 5.0
"""Seconds for storing what becomes of the jobs of a process that is ended. Their leases lapse if that fails."""


class Keeper:
    """Looks after one worker, until it has ended its process or is cancelled.

    `end` ends the process, which None says is not to be done; with `end_first` it does so from outside, and nothing
    of the jobs runs any more when they are given away.
    """

    def __init__(
        self,
        holds: Holds,
        store: JobStore,
        queue: Queue,
        announcer: Announcer,
        beats: Beats,
        settings: Settings,
        end: Callable[[], None] | None,
        *,
        end_first: bool,
    ) -> None:
        self._holds = holds
        self._store = store
        self._queue = queue
        self._announcer = announcer
        self._beats = beats
        self._lease = settings.lease
        self._drain = settings.drain
        self._end = end
        self._end_first = end_first
        self._beat_at = self._renewed_at = float("-inf")
        self.over = False
        """Whether it has decided to end the process."""

    async def run(self) -> None:
        """Look until it has ended the process."""
        await forever("keeping leases", self._look, until=lambda: self.over)

    async def _look(self) -> None:
        await asyncio.sleep(min(max(self._lease / 16, LEAST), MOST))
        held = self._holds.held()
        if self._end is not None and self._too_long(held):
            self.over = True
            await self._end_process(held, self._end)
        elif self._blocked:
            await self._keep(held)
        else:
            self._beat_at = self._renewed_at = float("-inf")

    @property
    def _blocked(self) -> bool:
        return self._holds.silent > SILENT_AFTER * self._lease

    async def _keep(self, held: list[Held]) -> None:
        """Do what the worker would, were it not blocked: write beats, and renew its leases."""
        now = time.monotonic()
        try:
            if now - self._beat_at > BEAT_EVERY * self._lease:
                self._beat_at = now
                await self._beats.beat()
            if now - self._renewed_at > self._lease / 3:
                self._renewed_at = now
                await self._renew([(each.job, each.version) for each in held if each.until > now])
        except (*FAULTS, Unavailable) as error:
            away("keeping the leases of a blocked worker", error)

    async def _renew(self, held: list[tuple[JobId, int]]) -> None:
        if held and (renewed := await self._store.renew(held, self._lease)):
            await self._queue.renew(list(renewed), self._lease + REDIS_MARGIN, self._holds.worker)

    # The end

    def _too_long(self, held: list[Held]) -> bool:
        now = time.monotonic()
        if now > self._holds.stopping_since + self._drain + 2 * CLEAN_UP:
            return True
        if not self._blocked:
            return False
        blamed = [each for each in held if each.job == self._holds.blamed]
        return now > first_to_go(blamed or held)

    async def _end_process(self, held: list[Held], end: Callable[[], None]) -> None:
        logger.error(
            "the worker's event loop has been blocked for %.1f s; its process ends, and its jobs are given away",
            self._holds.silent,
        )
        if self._end_first:
            end()
        try:
            async with asyncio.timeout(SETTLED_WITHIN):
                await asyncio.gather(*(contained("giving a job away", self._settle(each, held)) for each in held))
        except TimeoutError:
            logger.error("the jobs could not be given away in time; their leases will lapse")
        finally:
            if not self._end_first:
                end()

    async def _settle(self, each: Held, held: list[Held]) -> None:
        """The job that has blocked the loop ends as it would have by its limit; the others are handed back."""
        blamed = self._holds.blamed
        guilty = each.job == blamed if any(other.job == blamed for other in held) else each.until < time.monotonic()
        if guilty and each.until < time.monotonic():
            await self._at_its_limit(each)
        else:
            await self._put_back(Requeue(each.job, each.version, 0.0, "handed back"))

    async def _at_its_limit(self, each: Held) -> None:
        error: JobError = JobTimedOut(f"the job may take {each.timeout:g} s")
        if each.on_limit == "retried":
            text = wire.dump(error.problem()).decode()
            await self._put_back(Requeue(each.job, each.version, backoff(each.tries), "failed", text))
            return
        status = JobStatus.FAILED
        if each.on_limit == "expired":
            status, error = JobStatus.EXPIRED, JobExpired()
        finished = await self._store.finish(
            Outcome(each.job, each.version, status, error=wire.dump(error.problem()).decode())
        )
        if finished is not None:
            await self._announcer.finished(finished)

    async def _put_back(self, requeue: Requeue) -> None:
        job = await self._store.requeue(requeue)
        if job is not None:
            self._announcer.changed(job)
            with tolerated("putting a job back on the queue", ()):
                await self._queue.release([(job.id, requeue.delay)])


class OwnLoop:
    """An event loop in a daemon thread of its own, from `start` to `stop`."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within: float = 1.0) -> None:
        """Cancel what it does, and wait up to so many seconds until it has ended."""
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(within)

    def join(self, within: float) -> None:
        """Wait up to so many seconds until it has ended."""
        if self._thread.ident is not None:
            self._thread.join(within)

    def _run(self) -> None:
        with tolerated(self._name):
            asyncio.run(self._until_cancelled())

    async def _until_cancelled(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        try:
            await self._work()
        except asyncio.CancelledError:
            pass
