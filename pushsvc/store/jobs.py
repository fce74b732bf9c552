"""The one module where a job's state changes. Every change is one guarded statement over a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Literal, TypeVar

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
from ..errors import Gone, KeyReused, Unavailable
from . import start_statements as starts
from . import statements as sql
from . import submission_statements as submissions
from .batching import Batcher
from .postgres import FOREVER, PATIENCE, Connection, Postgres
from .waiting import Limit, Waiting

T = TypeVar("T")
Ask = Callable[..., Awaitable[list[asyncpg.Record]]]

UNDECIDED_PAUSE = 0.05
"""Seconds between two looks whether a key is free."""


class _Undecided(Exception):
    """A key is just being decided by another transaction: nothing of this one stays."""


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
        self._inserted: Batcher[Submission, Accepted | None] = Batcher("insert", self._insert)
        self.finish: Batcher[Outcome, Finished | None] = Batcher("finish", self._finish, limit=100)
        self.requeue: Batcher[Requeue, Job | None] = Batcher("requeue", self._requeue)

    # Submission

    async def insert(self, submission: Submission) -> Accepted:
        """The job, or the one that it is the same as. Raises KeyReused; Gone where its key is that of a job which has
        been purged; Unavailable, also when its key is not free to be decided in time."""
        return await self._decided(lambda: self._inserted(submission))

    async def insert_all(self, asked: Sequence[Submission]) -> list[Accepted]:
        """All of them, or none; raises what `insert` does."""

        async def together(connection: Connection) -> list[Accepted] | None:
            async with connection.transaction():
                found = await self._insert(asked, self._by(connection))
                if None in found:
                    raise _Undecided
            return [each for each in found if each is not None]

        async def tried() -> list[Accepted] | None:
            try:
                return await self._postgres.run(together)
            except _Undecided:
                return None

        return await self._decided(tried)

    async def insert_by(self, connection: Connection, submission: Submission) -> list[Accepted]:
        """Store one without a key by a connection that is in a transaction."""
        found = await self._insert([submission], self._by(connection))
        return [each for each in found if each is not None]

    def _by(self, connection: Connection) -> Ask:
        """Asks by this very connection."""
        return lambda statement, *args: connection.fetch(statement, self._postgres.deployment, *args)

    async def _decided(self, insert: Callable[[], Awaitable[T | None]]) -> T:
        """Try again while somebody's open transaction has a key: neither a connection nor anybody else waits."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE
        while (answer := await insert()) is None:
            if loop.time() > give_up:
                raise Unavailable("a transaction that is still open submits a job with the same key", retry_after=1)
            await asyncio.sleep(UNDECIDED_PAUSE)
        return answer

    async def _insert(self, batch: Sequence[Submission], ask: Ask | None = None) -> list[Accepted | None]:
        """None for one whose key is just being decided by another transaction."""
        ask = ask or self._postgres.ask
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
            [s.parent for s in batch],
            [s.queue for s in batch],
        )
        plain = all(s.key is None and s.mark is None for s in batch)
        rows = await ask(submissions.INSERT_PLAIN_JOBS if plain else submissions.INSERT_JOBS, *columns)
        stored = {row["id"]: _accepted(row) for row in rows}
        missing = [s for s in batch if s.id not in stored]
        if missing:
            stored |= await self._already_there(missing, ask)
        if unstored := [s for s in batch if s.id not in stored and s.key is None]:
            # What they would have joined has ended between the two statements, so now there is room.
            again = await self._insert(unstored, ask)
            stored |= {s.id: each for s, each in zip(unstored, again, strict=True) if each is not None}
        return [replace(stored[s.id], mark=s.mark) if s.id in stored else None for s in batch]

    async def _already_there(self, asked: Sequence[Submission], ask: Ask) -> dict[str, Accepted]:
        """The jobs that kept these from being stored: this very insert, repeated; one of the same key; an
        equal one in flight that it coalesces with."""
        found: dict[str, Accepted] = {}
        for submission in asked:
            if rows := await ask(sql.JOB_BY_ID, submission.tenant, submission.id):
                found[submission.id] = Accepted(job_of(rows[0]))
        others = [s for s in asked if s.id not in found]
        keyed = [s for s in others if s.key is not None]
        return found | await self._of_keys(keyed, ask) | await self._join([s for s in others if s.key is None], ask)

    async def _of_keys(self, asked: Sequence[Submission], ask: Ask) -> dict[str, Accepted]:
        if not asked:
            return {}
        rows = await ask(
            submissions.JOBS_OF_KEYS,
            [s.id for s in asked],
            [s.tenant for s in asked],
            [s.owner or "" for s in asked],
            [s.key for s in asked],
        )
        digests = {s.id: s.digest for s in asked}
        if any(row["digest"] != digests[row["asked"]] for row in rows):
            raise KeyReused("use another Idempotency-Key for another payload")
        if any(row["id"] is None for row in rows):
            raise Gone("the job of this Idempotency-Key is past its retention")
        return {row["asked"]: _accepted(row) for row in rows}

    async def _join(self, asked: Sequence[Submission], ask: Ask) -> dict[str, Accepted]:
        """Become one more audience of an equal job in flight, unless that is being cancelled."""
        if not asked:
            return {}
        rows = await ask(
            submissions.JOIN_JOBS,
            [s.id for s in asked],
            [s.tenant for s in asked],
            [s.owner or "" for s in asked],
            [s.digest for s in asked],
            [s.mark for s in asked],
        )
        return {row["asked"]: _accepted(row) for row in rows}

    async def queued(self, limit: int) -> int:
        """How many jobs wait, counted up to `limit`."""
        return int((await self._postgres.ask(sql.QUEUED_COUNT, limit))[0][0])

    async def waiting(self, limit: int) -> list[tuple[str, int, float]]:
        """Of each queue how many due jobs wait, and for how many seconds the first; of as many as `limit` in all."""
        rows = await self._postgres.ask(sql.WAITING_BY_QUEUE, limit)
        return [(row["queue"], row["waiting"], row["longest"]) for row in rows]

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

    async def of_ids(self, tenant: str, owner: str, jobs: Sequence[str]) -> list[Job]:
        """Those of the owner's, newest first."""
        return [job_of(row) for row in await self._postgres.ask(sql.JOBS_BY_IDS, tenant, owner, jobs)]

    async def children(self, parent: str, limit: int) -> list[Job]:
        """What a job has submitted, is in flight and is not being cancelled."""
        return [job_of(row) for row in await self._postgres.ask(sql.CHILDREN_IN_FLIGHT, parent, limit)]

    # The worker's changes

    async def start(
        self, jobs: Sequence[str], worker: str, lease: float, but: Sequence[str] = ()
    ) -> Mapping[str, Claim]:
        """Start those that are due, or whose worker is lost, but for jobs of some names; the rest are missing from
        the answer."""
        rows = await self._postgres.ask(starts.START_JOBS, jobs, worker, lease, MAX_LOSSES, but)
        return {row["id"]: claim_of(row) for row in rows}

    async def start_limited(
        self, jobs: Sequence[str], worker: str, lease: float, limits: Sequence[Limit]
    ) -> tuple[Mapping[str, Claim], list[tuple[str, bool]]]:
        """Start those of the limited jobs for which there is room; and those for which there is none, with whether it
        is their owner's limit."""
        names = [limit.name for limit in limits]
        most, each = [limit.most for limit in limits], [limit.most_each for limit in limits]
        deployment = self._postgres.deployment

        async def locked(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute(starts.LOCK_LIMITS, deployment, jobs, names)
            asked = (deployment, jobs, worker, lease, MAX_LOSSES, names, most, each)
            return list(await connection.fetch(starts.START_LIMITED, *asked))

        rows = await self._postgres.run(locked, transaction=True)
        claims = {row["id"]: claim_of(row) for row in rows if row["id"] is not None}
        return claims, [(row["asked"], not row["fits"]) for row in rows if row["id"] is None]

    async def running(self, names: Sequence[str]) -> Mapping[tuple[str, str, str], int]:
        """How many run of each of these, by name, tenant and owner."""
        rows = await self._postgres.ask(starts.RUNNING, names)
        return {(row["name"], row["tenant"], row["owner"]): row["running"] for row in rows}

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
            sql.FINISH_RECORDED_JOBS if any(o.recorded for o in given) else sql.FINISH_JOBS,
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

    async def queued_page(self, after: tuple[datetime, str], limit: int) -> list[tuple[Waiting, datetime]]:
        """Queued jobs by due time, each with its run_at."""
        rows = await self._postgres.ask(sql.QUEUED_PAGE, *after, limit)
        return [(Waiting(*row[:-1]), row["run_at"]) for row in rows]

    async def lapsed(self, limit: int) -> list[tuple[Waiting, int, int]]:
        """Running jobs whose lease has run out, each with its version and how many workers it has lost so far."""
        rows = await self._postgres.ask(sql.LAPSED, limit)
        return [(Waiting(*row[:-2]), row["version"], row["losses"]) for row in rows]

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
        parent=row["parent"],
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
