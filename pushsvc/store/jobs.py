"""The one module where a job's state changes. Every change is one guarded statement over a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Literal

import asyncpg

from ..domain import (
    JOB_EPOCH,
    Accepted,
    Channel,
    Claim,
    Job,
    JobId,
    JobStatus,
    Outcome,
    Position,
    Submission,
    job_channel,
)
from ..errors import KeyReused
from . import statements as sql
from .batching import Batcher
from .postgres import FOREVER, Postgres

MAX_LOSSES = 3
"""How many workers may die under one job, beyond the attempts its author allows for errors."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A terminal change that was committed: the job as it is now, and where its event was logged."""

    job: Job
    places: tuple[tuple[Channel, Position], ...]
    called: bool = False
    """Whether a webhook was stored with it, to be sent."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """A running attempt to be put back, due again in `delay` seconds.

    `failed` uses up one of the tries that the job's author allows; `handed back` counts as nothing.
    """

    id: JobId
    version: int
    delay: float
    why: Literal["failed", "handed back"]
    error: str | None = None


class JobStore:
    """Jobs in PostgreSQL. `callback_url` is the service's own, for jobs whose submission named none."""

    def __init__(self, postgres: Postgres, callback_url: str | None = None) -> None:
        self._postgres = postgres
        self._callback_url = callback_url
        self.insert: Batcher[Submission, Accepted] = Batcher("insert", self._insert)
        self.finish: Batcher[Outcome, Finished | None] = Batcher("finish", self._finish, limit=100)
        self.requeue: Batcher[Requeue, Job | None] = Batcher("requeue", self._requeue)

    # Submission

    async def _insert(self, batch: Sequence[Submission]) -> list[Accepted]:
        columns = (
            [s.id for s in batch],
            [s.tenant for s in batch],
            [s.owner for s in batch],
            [s.name for s in batch],
            [s.params for s in batch],
            [s.priority for s in batch],
            [s.timeout for s in batch],
            [s.retention for s in batch],
            [s.max_attempts for s in batch],
            ["\n".join(s.channels) for s in batch],
            [s.callback_url for s in batch],
            [s.key for s in batch],
            [s.digest for s in batch],
            [s.coalesce for s in batch],
            [s.run_at for s in batch],
            [s.deadline for s in batch],
            [s.mark for s in batch],
        )
        rows = await self._postgres.ask(sql.INSERT_JOBS, *columns)
        stored = {row["id"]: _accepted(row) for row in rows}
        missing = [s for s in batch if s.id not in stored]
        if missing:
            stored |= await self._already_there(missing)
        if unstored := [s for s in batch if s.id not in stored]:
            # What they would have joined has ended between the two statements, so now there is room.
            stored |= dict(zip((s.id for s in unstored), await self._insert(unstored), strict=True))
        return [replace(stored[s.id], mark=s.mark) for s in batch]

    async def _already_there(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        """The jobs that kept these from being stored: this very insert, repeated; one of the same key; an
        equal one in flight that it coalesces with."""
        found: dict[str, Accepted] = {}
        for submission in submissions:
            if job := await self.get(submission.tenant, submission.id):
                found[submission.id] = Accepted(job)
        others = [s for s in submissions if s.id not in found]
        keyed = [s for s in others if s.key is not None]
        return found | await self._of_keys(keyed) | await self._join([s for s in others if s.key is None])

    async def _of_keys(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        if not submissions:
            return {}
        rows = await self._postgres.ask(
            sql.JOBS_OF_KEYS,
            [s.id for s in submissions],
            [s.tenant for s in submissions],
            [s.owner or "" for s in submissions],
            [s.key for s in submissions],
        )
        digests = {s.id: s.digest for s in submissions}
        if any(row["digest"] != digests[row["asked"]] for row in rows):
            raise KeyReused("use another Idempotency-Key for another payload")
        return {row["asked"]: _accepted(row) for row in rows}

    async def _join(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        """Become one more audience of an equal job in flight, unless that is being cancelled."""
        if not submissions:
            return {}
        rows = await self._postgres.ask(
            sql.JOIN_JOBS,
            [s.id for s in submissions],
            [s.tenant for s in submissions],
            [s.owner or "" for s in submissions],
            [s.digest for s in submissions],
            [s.mark for s in submissions],
        )
        return {row["asked"]: _accepted(row) for row in rows}

    async def queued(self, limit: int) -> int:
        """How many jobs wait, counted up to `limit`."""
        return int((await self._postgres.ask(sql.QUEUED_COUNT, limit))[0][0])

    # Reading

    async def get(self, tenant: str, job: str) -> Job | None:
        rows = await self._postgres.ask(sql.JOB_BY_ID, tenant, job)
        return job_of(rows[0]) if rows else None

    async def get_with_result(self, tenant: str, job: str) -> tuple[Job, bytes | None] | None:
        rows = await self._postgres.ask(sql.JOB_WITH_RESULT, tenant, job)
        return (job_of(rows[0]), encoded(rows[0]["result"])) if rows else None

    async def seen_by(self, tenant: str, subject: str, jobs: Sequence[str]) -> set[str]:
        """Which of these exist and are the subject's, or nobody's in particular."""
        return {row["id"] for row in await self._postgres.ask(sql.JOBS_THAT_MAY_BE_SEEN, tenant, subject, jobs)}

    async def of_owner(
        self, tenant: str, owner: str, status: str | None, name: str | None, after: str | None, limit: int
    ) -> list[Job]:
        """The owner's jobs, newest first, those older than `after`."""
        rows = await self._postgres.ask(sql.JOBS_OF_OWNER, tenant, owner, status, name, after, limit)
        return [job_of(row) for row in rows]

    async def queue_position(self, job: Job, limit: int = 10_000) -> int:
        """How many due jobs are ahead of it, counted up to `limit`."""
        return int((await self._postgres.ask(sql.QUEUE_POSITION, job.run_at, job.id, limit))[0][0])

    # The worker's changes

    async def start(self, jobs: Sequence[str], worker: str, lease: float) -> Mapping[str, Claim]:
        """Start those that are due, or whose worker is lost; the rest are missing from the answer."""
        rows = await self._postgres.ask(sql.START_JOBS, jobs, worker, lease, MAX_LOSSES)
        return {row["id"]: claim_of(row) for row in rows}

    async def unstarted(self, jobs: Sequence[str]) -> Mapping[str, tuple[JobStatus, float]]:
        """Why these could not be started: the state of each that exists, and in how many seconds it is due."""
        rows = await self._postgres.ask(sql.UNSTARTED, jobs)
        return {row["id"]: (JobStatus(row["status"]), row["due_in"]) for row in rows}

    async def renew(self, held: Sequence[tuple[JobId, int]], lease: float) -> Mapping[str, bool]:
        """Prolong the leases that are still held; the value says whether a cancel was requested."""
        rows = await self._postgres.ask(
            sql.RENEW_LEASES, [job for job, _ in held], [version for _, version in held], lease
        )
        return {row["id"]: row["cancel_requested"] for row in rows}

    async def _requeue(self, batch: Sequence[Requeue]) -> list[Job | None]:
        rows = await self._postgres.ask(
            sql.REQUEUE_JOBS,
            [r.id for r in batch],
            [r.version for r in batch],
            [r.delay for r in batch],
            [r.why for r in batch],
            [r.error for r in batch],
            patience=FOREVER,
        )
        jobs = {row["id"]: job_of(row) for row in rows}
        return [jobs.get(r.id) for r in batch]

    async def _finish(self, batch: Sequence[Outcome]) -> list[Finished | None]:
        """The terminal change. None for an outcome whose version was no longer the job's: it is fenced.

        Waits for PostgreSQL as long as it takes: a result that was computed is not thrown away.
        """
        # Of several endings of one attempt the first counts: the statement may see each only once.
        given = list({(o.id, o.version): o for o in reversed(batch)}.values())
        rows = await self._postgres.ask(
            sql.FINISH_JOBS,
            [o.id for o in given],
            [o.version for o in given],
            [o.status.value for o in given],
            [o.result.decode() if o.result is not None else None for o in given],
            [o.error for o in given],
            [o.inline for o in given],
            [o.sha256 for o in given],
            self._callback_url,
            patience=FOREVER,
        )
        done = _finished(rows)
        doubtful = [o for o in given if o.id not in done]
        if doubtful:
            done |= await self._already(doubtful)
        taken = {id(o): done[o.id] for o in given if o.id in done and done[o.id].job.version == o.version + 1}
        return [taken.get(id(o)) for o in batch]

    async def _already(self, outcomes: Sequence[Outcome]) -> dict[str, Finished]:
        """Outcomes that an earlier try of the same statement has committed, its answer lost on the way."""
        rows = await self._postgres.ask(sql.PLACES_OF_JOBS, [o.id for o in outcomes], patience=FOREVER)
        wanted = {(o.id, o.version + 1, o.status) for o in outcomes}
        return {
            job: finished
            for job, finished in _finished(rows).items()
            if (job, finished.job.version, finished.job.status) in wanted
        }

    async def cancel(self, tenant: str, job: str, mark: str | None = None) -> tuple[Job, bool] | None:
        """Ask that a job in flight be cancelled; the job, and whether it is to end. None if it is not in flight.

        With a mark it is asked for one of its audiences only, and the job is to end when this was the last one;
        None, too, if the job has no audience of this mark.
        """
        if mark is None:
            rows = await self._postgres.ask(sql.CANCEL_JOB, tenant, job)
        else:
            rows = await self._postgres.ask(sql.CANCEL_FOR_ONE, tenant, job, mark)
        return (job_of(rows[0]), rows[0]["cancel_requested"]) if rows else None

    # Sweeping

    async def queued_page(self, after: tuple[datetime, str], limit: int) -> list[tuple[str, str, float, datetime]]:
        """Queued jobs by due time: id, name, due (UNIX seconds), run_at."""
        rows = await self._postgres.ask(sql.QUEUED_PAGE, *after, limit)
        return [(row["id"], row["name"], row["due"], row["run_at"]) for row in rows]

    async def lapsed(self, limit: int) -> list[tuple[JobId, str, int, int]]:
        """Running jobs whose lease has run out: id, name, version, workers lost so far."""
        rows = await self._postgres.ask(sql.LAPSED, limit)
        return [(row["id"], row["name"], row["version"], row["losses"]) for row in rows]

    async def unended_cancels(self, limit: int) -> list[tuple[JobId, int]]:
        """Jobs that were to be cancelled, and which no worker is going to end: id, version."""
        rows = await self._postgres.ask(sql.UNENDED_CANCELS, limit)
        return [(row["id"], row["version"]) for row in rows]

    async def overdue(self, limit: int) -> list[tuple[JobId, int]]:
        """Jobs whose deadline has passed and which no worker is going to end."""
        return [(row["id"], row["version"]) for row in await self._postgres.ask(sql.OVERDUE, limit)]


_FIELDS = tuple(Job.__dataclass_fields__)
_STATUS = _FIELDS.index("status")
_values = itemgetter(*_FIELDS)
_STATES = {status.value: status for status in JobStatus}


def job_of(row: asyncpg.Record) -> Job:
    # By position: a reader of a hundred thousand events makes as many of these.
    values = _values(row)
    return Job(*values[:_STATUS], _STATES[values[_STATUS]], *values[_STATUS + 1 :])  # type: ignore[call-arg]  # it counts each * as any number


def _accepted(row: asyncpg.Record) -> Accepted:
    inbox = None if row["epoch"] is None else Position(row["epoch"], row["top"])
    return Accepted(job_of(row), inbox)


def claim_of(row: asyncpg.Record) -> Claim:
    return Claim(
        job=job_of(row),
        params=row["params"],
        timeout=row["timeout"],
        failures=row["failures"],
        max_attempts=row["max_attempts"],
        deadline=row["deadline"],
        channels=tuple(row["channels"]),
    )


def encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _finished(rows: Sequence[asyncpg.Record]) -> dict[str, Finished]:
    jobs: dict[str, Job] = {}
    called: dict[str, bool] = {}
    places: dict[str, list[tuple[Channel, Position]]] = {}
    for row in rows:
        job = jobs.setdefault(row["id"], job_of(row))
        called[job.id] = row["called"]
        logged = places.setdefault(
            job.id, [(Channel(job.tenant, job_channel(job.id)), Position(JOB_EPOCH, job.version))]
        )
        if row["channel"] is not None:
            logged.append((Channel(job.tenant, row["channel"]), Position(row["epoch"], row["offset"])))
    return {job: Finished(jobs[job], tuple(places[job]), called[job]) for job in jobs}
