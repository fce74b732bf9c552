"""Cancelling: a queued job ends at once; a running one is asked to, and its worker ends it."""

from __future__ import annotations

from .. import wire
from ..bus import Publisher
from ..domain import Job, JobStatus, Outcome
from ..errors import AlreadyFinished, JobCancelled, NotFound
from ..store import JobStore
from .announce import Announcer


class Canceller:
    """Cancels jobs."""

    def __init__(self, store: JobStore, publisher: Publisher, announcer: Announcer) -> None:
        self._store = store
        self._publisher = publisher
        self._announcer = announcer

    async def cancel(self, job: Job) -> Job:
        """The job as it is then. Raises AlreadyFinished if it is too late, NotFound if it has been purged."""
        while not job.status.terminal:
            if job.status is JobStatus.QUEUED:
                error = wire.dump(JobCancelled().problem()).decode()
                finished = await self._store.finish(Outcome(job.id, job.version, JobStatus.CANCELLED, error=error))
                if finished is not None:
                    await self._announcer.finished(finished)
                    return finished.job
            elif await self._store.request_cancel(job) is not None:
                await self._publisher.cancel(job.id)
                return job
            # It changed state in between: look again.
            found = await self._store.get(job.tenant, job.id)
            if found is None:
                raise NotFound
            job = found
        raise AlreadyFinished(f"the job is {job.status}")
