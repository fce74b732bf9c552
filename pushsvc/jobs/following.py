"""Following jobs from where they were submitted: their progress, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from .. import wire
from ..bus import Ear, LocalBus, Publisher, listen
from ..domain import Channel, Job, Progress, job_channel
from ..errors import NotFound, Unavailable
from ..store import JobStore

LOOK, LOOK_DEAF = 5.0, 0.5
"""Seconds between two looks in PostgreSQL: while Redis says what happens, and while it is away."""


class _Watch:
    """What is known of one job that somebody follows."""

    def __init__(self) -> None:
        self.progress: bytes | None = None
        self.waiting: set[asyncio.Event] = set()

    def hear(self, messages: list[bytes]) -> None:
        for message in messages:
            heard = wire.parse_bus(message)
            if isinstance(heard, bytes):
                self.progress = heard
        self.wake()

    def wake(self) -> None:
        for event in self.waiting:
            event.set()


class Follower:
    """Listens on Redis for as long as anybody follows a job; PostgreSQL says what is so."""

    def __init__(self, store: JobStore, publisher: Publisher, bus: str | LocalBus) -> None:
        self._store = store
        self._publisher = publisher
        self._watches: dict[str, _Watch] = {}
        self._ears: dict[bytes, Ear] = {}
        self._bus = listen(bus, self._ears, self._look_again, self._look_again)

    async def stop(self) -> None:
        await self._bus.stop()

    async def job(self, tenant: str, job: str) -> Job:
        """As it is now. Raises NotFound."""
        found = await self._store.get(tenant, job)
        if found is None:
            raise NotFound(f"there is no job {job:.40}, or not yet: its transaction may be open still")
        return found

    async def ended(self, tenant: str, job: str) -> tuple[Job, bytes | None]:
        """The job when it has ended, and its result. Raises NotFound. While PostgreSQL is away it waits."""
        async with aclosing(self._changes(tenant, job)) as changes:
            async for current, _ in changes:
                if current.status.terminal:
                    break
        while True:
            try:
                found = await self._store.get_with_result(tenant, job)
            except Unavailable:
                await asyncio.sleep(LOOK_DEAF)
                continue
            if found is None:
                raise NotFound(f"the job {job:.40} is past its retention")
            return found

    async def progress(self, tenant: str, job: str) -> AsyncGenerator[Progress]:
        """What the job says of itself from now on, the latest first, until it ends. Raises NotFound."""
        last = await self._publisher.last_progress(job)
        if last is not None:
            yield _read(last)
        async with aclosing(self._changes(tenant, job)) as changes:
            async for current, said in changes:
                if said is not None and said != last:
                    last = said
                    yield _read(said)
                if current.status.terminal:
                    return

    async def _changes(self, tenant: str, job: str) -> AsyncGenerator[tuple[Job, bytes | None]]:
        """The job, and its latest progress, whenever something may have changed."""
        current = await self.job(tenant, job)
        yield current, None
        changed = asyncio.Event()
        with self._watching(tenant, job, changed) as watch:
            self._bus.start()
            await self._bus.subscribe(self._topic(tenant, job))
            while True:
                changed.clear()
                try:
                    current = await self.job(tenant, job)
                except Unavailable:
                    await asyncio.sleep(LOOK_DEAF)
                    continue
                yield current, watch.progress
                try:
                    async with asyncio.timeout(LOOK if self._bus.connected else LOOK_DEAF):
                        await changed.wait()
                except TimeoutError:
                    pass

    @contextmanager
    def _watching(self, tenant: str, job: str, changed: asyncio.Event) -> Iterator[_Watch]:
        topic = self._topic(tenant, job)
        watch = self._watches.setdefault(topic, _Watch())
        watch.waiting.add(changed)
        self._ears[topic.encode()] = lambda messages: watch.hear(list(messages))
        try:
            yield watch
        finally:
            watch.waiting.discard(changed)
            if not watch.waiting and self._watches.get(topic) is watch:
                del self._watches[topic], self._ears[topic.encode()]
                self._bus.unsubscribe(topic)

    def _topic(self, tenant: str, job: str) -> str:
        return self._publisher.scope.topic(Channel(tenant, job_channel(job)))

    def _look_again(self) -> None:
        for watch in self._watches.values():
            watch.wake()


def _read(item: bytes) -> Progress:
    said = wire.load(item)
    return Progress(said["job"], said["value"], said.get("message", ""), tuple(said.get("queries", ())))
