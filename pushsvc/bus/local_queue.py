"""The queue of a process that does everything itself (PUSHSVC_BACKEND=inline), without Redis.

It holds what this process knows, and nothing that PostgreSQL does not: what is lost with it, or belongs to another
process, the sweeper finds.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from ..domain import DEFAULT_QUEUE
from .queue import DEFAULT_RULES, NO_WEIGHTS, Claimed, Kind, Queue, Queued, Rules, Stand
from .shares import Share, Shares


class LocalQueue(Queue):
    """The jobs that this process knows: those that wait by their shares, the others by when they are due, or their
    lease ends."""

    def __init__(self) -> None:
        self._jobs: dict[str, Queued] = {}
        self._waiting: set[str] = set()
        self._later: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._shares = Shares()
        self._parked: dict[Kind, Shares] = {}
        self._held: dict[Kind, set[str]] = {}
        self._through: set[str] = set()
        self._tokens: deque[str] = deque()
        self._something = asyncio.Event()
        self._marked = False

    async def check(self) -> None:
        """It is there."""

    def _put(self, job: str, due: float) -> None:
        """It is not to be looked at before."""
        self._waiting.discard(job)
        self._later[job] = due
        heapq.heappush(self._heap, (due, job))

    def _make_ready(self, job: str) -> None:
        self._later.pop(job, None)
        self._waiting.add(job)
        self._shares.push(job, _share(self._jobs[job]))

    def _promote(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, job = heapq.heappop(self._heap)
            if self._later.get(job) == due:
                self._make_ready(job)

    def _next_due(self) -> float | None:
        while self._heap and self._later.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    async def enqueue(self, jobs: Sequence[Queued]) -> None:
        for job in jobs:
            if job.id in self._jobs:
                continue
            self._jobs[job.id] = job
            if job.due > time.time():
                self._put(job.id, job.due)
                continue
            self._make_ready(job.id)
            if not self._tokens:
                await self.wake(job.id if len(self._waiting) == 1 else "-")

    async def claim(
        self, limit: int, lease: float, worker: str, first: str | None = None, rules: Rules = DEFAULT_RULES
    ) -> Claimed:
        now, ids = time.time(), []
        self._promote(now)
        if first is not None and first in self._waiting:
            # It is started before its turn.
            if self._shares.remove(first, share := _share(self._jobs[first])):
                self._shares.charge(share, rules.weights)
            ids.append(first)
            self._put(first, now + lease)
        elif first is not None:
            # Its place counts all the same: the worker starts it in PostgreSQL just now.
            limit -= 1
        while len(ids) < limit and (job := self._shares.pop(rules.weights)) is not None:
            if job in self._waiting and not self._stays_parked(job, rules.limited):
                ids.append(job)
                self._put(job, now + lease)
            else:
                self._shares.charge(_share(self._jobs[job]), rules.weights, -1)
        if self._shares.waits() and not self._tokens:
            await self.wake()
        next_due = self._next_due()
        return Claimed(ids, None if next_due is None else max(next_due - now, 0.0))

    def _stays_parked(self, job: str, limited: Mapping[str, str]) -> bool:
        limits = limited.get(self._jobs[job].name, "")
        if limits and job in self._through:
            self._through.remove(job)
            return False
        for what, kind in zip(("each", "all"), _kinds(self._jobs[job]), strict=True):
            if what in limits and self._held.get(kind):
                self._park(job, kind)
                return True
        return False

    def _park(self, job: str, kind: Kind) -> None:
        self._later.pop(job, None)
        self._waiting.add(job)
        self._held.setdefault(kind, set()).add(job)
        self._parked.setdefault(kind, Shares()).push(job, _share(self._jobs[job]))

    async def park(self, jobs: Sequence[tuple[str, bool]]) -> None:
        for job, each in jobs:
            if job in self._jobs:
                of_owner, of_all = _kinds(self._jobs[job])
                self._park(job, of_owner if each else of_all)

    async def unpark(self, kinds: Mapping[Kind, int]) -> int:
        found = 0
        for kind, count in kinds.items():
            found += sum(self._let_go(kind) for _ in range(count))
        if found:
            await self.wake()
        return found

    def _let_go(self, kind: Kind) -> bool:
        shares = self._parked.get(kind, Shares())
        while (job := shares.pop(NO_WEIGHTS)) is not None:
            held = job in self._held[kind] and job in self._waiting
            self._held[kind].discard(job)
            if held:
                self._shares.push(job, _share(self._jobs[job]))
                self._through.add(job)
                return True
        self._held.pop(kind, None)
        self._parked.pop(kind, None)
        return False

    async def parked(self) -> list[Kind]:
        return [kind for kind, jobs in self._held.items() if jobs]

    async def stand(self, jobs: Sequence[str], weights: Mapping[str, float] = NO_WEIGHTS) -> list[Stand]:
        parked = set().union(*self._held.values())
        return [self._stand(job, job in parked) for job in jobs]

    def _stand(self, job: str, parked: bool) -> Stand:
        if job in self._waiting:
            before = sum(1 for each in self._waiting if self._jobs[each].due < self._jobs[job].due)
            return Stand("parked" if parked else "ready", None if parked else before, 1)
        return Stand("later" if job in self._later else "gone", None, 1)

    async def attend(self, worker: str, queues: Sequence[str], seconds: float) -> None:
        """It is the only one."""

    async def served(self, queues: Sequence[str]) -> set[str]:
        return set(queues)

    async def renew(self, jobs: Sequence[str], lease: float, worker: str) -> None:
        for job in jobs:
            if job in self._jobs:
                self._put(job, time.time() + lease)

    async def release(self, jobs: Sequence[tuple[str, float]]) -> None:
        for job, delay in jobs:
            if job not in self._jobs:
                continue
            if delay > 0:
                self._put(job, time.time() + delay)
            elif job not in self._waiting:
                self._make_ready(job)
        await self.wake()

    async def finish(self, jobs: Iterable[tuple[str, bytes]]) -> None:
        for job, _ in jobs:
            if (known := self._jobs.pop(job, None)) is not None:
                if job in self._waiting:
                    self._shares.remove(job, _share(known))
                    self._shares.waits()
                self._waiting.discard(job)
                self._through.discard(job)
                self._later.pop(job, None)

    async def missing(self, jobs: Sequence[str]) -> list[str]:
        return [job for job in jobs if job not in self._jobs]

    async def marked(self) -> bool:
        return self._marked

    async def mark(self) -> None:
        self._marked = True

    async def token(self, timeout: float, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> tuple[str, str] | None:
        if not self._tokens:
            self._something.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._something.wait(), timeout)
        return (self._tokens.popleft(), DEFAULT_QUEUE) if self._tokens else None

    async def wake(self, token: str = "-", queue: str = DEFAULT_QUEUE) -> None:
        self._tokens.append(token)
        self._something.set()

    async def taken(self, token: str, timeout: float) -> float | None:
        return 0.0

    async def forget(self, jobs: Sequence[str]) -> None:
        await self.finish([(job, b"") for job in jobs])

    def result_of(self, job: str, name: str, success: bool, href: str) -> bytes:
        return b""


def _share(job: Queued) -> Share:
    return Share(job.tenant, job.owner, job.priority, int(job.due * 1000))


def _kinds(job: Queued) -> tuple[Kind, Kind]:
    return Kind(job.name, job.tenant, job.owner), Kind(job.name)
