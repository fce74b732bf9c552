"""The databases of a process, and what a job holds as `ctx.db`: queries in parallel style."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row
from sqlalchemy.sql import roles
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.selectable import ExecutableReturnsRows, SelectBase, TypedReturnsRows

from ..errors import QueryError
from . import statements
from .connections import Connections, Interrupt, sql_comment
from .executor import Lane
from .log import Observer, QueryRecord, log_unawaited
from .promise import Promise
from .query import Query
from .statements import Question, Where

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
Ts = TypeVarTuple("Ts")

Column = SQLCoreOperations[T] | roles.TypedColumnsClauseRole[T]
"""A column or an expression: what `select()` takes but an entity."""

BACKLOG_PER_PLACE = 4
"""How many queries may wait for each that may run."""


class DatabasePool:
    """One database, as one process uses it: its connections, and the two bounds on queries.

    `executor_concurrency` queries at once for all jobs of the process, 4 times that waiting; besides them
    one in the foreground for each job, `own_connections` in all (a worker gives its `max_jobs`). Their sum
    is the most connections this ever opens; none is opened before the first query.

    `url` is any PostgreSQL URL, unix sockets included (`postgresql://user@/db?host=/dir`). Raises
    SettingsError when it is not one. Belongs to one event loop.
    """

    def __init__(
        self, url: str, *, name: str = "primary", executor_concurrency: int = 4, own_connections: int = 10
    ) -> None:
        self.name = name
        self.connections = executor_concurrency + own_connections
        self._connections = Connections(url, name=name, size=self.connections)
        self._executor = Lane("async", executor_concurrency, backlog=BACKLOG_PER_PLACE * executor_concurrency)
        self._foreground = Lane("foreground", own_connections, each=1)
        self._open: set[Database] = set()

    @property
    def active(self) -> int:
        """How many queries run now."""
        return self._executor.active + self._foreground.active

    @property
    def waiting(self) -> int:
        """How many queries wait for the executor now."""
        return self._executor.waiting

    def database(
        self,
        *,
        owner: str,
        tags: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        inline: bool = False,
    ) -> Database:
        """The handle of one job; close it at the job's end.

        `owner`, the job's id, has its turns on the executor and its own connection. `tags` become the SQL
        comment of its queries. `observer` is called with a query's record when it is scheduled and at every
        change of its status. With `inline` nothing is queued: each query runs when it is awaited.
        """
        database = Database(
            self._connections,
            owner=owner,
            comment=sql_comment(tags or {}),
            executor=None if inline else self._executor,
            foreground=self._foreground,
            observer=observer,
            forget=self._open.discard,
        )
        self._open.add(database)
        return database

    async def close(self) -> None:
        """Cancel what still runs, wait until it is gone from the server, and close all connections."""
        for database in list(self._open):
            await database.close(reason="the service is shutting down")
        await self._connections.close()


class Database:
    """A job's database (`ctx.db`). Each method schedules a query at once and returns its Promise.

    A source is an entity, a column or a `select()`. Queries only read: one that the server did not answer
    because it closed the connection may be run again. Rows come back detached from their connection. All
    methods raise QueryError for what they can't make a query of, and after `close`.

    Made by `DatabasePool.database`.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        owner: str,
        comment: str,
        executor: Lane | None,
        foreground: Lane,
        observer: Observer | None,
        forget: Callable[[Database], None],
    ) -> None:
        self.owner = owner
        self._connections = connections
        self._comment = comment
        self._executor = executor
        self._foreground = foreground
        self._observer = observer
        self._forget = forget
        self._queries: list[Query] = []
        self._closed = False

    @property
    def queries(self) -> list[QueryRecord]:
        """The records of all its queries, in the order in which they were scheduled."""
        return [query.record for query in self._queries]

    @overload
    def load_async(self, source: type[T]) -> Promise[list[T]]: ...

    @overload
    def load_async(self, source: TypedReturnsRows[T]) -> Promise[list[T]]: ...

    @overload
    def load_async(self, source: TypedReturnsRows[T, U, *Ts]) -> Promise[list[Row[T, U, *Ts]]]: ...

    @overload
    def load_async(self, source: Column[T]) -> Promise[list[T]]: ...

    @overload
    def load_async(self, source: ExecutableReturnsRows) -> Promise[list[Any]]: ...

    def load_async(self, source: Any) -> Promise[list[Any]]:
        """All rows of the source: a list of entities or values where it selects one thing, else of Row."""
        return self._schedule(statements.load(source))

    def async_count(
        self, source: type[Any] | Column[Any] | SelectBase, *, where: Where | None = None
    ) -> Promise[int]:
        """How many rows the entity or the statement has, or how many values that are not NULL the column.

        A statement with GROUP BY is counted by group: the answer is a dict from what it selects (a tuple
        where that is several columns) to the group's count. The types can't tell that; `cast` it.
        """
        return self._schedule(statements.count(source, where))

    @overload
    def async_sum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(self, source: TypedReturnsRows[T | None], *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T]]: ...

    @overload
    def async_sum(self, source: SelectBase, *, where: Where | None = None) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_sum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The sum of a column, or of a statement's only one; 0 when there are no rows.

        A statement with GROUP BY that selects the columns it groups by and, last, the one to be summed gives
        a dict: key, or tuple of keys, to sum. So it is with the minimum, maximum and average.
        """
        return self._schedule(statements.total(source, where))

    @overload
    def async_minimum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[T | None], *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_minimum(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_minimum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The least value of a column, or of a statement's only one; None when there are no rows."""
        return self._schedule(statements.minimum(source, where))

    @overload
    def async_maximum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[T | None], *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_maximum(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_maximum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The greatest value of a column, or of a statement's only one; None when there are no rows."""
        return self._schedule(statements.maximum(source, where))

    @overload
    def async_average(self, source: Column[Any], *, where: Where | None = None) -> Promise[float | None]: ...

    @overload
    def async_average(self, source: TypedReturnsRows[T], *, where: Where | None = None) -> Promise[float | None]: ...

    @overload
    def async_average(
        self, source: TypedReturnsRows[K, T], *, where: Where | None = None
    ) -> Promise[dict[K, float | None]]: ...

    @overload
    def async_average(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], float | None]]: ...

    def async_average(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The mean of a column, or of a statement's only one, as a float; None when there are no rows."""
        return self._schedule(statements.average(source, where))

    async def close(self, *, reason: str | None = None) -> None:
        """The job's end: cancel what has no answer yet, and wait until none of its queries runs in the server.

        Queries that were never awaited are logged, as a warning unless a `reason` says why the job ended
        early. Closing can't be cut short: if the task is cancelled meanwhile, it finishes closing, and
        CancelledError is raised then. It takes a few milliseconds for each running query; at worst 2 s where
        the server does not react, or 10 s where it does not even take the connection.
        """
        first, self._closed = not self._closed, True
        for query in self._queries:
            query.promise.cancel(reason or "the job has ended")
            if first and not query.promise.awaited:
                log_unawaited(query.record, expected=reason is not None)
        await _all_done([query.task for query in self._queries if query.task is not None])
        self._forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(reason=None if error is None else f"the job ended with {type(error).__name__}")

    def _schedule(self, question: Question[Any]) -> Promise[Any]:
        if self._closed:
            raise QueryError(f"{question.name} was asked for after the end of the job")
        query = Query(question, self._read, owner=self.owner, foreground=self._foreground, observer=self._observer)
        self._queries.append(query)
        query.schedule(self._executor)
        return query.promise

    async def _read(self, question: Question[Any], interrupt: Interrupt) -> Any:
        return await self._connections.read(
            question, comment=self._comment, interrupt=interrupt, repeatable=question.reads_only
        )


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all of them, whoever cancels; the cancellation is raised in the end."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
