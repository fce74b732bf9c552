"""Connections to one database: how they are made, marked with the job's name, cancelled and replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ..errors import SettingsError, Unavailable
from ..store import is_lost

T = TypeVar("T")

logger = logging.getLogger("pushsvc.queries")

CLIENT_CHECK_MS = 2000
"""Milliseconds between two looks of the server at whether the client of a running query is still there."""

CONNECT_TIMEOUT = 10.0
"""Seconds until a server that does not answer counts as away."""

_COMMENT = "pushsvc_comment"
_COMMENT_VALUE_LIMIT = 200


class Interrupt:
    """Lets exactly one cancel into a task, and only where the task can bear it.

    A cancelled query is wound up by asyncpg (it asks the server to cancel, and waits for its answer) and by
    SQLAlchemy (it closes the connection). A second cancel in the midst of that leaves the query running in
    the server with nobody to stop it; one while a connection is being opened leaks the connection. So a
    cancel reaches the task once, inside `window`; one that comes before takes effect on entering it.
    """

    __slots__ = ("_task", "asked")

    def __init__(self) -> None:
        self.asked = False
        self._task: asyncio.Task[Any] | None = None

    def ask(self) -> None:
        """Cancel what runs in the window, now or as soon as it is entered. Again: nothing more happens."""
        if not self.asked:
            self.asked = True
            if self._task is not None:
                self._task.cancel()

    @contextmanager
    def window(self) -> Iterator[None]:
        """Where the current task may be cancelled. Raises CancelledError if that was asked before."""
        if self.asked:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        try:
            yield
        finally:
            self._task = None


class Connections:
    """The engine of one database in this process. Nothing connects before the first read."""

    def __init__(self, url: str, *, name: str, size: int) -> None:
        self._name = name
        self._engine = _engine(async_url(url), size, name)

    async def read(
        self,
        work: Callable[[Connection], T],
        *,
        comment: str,
        interrupt: Interrupt,
        repeatable: Callable[[], bool],
    ) -> T:
        """Run `work` on a connection of the pool; the answer must not need the connection any more.

        PostgreSQL restarts: if it has closed the connection, SQLAlchemy drops all that the pool holds, and a
        `repeatable` work is done once more on a new one. This costs nothing where all is well, unlike a ping
        before each query. Raises Unavailable when that fails too, or when no connection can be had; asyncio's
        CancelledError when interrupted, with the server's side already wound up; else the query's own error.
        """
        try:
            return await self._read(work, comment, interrupt)
        except Exception as error:
            if not _lost(error):
                raise
            if not repeatable():
                raise Unavailable(f"database {self._name!r} closed the connection during a query") from error
        logger.info("database %r closed the connection; reading once more on a new one", self._name)
        try:
            return await self._read(work, comment, interrupt)
        except Exception as error:
            if not _lost(error):
                raise
            raise Unavailable(f"database {self._name!r} closed the connection twice during a query") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _read(self, work: Callable[[Connection], T], comment: str, interrupt: Interrupt) -> T:
        connection = await self._connect()
        try:
            with interrupt.window():
                await connection.execution_options(**{_COMMENT: comment})
                return await connection.run_sync(work)
        finally:
            await connection.close()

    async def _connect(self) -> AsyncConnection:
        try:
            return await self._engine.connect()
        except OSError as error:
            raise Unavailable(f"database {self._name!r} can't be reached") from error
        except DBAPIError as error:
            if is_lost(error):
                raise Unavailable(f"database {self._name!r} takes no connections") from error
            raise


def async_url(url: str) -> URL:
    """The URL for asyncpg: of any PostgreSQL URL, with libpq's `sslmode` as asyncpg's `ssl`.

    Raises SettingsError when it is not a PostgreSQL URL; the URL itself is never in the message.
    """
    try:
        parsed = make_url(url)
    except Exception:
        raise SettingsError("the database URL does not parse") from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError("the database URL is not one of PostgreSQL (postgresql://…)")
    query = dict(parsed.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def sql_comment(tags: Mapping[str, str]) -> str:
    """`/*job='airport_report',job_id='01J…'*/ `, or nothing without tags.

    Names and values are percent-encoded, so that nothing in them can end the comment; values are cut at 200
    characters.
    """
    if not tags:
        return ""
    pairs = (f"{quote(name, safe='')}='{quote(tags[name][:_COMMENT_VALUE_LIMIT], safe='')}'" for name in tags)
    return f"/*{','.join(pairs)}*/ "


def _engine(url: URL, size: int, name: str) -> AsyncEngine:
    """The engine.

    - AUTOCOMMIT: a read is one packet rather than three, as it needs no BEGIN and ROLLBACK around it.
    - No prepared statement outlives its query. The comment holds the job's id, so no job's text ever comes
      again: with the default cache of 100, each connection keeps 100 dead statements in the server (+3 MB)
      and sends a Close for the oldest with each new one. The empty name makes it PostgreSQL's unnamed
      statement, which the next one replaces without a Close. Measured for a 0.6 ms query, repeated: the same
      text from the cache 0.64 ms, a new text each with the cache 1.83 ms, without it 1.89, unnamed 1.46.
      asyncpg's own cache (`statement_cache_size`) stays: only its type introspection uses it.
    - The last connection used is the next: few stay warm, and those that a burst opened rest.
    """
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_use_lifo=True,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
            "server_settings": {"application_name": f"pushsvc {name}"},
        },
    )
    event.listen(engine.sync_engine, "connect", _watch_client)
    event.listen(engine.sync_engine, "before_cursor_execute", _add_comment, retval=True)
    event.listen(engine.sync_engine, "handle_error", _recognise_disconnect)
    return engine


def _watch_client(connection: Any, _record: Any) -> None:
    """Have the server look now and then whether we are still there, so that a killed worker's queries end too.

    Not as a startup parameter, which poolers such as PgBouncer refuse; nor where the server can't (Windows).
    """
    cursor = connection.cursor()
    try:
        cursor.execute(f"SET client_connection_check_interval = {CLIENT_CHECK_MS}")
    except connection.dbapi.Error as error:
        logger.info("a killed worker's queries will run to their end: %s", error)
    finally:
        cursor.close()


def _add_comment(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    # In front: pg_stat_activity cuts a query after 1024 bytes.
    return connection.get_execution_options().get(_COMMENT, "") + statement, parameters


def _recognise_disconnect(context: ExceptionContext) -> None:
    # SQLAlchemy asks whether the socket is closed; but a server that is shutting down sends its error first
    # and closes after, and both may or may not have arrived by now.
    if is_lost(context.original_exception):
        context.is_disconnect = True


def _lost(error: Exception) -> bool:
    """Whether the connection is gone, whoever noticed it first; not whether there was none to be had."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return is_lost(error) and not isinstance(error, Unavailable)
