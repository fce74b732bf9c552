"""The bus and the queue of a process that does everything itself (PUSHSVC_BACKEND=inline), without Redis.

They hold what this process knows, and nothing that PostgreSQL does not: what is lost with it, or belongs to another
process, the sweeper finds.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress

from .link import Ear, Ears
from .outlet import Message
from .queue import Claimed, Queue, Queued
from .subscriber import Subscriber


class LocalBus:
    """What is said in this process is heard in this process, at once. It is an Outlet for the publisher.

    `alone` says that there is no other process: then all that is ever said is heard. Else hubs look at PostgreSQL
    besides, as they do without Redis.
    """

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone
        self.listening: list[Ears] = []
        self._kept: dict[str, tuple[float, bytes]] = {}

    def place(self, topic: str) -> Hashable:
        return None

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        for topic, payload in messages:
            name = topic.encode()
            heard: list[Ear] = [ear for ears in self.listening if (ear := ears.get(name)) is not None]
            for ear in heard:
                ear([payload])
        return []

    async def snapshot(self, key: str, value: bytes, seconds: int, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        if len(self._kept) > 10_000:
            self._kept = {name: each for name, each in self._kept.items() if each[0] > now}
        self._kept[key] = now + seconds, value
        await self.publish(messages)

    async def get(self, key: str) -> bytes | None:
        until, value = self._kept.get(key, (0.0, b""))
        return value if until > time.monotonic() else None

    async def delete(self, key: str) -> None:
        self._kept.pop(key, None)


class LocalSubscriber(Subscriber):
    """Hears a LocalBus. Every topic is confirmed as soon as it is asked for."""

    def __init__(self, bus: LocalBus, ears: Ears) -> None:
        self._bus = bus
        self._ears = ears
        self.connected = False

    def start(self) -> None:
        # By identity: two that hear nothing yet are equal.
        if not any(ears is self._ears for ears in self._bus.listening):
            self._bus.listening.append(self._ears)
        self.connected = self._bus.alone

    async def stop(self) -> None:
        self.connected = False
        self._bus.listening = [ears for ears in self._bus.listening if ears is not self._ears]

    def renew(self) -> None:
        """There is no connection."""

    async def subscribe_all(self, topics: Sequence[str], patience: float = 2.0) -> bool:
        for topic in topics:
            topic.encode()
        return self.connected

    def unsubscribe(self, topic: str) -> None:
        """Whoever has no ear for it any more does not hear it."""


def listen(
    bus: str | LocalBus,
    ears: Ears,
    on_connected: Callable[[], None] = lambda: None,
    on_lost: Callable[[], None] = lambda: None,
) -> Subscriber:
    """Who hears a bus: that of a Redis, by its URL, or that of this process, which is never lost."""
    return LocalSubscriber(bus, ears) if isinstance(bus, LocalBus) else Subscriber(bus, ears, on_connected, on_lost)


class LocalQueue(Queue):
    """The jobs that this process knows to be waiting: by when they are due, once claimed by when their lease ends."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._tokens: deque[str] = deque()
        self._something = asyncio.Event()
        self._marked = False

    async def check(self) -> None:
        """It is there."""

    def _put(self, job: str, due: float) -> None:
        self._due[job] = due
        heapq.heappush(self._heap, (due, job))

    async def enqueue(self, jobs: Sequence[Queued]) -> None:
        for job in jobs:
            if job.id not in self._due:
                self._put(job.id, job.due)
                if job.due <= time.time() and not self._tokens:
                    await self.wake(job.id)

    async def claim(self, limit: int, lease: float, worker: str, first: str | None = None) -> Claimed:
        now, ids = time.time(), []
        if first is not None and self._due.get(first, now + 1) <= now:
            ids.append(first)
        while self._heap and len(ids) < limit and self._heap[0][0] <= now:
            due, job = heapq.heappop(self._heap)
            if self._due.get(job) == due and job not in ids:
                ids.append(job)
        for job in ids:
            self._put(job, now + lease)
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return Claimed(ids, max(self._heap[0][0] - now, 0.0) if self._heap else None)

    async def renew(self, jobs: Sequence[str], lease: float, worker: str) -> None:
        for job in jobs:
            if job in self._due:
                self._put(job, time.time() + lease)

    async def release(self, jobs: Sequence[tuple[str, float]]) -> None:
        for job, delay in jobs:
            self._put(job, time.time() + delay)
        await self.wake()

    async def finish(self, jobs: Iterable[tuple[str, bytes]]) -> None:
        for job, _ in jobs:
            self._due.pop(job, None)

    async def missing(self, jobs: Sequence[str]) -> list[str]:
        return [job for job in jobs if job not in self._due]

    async def marked(self) -> bool:
        return self._marked

    async def mark(self) -> None:
        self._marked = True

    async def token(self, timeout: float) -> str | None:
        if not self._tokens:
            self._something.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._something.wait(), timeout)
        return self._tokens.popleft() if self._tokens else None

    async def wake(self, token: str = "-") -> None:
        self._tokens.append(token)
        self._something.set()

    async def taken(self, token: str, timeout: float) -> float | None:
        return 0.0

    async def forget(self, jobs: Sequence[str]) -> None:
        await self.finish([(job, b"") for job in jobs])

    def result_of(self, job: str, name: str, success: bool, href: str) -> bytes:
        return b""
