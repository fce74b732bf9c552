"""A job of our own that goes all the way: stored, queued, run by a worker, its result committed and pushed.

Workers know it beside the author's jobs; the API does not, so nobody can submit it. It leaves nothing: it
belongs to nobody, is logged in no inbox, and its row and its keys are deleted when it is done. Should we die
meanwhile, its deadline and its retention, both short, have the sweeper delete it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .. import wire
from ..bus import Publisher, Queue, Queued, Subscriber
from ..domain import Channel, Job, JobId, JobStatus, Outcome, Submission, job_channel, new_job_id
from ..errors import JobCancelled, JobError, SettingsError
from ..jobs import JobContext, JobSpec, Registry, params_model
from ..store import JobStore, Retention

NAME = "pushsvc.probe"
TENANT = "pushsvc"
WORKER_PATIENCE = 1.5
"""Seconds for a worker with room to take a wake-up; it waits for nothing else."""
PATIENCE = 10.0
"""Seconds for the job to be done and its result to be heard."""
DEADLINE = 60.0
LOOK_EVERY = 0.05

_RETENTION = 0.001


async def run_probe(ctx: JobContext, databases: list[str]) -> dict[str, float]:
    """Asks each database one query, side by side; the milliseconds until each had answered."""
    begun = time.monotonic()
    try:
        asked = {name: ctx.database(name).load_async(sa.select(sa.literal(1))) for name in databases}
    except SettingsError as error:
        # It is the operator who hears of it.
        raise JobError(str(error)) from error
    answered = {}
    for name, promise in asked.items():
        await promise
        answered[name] = (time.monotonic() - begun) * 1000
    return answered


class ProbedRegistry(Registry):
    """The author's jobs for a worker, which finds the probe too; it is neither counted nor listed."""

    def __init__(self, jobs: Registry) -> None:
        super().__init__()
        self._authors = jobs
        params, context = params_model(NAME, run_probe)
        self._probe = JobSpec(
            name=NAME,
            function=run_probe,
            timeout=PATIENCE,
            retention=_RETENTION,
            max_attempts=1,
            coalesce=False,
            params=params,
            context=context,
        )

    def get(self, name: str) -> JobSpec:
        """Raises UnknownJob."""
        return self._probe if name == NAME else self._authors.get(name)

    def __iter__(self) -> Any:
        return iter(self._authors)

    def __len__(self) -> int:
        return len(self._authors)


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of the probe; times in seconds since it began to be stored.

    `taken` is how long a wake-up waited for a worker, None if none had room; then nothing was submitted.
    `error` is what kept the job from succeeding.
    """

    taken: float | None
    stored: float | None = None
    done: float | None = None
    pushed: float | None = None
    error: str | None = None


class Probe:
    """Sends the probe on its way and watches it."""

    def __init__(
        self, store: JobStore, retention: Retention, queue: Queue, publisher: Publisher, bus_url: str
    ) -> None:
        self._store = store
        self._retention = retention
        self._queue = queue
        self._publisher = publisher
        self._id = new_job_id()
        self._heard = asyncio.Event()
        self._connected = asyncio.Event()
        self._topic = publisher.scope.topic(Channel(TENANT, job_channel(self._id)))
        self._bus = Subscriber(bus_url, {self._topic.encode(): self._received}, self._connected.set)

    async def run(self, databases: Sequence[str]) -> Probed:
        """All the way, once. Raises Unavailable or what FAULTS lists when PostgreSQL or Redis is away."""
        taken = await self._queue.taken(f"probe-{self._id}", WORKER_PATIENCE)
        if taken is None:
            return Probed(None)
        self._bus.start()
        try:
            async with asyncio.timeout(WORKER_PATIENCE):
                await self._connected.wait()
            await self._bus.subscribe(self._topic)
            return await self._submitted(taken, databases)
        except TimeoutError:
            return Probed(taken, error="pub/sub did not connect")
        finally:
            await self._bus.stop()

    def _received(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            parsed = wire.parse_bus(message)
            if isinstance(parsed, tuple) and wire.is_final(parsed[1]):
                self._heard.set()

    async def _submitted(self, taken: float, databases: Sequence[str]) -> Probed:
        begun = time.monotonic()
        await self._store.insert(_submission(self._id, databases))
        stored = time.monotonic() - begun
        try:
            await self._queue.enqueue([Queued(self._id, NAME, time.time())])
            job, pushed = await self._watched(begun)
            done = time.monotonic() - begun if pushed is None else pushed
            if job is None or not job.status.terminal:
                return Probed(taken, stored, error=f"it was not done within {PATIENCE:g} s{_why(job)}")
            if job.status is not JobStatus.SUCCEEDED:
                return Probed(taken, stored, done, pushed, error=f"it {job.status.value}{_why(job)}")
            return Probed(taken, stored, done, pushed)
        finally:
            await asyncio.shield(self._clean_up())

    async def _watched(self, begun: float) -> tuple[Job | None, float | None]:
        """The job when it has ended or can't be waited for any longer, and when its end was heard, if it was."""
        job = None
        while time.monotonic() < begun + PATIENCE:
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._heard.wait()
                pushed = time.monotonic() - begun
                return await self._store.get(TENANT, self._id), pushed
            except TimeoutError:
                # Pub/sub may be what is broken.
                ended = job is not None and job.status.terminal
                job = await self._store.get(TENANT, self._id)
                if ended:
                    break
        return job, None

    async def _clean_up(self) -> None:
        """Leave nothing: whatever is still to come of it ends here."""
        job = await self._store.get(TENANT, self._id)
        if job is not None and not job.status.terminal:
            error = wire.dump(JobCancelled().problem()).decode()
            await self._store.finish(Outcome(job.id, job.version, JobStatus.CANCELLED, error=error))
        give_up = time.monotonic() + WORKER_PATIENCE
        while not await self._queue.missing([self._id]) and time.monotonic() < give_up:  # noqa: ASYNC110  a worker's doing
            await asyncio.sleep(LOOK_EVERY / 10)
        await self._queue.forget([self._id])
        await self._publisher.forget_progress(self._id)
        await self._retention.purge(1000)


def _why(job: Job | None) -> str:
    """What its last error says, if it had one."""
    problem = wire.problem_of(job.error) if job is not None and job.error else {}
    return f": {problem.get('detail') or problem.get('title')}" if problem else ""


def _submission(job: JobId, databases: Sequence[str]) -> Submission:
    return Submission(
        id=job,
        tenant=TENANT,
        owner=None,
        name=NAME,
        params=wire.dump({"databases": list(databases)}).decode(),
        timeout=PATIENCE,
        retention=_RETENTION,
        max_attempts=1,
        deadline=datetime.now(UTC) + timedelta(seconds=DEADLINE),
    )
