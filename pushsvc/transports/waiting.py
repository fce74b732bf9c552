"""Waiting for one job to finish: what `Prefer: wait` and `?wait=` stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .. import wire
from ..access import Admission
from ..domain import JOB_EPOCH, Channel, Job, Position, Principal, job_channel
from ..errors import TooManyConnections
from ..hub import Hub
from ..wire import Delivery


class _Final:
    """A Listener that waits for a job's last event."""

    writer: Callable[[bytes], object] | None = None
    page = 10

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.finished = False

    def deliver(self, delivery: Delivery) -> None:
        if wire.is_final(delivery.event):
            self.finished = True
            self.over.set()

    def progress(self, channel: Channel, item: bytes) -> None: ...

    def reset(self, channel: Channel, position: Position) -> None: ...

    async def ready(self) -> bool:
        return True

    def drain(self) -> None:
        self.over.set()

    def revoked(self) -> None:
        """Some tokens of its principal are void: answer now, whichever they are."""
        self.over.set()


class Waiter:
    """Waits for those who ask for it, as one of their connections."""

    def __init__(self, hub: Hub, admission: Admission) -> None:
        self._hub = hub
        self._admission = admission

    async def until_final(self, principal: Principal, job: Job, wait: float) -> bool:
        """True when the job has finished within `wait` seconds, while the principal's token is good.

        One who has as many connections as it may does not wait. Raises NotFound if the job is gone.
        """
        if job.status.terminal:
            return True
        listener = _Final()
        with suppress(TooManyConnections), self._admission.held(principal, listener):
            return await _heard(self._hub, listener, job, principal.left(wait))
        return False


async def until_ended(hub: Hub, job: Job, wait: float) -> bool:
    """The same for whoever waits in a request that he would wait in anyway, whoever he is."""
    return job.status.terminal or await _heard(hub, _Final(), job, wait)


async def _heard(hub: Hub, listener: _Final, job: Job, wait: float) -> bool:
    try:
        channel = Channel(job.tenant, job_channel(job.id))
        await hub.attach(listener, channel, Position(JOB_EPOCH, job.version))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(listener.over.wait(), wait)
        return listener.finished
    finally:
        hub.leave(listener)
