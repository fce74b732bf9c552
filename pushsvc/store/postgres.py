"""The one owner of the service's PostgreSQL connections: a small asyncpg pool, and what a lost one means."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from ..errors import Unavailable

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LOST = (
    OSError,  # which a time-out is, too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # the server's good-bye has been read, the end of the connection not yet
)
_RACED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def is_lost(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, is what a restarting or unreachable PostgreSQL looks like from
    here: whatever was asked may be asked again."""
    while error is not None:
        if isinstance(error, _LOST):
            return True
        # asyncpg says with one class that a connection is closed and that an argument is of the wrong type.
        if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError) and "clos" in str(error):
            return True
        error = error.__cause__
    return False


class Postgres:
    """A pool of `connections` asyncpg connections to `url`, opened lazily.

    Every statement of the store is safe to repeat (guarded by a version, or ON CONFLICT), so a statement
    whose connection was lost, and which may or may not have been committed, is simply run again.
    """

    def __init__(self, url: str, connections: int = 4) -> None:
        self._url = plain_url(url)
        self._size = connections
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Postgres:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def fetch(self, sql: str, *args: Any, patience: float = 2.0) -> list[asyncpg.Record]:
        """Run one statement. Raises Unavailable after `patience` seconds without PostgreSQL."""

        async def once(pool: asyncpg.Pool[asyncpg.Record]) -> list[asyncpg.Record]:
            return await pool.fetch(sql, *args)

        return await self.run(once, patience=patience)

    async def run(self, work: Callable[[asyncpg.Pool[asyncpg.Record]], Awaitable[T]], *, patience: float = 2.0) -> T:
        """Run `work` with the pool, again on a lost connection or a deadlock, for up to `patience` seconds."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        delay = 0.02
        while True:
            try:
                return await work(await self.pool())
            except Exception as error:
                if not isinstance(error, _RACED) and not is_lost(error):
                    raise
                if loop.time() + delay > give_up:
                    logger.warning("PostgreSQL is away: %s", type(error).__name__)
                    raise Unavailable("PostgreSQL can't be reached right now") from error
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, 1.0)

    async def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._url,
                        min_size=1,
                        max_size=self._size,
                        command_timeout=30,
                        timeout=5,
                        # No statement leaves anything behind in its session; resetting would be a round trip each.
                        reset=_nothing,
                        # The few statements are known: planning them anew with each batch would cost the most.
                        server_settings={
                            "application_name": "pushsvc",
                            "jit": "off",
                            "plan_cache_mode": "force_generic_plan",
                        },
                    )
        return self._pool

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(*_LOST, asyncpg.InterfaceError):
                await asyncio.wait_for(pool.close(), 5)


async def _nothing(_connection: object) -> None: ...


def plain_url(url: str) -> str:
    """The URL as asyncpg takes it; SQLAlchemy's `postgresql+asyncpg://` is understood too."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
