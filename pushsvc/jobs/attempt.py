"""One attempt at one job: call the function within its limits, and turn whatever happens into an ending."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from .. import wire
from ..domain import Claim, JobStatus, Outcome
from ..errors import (
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobTimedOut,
    PushsvcError,
    UnknownJob,
)
from ..store import Requeue
from ..tasks import contained
from .context import JobContext
from .current import enter
from .failures import Failure, only
from .limits import backoff
from .registry import JobSpec, Registry
from .results import Answered, encode, success
from .threads import Ended, Raised, Returned, Threads

logger = logging.getLogger(__name__)

UNKNOWN_DELAY = 5.0
"""Seconds until a job that this worker does not know, as during a rolling deploy, is offered again."""


MAX_BROKEN = 10
"""How often in a row a job may lose the database in the midst of a query: one that brings it down is not offered for
ever."""

running_job: contextvars.ContextVar[str] = contextvars.ContextVar("running_job")
"""The id of the job in whose call this is, or in a task or a query that it began."""


class Stop(Enum):
    """Why a running attempt is stopped from outside."""

    CANCELLED = "cancelled"
    """Its owner wants it no more: it ends."""
    HANDED_BACK = "handed back"
    """The worker shuts down: another worker gets it, and no try is used up."""
    LOST = "lost"
    """Its lease was lost: it is another worker's already, and nothing of this one counts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes; and whether subscribers are told the text of every error."""

    result: int
    inline: int
    show_errors: bool = False


Ending = Outcome | Requeue | None


class Attempt:
    """Runs one claimed job, in a task of its own, and can be stopped.

    Whatever the job does, `run` comes back: a job that was told to stop and goes on is left to itself after
    `patience` seconds. It keeps its place: `released` is called once nothing of it runs any more, and `occupied` says
    whether something still does.
    """

    def __init__(
        self,
        claim: Claim,
        registry: Registry,
        limits: Limits,
        open_context: Callable[[Claim], JobContext],
        threads: Threads,
        *,
        patience: float = 10.0,
        released: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        self.claim = claim
        self._registry = registry
        self._limits = limits
        self._open_context = open_context
        self._threads = threads
        self._patience = patience
        self._released = released
        self._stop: Stop | None = None
        self._over: JobError | None = None
        """The limit that was reached, if any."""
        self._call: asyncio.Task[Ended] | None = None
        self._context: JobContext | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the call is, or is waited for no longer."""
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False
        self._running = 0
        """What of it runs: its call, its thread."""

    @property
    def occupied(self) -> bool:
        """Whether something of it still runs."""
        return self._running > 0

    def stop(self, why: Stop, patience: float | None = None) -> None:
        """Stop it, once: the first reason counts, and exactly one cancel reaches the job. `patience`: see above."""
        if self._stop is None:
            self._stop = why
            self._cancel(self._patience if patience is None else patience)

    def _cancel(self, patience: float) -> None:
        """A second cancel, in the midst of the job's clean-up, would leave its queries running."""
        if self._call is None:
            return
        if not self._cancelled:
            self._cancelled = True
            self._call.cancel()
        self._after(patience, self._give_up)

    def _after(self, seconds: float, do: Callable[..., None], *args: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.0), do, *args)

    def _too_long(self, error: JobError) -> None:
        self._over = error
        self._cancel(self._patience)

    def _give_up(self) -> None:
        if not self._ended.done():
            logger.error(
                "job %s %s was told to stop %g s ago and goes on; it is left to itself, and keeps its place",
                self.claim.job.name,
                self.claim.job.id,
                self._patience,
            )
            self._ended.set_result(None)

    async def run(self) -> tuple[Ending, bytes | None]:
        """How it ended, and the encoded result if it succeeded. None: it is not ours to end any more."""
        job = self.claim.job
        try:
            spec = self._registry.get(job.name)
        except UnknownJob:
            logger.error("job %s: this worker knows no %r; handing it back", job.id, job.name)
            return Requeue(job.id, job.version, UNKNOWN_DELAY, "handed back"), None
        if self._stop is not None:
            return self._stopped(self._stop), None
        return self._ending(await self._bounded(spec))

    def _ending(self, how: Ended | None) -> tuple[Ending, bytes | None]:
        """What comes of how the call ended."""
        job = self.claim.job
        if isinstance(how, Returned) and (self._over is None or self._stop is not None):
            try:
                data = encode(how.value, self._limits.result)
                return success(job.id, job.version, data, self._limits.inline), data
            except BaseException as unencodable:
                how = Raised(unencodable)
        error = how.error if isinstance(how, Raised) else JobFailed()
        # What a job raises while it is being stopped is not why it ended.
        ending = self._unsuccessful(self._over or error) if self._stop is None else self._stopped(self._stop)
        if isinstance(error, Answered) and isinstance(ending, Outcome):
            ending = replace(ending, result=error.result)
        return ending, None

    async def _bounded(self, spec: JobSpec) -> Ended | None:
        """How the call of the job ended; None if it did not, though it was told to stop."""
        seconds, error = self._time_left()
        self._call = asyncio.create_task(self._called(spec), name=f"job:{self.claim.job.id}")
        self._running += 1
        self._call.add_done_callback(self._call_done)
        self._after(seconds, self._too_long, error)
        try:
            await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._call.done():
            return Raised(asyncio.CancelledError()) if self._call.cancelled() else self._call.result()
        if self._context is not None:
            self._closing = asyncio.create_task(contained("closing a job's databases", self._context.close()))
        return None

    def _call_done(self, _call: asyncio.Task[Ended]) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
        self._free()

    def _free(self) -> None:
        self._running -= 1
        if not self._running:
            self._released(self)

    def _time_left(self) -> tuple[float, JobError]:
        timed_out = JobTimedOut(f"the job may take {self.claim.timeout:g} s")
        if self.claim.deadline is None:
            return self.claim.timeout, timed_out
        left = (self.claim.deadline - datetime.now(UTC)).total_seconds()
        return (left, JobExpired()) if left < self.claim.timeout else (self.claim.timeout, timed_out)

    async def _called(self, spec: JobSpec) -> Ended:
        """Raises nothing: a task that ends with SystemExit ends the event loop, and with it all other jobs."""
        running_job.set(self.claim.job.id)
        try:
            arguments = spec.arguments(self.claim.params)
            context = self._context = self._open_context(self.claim)
            enter(context)
            if spec.context is not None:
                arguments[spec.context] = context
            try:
                if spec.is_async:
                    return Returned(await spec.function(**arguments))
                return await self._in_thread(spec, arguments)
            finally:
                await context.close()
        except GeneratorExit:
            raise
        except BaseException as error:
            return Raised(error)

    async def _in_thread(self, spec: JobSpec, arguments: dict[str, Any]) -> Ended:
        inside = contextvars.copy_context()
        running = self._threads.run(lambda: inside.run(spec.function, **arguments), self._free)
        self._running += 1
        return await running

    def _stopped(self, why: Stop) -> Ending:
        job = self.claim.job
        if why is Stop.CANCELLED:
            return self._end(JobStatus.CANCELLED, JobCancelled())
        if why is Stop.HANDED_BACK:
            return Requeue(job.id, job.version, 0.0, "handed back")
        return None

    def _unsuccessful(self, error: BaseException) -> Ending:
        if isinstance(error, Answered):
            error = error.error
        if isinstance(error, JobExpired):
            return self._end(JobStatus.EXPIRED, error)
        if isinstance(error, asyncio.CancelledError):
            error = JobFailed("the job cancelled itself")
        return self._failed(error)

    def _failed(self, error: BaseException) -> Ending:
        job = self.claim.job
        failure = Failure.of(error, shown=self._limits.show_errors)
        retries, cause = self._registry.get(job.name).retries, only(error)
        if failure.temporary and not retries.knows(cause) and (waits := self._waits(failure)) is not None:
            delay = backoff(waits)
            logger.warning(
                "job %s %s can't reach what it needs, again in %.1f s: %s", job.name, job.id, delay, failure.said
            )
            return Requeue(job.id, job.version, delay, "handed back", _encoded(failure.problem, waits=waits))
        tries = self.claim.failures + 1
        again = retries.delay(cause, tries, backoff) if tries < self.claim.max_attempts else None
        if again is not None:
            logger.warning("job %s %s failed, again in %.1f s: %s", job.name, job.id, again, failure.said)
            return Requeue(job.id, job.version, again, "failed", _encoded(failure.problem))
        logger.error("job %s %s failed: %s\n%s", job.name, job.id, failure.said, failure.trace)
        return self._end(JobStatus.FAILED, failure.problem)

    def _waits(self, failure: Failure) -> int | None:
        """How often it has been put back in a row, with this time. None: it is its own queries that lose the database
        again and again, and going on would keep everybody from it."""
        before = _problem(self.claim.job.error)
        waits = 1 + (before.get("waits", 0) if isinstance(before.get("waits"), int) else 0)
        return None if failure.broken and waits > MAX_BROKEN else waits

    def _end(self, status: JobStatus, error: PushsvcError) -> Outcome:
        job = self.claim.job
        return Outcome(job.id, job.version, status, error=_encoded(error))


def _problem(error: str | None) -> dict[str, Any]:
    """The problem object of a job's last attempt."""
    try:
        found = wire.load(error.encode()) if error else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _encoded(error: PushsvcError, **more: object) -> str:
    """The problem object as JSON text."""
    return wire.dump(error.problem() | more).decode()
