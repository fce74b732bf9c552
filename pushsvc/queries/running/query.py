"""One query on its way: scheduled, taken by a lane or a transaction, run, settled or given up."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ... import telemetry
from ...errors import QueryCancelled
from ..asking.naming import caller
from ..asking.question import Question
from ..promise import Promise, Status
from .executor import Lane
from .interrupt import Interrupt
from .log import Observer, QueryRecord, Reason, log_answer, log_shared
from .owner import Owner
from .pool import DatabasePool
from .transaction import Transaction, current

logger = logging.getLogger("pushsvc.queries")


class Query:
    """A query, and the work behind its promises: more than one where equal ones were asked for while it ran.

    It may wait in the executor's lane, and from the first `await` in the foreground lane too; the first to
    have a place for it runs it, in a task of its own that nobody else can cancel. Within a transaction it
    runs on the transaction's connection, when its turn comes.
    """

    def __init__(
        self,
        question: Question[Any],
        pool: DatabasePool,
        *,
        asker: Owner,
        inline: bool,
        observer: Observer | None,
    ) -> None:
        self.asker = asker
        self.owner = asker.name
        self.question = question
        self.reading = pool.reader.reading(question)
        self.record = QueryRecord(question.name, scheduled=time.monotonic())
        self.promise: Promise[Any] = Promise(self)
        self.asked: dict[Promise[Any], Question[Any]] = {self.promise: question}
        self.task: asyncio.Task[None] | None = None
        self.interrupt = Interrupt()
        self.snapshot: str | None = None
        self.transaction: Transaction | None = None
        """The one on whose connection it runs, or waits for its turn."""
        self._pool = pool
        self._executor = None if inline else pool.executor
        self._lanes: set[Lane] = set()
        self._observer = observer
        self._origin = question.origin or caller()
        # The job's own context, whichever task happens to free the place that this query gets.
        self.context = contextvars.copy_context()

    @property
    def awaited(self) -> bool:
        """Whether anybody has awaited any of its promises."""
        return any(promise.awaited for promise in self.asked)

    @property
    def settled(self) -> bool:
        """Whether it has come to its end, whichever."""
        return self.record.finished is not None

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done about it, at the end of the job either."""
        return self.settled and self.awaited and (self.task is None or self.task.done())

    def schedule(self) -> None:
        """Have it wait for the executor if there is one; else it stays until it is awaited."""
        if self._executor is None:
            self._leave_to_foreground("inline")
        self.observe()
        if self._executor is not None:
            self._lanes.add(self._executor)
            self._executor.offer(self)

    def run_in(self, transaction: Transaction, reason: Reason) -> None:
        """Run it in a transaction, after what was asked there before."""
        self._withdraw()
        self._leave_to_foreground(reason)
        self.transaction = transaction
        ask = transaction.join(self)
        self.task = asyncio.get_running_loop().create_task(self._run(ask), context=self.context)

    def share(self, question: Question[Any]) -> Promise[Any]:
        """Another promise, of what that question makes of the same rows."""
        promise: Promise[Any] = Promise(self)
        if self.record.status == "running":
            promise.begin()
        self.asked[promise] = question
        self._pool.counters["shared"] += 1
        return promise

    # What lanes and transactions ask of it.

    def start(self, lane: Lane, freed: Callable[[], None]) -> None:
        """Run it, in a new task."""
        self._withdraw()
        if lane.mode == "foreground":
            self._leave_to_foreground(self.record.reason or "not_started")
        else:
            self.record.mode, self.record.reason = "async", None
        self.begin()
        self.task = asyncio.get_running_loop().create_task(self._run_in_lane(freed), context=self.context)

    def begin(self) -> None:
        """It has a connection now."""
        record = self.record
        record.status, record.started = "running", time.monotonic()
        self._pool.counters[f"{record.mode}:{record.reason}" if record.reason else record.mode] += 1
        for promise in self.asked:
            promise.begin()
        self.observe()

    def displaced(self, lane: Lane) -> None:
        """There is no room for it in the executor's queue: it waits behind that, unless it is awaited before."""
        self._leave_to_foreground("queue_full")

    def queued(self, lane: Lane) -> None:
        """There is room for it in the executor's queue."""
        self.record.mode, self.record.reason = "async", None

    # What its promises ask of it.

    def needed(self, promise: Promise[Any]) -> None:
        """Await: if it has not started, it also waits for the job's own connection."""
        foreground = self._pool.foreground
        transaction = current(self._pool)
        # Around the transaction in which it is awaited, its turn comes when that one has ended: that would be never.
        stuck = self.record.started is None and transaction is not None and transaction.inside(self.transaction)
        self.asker.awaited.add(self)
        if self.task is not None and not stuck:
            if transaction is None:
                self._lend_connection()
            return
        if transaction is not None:
            # The job's own connection is busy with the very transaction in which this is awaited.
            self.run_in(transaction, self.record.reason or "not_started")
            return
        if foreground in self._lanes:
            return
        self.lend(foreground)

    def _lend_connection(self) -> None:
        """The job waits, and its own connection is idle: one of its queries that wait for the executor has it."""
        executor, foreground = self._executor, self._pool.foreground
        if executor is None or not self.asker.awaited or not foreground.idle(self.owner):
            return
        waiting = executor.next_of(self.owner)
        if waiting is not None:
            waiting.lend(foreground)

    def lend(self, lane: Lane) -> None:
        """It may have a place in this lane, too."""
        self._lanes.add(lane)
        lane.offer(self)

    def abandoned(self, promise: Promise[Any]) -> None:
        """Cancel: when nobody wants its answer, it waits no longer, or is stopped where it runs."""
        if all(promise.settled for promise in self.asked):
            self._withdraw()
            self._settled("cancelled")
            self.interrupt.ask()

    def answered(self, promise: Promise[Any], waited: float) -> None:
        """Tell how long the job waited for it."""
        if promise is self.promise:
            self.record.wait = waited
            log_answer(self.record)
        else:
            log_shared(self.record, waited)

    def observe(self) -> None:
        """Show the record to the observer; an error of its own is no error of the query's."""
        if self._observer is not None:
            try:
                self._observer(self.record)
            except Exception:
                logger.exception("the observer of %s failed", self.record.name)

    async def _run_in_lane(self, freed: Callable[[], None]) -> None:
        async def ask() -> list[Any]:
            try:
                return await self._pool.connections.read(
                    self.reading, owner=self.asker, interrupt=self.interrupt, snapshot=self.snapshot
                )
            finally:
                # Before the answer is given out: whoever asks again on getting it finds the place free.
                freed()
                self._lend_connection()

        await self._run(ask)

    async def _run(self, ask: Callable[[], Awaitable[list[Any] | None]]) -> None:
        try:
            rows = await ask()
        except asyncio.CancelledError:
            if not self.interrupt.asked:
                # Not by us: the event loop is being shut down with queries running.
                for promise in self.asked:
                    promise.cancel("the event loop was shut down")
                raise
        except GeneratorExit:
            raise
        except BaseException as error:
            # SystemExit of an app's type or listener, too: a task that ends with it ends the event loop.
            self._fail(error)
        else:
            if rows is not None:
                self._answer(rows)

    def _answer(self, rows: list[Any]) -> None:
        for promise, question in self.asked.items():
            # Rows of one's own for each: what one does with its list is nothing to the others.
            mine = rows if promise is self.promise else rows.copy()
            try:
                promise.resolve(question.finish(mine))
            except BaseException as error:
                promise.reject(self._noted(error))
        self._settled("complete")

    def _fail(self, error: BaseException) -> None:
        self._noted(error)
        for promise in self.asked:
            promise.reject(error)
        self._settled("cancelled" if isinstance(error, QueryCancelled) else "failed")

    def _noted(self, error: BaseException) -> BaseException:
        error.add_note(f"{self.record.name}, asked for {self._origin}")
        return error

    def _settled(self, status: Status) -> None:
        record = self.record
        if record.finished is not None:
            return
        record.status, record.finished = status, time.monotonic()
        self.asker.awaited.discard(self)
        started = record.finished if record.started is None else record.started
        telemetry.emit(
            "query.done",
            {"queued": started - record.scheduled, "duration": record.finished - started},
            {"name": record.name, "mode": record.mode, "reason": record.reason, "status": record.status},
        )
        self.observe()

    def _leave_to_foreground(self, reason: Reason) -> None:
        self.record.mode, self.record.reason = "foreground", reason

    def _withdraw(self) -> None:
        for lane in self._lanes:
            lane.withdraw(self)
        self._lanes.clear()
