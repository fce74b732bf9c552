"""One connection to a database: SQLAlchemy's view of it, and the driver's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast
from weakref import WeakSet

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ...errors import QueryError, Unavailable
from ...store import DriverConnection, is_lost
from .comment import SqlComment
from .direct import fetch, forget_statements, translate
from .engine import CLIENT_CHECK, CLIENT_CHECK_LOCALLY, COMMENT, LINK, set_up_by_others
from .owner import Owner
from .pg_settings import PgSettings, set_locally
from .reading import Reading
from .traces import ENDING, RESET, Catalog, Words, words_of

T = TypeVar("T")

logger = logging.getLogger("pushsvc.queries")

RECOVERY_TIMEOUT = 2.0
"""Seconds that a cancelled query has to end in the server, before its connection is closed."""

_REFUSALS = (
    asyncpg.InvalidParameterValueError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.InvalidNameError,
    asyncpg.UntranslatableCharacterError,
)
"""What PostgreSQL says of a setting that it does not know, or of a value that it does not take."""

_warned: WeakSet[AsyncEngine] = WeakSet()

_CANCELED = asyncpg.QueryCanceledError.sqlstate

CANCEL_AGAIN = 0.25
"""Seconds after which a query that still runs is cancelled once more."""


class Link:
    """One connection. Serves one query at a time; who takes it from `Connections` is alone with it.

    A question whose statement could be compiled ahead goes straight to the driver; what the ORM has to build
    goes through SQLAlchemy. Both see the same session of the server, whose transactions are begun and ended
    by `command` only: SQLAlchemy takes it for autocommit.

    It remembers whether somebody may have left something in that session, which `clear` removes. Where it is
    `pooled`, the session is somebody else's after each transaction: then `end` does.
    """

    __slots__ = (
        "_application_name",
        "_catalog",
        "_connection",
        "_driver",
        "_left",
        "_spoiled",
        "_unsure",
        "left_by",
        "owner",
    )

    def __init__(self, connection: AsyncConnection, driver: DriverConnection, catalog: Catalog) -> None:
        self._connection = connection
        self._driver = driver
        self._catalog = catalog
        self._application_name = str(getattr(driver.get_settings(), "application_name", ""))
        self._spoiled = False
        self.owner: Owner | None = None
        """Who has it, or had it last."""
        self.left_by: Owner | None = None
        """Who may have left something in its session; None: nobody has."""
        self._left = False
        self._unsure: set[Words] = set()

    @classmethod
    async def open(cls, engine: AsyncEngine, catalog: Catalog) -> Link:
        """A new connection of this engine; the catalog knows which statements leave nothing."""
        connection = await engine.connect()
        driver = (await connection.get_raw_connection()).driver_connection
        if connection.sync_connection is not None:
            # It is kept here, and no pool of SQLAlchemy's is to look after it.
            connection.sync_connection.detach()
        link = cls(connection, cast(DriverConnection, driver), catalog)
        if link.pooled and set_up_by_others(engine) and engine not in _warned:
            _warned.add(engine)
            logger.warning("a listener sets up new connections; what it sets by SET shows at others behind a pooler")
        return link

    @property
    def pooled(self) -> bool:
        """Whether each of its transactions may run in another session of the server; all that it asks is in one."""
        return self._driver.pooled

    @property
    def usable(self) -> bool:
        """Whether it may serve another query."""
        return not (self._spoiled or self._driver.is_closed())

    async def ask(self, reading: Reading, owner: Owner) -> list[Any]:
        """The rows, which need the connection no longer. Raises what SQLAlchemy would."""
        compiled = reading.compiled
        if compiled is None:
            return await self.run(reading.rows, owner.comment)
        self.leaves(words_of(compiled.context.compiled))
        sql = owner.comment.on(compiled.sql)
        # The same text may be about other tables next time.
        once = self.pooled or (owner.settings is not None and owner.settings.renames)
        try:
            records = await fetch(self._driver, sql, compiled.arguments, once=once)
        except Exception as error:
            self._raise(error, sql, compiled.arguments)
        return compiled.answer(records)

    async def run(self, work: Callable[[Connection], T], comment: SqlComment, *, unseen: bool = False) -> T:
        """What a function makes of SQLAlchemy's connection; `unseen`, if not only by statements of SQLAlchemy's."""
        if unseen:
            self.leaves(None)

        def run(connection: Connection) -> T:
            connection.execution_options(**{COMMENT: comment, LINK: self})
            return work(connection)

        try:
            return await self._connection.run_sync(run)
        finally:
            # SQLAlchemy gives up a connection that it finds closed.
            self._spoiled = self._connection.invalidated or self._connection.closed

    async def begin(self, command: str, settings: PgSettings | None) -> None:
        """Begin a transaction in which these settings hold, in one trip. Raises QueryError if they can't."""
        if self.pooled:
            command += f"; {CLIENT_CHECK_LOCALLY}"
        if settings is None:
            await self.command(command)
        else:
            await self.set_locally(settings, before=f"{command}; ")

    async def end(self, command: str) -> None:
        """End a transaction. Behind a pooler, what may have been left in the session is removed in the same trip."""
        if not self.pooled or not self._may_have_left():
            await self.command(command)
            return
        await self.command(f"{command}; {RESET}; {self._given_back()}")
        self._left = False
        unsure, self._unsure = self._unsure, set()
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT):
                await self._driver.execute("BEGIN")
                await self._catalog.learn(self._ask_once, unsure)
                await self._driver.execute("COMMIT")
        except Exception as error:
            logger.info("a connection could not learn what statements leave, and is closed: %r", error)
            self._driver.terminate()

    def _given_back(self) -> str:
        """Sets what the pooler has set for this client, and takes for reset, too."""
        values = {"client_encoding": "UTF8", "application_name": self._application_name}
        return set_locally(values, local=False)

    def refuse_end(self, sql: str) -> None:
        """Raises QueryError where a text would end a transaction without what `end` does."""
        if self.pooled and ENDING.match(sql):
            raise QueryError("behind a pooler a text can't end a transaction: leave that to the block's end")

    async def set_locally(self, settings: PgSettings, *, before: str = "") -> None:
        """Have these hold until the end of the transaction. Raises QueryError if they can't."""
        sql = before + settings.sql
        try:
            await self._driver.execute(sql)
        except _REFUSALS as error:
            names = ", ".join(settings.values)
            raise QueryError(f"PostgreSQL refuses the job's pg_settings ({names}): {error}") from error
        except Exception as error:
            self._raise(error, sql)

    async def current_settings(self, names: Sequence[str]) -> dict[str, str]:
        """What these are set to; the empty text for what is not set."""
        rows = await self._ask_once("SELECT name, current_setting(name, true) FROM unnest($1::text[]) AS name", names)
        return {name: value or "" for name, value in rows}

    async def command(self, sql: str) -> None:
        """Run commands without parameters or answer, such as BEGIN; several in one trip, with `;` between."""
        try:
            await self._driver.execute(sql)
        except Exception as error:
            self._raise(error, sql)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open in the server, in whatever state."""
        return self._driver.is_in_transaction()

    def leaves(self, words: Words | None) -> None:
        """A statement of these words is about to run; of None, one of which nothing is known."""
        if words is not None and self._catalog.harmless(words, asyncio.get_running_loop().time()):
            return
        if not self.pooled:
            self.left_by = self.owner
        if words is None:
            self._left = True
        else:
            self._unsure.add(words)

    async def clear(self) -> bool:
        """Remove what may have been left in its session, in one round trip if any. False: it is of no use."""
        if self._may_have_left():
            if set_up_by_others(self._connection.engine):
                return False
            try:
                async with asyncio.timeout(RECOVERY_TIMEOUT):
                    await self._driver.execute(f"ROLLBACK; {RESET}; {CLIENT_CHECK.format(direct=True)}")
                    forget_statements(self._driver)
                    await self._catalog.learn(self._ask_once, self._unsure)
            except Exception as error:
                logger.info("a connection could not be reset and is closed: %r", error)
                return False
        self.left_by, self._left = None, False
        self._unsure.clear()
        return self.usable

    def _may_have_left(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._left or not all(self._catalog.harmless(words, now) for words in self._unsure)

    async def export_snapshot(self) -> str:
        """The identifier by which other connections see what this one's transaction sees."""
        return str(await self._driver.fetchval("SELECT pg_export_snapshot()"))

    async def recover(self, error: BaseException | None = None, *, rollback: bool = False) -> bool:
        """After an error or a cancel: wait until the server has nothing more to do here. False: it is of no use.

        Where the server has answered with an error of its own, there is nothing to wait for. With `rollback`, a
        transaction that is still open is rolled back.
        """
        if not self.usable or not (_answered(error) or await self._quiet()):
            return False
        if rollback and self.in_transaction:
            try:
                async with asyncio.timeout(RECOVERY_TIMEOUT):
                    await self.end("ROLLBACK")
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

    async def _ask_once(self, sql: str, argument: object) -> list[asyncpg.Record]:
        """The rows; nothing stays prepared for another time."""
        statement = await self._driver.prepare(sql, name="")
        return await statement.fetch(argument)

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

    def _raise(self, error: Exception, sql: str, arguments: Sequence[Any] = ()) -> NoReturn:
        translated = translate(error, sql, arguments, self._connection.dialect, closed=self._driver.is_closed())
        if translated is error:
            # It is none of the database's: a value that Python can't hold, such as a date before Christ.
            raise error
        raise translated from error


def _answered(error: BaseException | None) -> bool:
    """Whether the error is the server's answer to what was asked, and no cancel of ours may be on its way."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is not None and state != _CANCELED


def lost(error: BaseException | None) -> bool:
    """Whether the connection is gone, whoever noticed it first; not whether there was none to be had."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return is_lost(error) and not isinstance(error, Unavailable)
