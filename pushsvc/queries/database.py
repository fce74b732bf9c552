"""What a job holds as `ctx.db`: queries in parallel style."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row
from sqlalchemy.orm import InstrumentedAttribute, QueryableAttribute
from sqlalchemy.sql.selectable import ExecutableReturnsRows, TypedReturnsRows

from ..errors import QueryError, TransactionOpen
from .asking import lookups
from .asking.calculations import Calculations, Column
from .asking.finders import Finders
from .asking.naming import caller
from .asking.preloads import Preloading, check, is_relationship, only_entity_of, taken_over, with_related
from .asking.question import Question
from .asking.statements import Where
from .promise import Promise
from .running.comment import SqlComment
from .running.interrupt import unhurried
from .running.log import Observer, QueryRecord, log_unawaited
from .running.owner import Owner
from .running.pg_settings import PgSettings
from .running.pool import DatabasePool
from .running.query import Query
from .running.sharing import key_of, told_apart
from .running.transaction import Isolation, OnTransaction, Transaction, current

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

KEPT_RECORDS = 1000
"""Of how many queries a handle knows what became of them."""

MOST_OPEN = 10_000
"""How many queries of one handle may wait for their answer, or for somebody to await it."""

SWEPT_AT = 256
"""At how many queries those are dropped that are over."""


class Database(Finders, Calculations):
    """A job's database (`ctx.db`). Each method schedules a query at once and returns its Promise.

    A source is an entity, a column or a `select()`, narrowed by `where` if given. Queries only read: one that
    the server did not answer because it closed the connection may be run again. Equal ones that are on their
    way at the same time run once. Rows come back detached from their connection. All methods raise QueryError
    for what they can't make a query of, and after `close`, which ends it.

    `owner`, the job's id, has its turns on the executor and its own connection. `tags` become the SQL comment
    of its queries. `observer` is called with a query's record when it is scheduled and at every change of its
    status. With `inline` nothing is queued: each query runs when it is awaited. `pg_settings` are settings of
    PostgreSQL's, `role` included, that hold for all that is asked of this handle, and for nothing else. Raises
    SettingsError for what can't be a setting's name or value; QueryError when the pool is in use in another event
    loop.
    """

    def __init__(
        self,
        pool: DatabasePool,
        *,
        owner: str,
        tags: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        inline: bool = False,
        pg_settings: Mapping[str, Any] | None = None,
    ) -> None:
        settings = PgSettings.of(pg_settings)
        pool.admit(self)
        self.owner = owner
        self._pool = pool
        self._asker = Owner(owner, SqlComment(tags or {}), settings)
        self._observer = observer
        self._inline = inline
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._queries: list[Query] = []
        self._swept_at = SWEPT_AT
        self._records: deque[QueryRecord] = deque(maxlen=KEPT_RECORDS)
        self._flights: dict[Any, Query] = {}
        self._transactions: set[Transaction] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Database {self._pool.name} of {self.owner}: {len(self._records)} queries>"

    @property
    def queries(self) -> list[QueryRecord]:
        """The records of its queries, the last thousand of them, in the order in which they were scheduled."""
        return list(self._records)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of this handle is open."""
        return bool(self._transactions)

    @overload
    def load_async(
        self,
        source: type[T],
        *,
        where: Where | None = None,
        preload: Iterable[QueryableAttribute[Any]] = (),
    ) -> Promise[list[T]]: ...

    @overload
    def load_async(self, source: InstrumentedAttribute[T], *, of: object) -> Promise[T]: ...

    @overload
    def load_async(self, source: Column[T], *, where: Where | None = None) -> Promise[list[T]]: ...

    @overload
    def load_async(
        self,
        source: TypedReturnsRows[T],
        *,
        where: Where | None = None,
        preload: Iterable[QueryableAttribute[Any]] = (),
    ) -> Promise[list[T]]: ...

    @overload
    def load_async(
        self, source: TypedReturnsRows[T, U, *Ts], *, where: Where | None = None
    ) -> Promise[list[Row[T, U, *Ts]]]: ...

    @overload
    def load_async(
        self,
        source: ExecutableReturnsRows,
        *,
        where: Where | None = None,
        preload: Iterable[QueryableAttribute[Any]] = (),
    ) -> Promise[list[Any]]: ...

    def load_async(
        self,
        source: Any,
        *,
        where: Where | None = None,
        preload: Iterable[QueryableAttribute[Any]] = (),
        of: object = None,
    ) -> Promise[Any]:
        """All rows of the source: a list of entities or values where it selects one thing, else of Row.

        With `preload`, relationships of the entity, and for `selectinload` options of one level: when the
        rows have come, what is related to them is loaded side by side, each relationship by a query of its
        own. `load_async(Airport.flights, of=airport)` gives what is related to one that is there already, and
        asks nothing if that has been loaded.
        """
        if of is not None:
            if where is not None or preload:
                raise QueryError("what is related to one that is there already is loaded as it is: all of it")
            return self._association(source, of)
        if is_relationship(source):
            raise QueryError(f"say what {source} is related to: load_async({source}, of=…)")
        if is_relationship(preload):
            raise QueryError("`preload` takes a list of relationships")
        question, relationships = lookups.load(source, where), list(preload)
        if relationships:
            check(relationships, only_entity_of(question.statement))
        if self._pool.reader.listeners.any():
            # SQLAlchemy tells them of what is related as well, and lets them have their say.
            question.statement = with_related(question.statement, relationships)
            return self._ask(question)
        question.statement, taken = taken_over(question.statement)
        if not (relationships := taken + relationships):
            return self._ask(question)
        return self._with_preloads(lambda: self._ask(question), relationships)

    def preload_async(
        self, instances: Iterable[T], relationship: QueryableAttribute[Any], *more: QueryableAttribute[Any]
    ) -> Promise[list[T]]:
        """Load what is related to rows that are there already, and is not loaded yet; gives the rows."""
        rows = list(instances)
        relationships = [relationship, *more]
        for row in rows:
            check(relationships, type(row))
        return self._with_preloads(lambda: Promise.of(rows), relationships)

    def transaction(
        self, on_transaction: OnTransaction = "foreground", *, isolation: Isolation | None = None
    ) -> Transaction:
        """`async with db.transaction() as transaction:` a transaction on the job's own connection.

        Queries that are asked for in its block run in it, one after another (`"foreground"`), or are refused
        with TransactionOpen (`"raise"`). With `"snapshot"` they stay parallel, and all see the database as it
        was when the block began; nothing can be written then. Raises Unavailable when there is no connection.
        """
        self._refuse_when_closed("a transaction")
        if on_transaction not in ("foreground", "raise", "snapshot"):
            raise QueryError(f"on_transaction is foreground, raise or snapshot, not {on_transaction!r}")
        if isolation is not None and isolation not in ("read committed", "repeatable read", "serializable"):
            raise QueryError(f"isolation is read committed, repeatable read or serializable, not {isolation!r}")
        if isolation is not None and on_transaction == "snapshot":
            raise QueryError("a snapshot has its own isolation: repeatable read")
        return Transaction(
            self._pool,
            owner=self._asker,
            on_transaction=on_transaction,
            isolation=isolation,
            changed=self._transaction_changed,
        )

    async def close(self, *, reason: str | None = None) -> None:
        """The job's end: cancel what has no answer yet, and wait until none of its queries runs in the server.

        Queries that were never awaited are logged, as a warning unless a `reason` says why the job ended
        early; a transaction that is still open is rolled back. Closing can't be cut short: if the task is
        cancelled meanwhile, it finishes closing, and CancelledError is raised then. It takes a few
        milliseconds for each running query; at worst 2 s where the server does not react, or 10 s where it
        does not even take the connection.
        """
        first, self._closed = not self._closed, True
        for query in self._queries:
            for promise in list(query.asked):
                promise.cancel(reason or "the job has ended")
            if first and not query.awaited:
                log_unawaited(query.record, expected=reason is not None)
        await unhurried(
            *(query.task for query in self._queries if query.task is not None),
            *(asyncio.create_task(transaction.abort()) for transaction in self._transactions),
        )
        await unhurried(asyncio.create_task(self._pool.connections.clear(self._asker)))
        self._pool.dismiss(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(reason=None if error is None else f"the job ended with {type(error).__name__}")

    def _ask(self, question: Question[T]) -> Promise[T]:
        if threading.get_ident() != self._thread:
            question.origin = caller()
            return self._in_loop(lambda: self._ask(question))
        transaction = self._may_ask(question.name)
        if question.never and not self._pool.reader.listeners.any():
            self._pool.counters["empty"] += 1
            return _without_a_query(question)
        if transaction is not None and transaction.snapshot is None:
            query = self._query(question)
            query.observe()
            query.run_in(transaction, "transaction")
            return query.promise
        return self._share_or_schedule(question, transaction)

    def _share_or_schedule(self, question: Question[T], transaction: Transaction | None) -> Promise[T]:
        snapshot = None if transaction is None else transaction.snapshot
        asked = key_of(question)
        key = None if asked is None else (asked, snapshot)
        other = self._flights.get(key) if key is not None else None
        if other is not None and not other.settled and not told_apart(question, other, self._pool.reader.listeners):
            return other.share(question)
        query = self._query(question)
        if key is not None:
            self._flights[key] = query
        if transaction is not None:
            query.snapshot = snapshot
            transaction.include(query)
        query.schedule()
        return query.promise

    def _association(self, relationship: Any, instance: object) -> Promise[Any]:
        check([relationship], type(instance))
        return self.preload_async([instance], relationship).then(lambda _: getattr(instance, relationship.key))

    def _with_preloads(
        self, rows: Callable[[], Promise[Any]], relationships: Sequence[QueryableAttribute[Any]]
    ) -> Promise[Any]:
        origin = caller()

        def ask(question: Question[Any]) -> Promise[Any]:
            question.origin = origin
            return self._ask(question)

        def begin() -> Promise[Any]:
            self._may_ask("a preload")
            return Preloading(rows(), relationships, ask).promise

        return begin() if threading.get_ident() == self._thread else self._in_loop(begin)

    def _may_ask(self, name: str) -> Transaction | None:
        """The transaction in which to ask. Raises QueryError where nothing can be asked."""
        self._refuse_when_closed(name)
        transaction = current(self._pool)
        if transaction is not None and transaction.on_transaction == "raise":
            raise TransactionOpen(f"{name} was asked for in a transaction with on_transaction='raise'")
        return transaction

    def _query(self, question: Question[Any]) -> Query:
        if len(self._queries) >= MOST_OPEN:
            self._sweep()
            if len(self._queries) >= MOST_OPEN:
                raise QueryError(
                    f"{MOST_OPEN} queries of this job have no answer yet, or nobody awaited it: await some first"
                )
        query = Query(
            question,
            self._pool,
            asker=self._asker,
            inline=self._inline,
            observer=self._observer,
        )
        self._records.append(query.record)
        self._queries.append(query)
        if len(self._queries) >= self._swept_at:
            self._sweep()
            self._swept_at = max(SWEPT_AT, 2 * len(self._queries))
        return query

    def _sweep(self) -> None:
        # A job that asks all day long is not to keep every answer it ever had.
        self._queries = [query for query in self._queries if not query.over]
        self._flights = {key: query for key, query in self._flights.items() if not query.settled}

    def _transaction_changed(self, transaction: Transaction) -> None:
        """It has begun or ended: what is asked for from here on is not to be answered from before."""
        self._flights.clear()
        if transaction.open:
            self._refuse_when_closed("a transaction")
            self._transactions.add(transaction)
        else:
            self._transactions.discard(transaction)

    def _in_loop(self, ask: Callable[[], Promise[T]]) -> Promise[T]:
        """For a job that is a plain `def`: promises are made in the event loop's thread."""

        async def asked() -> Promise[T]:
            return ask()

        self._refuse_when_closed("a query")
        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result()

    def _refuse_when_closed(self, name: str) -> None:
        if self._closed or self._loop.is_closed():
            raise QueryError(f"{name} was asked for after the end of the job")
        if threading.get_ident() == self._thread and asyncio._get_running_loop() is not self._loop:
            raise QueryError(f"{name} was asked for outside of the event loop to which this handle belongs")


def _without_a_query(question: Question[T]) -> Promise[T]:
    try:
        return Promise.of(question.finish([]))
    except QueryError as error:
        return Promise.failed(error)
