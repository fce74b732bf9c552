"""The lifespan of an attached app, as a worker runs it: what replayed requests need is there, as under a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from ..errors import SettingsError

logger = logging.getLogger(__name__)

_working: ContextVar[bool] = ContextVar("pushsvc_working", default=False)


def in_a_worker() -> bool:
    """Whether the app's lifespan is run by a worker, which has no use for the web half."""
    return _working.get()


@asynccontextmanager
async def in_worker(app: ASGIApp | None) -> AsyncIterator[Mapping[str, Any]]:
    """The lifespan of the app, as a server runs it, in a worker; what it yields is the state of each request.

    Raises SettingsError when the app refuses to start. An app that knows no lifespan has none.
    """
    if app is None:
        yield {}
        return
    lifespan = _Lifespan(app)
    await lifespan.start()
    try:
        yield lifespan.state
    finally:
        await lifespan.stop()


class _Lifespan:
    """The server's side of the lifespan protocol (ASGI), in a task of its own, as both ends of it must be."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self.state: dict[str, Any] = {}

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="pushsvc:lifespan")
        await self._told.put({"type": "lifespan.startup"})
        answer = await self._answer()
        if answer.get("type") == "lifespan.startup.failed":
            with suppress(Exception):
                await self._task
            raise SettingsError(f"the app does not start: {str(answer.get('message')).strip()}")

    async def stop(self) -> None:
        if not self._task.done():
            await self._told.put({"type": "lifespan.shutdown"})
            await self._answer()
        try:
            await self._task
        except Exception:
            logger.exception("the app's lifespan failed at its end")

    async def _run(self) -> None:
        _working.set(True)
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._told.get, self._heard.put)

    async def _answer(self) -> Message:
        """What the app says next; nothing if it has ended, as one does that knows no lifespan."""
        answer = asyncio.create_task(self._heard.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return {}
        return answer.result()
