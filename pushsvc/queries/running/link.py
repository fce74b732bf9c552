"""One connection to a database: SQLAlchemy's view of it, and the driver's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ...errors import Unavailable
from ...store import is_lost
from .comment import SqlComment
from .direct import fetch, translate
from .engine import COMMENT
from .reading import Reading

T = TypeVar("T")

logger = logging.getLogger("pushsvc.queries")

RECOVERY_TIMEOUT = 2.0
"""Seconds that a cancelled query has to end in the server, before its connection is closed."""

CANCEL_AGAIN = 0.25
"""Seconds after which a query that still runs is cancelled once more."""


class Link:
    """One connection. Serves one query at a time; who takes it from `Connections` is alone with it.

    A question whose statement could be compiled ahead goes straight to the driver; what the ORM has to build
    goes through SQLAlchemy. Both see the same session of the server, whose transactions are begun and ended
    by `command` only: SQLAlchemy takes it for autocommit.
    """

    __slots__ = ("_connection", "_driver", "_spoiled")

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._driver = driver
        self._spoiled = False

    @classmethod
    async def open(cls, engine: AsyncEngine) -> Link:
        """A new connection of this engine."""
        connection = await engine.connect()
        driver = (await connection.get_raw_connection()).driver_connection
        if connection.sync_connection is not None:
            # It is kept here, and no pool of SQLAlchemy's is to look after it.
            connection.sync_connection.detach()
        return cls(connection, cast("asyncpg.Connection[Any]", driver))

    @property
    def usable(self) -> bool:
        """Whether it may serve another query."""
        return not (self._spoiled or self._driver.is_closed())

    async def ask(self, reading: Reading, comment: SqlComment) -> list[Any]:
        """The rows, which need the connection no longer. Raises what SQLAlchemy would."""
        compiled = reading.compiled
        if compiled is None:
            return await self.run(reading.rows, comment)
        sql = comment.on(compiled.sql)
        try:
            records = await fetch(self._driver, sql, compiled.arguments)
        except Exception as error:
            raise self._translated(error, sql, compiled.arguments) from error
        return compiled.answer(records)

    async def run(self, work: Callable[[Connection], T], comment: SqlComment) -> T:
        """What a function makes of SQLAlchemy's connection."""

        def run(connection: Connection) -> T:
            connection.execution_options(**{COMMENT: comment})
            return work(connection)

        try:
            return await self._connection.run_sync(run)
        finally:
            # SQLAlchemy gives up a connection that it finds closed.
            self._spoiled = self._connection.invalidated or self._connection.closed

    async def command(self, sql: str) -> None:
        """Run commands without parameters or answer, such as BEGIN; several in one trip, with `;` between."""
        try:
            await self._driver.execute(sql)
        except Exception as error:
            raise self._translated(error, sql) from error

    async def export_snapshot(self) -> str:
        """The identifier by which other connections see what this one's transaction sees."""
        return str(await self._driver.fetchval("SELECT pg_export_snapshot()"))

    async def recover(self, *, rollback: bool = False) -> bool:
        """After an error or a cancel: wait until the server has nothing more to do here. False: it is of no use."""
        if not self.usable or not await self._quiet():
            return False
        if rollback:
            try:
                async with asyncio.timeout(RECOVERY_TIMEOUT):
                    await self._driver.execute("ROLLBACK")
            except Exception as error:
                logger.info("a connection did not recover and is closed: %r", error)
                return False
        return self.usable

    async def close(self) -> None:
        """Close it, whatever state it is in; first, a cancelled query ends in the server."""
        try:
            if not self._driver.is_closed() and await self._quiet():
                await self._driver.close(timeout=RECOVERY_TIMEOUT)
        except Exception as error:
            logger.debug("closing a connection: %r", error)
        self._driver.terminate()

    async def _quiet(self) -> bool:
        """Wait until the server runs nothing here any more; false if it still does, or the connection is gone.

        A command that does nothing waits behind what runs. A cancel request is only a signal: it is lost on
        a backend that has not yet read the query, so it is sent again as long as something runs. And one may
        come when the query has ended by itself; the command draws it, so that it can't hit the next query.
        """
        loop, driver = asyncio.get_running_loop(), cast(Any, self._driver)
        deadline = loop.time() + RECOVERY_TIMEOUT
        nothing = loop.create_task(driver.execute("SELECT"))
        await asyncio.wait([nothing], timeout=CANCEL_AGAIN)
        while not nothing.done() and loop.time() < deadline:
            # asyncpg sends one when a task is cancelled; there is no public way to send another.
            await driver._cancel(loop.create_future())
            await asyncio.wait([nothing], timeout=CANCEL_AGAIN)
        if not nothing.done():
            logger.warning("a cancelled query still runs after %g s; its connection is closed", RECOVERY_TIMEOUT)
            driver.terminate()
        try:
            await nothing
        except (asyncpg.QueryCanceledError, asyncpg.InFailedSQLTransactionError):
            return True
        except Exception as error:
            logger.info("a connection did not recover and is closed: %r", error)
            return False
        return True

    def forget(self) -> None:
        """Drop it, when its event loop is over."""
        with suppress(Exception):
            self._driver.terminate()

    def _translated(self, error: Exception, sql: str, arguments: Sequence[Any] = ()) -> Exception:
        return translate(error, sql, arguments, self._connection.dialect, closed=self._driver.is_closed())


def lost(error: BaseException | None) -> bool:
    """Whether the connection is gone, whoever noticed it first; not whether there was none to be had."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return is_lost(error) and not isinstance(error, Unavailable)
