"""Recorded requests in PostgreSQL, sealed by who wrote them: a head, and a body in pieces that are committed one by
one. A record is gone in the statement that ends its job; what is kept of its answer goes with the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..domain import JobId
from ..errors import Unavailable
from . import record_statements as sql
from .batching import Batcher
from .postgres import FOREVER, Postgres


@dataclass(frozen=True, slots=True)
class Record:
    """What is written of a request before its body. `first` is its body's only piece; `pieces` how many there are,
    None as long as that is not known."""

    job: JobId
    tenant: str
    target: str
    """The keyed digest of its URL."""
    head: bytes
    pieces: int | None
    first: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """A record whose replay begins. `before` says who has entered it before; None: nobody has."""

    tenant: str
    head: bytes
    pieces: int
    first: bytes | None
    before: str | None


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What is kept of an answer beside the job's result."""

    target: str
    cookies: bytes | None


class RecordStore:
    """Everything here is bytes that only who has the secret can read."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.put: Batcher[Record, None] = Batcher("record", self._put)

    async def _put(self, batch: Sequence[Record]) -> list[None]:
        await self._postgres.ask(
            sql.PUT_RECORDS,
            [r.job for r in batch],
            [r.tenant for r in batch],
            [r.target for r in batch],
            [r.head for r in batch],
            [r.pieces for r in batch],
            [r.first for r in batch],
        )
        return [None] * len(batch)

    async def add(self, job: JobId, number: int, piece: bytes) -> None:
        """One more piece of the body. Raises Unavailable if the record is gone."""
        if not await self._postgres.ask(sql.PUT_PIECE, job, number, piece):
            raise Unavailable("the request took too long to arrive: its record is gone")

    async def complete(self, job: JobId, pieces: int) -> None:
        """All pieces are there. Raises Unavailable if they are not."""
        if not await self._postgres.ask(sql.COMPLETE_RECORD, job, pieces):
            raise Unavailable("the request took too long to arrive: its record is gone")

    async def drop(self, jobs: Sequence[JobId]) -> None:
        await self._postgres.ask(sql.DROP_RECORDS, jobs)

    async def enter(self, job: str, who: str) -> Entered | None:
        """Begin a replay under a name of its own, `who`; None if there is no such record, or not all of it."""
        rows = await self._postgres.ask(sql.ENTER_RECORD, job, who)
        if not rows:
            return None
        row = rows[0]
        before = None if row["entered"] == who else row["entered"]
        return Entered(row["tenant"], row["head"], row["pieces"], row["data"], before)

    async def piece(self, job: str, number: int) -> bytes | None:
        rows = await self._postgres.ask(sql.PIECE, job, number)
        return rows[0]["data"] if rows else None

    async def keep(self, job: str, who: str, cookies: bytes | None, fresh: float = 0.0) -> None:
        """Keep this of the answer, if the replay `who` is still the one that counts. For `fresh` seconds the answer
        may be given again to an equal request."""
        await self._postgres.ask(sql.KEEP_ANSWER, job, who, cookies, fresh, patience=FOREVER)

    async def answer(self, tenant: str, job: str) -> KeptAnswer | None:
        """Of a job that is a recorded request's; else None."""
        rows = await self._postgres.ask(sql.ANSWER, tenant, job)
        return KeptAnswer(rows[0]["target"], rows[0]["cookies"]) if rows else None

    async def fresh(self, tenant: str, owner: str | None, digest: str) -> str | None:
        """The job whose answer is fresh enough to be given again to an equal request."""
        rows = await self._postgres.ask(sql.FRESH_ANSWER, tenant, owner or "", digest)
        return str(rows[0]["job"]) if rows else None
