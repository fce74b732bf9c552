"""After the commit: tell the subscribers, and take the job off the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from .. import telemetry, wire
from ..bus import FAULTS, Publisher, Queue, away
from ..domain import JOB_EPOCH, Channel, Job, JobStatus, Position, job_channel
from ..store.batching import Batcher
from ..store.jobs import Finished

logger = logging.getLogger(__name__)


class Announcer:
    """Publishes what PostgreSQL has committed. `prefix` is where the API is mounted, for the links in events;
    `called` is told when a webhook is due."""

    def __init__(
        self, publisher: Publisher, queue: Queue, prefix: str = "", called: Callable[[], None] = lambda: None
    ) -> None:
        self._publisher = publisher
        self._queue = queue
        self._prefix = prefix
        self._called = called
        self._dequeue: Batcher[tuple[str, bytes], None] = Batcher("dequeue", self._finish)

    def changed(self, job: Job) -> None:
        """A change that is not the last: only the job's own channel hears of it."""
        place = (Channel(job.tenant, job_channel(job.id)), Position(JOB_EPOCH, job.version))
        self._publisher.event_soon([place], wire.event(job, None, self._prefix))

    async def finished(self, finished: Finished, result: bytes | None = None) -> None:
        """The last change: every channel that logged it hears of it, and arq's queue forgets the job."""
        await self.tell(finished, result)

    def tell(self, finished: Finished, result: bytes | None = None) -> asyncio.Future[Any]:
        """The same, for who need not wait for Redis."""
        job = finished.job
        if finished.called:
            self._called()
        told = self._publisher.event(finished.places, wire.event(job, result, self._prefix))
        started = job.started_at or job.created_at
        duration = ((job.finished_at or job.changed_at) - started).total_seconds()
        telemetry.emit("job.finished", {"duration": duration}, {"job": job.name, "status": job.status.value})
        href = f"{self._prefix}/v1/jobs/{job.id}/result"
        success = job.status is JobStatus.SUCCEEDED
        dequeued = self._dequeue.put((job.id, self._queue.result_of(job.id, job.name, success, href)))
        return asyncio.gather(told, dequeued)

    async def _finish(self, jobs: Sequence[tuple[str, bytes]]) -> list[None]:
        try:
            await self._queue.finish(jobs)
        except FAULTS as error:
            # Whoever claims it from the queue finds in PostgreSQL that it is finished.
            away("taking finished jobs off the queue", error)
        return [None] * len(jobs)
