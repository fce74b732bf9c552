"""The one door by which a job is accepted: checked, stored, and only then put on the queue."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field

from .. import telemetry
from ..access import Targets, need_publish
from ..bus import FAULTS, Queue, Queued, away
from ..domain import (
    SERVICE_CALLBACK,
    Accepted,
    Channel,
    Principal,
    Submission,
    check_channel,
    check_moment,
    check_queue,
    inbox,
    new_job_id,
)
from ..errors import BadRequest, PushsvcError, QueueFull, Unavailable, UnknownJob
from ..settings import Settings
from ..store import EventStore, JobStore, TickStore, Within
from ..store.batching import Batcher
from ..tasks import Background
from ..text import Name
from .options import NO_OPTIONS, PRIORITIES, Priority, SubmitOptions
from .payload import digest
from .registry import Registry

logger = logging.getLogger(__name__)

DEPTH_EVERY = 1.0
"""Seconds for which a count of the queue is good enough to refuse by."""


QUEUED_WITHIN = 0.1
"""Seconds that a submission waits for Redis at most."""

INBOXES_REMEMBERED = 100_000


class JobRequest(BaseModel, extra="forbid"):
    """The body of `POST /v1/jobs`. `run_at` and `deadline` are RFC 3339 with an offset."""

    job: Name
    params: dict[str, Any] = {}
    channels: Annotated[list[str], Field(max_length=20)] = []
    callback_url: str | None = None
    run_at: AwareDatetime | None = None
    deadline: AwareDatetime | None = None
    priority: Priority | None = None
    queue: str | None = None

    @property
    def options(self) -> SubmitOptions:
        said = (self.channels, self.callback_url, self.run_at, self.deadline, self.priority, self.queue)
        return SubmitOptions(*said)


class BatchRequest(BaseModel, extra="forbid"):
    """The body of `POST /v1/jobs/batch`."""

    jobs: Annotated[list[JobRequest], Field(min_length=1, max_length=500)]


class Submitter:
    """Accepts jobs, and says from where on their submitters hear of them."""

    def __init__(
        self,
        registry: Registry,
        store: JobStore,
        within: Within,
        events: EventStore,
        queue: Queue,
        settings: Settings,
    ) -> None:
        self._registry = registry
        self._store = store
        self._within = within
        self._events = events
        self._opened: set[Channel] = set()
        self._queue = queue
        self._limit = settings.queue_limit
        self._targets = Targets(settings.webhook_allow)
        self._callback = SERVICE_CALLBACK if settings.callback_url else None
        self._enqueue: Batcher[Queued, None] = Batcher("enqueue", self._put)
        self._depth = 0
        self._depth_at = float("-inf")
        self._background = Background()

    async def submit(
        self,
        principal: Principal,
        job: str,
        params: Mapping[str, Any],
        key: str | None = None,
        options: SubmitOptions = NO_OPTIONS,
    ) -> Accepted:
        """Store the job of this name, then wake a worker. The answer holds the job, or the one that `key` or an
        equal job in flight (`coalesce`) stands for.

        Raises UnknownJob, InvalidParams, BadRequest, Forbidden, KeyReused, QueueFull: nothing is stored then.
        Raises Unavailable when PostgreSQL is away.
        """
        submission = self.check(principal.tenant, principal.subject, job, params, key, options)
        need_publish(principal, submission.channels)
        return await self.accept(submission)

    async def submit_all(
        self, principal: Principal, requests: Sequence[JobRequest], key: str | None = None
    ) -> list[Accepted]:
        """Store all of these jobs, or none. `key` stands for the whole batch: with it come the same jobs again.

        Raises what `submit` does; where it is one job's fault, `index` in the problem says which one's.
        """
        asked = [self._member(principal, index, request) for index, request in enumerate(requests)]
        if key is not None:
            whole = digest(*(each.digest for each in asked))
            asked = [
                replace(each, key=f"{key}\x1f{index}", digest=whole, coalesce=False, mark=None)
                for index, each in enumerate(asked)
            ]
        return await self.accept_all(asked)

    def _member(self, principal: Principal, index: int, request: JobRequest) -> Submission:
        try:
            tenant, owner = principal.tenant, principal.subject
            submission = self.check(tenant, owner, request.job, request.params, options=request.options)
            need_publish(principal, submission.channels)
            return submission
        except PushsvcError as error:
            error.extra["index"] = index
            raise

    async def accept(self, submission: Submission) -> Accepted:
        """Store what has been checked, as `submit` does. Raises KeyReused, QueueFull: nothing is stored then; and
        Unavailable: then it may have been."""
        if submission.owner is not None:
            await self._open_inbox(Channel(submission.tenant, inbox(submission.owner)))
        self.refuse_when_full()
        accepted = await self._store.insert(submission)
        if (queued := self._queue_soon(accepted, submission)) is not None:
            # For its place in the queue; the job itself is safe without.
            await asyncio.wait([queued], timeout=QUEUED_WITHIN)
        return accepted

    async def accept_all(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """All of them, or none; raises what `accept` does."""
        for channel in {Channel(each.tenant, inbox(each.owner)) for each in submissions if each.owner is not None}:
            await self._open_inbox(channel)
        self.refuse_when_full()
        stored = await self._store.insert_all(submissions)
        for accepted, submission in zip(stored, submissions, strict=True):
            self._queue_soon(accepted, submission)
        return stored

    async def accept_tick(self, ticks: TickStore, schedule: str, at: datetime, submission: Submission) -> None:
        """Store the job of a schedule's tick, unless somebody else has. Raises Unavailable."""
        if submission.owner is not None:
            await self._open_inbox(Channel(submission.tenant, inbox(submission.owner)))
        accepted = await ticks.submit(schedule, at, submission)
        if accepted is not None:
            self._queue_soon(accepted, submission)

    async def within(self, submission: Submission) -> Callable[[Any, Submission], Awaitable[str]]:
        """What stores the job by an author's own transaction, and gives its id. Nobody puts it on the queue here:
        that is done when the transaction has been committed. Raises QueueFull, Unavailable."""
        if submission.owner is not None:
            await self._open_inbox(Channel(submission.tenant, inbox(submission.owner)))
        self.refuse_when_full()
        return partial(self._within.insert, place=await self._within.place())

    def _queue_soon(self, accepted: Accepted, submission: Submission) -> asyncio.Future[None] | None:
        """Put it on the queue if it is this very submission's: the job is safe in PostgreSQL, and the sweeper queues
        what never got this far."""
        job = accepted.job
        if job.id != submission.id:
            return None
        telemetry.emit("job.submitted", {"count": 1}, {"job": job.name})
        whose = (job.tenant, job.owner or "", submission.queue, submission.priority)
        return self._enqueue.put(Queued(job.id, job.name, job.run_at.timestamp(), *whose))

    def check(
        self,
        tenant: str,
        owner: str | None,
        job: str,
        params: Mapping[str, Any],
        key: str | None = None,
        options: SubmitOptions = NO_OPTIONS,
    ) -> Submission:
        """What is to be stored. Raises UnknownJob, InvalidParams, BadRequest."""
        spec = self._registry.get(job)
        if spec.recorded:
            raise UnknownJob(f"{job} is an endpoint: send it a request")
        text = spec.validate(params)
        channels = tuple(dict.fromkeys(check_channel(name) for name in options.channels))
        if bad := [name for name in channels if name.startswith("job:")]:
            raise BadRequest(f"results can't be logged in {bad[0]}: a job's channel is its own")
        run_at = None if options.run_at is None else check_moment(options.run_at, "run_at")
        deadline = None if options.deadline is None else check_moment(options.deadline, "deadline")
        if deadline is not None and deadline <= max(run_at or _now(), _now()):
            raise BadRequest("the deadline is over before the job could run")
        callback = None if options.callback_url is None else self._targets.check(options.callback_url)
        asked = spec.instants.in_utc(spec.filled(text))
        coalesce = spec.coalesce and key is None
        return Submission(
            id=new_job_id(),
            tenant=tenant,
            owner=owner,
            name=spec.name,
            params=text,
            timeout=spec.timeout,
            retention=spec.retention,
            max_attempts=spec.max_attempts,
            priority=PRIORITIES[options.priority or spec.priority],
            queue=spec.queue if options.queue is None else check_queue(options.queue),
            run_at=options.run_at,
            deadline=options.deadline,
            channels=tuple(name for name in channels if owner is None or name != inbox(owner)),
            callback_url=callback or self._callback,
            key=key,
            digest=digest(spec.name, asked, channels, options.run_at, options.deadline, callback),
            coalesce=coalesce,
            mark=secrets.token_urlsafe(12) if coalesce else None,
        )

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

    async def _open_inbox(self, channel: Channel) -> None:
        """Make sure that the submitter's inbox has a position, once a process."""
        if channel not in self._opened:
            await self._events.states([channel])
            if len(self._opened) >= INBOXES_REMEMBERED:
                self._opened.clear()
            self._opened.add(channel)

    async def _put(self, jobs: Sequence[Queued]) -> list[None]:
        try:
            await self._queue.enqueue(jobs)
        except FAULTS as error:
            # The sweeper queues them.
            away("queueing jobs", error)
        return [None] * len(jobs)


def _now() -> datetime:
    return datetime.now(UTC)
