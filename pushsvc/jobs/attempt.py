"""One attempt at one job: call the function within its limits, and turn whatever happens into an ending."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from .. import wire
from ..domain import Claim, JobStatus, Outcome
from ..errors import JobCancelled, JobError, JobExpired, JobFailed, JobTimedOut, PushsvcError, UnknownJob
from ..store import MAX_LOSSES, Requeue
from .context import JobContext
from .failures import Failure
from .registry import JobSpec, Registry
from .results import Answered, encode, success

logger = logging.getLogger(__name__)

UNKNOWN_DELAY = 5.0
"""Seconds until a job that this worker does not know, as during a rolling deploy, is offered again."""


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
    """Runs one claimed job, in a task of its own, and can be stopped."""

    def __init__(
        self,
        claim: Claim,
        registry: Registry,
        limits: Limits,
        open_context: Callable[[Claim], JobContext],
        threads: Executor,
    ) -> None:
        self.claim = claim
        self._registry = registry
        self._limits = limits
        self._open_context = open_context
        self._threads = threads
        self._stop: Stop | None = None
        self._call: asyncio.Task[Any] | None = None
        self._cancelled = False

    def stop(self, why: Stop) -> None:
        """Stop it, once: the first reason counts, and exactly one cancel reaches the job."""
        if self._stop is None:
            self._stop = why
            self._cancel()

    def _cancel(self) -> None:
        """A second cancel, in the midst of the job's clean-up, would leave its queries running."""
        if self._call is not None and not self._cancelled:
            self._cancelled = True
            self._call.cancel()

    async def run(self) -> tuple[Ending, bytes | None]:
        """How it ended, and the encoded result if it succeeded. None: it is not ours to end any more."""
        job = self.claim.job
        try:
            spec = self._registry.get(job.name)
        except UnknownJob:
            logger.error("job %s: this worker knows no %r; handing it back", job.id, job.name)
            return Requeue(job.id, job.version, UNKNOWN_DELAY, "handed back"), None
        try:
            data = encode(await self._bounded(spec), self._limits.result)
        except asyncio.CancelledError:
            if self._stop is not None:
                return self._stopped(self._stop), None
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._failed(JobFailed("the job cancelled itself")), None
        except JobExpired as error:
            return self._end(JobStatus.EXPIRED, error), None
        except Answered as answered:
            ending = self._failed(answered.error) if self._stop is None else self._stopped(self._stop)
            return replace(ending, result=answered.result) if isinstance(ending, Outcome) else ending, None
        except Exception as error:
            # What a job raises while it is being stopped is not why it ended.
            return self._failed(error) if self._stop is None else self._stopped(self._stop), None
        return success(job.id, job.version, data, self._limits.inline), data

    async def _bounded(self, spec: JobSpec) -> Any:
        """Call the job. Raises JobTimedOut or JobExpired, whichever limit came first, or what the job raised."""
        seconds, error = self._time_left()
        if self._stop is not None:
            raise asyncio.CancelledError
        self._call = asyncio.create_task(self._called(spec), name=f"job:{self.claim.job.id}")
        done, _ = await asyncio.wait([self._call], timeout=max(seconds, 0.0))
        if not done:
            self._cancel()
            await asyncio.wait([self._call])
            if self._stop is None:
                raise error
        return await self._call

    def _time_left(self) -> tuple[float, JobError]:
        timed_out = JobTimedOut(f"the job may take {self.claim.timeout:g} s")
        if self.claim.deadline is None:
            return self.claim.timeout, timed_out
        left = (self.claim.deadline - datetime.now(UTC)).total_seconds()
        return (left, JobExpired()) if left < self.claim.timeout else (self.claim.timeout, timed_out)

    async def _called(self, spec: JobSpec) -> Any:
        arguments = spec.arguments(self.claim.params)
        context = self._open_context(self.claim)
        if spec.context is not None:
            arguments[spec.context] = context
        try:
            if spec.is_async:
                return await spec.function(**arguments)
            inside = contextvars.copy_context()
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: inside.run(spec.function, **arguments)
            )
        except (SystemExit, KeyboardInterrupt) as error:
            # They would end the worker, and all its other jobs.
            raise JobFailed(f"the job raised {type(error).__name__}") from error
        finally:
            await context.close()

    def _stopped(self, why: Stop) -> Ending:
        job = self.claim.job
        if why is Stop.CANCELLED:
            return self._end(JobStatus.CANCELLED, JobCancelled())
        if why is Stop.HANDED_BACK:
            return Requeue(job.id, job.version, 0.0, "handed back")
        return None

    def _failed(self, error: BaseException) -> Ending:
        job = self.claim.job
        failure = Failure.of(error, shown=self._limits.show_errors)
        losses = job.attempt - self.claim.failures
        if failure.temporary and losses <= MAX_LOSSES:
            delay = backoff(losses)
            logger.warning("job %s %s lost what it needs, again in %.1f s: %s", job.name, job.id, delay, failure.said)
            return Requeue(job.id, job.version, delay, "lost", _encoded(failure.problem))
        tries = self.claim.failures + 1
        if tries < self.claim.max_attempts:
            delay = backoff(tries)
            logger.warning("job %s %s failed, again in %.1f s: %s", job.name, job.id, delay, failure.said)
            return Requeue(job.id, job.version, delay, "failed", _encoded(failure.problem))
        logger.error("job %s %s failed: %s\n%s", job.name, job.id, failure.said, failure.trace)
        return self._end(JobStatus.FAILED, failure.problem)

    def _end(self, status: JobStatus, error: PushsvcError) -> Outcome:
        job = self.claim.job
        return Outcome(job.id, job.version, status, error=_encoded(error))


def _encoded(error: PushsvcError) -> str:
    """The problem object as JSON text."""
    return wire.dump(error.problem()).decode()


def backoff(tries: int, base: float = 1.0, most: float = 60.0) -> float:
    """Seconds until the next try: exponential, with jitter so that what failed together does not come back so."""
    return min(most, base * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)
