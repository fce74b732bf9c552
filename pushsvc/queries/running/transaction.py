"""Transactions: on the job's own connection, in the order in which things are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.orm import Session

from ...errors import QueryBroken, QueryCancelled, QueryError
from ..asking.statements import only_reads
from ..promise import Promise
from .executor import Place
from .interrupt import Interrupt, interruptible, unhurried
from .link import Link, lost
from .owner import Owner
from .pg_settings import SettingsHeld
from .pool import DatabasePool
from .reading import Reading
from .turns import Turn, Turns

T = TypeVar("T")

logger = logging.getLogger("pushsvc.queries")

OnTransaction = Literal["foreground", "raise", "snapshot"]
"""What becomes of queries that are asked for within a transaction."""

Isolation = Literal["read committed", "repeatable read", "serializable"]


class Member(Protocol):
    """A query, as its transaction knows it."""

    asker: Owner
    interrupt: Interrupt
    task: asyncio.Task[None] | None
    transaction: Transaction | None

    @property
    def reading(self) -> Reading:
        """What it reads."""

    @property
    def asked(self) -> Collection[Promise[Any]]:
        """Its promises."""

    def begin(self) -> None:
        """It has the connection now."""


_innermost: ContextVar[Transaction | None] = ContextVar("pushsvc_transaction", default=None)


def current(pool: DatabasePool) -> Transaction | None:
    """The innermost open transaction on this database in whose body the caller runs."""
    transaction = _innermost.get()
    while transaction is not None and not (transaction.open and transaction.pool is pool):
        transaction = transaction.around
    return transaction


class Transaction:
    """`async with db.transaction() as transaction:`; commits at the end of the block, rolls back on an error.

    Belongs to the block, and to tasks started in it: what they ask of `db` is asked in the transaction, on
    its connection, in the order in which it was asked for, and so sees what was written before. Another one
    inside it is a savepoint. Writes go through `execute` and `run_sync`. Once something in it has failed,
    PostgreSQL takes nothing more; the block's end then rolls back and raises QueryError, unless it already
    ends with an error. Made by `Database.transaction`.
    """

    def __init__(
        self,
        pool: DatabasePool,
        *,
        owner: Owner,
        on_transaction: OnTransaction,
        isolation: Isolation | None,
        changed: Callable[[Transaction], None],
    ) -> None:
        self.pool = pool
        self.around: Transaction | None = None
        self.on_transaction = on_transaction
        self.open = False
        self.snapshot: str | None = None
        """What to import to see what this sees; only with `on_transaction="snapshot"`."""
        self._changed = changed
        self._outer: Transaction | None = None
        self._outer_turn: Turn | None = None
        self._owner = owner
        self._isolation = isolation
        self._place: Place | None = None
        self._link: Link | None = None
        self._turns = Turns()
        self._queries: list[Member] = []
        self._settings = SettingsHeld(owner.settings)
        self._nested: set[Transaction] = set()
        self._interrupts: set[Interrupt] = set()
        self._failure: Exception | None = None
        self._ends_in_rollback = False
        self._entered = False
        self._given_up = False
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise QueryError("a transaction is for one block: call db.transaction() for each")
        self._entered = True
        self.around = _innermost.get()
        self._outer = current(self.pool)
        if self._outer is not None:
            if self._isolation is not None:
                raise QueryError("a transaction inside another has that one's isolation")
            self._outer_turn = self._outer._turns.take()
            if self.on_transaction == "snapshot":
                # The writes of the one around it are in nobody's snapshot, so the queries stay with it.
                self.on_transaction = "foreground"
        try:
            await interruptible(self._begin)
            self._changed(self)
        except BaseException:
            await self.abort()
            raise
        _innermost.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._all_done()
        except asyncio.CancelledError:
            await self.abort()
            raise
        finally:
            _innermost.set(self.around)
        if error is None and self._given_up:
            raise QueryError("the transaction was rolled back: the job, or the transaction around it, had ended")
        if error is not None or self._failure is not None or self._ends_in_rollback:
            await self.abort()
        else:
            await self._commit()
        if error is None and self._failure is not None:
            raise QueryError(f"the transaction was rolled back, as a query in it failed: {self._failure}") from (
                self._failure
            )

    def roll_back(self) -> None:
        """End without an error, and yet write nothing."""
        self._ends_in_rollback = True

    async def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Execute a statement, such as an INSERT, after all that was asked for before; its rows are read already.

        As by SQLAlchemy's `Connection.execute`; where the app's Sessions have listeners or ways of their own, as by
        `Session.execute`. Raises the database's error, and QueryError once something
        in the transaction has failed; and for what writes where others see the transaction's snapshot.
        """
        if self._shows_snapshot() and not only_reads(statement):
            raise QueryError("in a transaction whose snapshot others see nothing can be written: use another one")
        return await self._in_turn(lambda connection: self.pool.reader.execute(connection, statement, parameters))

    async def run_sync(self, work: Callable[[Session], T]) -> T:
        """Give a function a Session on the transaction's connection, as `AsyncSession.run_sync` does.

        The session lives in a savepoint, so that its rollback, or an error of the function, undoes what it
        did and no more; what it added is flushed when the function returns. Objects it returns are detached,
        and keep what was loaded.
        """

        def run(connection: Connection) -> T:
            if not connection.in_transaction():
                connection.begin()
            with self.pool.reader.session(connection, join_transaction_mode="create_savepoint") as session:
                answer = work(session)
                session.commit()
                session.expunge_all()
                return answer

        return await self._in_turn(run, contained=True)

    async def abort(self) -> None:
        """Stop what runs in it and roll it back, whatever cancels meanwhile. If it is ending, wait for that."""
        self.open, self._given_up = False, True
        self._changed(self)
        for query in self._queries:
            for promise in list(query.asked):
                promise.cancel("the transaction has ended with an error")
        for interrupt in self._interrupts:
            interrupt.ask()
        if self._ending is None:
            self._ending = asyncio.create_task(self._roll_back())
        await unhurried(self._ending)

    # For queries

    def _shows_snapshot(self) -> bool:
        return self.on_transaction == "snapshot" or (self._outer is not None and self._outer._shows_snapshot())

    def inside(self, other: Transaction | None) -> bool:
        """Whether it is a savepoint in that one, at whatever depth."""
        return self._outer is not None and (self._outer is other or self._outer.inside(other))

    def join(self, query: Member) -> Callable[[], Awaitable[list[Any] | None]]:
        """A place for the query after what came before; what this gives asks its question when it is its turn.

        It gives None if by then the query is another transaction's.
        """
        turn = self._turns.take()
        self._queries.append(query)

        async def ask() -> list[Any] | None:
            try:
                with query.interrupt.window():
                    await turn.wait()
                if query.transaction is not self:
                    return None
                query.begin()
                return await self._on_link(
                    lambda link: link.ask(query.reading, query.asker), query.interrupt, query.asker
                )
            finally:
                turn.end()

        return ask

    def include(self, query: Member) -> None:
        """The query runs elsewhere with this transaction's snapshot, which lasts as long as the transaction."""
        self._queries.append(query)

    # Its life

    async def _begin(self, interrupt: Interrupt) -> None:
        if self._outer is not None and self._outer_turn is not None:
            with interrupt.window():
                await self._outer_turn.wait()
            if self._outer._failure is not None:
                raise _had_failed(self._outer._failure)
            self._outer._refuse_when_given_up()
            self._link, self._settings = self._outer._link, self._outer._settings
            await self._command(f"SAVEPOINT {self._savepoint}")
            self._outer._refuse_when_given_up()
            self._outer._nested.add(self)
        else:
            self._place = Place(self._owner.name)
            self.pool.foreground.offer(self._place)
            with interrupt.window():
                await self._place.granted
            link = await self._begin_on_a_connection()
            # Behind a pooler, those who see the snapshot might wait for the connection that this one holds. Then
            # they are asked on it, one after another: it sees what they would.
            if self.on_transaction == "snapshot" and (self.pool.side_by_side or not link.pooled):
                self.snapshot = await link.export_snapshot()
        self.open = True

    async def _begin_on_a_connection(self, *, again: bool = True) -> Link:
        self._link = link = await self.pool.connections.take(self._owner)
        try:
            await link.begin(self._begin_command(), self._owner.settings)
        except Exception as error:
            if not lost(error):
                raise
            self._link = None
            await link.close()
            await self.pool.connections.drop_idle()
            if not again:
                raise _broken() from error
            # The server had closed it while it rested, which shows only now: nothing is lost by beginning once more.
            return await self._begin_on_a_connection(again=False)
        return link

    def _begin_command(self) -> str:
        if self.on_transaction == "snapshot":
            # What it wrote would be in nobody's snapshot.
            return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        return f"BEGIN ISOLATION LEVEL {self._isolation.upper()}" if self._isolation else "BEGIN"

    @property
    def _savepoint(self) -> str:
        return f"pushsvc_{id(self):x}"

    async def _all_answered(self) -> None:
        # Those that are answered may ask for more: preloads do.
        while tasks := [query.task for query in self._queries if query.task is not None and not query.task.done()]:
            await asyncio.wait(tasks)

    async def _all_done(self) -> None:
        """Until all that was asked in it has been done; from then on it takes no more."""
        for query in list(self._queries):
            for promise in list(query.asked):
                promise.need()
        await self._all_answered()
        self.open = False
        await self._have_last_turn()

    async def _have_last_turn(self) -> None:
        # Tasks that were started in the block may be in the midst of something, such as a nested transaction.
        turn = self._turns.take()
        try:
            await turn.wait()
        finally:
            turn.end()

    async def _commit(self) -> None:
        try:
            self._ending = asyncio.create_task(self._end("COMMIT", "RELEASE SAVEPOINT {}"))
            await unhurried(self._ending)
            self._ending.result()
        finally:
            self._changed(self)

    async def _roll_back(self) -> None:
        for transaction in list(self._nested):
            await transaction.abort()
        await self._all_answered()
        await self._have_last_turn()
        try:
            await self._end("ROLLBACK", "ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}")
        except Exception as error:
            # The connection is closed then, if it was not, and the transaction has ended with it.
            logger.info("a transaction could not be rolled back: %r", error)

    async def _end(self, command: str, nested: str) -> None:
        """End the transaction; the connection goes back, or the turn to the transaction around it."""
        link, self._link = self._link, None
        try:
            if link is None:
                return
            if self._outer is None:
                await link.end(command)
            else:
                await link.command(nested.format(self._savepoint))
        except Exception as error:
            if self._outer is not None:
                self._outer._failure = error
            elif link is not None:
                await self.pool.connections.give_back(link, rollback=True)
                link = None
            if lost(error):
                raise _broken() from error
            raise
        finally:
            if self._outer is not None:
                # Rolling back to a savepoint takes settings back, too.
                self._settings.doubt()
                self._outer._nested.discard(self)
            if self._outer_turn is not None:
                self._outer_turn.end()
            elif link is not None:
                await self.pool.connections.give_back(link, used=link.usable)
            if self._place is not None:
                self.pool.foreground.withdraw(self._place)
                self._place.release()

    async def _command(self, sql: str) -> None:
        assert self._link is not None
        try:
            await self._link.command(sql)
        except Exception as error:
            if lost(error):
                await self.pool.connections.drop_idle()
                raise _broken() from error
            raise

    async def _in_turn(self, work: Callable[[Connection], T], *, contained: bool = False) -> T:
        if not self._entered:
            raise QueryError("the transaction has not begun: use it as `async with db.transaction() as transaction:`")
        if current(self.pool) is not self:
            raise QueryError("within the block of another transaction, that one is to be used; outside it, none")
        turn = self._turns.take()

        async def run(interrupt: Interrupt) -> T:
            self._interrupts.add(interrupt)
            try:
                self._refuse_when_given_up()
                with interrupt.window():
                    await turn.wait()
                return await self._on_link(
                    lambda link: link.run(work, self._owner.comment, unseen=contained),
                    interrupt,
                    self._owner,
                    contained=contained,
                )
            except asyncio.CancelledError:
                self._refuse_when_given_up()
                raise
            finally:
                self._interrupts.discard(interrupt)

        try:
            return await interruptible(run)
        finally:
            turn.end()

    def _refuse_when_given_up(self) -> None:
        if self._given_up:
            raise QueryError("the transaction has been rolled back")

    async def _on_link(
        self, work: Callable[[Link], Awaitable[T]], interrupt: Interrupt, owner: Owner, *, contained: bool = False
    ) -> T:
        """Do something for an owner on the connection. An error spoils the transaction, unless it is `contained`."""
        if self._failure is not None:
            raise _had_failed(self._failure)
        if self._link is None:
            raise QueryError("the transaction has ended")
        try:
            with interrupt.window():
                await self._settings.hold(self._link, owner.settings)
                answer = await work(self._link)
            if not self._link.in_transaction:
                raise QueryError("a text has ended the transaction: leave that to the block's end, or to roll_back()")
            return answer
        except BaseException as error:
            recovered = await self._link.recover(None if interrupt.asked else error) and self._link.in_transaction
            if not recovered:
                # The server may still be at it: nothing can be asked here any more, not even a rollback.
                await self._link.close()
            if not isinstance(error, Exception):
                self._failure = QueryCancelled("it was cancelled")
            elif not (contained and recovered):
                self._failure = error
            if isinstance(error, Exception) and lost(error):
                raise _broken() from error
            raise


def _broken() -> QueryBroken:
    return QueryBroken("the database closed the connection during a transaction")


def _had_failed(failure: Exception) -> QueryError:
    error = QueryError(f"not run, as the transaction had failed before: {failure}")
    error.__cause__ = failure
    return error
