"""The ticks of periodic jobs in PostgreSQL: each once, whoever looks, and its job with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ..domain import Accepted, Submission
from . import tick_statements as sql
from .jobs import JobStore
from .postgres import Connection, Postgres


@dataclass(frozen=True, slots=True)
class TickState:
    """`last` is None where a schedule has not begun; `flying`, whether the job of its last tick has not ended."""

    schedule: str
    now: datetime
    last: datetime | None
    job: str | None
    flying: bool


class TickStore:
    """What was due, and what came of it."""

    def __init__(self, postgres: Postgres, jobs: JobStore) -> None:
        self._postgres = postgres
        self._jobs = jobs

    async def states(self, schedules: Sequence[str]) -> list[TickState]:
        """Where each schedule stands, by PostgreSQL's clock."""
        rows = await self._postgres.ask(sql.TICK_STATES, schedules)
        return [TickState(row["schedule"], row["now"], row["at"], row["job"], row["flying"]) for row in rows]

    async def note(self, schedule: str, at: datetime, job: str | None = None) -> None:
        """There was a tick, of which nothing came but perhaps that a job is still at it."""
        await self._postgres.ask(sql.PUT_TICK, schedule, at, job)

    async def submit(self, schedule: str, at: datetime, submission: Submission) -> Accepted | None:
        """Store the job of a tick, unless that has been done: both are committed together."""

        async def together(connection: Connection) -> Accepted | None:
            deployment = self._postgres.deployment
            if not await connection.fetch(sql.PUT_TICK, deployment, schedule, at, submission.id):
                return None
            return (await self._jobs.insert_by(connection, submission))[0]

        return await self._postgres.run(together, transaction=True)
