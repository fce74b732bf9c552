"""Waiting for one job to finish: what `Prefer: wait` and `?wait=` stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .. import wire
from ..domain import JOB_EPOCH, Channel, Job, Position, Principal, job_channel
from ..errors import TooManyConnections
from ..hub import Hub
from ..wire import Delivery
from .session import Desk


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


async def until_final(desk: Desk, principal: Principal, job: Job, wait: float) -> bool:
    """True when the job has finished within `wait` seconds, while the principal's token is good.

    It counts as one of the principal's connections; one who has as many as it may does not wait. Raises NotFound if
    the job is gone.
    """
    if job.status.terminal:
        return True
    listener = _Final()
    with suppress(TooManyConnections), desk.connections.held(principal.holder, listener):
        return await _finished(desk, principal, listener, job, wait)
    return False


async def until_ended(hub: Hub, job: Job, wait: float) -> bool:
    """The same for whoever waits in a request that he would wait in anyway, whoever he is."""
    return job.status.terminal or await _heard(hub, _Final(), job, wait)


async def _finished(desk: Desk, principal: Principal, listener: _Final, job: Job, wait: float) -> bool:
    desk.tokens.need_valid(principal)
    return await _heard(desk.hub, listener, job, principal.left(wait))


async def _heard(hub: Hub, listener: _Final, job: Job, wait: float) -> bool:
    try:
        channel = Channel(job.tenant, job_channel(job.id))
        await hub.attach(listener, channel, Position(JOB_EPOCH, job.version))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(listener.over.wait(), wait)
        return listener.finished
    finally:
        hub.leave(listener)
