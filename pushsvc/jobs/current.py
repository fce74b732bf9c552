"""The job that the running code belongs to, for code that is not given one: an endpoint and what it calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from contextvars import ContextVar

from .context import Breath, JobContext

_current: ContextVar[JobContext | None] = ContextVar("pushsvc_current_job", default=None)


class NoJob:
    """What stands in where no job runs: false, and everything about it does nothing."""

    id = None
    name = None
    attempt = 0
    user = None

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<NoJob>"

    def progress(self, value: float, message: str = "") -> Awaitable[None]:
        """Says nothing to anybody; raises ValueError as a job's does."""
        if not 0 <= value <= 1:
            raise ValueError(f"progress goes from 0 to 1, not to {value}")
        return Breath()


_NONE = NoJob()


def current_job() -> JobContext | NoJob:
    """The job in which this code runs, for its progress; where there is none, what is false and harmless.

    An app's middleware runs once in the web process and once, with the endpoint, in the worker: `if current_job():`
    tells which it is, as a rate limit or a token that is good for once has to know.
    """
    return _current.get() or _NONE


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """In this block the current job waits for another: its place is another's meanwhile. Raises TransactionOpen."""
    job = _current.get()
    if job is None:
        yield
        return
    async with job.waiting():
        yield


def enter(job: JobContext) -> None:
    """From now on, in this task and those that it starts, the job is the current one."""
    _current.set(job)
