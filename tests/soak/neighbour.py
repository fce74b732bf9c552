"""Another deployment on the same PostgreSQL and the same Redis, with users and channels of the same names.

Whatever of it reaches a subscriber of the one that is soaked, or its workers, is found: in its store it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from pushsvc import Service
from pushsvc.domain import Principal
from pushsvc.errors import PushsvcError
from pushsvc.jobs import Submitter
from pushsvc.settings import Settings

from .app import service as jobs
from .auditor import Promise, Publishing
from .plan import OPS, USERS

NAME = "neighbour"
EVERY = 0.3


class Neighbour:
    """Publishes and submits until it is stopped, and remembers what it was promised."""

    def __init__(self, settings: Settings, pauses: Random) -> None:
        self.promises: list[Promise] = []
        self.published: list[Publishing] = []
        self._service = Service(settings=settings.model_copy(update={"deployment": NAME}))
        parts = self._service.parts
        self._submitter = Submitter(
            jobs.jobs, parts.store, parts.within, parts.events, parts.queue, self._service.settings
        )
        self._pauses = pauses
        self._number = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._number += 1
            user = USERS[self._number % len(USERS)]
            await self._until_taken(self._publish, f"user:{user}" if self._number % 3 else OPS)
            await self._until_taken(self._submit, user)
            await asyncio.sleep(self._pauses.uniform(0, 2 * EVERY))

    async def close(self) -> None:
        await self._service.close()

    async def _until_taken(self, ask: Callable[[str], Awaitable[None]], whom: str) -> None:
        while True:
            try:
                return await ask(whom)
            except PushsvcError as error:
                if not error.temporary:
                    raise
                await asyncio.sleep(self._pauses.uniform(0.1, 0.6))

    async def _publish(self, channel: str) -> None:
        data = {"neighbour": self._number}
        position = await self._service.publish(channel, "soak.neighbour", data)
        self.published.append(Publishing(channel, position.offset, data))

    async def _submit(self, user: str) -> None:
        key, value = f"neighbour-{self._number}", {"neighbour": self._number}
        accepted = await self._submitter.submit(Principal(user), "echo", {"value": value}, key)
        self.promises.append(Promise(key, accepted.job.id, ("succeeded",), value))
