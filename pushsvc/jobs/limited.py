"""Jobs of which only so many may run at once: PostgreSQL decides, the queue keeps those that have to wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from ..bus import FAULTS, Kind, Queue, away
from ..domain import Claim
from ..store import JobStore, Limit
from ..store.batching import Batcher
from .registry import Registry

AS_MANY = 1000
"""How many parked jobs go on at once where there is no limit any more."""


class Limited:
    """The limits of an app's jobs. What a claim has no room for is parked, and not looked at before there is some."""

    def __init__(self, registry: Registry, store: JobStore, queue: Queue) -> None:
        self._registry = registry
        self._store = store
        self._queue = queue
        self._ended: Batcher[Sequence[Kind], None] = Batcher("unpark", self._unpark)

    @property
    def _limits(self) -> dict[str, Limit]:
        # Asked each time, since an app may offer more jobs later.
        return {limit.name: limit for limit in self._registry.limits}

    @property
    def names(self) -> list[str]:
        """Of the jobs that have a limit."""
        return list(self._limits)

    @property
    def by_name(self) -> Mapping[str, str]:
        """Which limits each has, as the queue wants to know it."""
        return {name: " ".join(_which(limit)) for name, limit in self._limits.items()}

    async def start(self, jobs: Sequence[str], worker: str, lease: float) -> tuple[Mapping[str, Claim], set[str]]:
        """Start those for which there is room; and the ids of those that are parked. Raises Unavailable, and what
        FAULTS lists."""
        limits = self._registry.limits
        if not limits or not jobs:
            return {}, set()
        claims, refused = await self._store.start_limited(jobs, worker, lease, limits)
        if refused:
            await self._queue.park(refused)
            # Room that was made since it was counted: who made it found none that was parked.
            await self.let_go()
        return claims, {job for job, _ in refused}

    def ended(self, claim: Claim) -> asyncio.Future[None] | None:
        """An attempt is over, and its place under its limits is free."""
        job = claim.job
        limit = self._limits.get(job.name)
        if limit is None:
            return None
        kinds = {"each": Kind(job.name, job.tenant, job.owner or ""), "all": Kind(job.name)}
        return self._ended.put([kinds[which] for which in _which(limit)])

    async def _unpark(self, ended: Sequence[Sequence[Kind]]) -> list[None]:
        try:
            await self._queue.unpark(Counter(kind for kinds in ended for kind in kinds))
        except FAULTS as error:
            # The sweeper does it.
            away("letting parked jobs go on", error)
        return [None] * len(ended)

    async def let_go(self) -> int:
        """Let as many of the parked jobs go on as there is room for; how many. Raises Unavailable, and what FAULTS
        lists."""
        kinds = await self._queue.parked()
        if not kinds:
            return 0
        running = await self._store.running(sorted({kind.name for kind in kinds}))
        room = {kind: self._room(kind, running) for kind in kinds}
        return await self._queue.unpark({kind: count for kind, count in room.items() if count > 0})

    def _room(self, kind: Kind, running: Mapping[tuple[str, str, str], int]) -> int:
        limit = self._limits.get(kind.name, Limit(kind.name))
        if kind.tenant:
            most, taken = limit.most_each, running.get((kind.name, kind.tenant, kind.owner), 0)
        else:
            most, taken = limit.most, sum(count for (name, *_), count in running.items() if name == kind.name)
        return AS_MANY if most is None else most - taken


def _which(limit: Limit) -> list[str]:
    found = {"each": limit.most_each, "all": limit.most}
    return [which for which, most in found.items() if most is not None]
