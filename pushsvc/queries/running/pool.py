"""The databases of a process: connections, and the two bounds on queries."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from sqlalchemy.orm import Session

from ...errors import QueryError
from ...store import PoolerMode
from .connections import Connections
from .executor import Lane
from .reading import Reader, check_session_class

BACKLOG_PER_PLACE = 4
"""How many queries may wait for each that may run."""


class Handle(Protocol):
    """What asks of a pool: closed by its owner, or else with the pool."""

    async def close(self, *, reason: str | None = None) -> None:
        """End it."""


class DatabasePool:
    """One database, as one process uses it: its connections, and the two bounds on queries.

    `executor_concurrency` queries at once for all jobs of the process, 4 times that waiting; besides them
    one in the foreground for each job, `own_connections` in all (a worker gives its `max_jobs`). Their sum
    is the most connections this ever opens; none is opened before the first query.

    `url` is any PostgreSQL URL, unix sockets included (`postgresql://user@/db?host=/dir`). Raises
    SettingsError when it is not one. `session_class` is the author's own `Session`, by whose ways and listeners
    queries are run. `pooler` is what is in front of the server; `side_by_side` says that it has a connection for
    each of ours, so that none waits for another. Belongs to one event loop at a time: when that is over, the next
    to ask starts anew.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "primary",
        executor_concurrency: int = 4,
        own_connections: int = 10,
        session_class: type[Session] = Session,
        pooler: PoolerMode = "auto",
        side_by_side: bool = False,
    ) -> None:
        self.name = name
        self.size = executor_concurrency + own_connections
        """The most connections it ever has."""
        self.side_by_side = side_by_side
        """Whether a pooler in front of the server has a connection for each of ours: none waits for others."""
        self._url = url
        self._pooler = pooler
        self._places = executor_concurrency, own_connections
        self._session_class = check_session_class(session_class)
        self._start_anew()
        self.counters: Counter[str] = Counter()
        """How many queries went each way: `async`, `foreground:<reason>`, `shared`, and `empty` without a query."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<DatabasePool {self.name}: {self.active} of {self.size} active, {self.waiting} waiting>"

    @property
    def active(self) -> int:
        """How many queries run now."""
        return self.executor.active + self.foreground.active

    @property
    def waiting(self) -> int:
        """How many queries wait for the executor now."""
        return self.executor.waiting

    def admit(self, handle: Handle) -> None:
        """Let it ask, until `dismiss`. Raises QueryError when the pool is in use in another event loop."""
        self._belong_here()
        self._handles.add(handle)

    def dismiss(self, handle: Handle) -> None:
        """It is closed, and asks no more."""
        self._handles.discard(handle)

    async def close(self) -> None:
        """Cancel what still runs, wait until it is gone from the server, and close all connections."""
        if self._loop is not None and self._loop.is_closed():
            self.connections.forget()
            self._start_anew()
        for handle in list(self._handles):
            await handle.close(reason="the service is shutting down")
        await self.connections.close()

    def _start_anew(self) -> None:
        executor, own = self._places
        self.connections = Connections(self._url, name=self.name, pooler=self._pooler)
        self.reader = Reader(self.connections.engine, self._session_class)
        self.executor = Lane("async", executor, backlog=BACKLOG_PER_PLACE * executor)
        self.foreground = Lane("foreground", own, each=1)
        self._handles: set[Handle] = set()

    def _belong_here(self) -> None:
        """Tests, and scripts with several `asyncio.run`, use one pool in one event loop after another."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise QueryError(f"database {self.name!r} is in use in another event loop")
            self.connections.forget()
            self._start_anew()
        self._loop = loop
