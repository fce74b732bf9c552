"""Waiting for one job to finish: what `Prefer: wait` and `?wait=` stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .. import wire
from ..domain import JOB_EPOCH, Channel, Job, Position, job_channel
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


async def until_final(hub: Hub, job: Job, wait: float) -> bool:
    """True when the job has finished within `wait` seconds. Raises NotFound if it is gone."""
    if job.status.terminal:
        return True
    listener = _Final()
    try:
        channel = Channel(job.tenant, job_channel(job.id))
        await hub.attach(listener, channel, Position(JOB_EPOCH, job.version))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(listener.over.wait(), wait)
        return listener.finished
    finally:
        hub.leave(listener)
