"""Webhooks in PostgreSQL: what is to be sent, what came of each attempt, and which endpoints are disabled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import asyncpg

from .. import wire
from ..domain import Job, Principal
from . import webhook_statements as sql
from .batching import Batcher
from .jobs import encoded, job_of
from .postgres import FOREVER, Postgres

WebhookStatus = Literal["pending", "delivered", "failed", "disabled"]
WEBHOOK_STATUSES: tuple[WebhookStatus, ...] = ("pending", "delivered", "failed", "disabled")


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A webhook that this courier has claimed: its event and where to send it. `version` fences the end.

    `number` counts all of its attempts, `tries` those that have failed since it was made or replayed.
    """

    id: str
    version: int
    number: int
    tries: int
    url: str = field(repr=False)
    host: str
    own: bool
    job: Job
    event: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of an attempt; `duration` in seconds. `pending` means again in `delay` seconds, or `failed` when
    its time is up."""

    webhook: str
    version: int
    number: int
    at: datetime
    duration: float
    code: int | None
    error: str | None
    answer: str | None
    verdict: WebhookStatus
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """One attempt in the log: the receiver's status code and the beginning of its answer, or what went wrong."""

    number: int
    at: datetime
    duration: float
    code: int | None
    error: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook in the log. `own` is whether the submission named the URL: else it is the service's."""

    id: str
    job: str
    tenant: str
    owner: str | None
    own: bool
    url: str = field(repr=False)
    status: WebhookStatus
    attempts: int
    created_at: datetime
    due_at: datetime
    settled_at: datetime | None
    last: AttemptLog | None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose webhooks are looked at: one subject's, or with None a whole tenant's."""

    tenant: str
    owner: str | None

    @classmethod
    def of(cls, principal: Principal) -> Viewer:
        """The subject's own; with the scope `admin` those of its tenant, and of the service's callback URL."""
        return cls(principal.tenant, None if "admin" in principal.scopes else principal.subject)


class WebhookStore:
    """`prefix` is where the HTTP API is mounted: it stands in the links inside events. After `period` seconds
    without success a webhook has failed."""

    def __init__(self, postgres: Postgres, period: float, prefix: str = "") -> None:
        self._postgres = postgres
        self._period = period
        self._prefix = prefix
        self.settle: Batcher[Attempted, WebhookStatus | None] = Batcher("settle", self._settle)

    # The courier's

    async def claim(
        self, after: str, room: int, each: int, rooms: Mapping[str, int], lease: float
    ) -> tuple[list[DueWebhook], int]:
        """Up to `room` due webhooks, beginning with the host that comes after `after`, and at most `each` of one
        host, or what `rooms` says of it; and how many were found to go to a disabled endpoint instead.

        Who has not settled them within `lease` seconds has lost them.
        """
        rows = await self._postgres.ask(
            sql.CLAIM_WEBHOOKS, after, room, each, list(rooms), list(rooms.values()), lease
        )
        return [self._due(row) for row in rows if not row["disabled"]], sum(row["disabled"] for row in rows)

    def _due(self, row: asyncpg.Record) -> DueWebhook:
        job = job_of(row)
        return DueWebhook(
            id=row["webhook"],
            version=row["fence"],
            number=row["number"],
            tries=row["tries"],
            url=row["url"],
            host=row["host"],
            own=row["own"],
            job=job,
            event=wire.event(job, encoded(row["result"]), self._prefix),
        )

    async def next_due(self, since: float) -> float | None:
        """In how many seconds the next one falls due that was not due `since` seconds ago, when a claim began."""
        seconds: float | None = (await self._postgres.ask(sql.NEXT_DUE, since))[0]["seconds"]
        return seconds

    async def hand_back(self, webhooks: Sequence[DueWebhook]) -> None:
        """Whoever is next may claim them at once."""
        await self._postgres.ask(
            sql.HAND_BACK_WEBHOOKS, [each.id for each in webhooks], [each.version for each in webhooks]
        )

    async def _settle(self, batch: Sequence[Attempted]) -> list[WebhookStatus | None]:
        """The status that each has now; None if the attempt was fenced. It is in the log all the same."""
        rows = await self._postgres.ask(
            sql.SETTLE_WEBHOOKS,
            [a.webhook for a in batch],
            [a.version for a in batch],
            [a.number for a in batch],
            [a.at for a in batch],
            [a.duration for a in batch],
            [a.code for a in batch],
            [a.error for a in batch],
            [a.answer for a in batch],
            [a.verdict for a in batch],
            [a.delay for a in batch],
            self._period,
            patience=FOREVER,
        )
        statuses = {(row["id"], row["version"]): row["status"] for row in rows}
        return [statuses.get((a.webhook, a.version)) for a in batch]

    # The owner's

    async def seen(
        self,
        viewer: Viewer,
        *,
        status: str | None = None,
        job: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> list[Webhook]:
        """The viewer's, those of the newest jobs first, older than `after`."""
        statement = sql.WEBHOOKS_OF_TENANT if viewer.owner is None else sql.WEBHOOKS_OF_OWNER
        rows = await self._postgres.ask(statement, viewer.tenant, viewer.owner, status, job, after, limit)
        return [_webhook(row) for row in rows]

    async def get(self, viewer: Viewer, webhook: str) -> Webhook | None:
        """None if there is none of this id, or it is another's."""
        rows = await self._postgres.ask(sql.WEBHOOK_BY_ID, webhook, viewer.tenant, viewer.owner)
        return _webhook(rows[0]) if rows else None

    async def attempts(self, webhook: str) -> list[AttemptLog]:
        """All attempts, the first one first. A number that is missing is that of a courier who died."""
        return [_attempt(row) for row in await self._postgres.ask(sql.ATTEMPTS_OF, webhook)]

    async def replay(self, webhook: str) -> bool:
        """Begin a new round of attempts, and enable its endpoint again. False if it is gone."""
        return bool(await self._postgres.ask(sql.REPLAY_WEBHOOK, webhook))

    async def disabled(self, tenant: str, owner: str, limit: int = 500) -> list[tuple[str, datetime]]:
        """The endpoints that have answered `410`, with the moment; both empty are those of the service."""
        rows = await self._postgres.ask(sql.DISABLED_ENDPOINTS, tenant, owner, limit)
        return [(row["url"], row["disabled_at"]) for row in rows]

    async def enable(self, tenant: str, owner: str, url: str) -> int | None:
        """Send to the endpoint again; how many were held back. None if it was not disabled."""
        row = (await self._postgres.ask(sql.ENABLE_ENDPOINT, tenant, owner, url))[0]
        return int(row["resumed"]) if row["enabled"] else None


def _webhook(row: asyncpg.Record) -> Webhook:
    return Webhook(
        id=row["id"],
        job=row["job"],
        tenant=row["tenant"],
        owner=row["owner"],
        own=row["own"],
        url=row["url"],
        status=row["status"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        settled_at=row["settled_at"],
        last=None if row["number"] is None else _attempt(row),
    )


def _attempt(row: asyncpg.Record) -> AttemptLog:
    return AttemptLog(row["number"], row["at"], row["duration"], row["code"], row["error"], row["answer"])
