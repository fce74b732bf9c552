"""Writing a request down, sealed, piece by piece; no connection is held while the client is waited for."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from ..domain import JobId
from ..errors import PushsvcError
from ..store import Record, RecordStore
from .body import Body
from .record import RecordedRequest
from .sealing import Seals

PIECE = 256 * 1024
"""Bytes of a body that are sealed and committed at a time."""


class Recorder:
    """Records requests. What was written of one that fails is removed; what can't be, the sweeper finds."""

    def __init__(self, records: RecordStore, seals: Seals) -> None:
        self._records = records
        self._seals = seals

    async def record(self, job: JobId, tenant: str, request: RecordedRequest, body: Body, *, keep: bool) -> bytes:
        """Write it down under the id of the job that it is to be; the SHA-256 of its body.

        Raises TooLarge, ClientDisconnect, and Unavailable without PostgreSQL: then there is no record.
        """
        try:
            return await self._record(job, tenant, request, body, keep)
        except BaseException:
            await self.drop(job)
            raise

    async def _record(self, job: JobId, tenant: str, request: RecordedRequest, body: Body, keep: bool) -> bytes:
        sha256 = hashlib.sha256()
        head = self._seals.seal(request.dump(), job, tenant, "head")
        record = Record(job, tenant, request.target(self._seals), head, None)
        if not request.has_body:
            await self._records.put(Record(job, tenant, record.target, head, 0))
            return sha256.digest()
        number = 0
        async for piece, last in _pieces(body, keep):
            sha256.update(piece)
            sealed = self._seals.seal(piece, *place(job, tenant, number, last))
            if number == 0 and last:
                await self._records.put(Record(job, tenant, record.target, head, 1, sealed))
                return sha256.digest()
            if number == 0:
                await self._records.put(record)
            await self._records.add(job, number, sealed)
            number += 1
        await self._records.complete(job, number)
        return sha256.digest()

    async def drop(self, job: JobId) -> None:
        """Remove what was written; at once if that can be, else the sweeper does."""
        try:
            await self._records.drop([job])
        except PushsvcError:
            pass


def place(job: str, tenant: str, number: int, last: bool) -> tuple[str, ...]:
    """What a piece is sealed for: which it is, and whether it is the last, so that none is missed."""
    return job, tenant, "body", str(number), "last" if last else "more"


async def _pieces(body: Body, keep: bool) -> AsyncIterator[tuple[bytes, bool]]:
    """The body in pieces of PIECE bytes, one at least, and whether each is the last."""
    waiting = bytearray()
    async for chunk in body.chunks(keep=keep):
        waiting += chunk
        while len(waiting) > PIECE:
            yield bytes(waiting[:PIECE]), False
            del waiting[:PIECE]
    yield bytes(waiting), True
