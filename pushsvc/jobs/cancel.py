"""Cancelling: a queued job ends at once; a running one is asked to, and its worker ends it."""

from __future__ import annotations

from contextlib import suppress

from .. import wire
from ..bus import Publisher, said
from ..domain import Job, JobStatus, Outcome
from ..errors import AlreadyFinished, JobCancelled, NotFound
from ..store import JobStore
from .announce import Announcer

PAGE = 100


class Canceller:
    """Cancels jobs."""

    def __init__(self, store: JobStore, publisher: Publisher, announcer: Announcer) -> None:
        self._store = store
        self._publisher = publisher
        self._announcer = announcer

    async def cancel(self, job: Job, mark: str | None = None, *, children: bool = False) -> Job:
        """The job as it is then; with `children` what it has submitted is cancelled too, and what that has.

        Raises what is said of one job alone.
        """
        try:
            return await self._cancel(job, mark)
        finally:
            if children:
                await self._cancel_children(job.id)

    async def _cancel_children(self, parent: str) -> None:
        """Those that are being cancelled already are not found again: so this comes to an end."""
        while found := await self._store.children(parent, PAGE):
            for child in found:
                with suppress(AlreadyFinished, NotFound):
                    await self._cancel(child)
                await self._cancel_children(child.id)

    async def _cancel(self, job: Job, mark: str | None = None) -> Job:
        """The job as it is then. With a `mark` it is cancelled for the submission that got it: the job goes on while
        others want it, and a mark counts once, however often it comes.

        What counts is how `job` was when the request came. If it was in flight, the request is granted, whoever else
        asked at the same time. Raises AlreadyFinished if it had ended, or ends in another way before the cancel
        reaches it; NotFound if it has been purged, or has no such mark.
        """
        asked = await self._store.cancel(job.tenant, job.id, mark)
        if asked is None:
            return await self._as_it_ended(job)
        current, ends = asked
        if not ends:
            return current
        if current.status is JobStatus.RUNNING:
            await self._publisher.cancel(current.id)
            return current
        # It is ended here: nobody starts a job that is to be cancelled.
        error = wire.dump(JobCancelled().problem()).decode()
        ending = Outcome(current.id, current.version, JobStatus.CANCELLED, error=error)
        finished = await self._store.finish(ending)
        if finished is None:
            return await self._as_it_ended(job)
        await said(self._announcer.tell(finished))
        return finished.job

    async def _as_it_ended(self, job: Job) -> Job:
        found = await self._store.get(job.tenant, job.id)
        if found is None or not found.status.terminal:
            raise NotFound
        if job.status.terminal or found.status is not JobStatus.CANCELLED:
            raise AlreadyFinished(f"the job is {found.status}")
        return found
