"""What the store holds in the end: the truth that everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from pushsvc import wire
from pushsvc.domain import DEFAULT_DEPLOYMENT
from pushsvc.store.jobs import encoded, job_of

LOGS = """
SELECT c.name, c.epoch, c.floor, c.top, e."offset", e.body, e.job
FROM pushsvc.channels c LEFT JOIN pushsvc.events e ON e.channel = c.id
WHERE c.deployment = $1 AND c.tenant = 'default' ORDER BY c.name, e."offset"
"""

JOBS = """
SELECT j.*, k.key FROM pushsvc.jobs j LEFT JOIN pushsvc.keys k ON k.deployment = j.deployment AND k.job = j.id
WHERE j.deployment = $1 AND j.tenant = 'default'
"""


@dataclass(frozen=True)
class Log:
    """One inbox or group, from its first event on."""

    epoch: str
    events: Mapping[int, str]
    """By offset, as every subscriber should have got them."""
    top: int


@dataclass(frozen=True)
class Kept:
    """One job."""

    id: str
    key: str | None
    owner: str
    status: str
    version: int
    channels: Sequence[str]
    event: str
    """Its last event."""

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Record:
    """All logs, and all jobs."""

    logs: Mapping[str, Log] = field(default_factory=dict)
    jobs: Mapping[str, Kept] = field(default_factory=dict)


async def read(url: str, deployment: str = DEFAULT_DEPLOYMENT) -> Record:
    """Read what one deployment has, past all caches and without the code that delivers."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            logs, jobs = await connection.fetch(LOGS, deployment), await connection.fetch(JOBS, deployment)
    finally:
        await connection.close()
    kept = {row["id"]: _kept(row) for row in jobs}
    channels: dict[str, dict[int, str]] = {}
    heads: dict[str, asyncpg.Record] = {}
    for row in logs:
        heads[row["name"]] = row
        events = channels.setdefault(row["name"], {})
        if row["offset"] is not None:
            events[row["offset"]] = row["body"] if row["job"] is None else kept[row["job"]].event
    return Record({name: Log(heads[name]["epoch"], channels[name], heads[name]["top"]) for name in heads}, kept)


def _kept(row: asyncpg.Record) -> Kept:
    job = job_of(row)
    event = wire.event(job, encoded(row["result"]) if job.inline else None).decode()
    return Kept(job.id, row["key"], job.owner or "", job.status.value, job.version, row["channels"], event)
