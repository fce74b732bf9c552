"""`Service(lifespan=…)`: what an author's jobs and endpoints share in one process, as an HTTP client or a model."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from .errors import PushsvcError, SettingsError

logger = logging.getLogger(__name__)

Lifespan = Callable[..., AbstractAsyncContextManager[Any]] | Callable[..., AsyncIterator[Any]]
"""An async context manager's function, or an async generator's: of no argument, or of the service."""


class Lifetime:
    """Enters the lifespan for the first who needs it in this process, and leaves it after the last.

    Both happen in one task, as what it opens may demand. Raises SettingsError for what is no lifespan.
    """

    def __init__(self, lifespan: Lifespan | None, service: object) -> None:
        self._open = None if lifespan is None else _opening(lifespan, service)
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        self._state: Any = None

    @property
    def state(self) -> Any:
        """What the lifespan has yielded. Raises SettingsError before it is entered; None where there is none."""
        if self._open is not None and self._task is None:
            raise SettingsError(
                "the lifespan is entered when the service runs: by `pushsvc serve` and `worker`, by an attached "
                "app's own, or by `async with service.running():`"
            )
        return self._state

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Any]:
        """It is entered at least for this block. Raises SettingsError when it can't be."""
        await self.begin()
        try:
            yield self._state
        finally:
            await self.end()

    async def begin(self) -> None:
        """Enter it, unless it is. Raises SettingsError when it can't be entered."""
        if self._task is not None and self._task.get_loop().is_closed():
            # That of a script's former `asyncio.run`.
            self._users, self._task, self._turn = 0, None, asyncio.Lock()
        async with self._turn:
            if self._open is not None and self._task is None:
                await self._enter(self._open)
            self._users += 1

    async def end(self) -> None:
        """Leave it, if nobody else needs it. What is raised then is logged: all has been done by then."""
        async with self._turn:
            self._users -= 1
            if self._users or self._task is None:
                return
            task, self._task = self._task, None
            self._over.set()
            try:
                await task
            except Exception:
                logger.exception("the lifespan failed at its end")
            finally:
                self._state = None

    async def _enter(self, opening: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        task = asyncio.create_task(_live(opening, entered, self._over), name="pushsvc:lifespan")
        await asyncio.wait([entered, task], return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            try:
                await task
            except PushsvcError:
                raise
            except Exception as error:
                raise SettingsError(f"the lifespan can't be entered: {type(error).__name__}: {error}") from error
            raise SettingsError("the lifespan yields nothing: it is an async context manager, which yields once")
        self._task, self._state = task, entered.result()


async def _live(
    opening: Callable[[], AbstractAsyncContextManager[Any]], entered: asyncio.Future[Any], over: asyncio.Event
) -> None:
    async with opening() as state:
        entered.set_result(state)
        await over.wait()


def _opening(lifespan: Any, service: object) -> Callable[[], AbstractAsyncContextManager[Any]]:
    if not callable(lifespan):
        raise SettingsError(f"lifespan= is a function that gives an async context manager, not {lifespan!r:.80}")
    if inspect.isasyncgenfunction(lifespan):
        lifespan = asynccontextmanager(lifespan)
    try:
        wanted = [
            each
            for each in inspect.signature(lifespan).parameters.values()
            if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        wanted = []
    if len(wanted) > 1:
        raise SettingsError("lifespan= is called with nothing, or with the service; this one wants more")

    def opened() -> AbstractAsyncContextManager[Any]:
        made = lifespan(service) if wanted else lifespan()
        if not hasattr(made, "__aenter__"):
            raise SettingsError("lifespan= gives no async context manager: put @asynccontextmanager above it")
        manager: AbstractAsyncContextManager[Any] = made
        return manager

    return opened
