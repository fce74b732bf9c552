"""One query on its way: scheduled, taken by a lane, run, settled or given up."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .. import telemetry
from .connections import Interrupt
from .executor import Lane
from .log import Observer, QueryRecord, Reason, log_answer
from .promise import Promise
from .statements import Question

logger = logging.getLogger("pushsvc.queries")


Read = Callable[[Question[Any], Interrupt], Awaitable[Any]]
"""Asks the question on a connection, and stops where interrupted."""


class Query:
    """A query, and the work behind its promise.

    It may wait in the executor's lane, and from the first `await` in the foreground lane too; the first to
    have a place for it runs it, in a task of its own that nobody else can cancel.
    """

    def __init__(
        self,
        question: Question[Any],
        read: Read,
        *,
        owner: str,
        foreground: Lane,
        observer: Observer | None,
    ) -> None:
        self.owner = owner
        self.record = QueryRecord(question.name, scheduled=time.monotonic())
        self.promise: Promise[Any] = Promise(self)
        self.task: asyncio.Task[None] | None = None
        self._question = question
        self._read = read
        self._foreground = foreground
        self._lanes: set[Lane] = set()
        self._observer = observer
        self._interrupt = Interrupt()
        # The job's own context, whichever task happens to free the place that this query gets.
        self._context = contextvars.copy_context()

    def schedule(self, executor: Lane | None) -> None:
        """Queue it on the executor if there is one and it has room; else it stays until it is awaited."""
        if executor is None:
            self._leave_to_foreground("inline")
        self.observe()
        if executor is not None:
            self._lanes.add(executor)
            if not executor.offer(self):
                self.displaced(executor)

    # What lanes ask of it.

    def start(self, lane: Lane) -> asyncio.Task[None]:
        """Run it, in a new task."""
        self._withdraw()
        record = self.record
        record.mode = lane.mode
        if lane.mode == "foreground" and record.reason is None:
            record.reason = "not_started"
        record.status, record.started = "running", time.monotonic()
        self.promise.begin()
        self.task = asyncio.get_running_loop().create_task(self._run(), context=self._context)
        self.observe()
        return self.task

    def displaced(self, lane: Lane) -> None:
        """There is no room for it on the executor."""
        self._lanes.discard(lane)
        self._leave_to_foreground("queue_full")

    # What its promise asks of it.

    def needed(self) -> None:
        """Await: if it has not started, it also waits for the job's own connection."""
        if self.task is None and self._foreground not in self._lanes:
            self._lanes.add(self._foreground)
            self._foreground.offer(self)

    def abandoned(self) -> None:
        """Cancel: it waits no longer, or is stopped where it runs."""
        self._withdraw()
        self._settled()
        self._interrupt.ask()

    def answered(self, waited: float) -> None:
        """Tell how long the job waited for it."""
        self.record.wait = waited
        log_answer(self.record)

    def observe(self) -> None:
        """Show the record to the observer; an error of its own is no error of the query's."""
        if self._observer is not None:
            try:
                self._observer(self.record)
            except Exception:
                logger.exception("the observer of %s failed", self.record.name)

    async def _run(self) -> None:
        try:
            answer = await self._read(self._question, self._interrupt)
        except asyncio.CancelledError:
            if not self._interrupt.asked:
                # Not by us: the event loop is being shut down with queries running.
                self.promise.cancel("the event loop was shut down")
                raise
        except Exception as error:
            self._settled(error=error)
        else:
            self._settled(answer)

    def _settled(self, answer: object = None, *, error: Exception | None = None) -> None:
        if error is not None:
            self.promise.reject(error)
        else:
            self.promise.resolve(answer)
        if self.record.finished is None:
            record = self.record
            record.status, record.finished = self.promise.status, time.monotonic()
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
