"""How connections to one database are made: URL, driver options, what each is told when it opens."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from sqlalchemy import Connection, NullPool, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ...store import Conninfo, is_lost
from .comment import SqlComment
from .traces import Words, words_of

CLIENT_CHECK_MS = 2000
"""Milliseconds between two looks of the server at whether the client of a running query is still there."""

CONNECT_TIMEOUT = 10.0
"""Seconds until a server that does not answer counts as away."""

STATEMENT_CACHE_SIZE = 16
"""How many prepared statements a connection keeps at most, of texts that came again."""

_CLIENT_CHECK = (
    f"SELECT pg_catalog.set_config('client_connection_check_interval', '{CLIENT_CHECK_MS}', {{local}})"
    " WHERE pg_catalog.version() LIKE '%linux%' AND {where}"
)

CLIENT_CHECK = _CLIENT_CHECK.format(local=False, where="{direct}")
"""Has the server look now and then whether we are still there, so that a killed worker's queries end too. For a
session of ours, as `Conninfo.connect` takes it. Not as a startup parameter, which poolers refuse."""

CLIENT_CHECK_LOCALLY = _CLIENT_CHECK.format(local=True, where=True)
"""The same until the end of the transaction."""

COMMENT = "pushsvc_comment"
"""The execution option that holds a query's SqlComment."""

LINK = "pushsvc_link"
"""The execution option that holds the Link on which a statement runs."""


def make_engine(conninfo: Conninfo, name: str) -> AsyncEngine:
    """The engine.

    - No pool of its own: the lanes bound how many connections there are, and `Connections` keeps them.
    - AUTOCOMMIT: a read is one packet rather than three, as it needs no BEGIN and ROLLBACK around it; and a
      transaction's BEGIN and COMMIT are ours alone.
    - What SQLAlchemy runs itself is prepared as PostgreSQL's unnamed statement, which the next one replaces.
      The comment holds the job's id, so no job's text ever comes again: with SQLAlchemy's default of 100, each
      connection keeps 100 dead statements in the server (+3 MB) and sends a Close for the oldest with each new
      one. What goes straight to the driver has a cache of its own, `direct.fetch`.
    - No cursors in the server, which need a transaction: rows are read all at once, with `yield_per` too.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "async_creator_fn": conninfo.connect,
            "timeout": CONNECT_TIMEOUT,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
            "session": CLIENT_CHECK,
            "statement_cache_size": STATEMENT_CACHE_SIZE,
            "server_settings": {"application_name": f"pushsvc {name}"},
        },
    )
    engine.dialect.supports_server_side_cursors = False
    event.listen(engine.sync_engine, "before_cursor_execute", _add_comment, retval=True)
    event.listen(engine.sync_engine, "handle_error", _recognise_disconnect)
    return engine


def set_up_by_others(engine: AsyncEngine) -> bool:
    """Whether the author's code does something with every new connection of any engine, which a reset would undo."""
    dispatch: Any = engine.sync_engine.pool.dispatch
    return any(getattr(dispatch, name).parent_listeners for name in ("connect", "first_connect", "checkout"))


class Witness(Protocol):
    """What is told of each statement that runs on a connection."""

    def leaves(self, words: Words | None) -> None:
        """A statement of these words is about to run."""

    def refuse_end(self, sql: str) -> None:
        """Raises QueryError for a text that would end a transaction that is not its to end."""


def _add_comment(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    options = connection.get_execution_options()
    comment: SqlComment | None = options.get(COMMENT)
    link: Witness | None = options.get(LINK)
    if link is not None:
        listened = connection.dispatch.before_cursor_execute.parent_listeners
        # Who listens to all engines has the cursor, and may run on it what we can't see.
        known = context is not None and context.compiled is not None and not listened
        link.leaves(words_of(context.compiled) if known else None)
        link.refuse_end(statement)
    return statement if comment is None else comment.on(statement), parameters


def _recognise_disconnect(context: ExceptionContext) -> None:
    # SQLAlchemy asks whether the socket is closed; but a server that is shutting down sends its error first
    # and closes after, and both may or may not have arrived by now.
    if is_lost(context.original_exception):
        context.is_disconnect = True
    elif isinstance(context.original_exception, asyncio.CancelledError):
        # SQLAlchemy would close a connection on which a query was cancelled. But the driver has the server cancel
        # it, and `Link.recover` waits for that: the connection is as good as before.
        context.is_disconnect = False
