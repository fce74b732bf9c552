"""From a request to an accepted job: checked, stored, and only then put on the queue."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field

from .. import telemetry
from ..access import Targets, need_publish
from ..bus import FAULTS, Queue, Queued, away
from ..domain import (
    SERVICE_CALLBACK,
    Accepted,
    JobStatus,
    Principal,
    Submission,
    check_channel,
    check_moment,
    new_job_id,
)
from ..errors import BadRequest, QueueFull, Unavailable, UnknownJob
from ..settings import Settings
from ..store import JobStore
from ..store.batching import Batcher
from ..tasks import Background
from ..text import Name
from .payload import digest
from .registry import JobSpec, Registry

logger = logging.getLogger(__name__)

DEPTH_EVERY = 1.0
"""Seconds for which a count of the queue is good enough to refuse by."""


class JobRequest(BaseModel, extra="forbid"):
    """The body of `POST /v1/jobs`. `run_at` and `deadline` are RFC 3339 with an offset."""

    job: Name
    params: dict[str, Any] = {}
    channels: Annotated[list[str], Field(max_length=20)] = []
    callback_url: str | None = None
    run_at: AwareDatetime | None = None
    deadline: AwareDatetime | None = None


class Submitter:
    """Accepts jobs."""

    def __init__(self, registry: Registry, store: JobStore, queue: Queue, settings: Settings) -> None:
        self._registry = registry
        self._store = store
        self._queue = queue
        self._limit = settings.queue_limit
        self._targets = Targets(settings.webhook_allow)
        self._callback = SERVICE_CALLBACK if settings.callback_url else None
        self._enqueue: Batcher[Queued, None] = Batcher("enqueue", self._put)
        self._depth = 0
        self._depth_at = float("-inf")
        self._background = Background()

    async def submit(self, principal: Principal, request: JobRequest, key: str | None = None) -> Accepted:
        """Store the job, then wake a worker. The answer holds the job, or the one that `key` or an equal
        job in flight (`coalesce`) stands for.

        Raises UnknownJob, InvalidParams, BadRequest, Forbidden, KeyReused, QueueFull: nothing is stored then.
        Raises Unavailable when PostgreSQL is away.
        """
        return await self.accept(self._check(principal, request, key))

    async def accept(self, submission: Submission) -> Accepted:
        """Store what has been checked, as `submit` does. Raises KeyReused, QueueFull: nothing is stored then; and
        Unavailable: then it may have been."""
        self.refuse_when_full()
        accepted = await self._store.insert(submission)
        job = accepted.job
        if job.status is JobStatus.QUEUED:
            # Not awaited: the job is safe in PostgreSQL, and the sweeper queues what never got this far.
            self._enqueue.put(Queued(job.id, job.name, job.run_at.timestamp()))
        if job.id == submission.id:
            telemetry.emit("job.submitted", {"count": 1}, {"job": job.name})
        return accepted

    def _check(self, principal: Principal, request: JobRequest, key: str | None) -> Submission:
        spec = self._registry.get(request.job)
        if spec.recorded:
            raise UnknownJob(f"{request.job} is an endpoint: send it a request")
        params = spec.validate(request.params)
        channels = tuple(dict.fromkeys(check_channel(name) for name in request.channels))
        if bad := [name for name in channels if name.startswith("job:")]:
            raise BadRequest(f"results can't be logged in {bad[0]}: a job's channel is its own")
        need_publish(principal, channels)
        run_at = None if request.run_at is None else check_moment(request.run_at, "run_at")
        deadline = None if request.deadline is None else check_moment(request.deadline, "deadline")
        if deadline is not None and deadline <= max(run_at or _now(), _now()):
            raise BadRequest("the deadline is over before the job could run")
        callback = None if request.callback_url is None else self._targets.check(request.callback_url)
        made = _submission(principal, request, key, spec, params, channels, callback)
        return made if callback else replace(made, callback_url=self._callback)

    def refuse_when_full(self) -> None:
        """Raises QueueFull by a count at most a little old; counting never delays a submission."""
        now = time.monotonic()
        if now - self._depth_at > DEPTH_EVERY and not self._background:
            self._background.start("counting the queue", self._count())
        if self._depth >= self._limit:
            raise QueueFull(f"{self._limit} jobs are waiting", retry_after=5)

    async def _count(self) -> None:
        try:
            self._depth = await self._store.queued(self._limit)
            self._depth_at = time.monotonic()
        except Unavailable:
            logger.debug("the queue was not counted, PostgreSQL is away")

    async def _put(self, jobs: Sequence[Queued]) -> list[None]:
        try:
            await self._queue.enqueue(jobs)
        except FAULTS as error:
            # The sweeper queues them.
            away("queueing jobs", error)
        return [None] * len(jobs)


def _submission(
    principal: Principal,
    request: JobRequest,
    key: str | None,
    spec: JobSpec,
    params: str,
    channels: tuple[str, ...],
    callback: str | None,
) -> Submission:
    asked = spec.instants.in_utc(spec.filled(params))
    coalesce = spec.coalesce and key is None
    return Submission(
        id=new_job_id(),
        tenant=principal.tenant,
        owner=principal.subject,
        name=spec.name,
        params=params,
        timeout=spec.timeout,
        retention=spec.retention,
        max_attempts=spec.max_attempts,
        run_at=request.run_at,
        deadline=request.deadline,
        channels=tuple(name for name in channels if name != f"user:{principal.subject}"),
        callback_url=callback,
        key=key,
        digest=digest(spec.name, asked, channels, request.run_at, request.deadline, callback),
        coalesce=coalesce,
        mark=secrets.token_urlsafe(12) if coalesce else None,
    )


def _now() -> datetime:
    return datetime.now(UTC)
