"""How the working half of a service lives in a process: what runs beside its jobs, and who keeps their leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from anyio import to_thread

from .domain import Json
from .endpoints import EndpointOptions, Replayer, in_worker
from .errors import SettingsError, Unavailable
from .hosting import Attachment
from .jobs import Holds, JobContext, OwnLoop, Watch, Worker
from .lifetime import Lifetime
from .ops import KEEPER_CONNECTIONS
from .parts import Parts
from .settings import Settings
from .tasks import stop


class Assemble(Protocol):
    """Puts the parts of a process together."""

    def __call__(
        self, own_connections: int, *, hurried: bool = True, store_connections: int | None = None
    ) -> Parts: ...


class Workplace:
    """The jobs of this process. `attached` gives the app in which recorded requests are replayed, if there is one."""

    def __init__(
        self,
        settings: Settings,
        assembled: Assemble,
        lifetime: Lifetime,
        attached: Callable[[], Attachment | None],
    ) -> None:
        self._settings = settings
        self._assembled = assembled
        self._lifetime = lifetime
        self._attached = attached
        self._replayer: Replayer | None = None
        self.parts: Parts | None = None
        """Those of a worker, while it works."""

    async def work(self, until: asyncio.Event, holds: Holds, *, kept: bool, end: Callable[[], None] | None) -> None:
        """Be a worker; see `Service.work`."""
        self.parts = parts = self._assembled(self._settings.max_jobs, hurried=False)
        parts.settle()
        try:
            worker = parts.worker(holds, lambda: self._lifetime.state)
            # Made now, as what is wrong with its settings is to be known before anything runs.
            _ = parts.courier
            await parts.check()
            attached = self._attached()
            with self._looked_after(worker, holds, kept, end):
                async with self._lifetime.held(), in_worker(attached.app if attached else None) as state:
                    self._replayer = self._replaying(parts, state)
                    await self._work(parts, worker, until)
        finally:
            await parts.close()
            self.parts = self._replayer = None
        if worker.spent:
            raise Unavailable("all places are taken by jobs that were stopped and run on")

    async def work_inline(self, parts: Parts, until: asyncio.Event) -> None:
        """Run the jobs in the process that serves, beside the web half and on its parts."""
        holds = Holds.of_this_process(self._settings.max_jobs)
        worker = parts.worker(holds, lambda: self._lifetime.state)
        attached = self._attached()
        self._replayer = self._replaying(parts, attached.state if attached else {})
        with self._looked_after(worker, holds, kept=True, end=None):
            await self._work(parts, worker, until)

    async def _work(self, parts: Parts, worker: Worker, until: asyncio.Event) -> None:
        courier, loop = parts.courier, asyncio.get_running_loop()
        sweeping = asyncio.create_task(parts.sweeper.run(), name="sweeper")
        running = asyncio.create_task(worker.run(), name="worker")
        sending = asyncio.create_task(courier.run(), name="courier")
        beating = asyncio.create_task(parts.beats.run(), name="beats")
        hearing = asyncio.create_task(parts.committed.run(), name="committed")
        ticking = asyncio.create_task(parts.ticker.run(), name="ticker")
        stopping = asyncio.create_task(until.wait())
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            worker.stop()
            until_drained = loop.time() + self._settings.drain
            await running
            if self._replayer is not None:
                await self._replayer.close(max(0.0, until_drained - loop.time()))
            courier.stop()
            await sending
        finally:
            await stop(sweeping, stopping, running, sending, beating, hearing, ticking)

    # Leases

    @contextmanager
    def _looked_after(
        self, worker: Worker, holds: Holds, kept: bool, end: Callable[[], None] | None
    ) -> Iterator[None]:
        """Watch the event loop from a thread, which also keeps the leases unless somebody else does."""
        watch = Watch(holds, self._settings.lease, worker.describe)

        async def look_after() -> None:
            await asyncio.gather(watch.run(), *([] if kept else [self.keep(holds, end)]))

        thread = OwnLoop("keeper", look_after)
        thread.start()
        try:
            yield
        finally:
            thread.stop()

    async def keep(self, holds: Holds, end: Callable[[], None] | None, *, end_first: bool = False) -> None:
        """Keep a worker's leases; see `Service.keep`."""
        parts = self._assembled(1, hurried=False, store_connections=KEEPER_CONNECTIONS)
        try:
            await parts.keeper(holds, end, end_first=end_first).run()
        finally:
            await parts.close()

    # Endpoints

    async def replay(self, job: JobContext, options: EndpointOptions) -> Json:
        """Run an endpoint's recorded request, in a worker of a service that is attached to an app."""
        if self._replayer is None:
            raise SettingsError("an endpoint's job runs in a worker of a service that is attached to an app")
        return await self._replayer.replay(job, options)

    def _replaying(self, parts: Parts, state: Mapping[str, Any]) -> Replayer | None:
        """For the endpoints of the attached app, if it has any that may answer later."""
        attached = self._attached()
        if attached is None or not attached.marked:
            return None
        threads = to_thread.current_default_thread_limiter()
        threads.total_tokens = max(threads.total_tokens, self._settings.max_jobs)
        return Replayer(attached.app, state, parts.records, parts.seals, self._settings.result_limit)
