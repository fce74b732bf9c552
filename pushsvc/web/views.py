"""What a job looks like, over HTTP and over a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .. import wire
from ..bus import FAULTS, NO_WEIGHTS, Publisher, Queue, Stand, away
from ..domain import SERVICE_CALLBACK, Job, JobStatus, format_cursor, job_channel, timestamp
from ..store.batching import Batcher
from ..tasks import within

TOLD_WITHIN = 0.5
"""Seconds that Redis keeps a look at a job waiting at most."""


class JobViews:
    """Jobs as JSON. `prefix` is where the API is mounted, for links of which no request says it."""

    def __init__(
        self, queue: Queue, publisher: Publisher, prefix: str = "", weights: Mapping[str, float] = NO_WEIGHTS
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._weights = weights
        self._stand: Batcher[str, Stand | None] = Batcher("place", self._look)
        self._prefix = prefix

    def path(self, job: Job, prefix: str | None = None) -> str:
        return f"{self._prefix if prefix is None else prefix}/v1/jobs/{job.id}"

    def _links(self, job: Job, mark: str | None, prefix: str | None) -> Mapping[str, str]:
        prefix = self._prefix if prefix is None else prefix
        path = self.path(job, prefix)
        channel = job_channel(job.id)
        own = job.callback_url not in (None, SERVICE_CALLBACK)
        called = {"webhooks": f"{prefix}/v1/webhooks?job={job.id}"} if own else {}
        return {
            "self": path,
            "result": f"{path}/result",
            "cancel": f"{path}/cancel" + (f"?mark={mark}" if mark else ""),
            "events": f"{prefix}/v1/events?channels={channel}",
        } | called

    async def _look(self, jobs: Sequence[str]) -> list[Stand | None]:
        try:
            return [*await within(TOLD_WITHIN, self._queue.stand(jobs, self._weights))]
        except FAULTS as error:
            away("looking where jobs stand in the queue", error)
            return [None] * len(jobs)

    async def view(
        self,
        job: Job,
        cursor: str | None = None,
        mark: str | None = None,
        prefix: str | None = None,
        *,
        placed: bool = True,
    ) -> bytes:
        """The job; `cursor` is where to listen from, by default its own channel's position. With the `mark` of a
        submission its link cancels for that one only. `prefix` is where the request found the API. `placed`: with
        its place in the queue, which has to be counted."""
        progress, stand = None, None
        if job.attempt and not job.status.terminal:
            progress = await self._publisher.last_progress(job.id)
        if placed and job.status is JobStatus.QUEUED:
            stand = await self._stand(job.id)
        view: dict[str, Any] = {
            "id": job.id,
            "job": job.name,
            "status": job.status.value,
            "version": job.version,
            "attempt": job.attempt,
            "progress": wire.load(progress) if progress else None,
            "queue_position": stand.ahead if stand else None,
            "waiting_for": _waiting_for(job, stand),
            "created_at": timestamp(job.created_at),
            "started_at": timestamp(job.started_at) if job.started_at else None,
            "finished_at": timestamp(job.finished_at) if job.finished_at else None,
            "expires_at": timestamp(job.expires_at) if job.expires_at else None,
            "error": wire.problem_of(job.error) if job.error else None,
            "links": self._links(job, mark, prefix),
            "cursor": cursor or format_cursor([job.position]),
        }
        return wire.dump(view)


def _waiting_for(job: Job, stand: Stand | None) -> str | None:
    """What a queued job waits for; None where nothing keeps it, or it is not known."""
    if job.status is not JobStatus.QUEUED:
        return None
    if job.run_at > datetime.now(UTC):
        return "its time"
    if stand is None or stand.state == "claimed":
        return None
    if not stand.workers:
        return "a worker"
    return {"parked": "a limit", "ready": "its turn"}.get(stand.state)
