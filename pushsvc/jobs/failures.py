"""What a job raised, as its subscribers and as the log are told of it.

Subscribers get what the author meant for them: the text of a JobError, or of a RequestError. Of any other error they
get its class and an id, by which the log has the rest: a text may hold SQL with its values, or a secret.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from ..domain import new_job_id
from ..errors import JobError, JobFailed, PushsvcError, QueryBroken, RequestError
from ..store import is_unreachable
from ..text import legible

PIECE, TRACE = 4 * 1024, 32 * 1024
"""Bytes of one line of a traceback, and of all of them, that are logged."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`problem` is for subscribers. `said` is one line for the log, `trace` the traceback. `temporary`: what the job
    needs was away, and it may be tried again; `broken`, if that was so in the midst of a query."""

    problem: PushsvcError
    said: str
    trace: str
    temporary: bool
    broken: bool = False

    @classmethod
    def of(cls, error: BaseException, *, shown: bool = False) -> Failure:
        """`shown`: subscribers are told the text of every error, as in development."""
        cause = only(error)
        said = _said(cause)
        if isinstance(cause, JobError | RequestError):
            return cls(cause, said, _trace(error), cause.temporary)
        incident = f"err_{new_job_id()}"
        kind = _kind(cause)
        detail = said if shown else f"{kind}; the log has the rest under {incident}"
        told = {"error": kind, "error_id": incident}
        own: dict[str, str | int] = {}
        temporary = is_unreachable(cause)
        if isinstance(cause, PushsvcError):
            # One of ours that was not meant for subscribers: its code says what it was.
            own, temporary = {"code": cause.code, "status": cause.status, "title": cause.title()}, cause.temporary
        problem = JobFailed(detail, **own, **told)
        return cls(problem, f"{said} [{incident}]", _trace(error), temporary, isinstance(cause, QueryBroken))


def only(error: BaseException) -> BaseException:
    """What a group of errors holds, if it is one only: a TaskGroup makes a group of each."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _kind(error: BaseException) -> str:
    return legible(type(error).__name__, 100)


def _said(error: BaseException) -> str:
    """The error's class and text, whatever its author made of `str`."""
    try:
        text = legible(str(error), PIECE)
    except BaseException:
        # Even SystemExit: what an error says of itself ends no worker.
        text = "(it has no text)"
    return f"{_kind(error)}: {text}" if text else _kind(error)


def _trace(error: BaseException) -> str:
    try:
        pieces = [legible(piece, PIECE) for piece in traceback.TracebackException.from_exception(error).format()]
    except BaseException:
        return _said(error)
    kept: list[str] = []
    size = 0
    # What matters most stands last.
    for piece in reversed(pieces):
        size += len(piece.encode())
        if size > TRACE:
            kept.append("[…]\n")
            break
        kept.append(piece)
    return "".join(reversed(kept)).rstrip()
