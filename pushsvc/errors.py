"""One tree of errors. Each class is a row: code, HTTP status, WebSocket close code, whether to try again.

    PushsvcError
    ├── SettingsError          the service can't start like this
    ├── BudgetError            the database could not bear this many connections
    ├── RequestError           the caller's fault; nothing was changed
    │   ├── BadRequest  Unauthorized  Forbidden  NotFound  UnknownJob  InvalidParams
    │   ├── KeyReused  AlreadyFinished  Gone  TooLarge  BadCursor  BadFrame  BadSignature
    │   └── TooMany
    │       ├── TooManyConnections  TooManyChannels  TooManyDevices
    │       └── RateLimited  QueueFull
    ├── Unavailable            PostgreSQL or Redis is away; try again
    │   └── QueryBroken        it went away in the midst of a job's query
    ├── JobError               how a job ended when it did not succeed
    │   └── JobFailed  JobTimedOut  WorkerLost  JobCancelled  JobExpired  ResultMismatch
    └── QueryError             a promise's misuse (a query's own error is raised as it is)
        ├── QueryCancelled  TransactionOpen  RecordNotFound

As an HTTP answer an error is a problem object (RFC 9457); on a WebSocket it is an `error` frame or a
close code: 4000 to 4399 reconnect, 4400 to 4999 stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

from .text import is_name, legible

DETAIL = 2048
"""Bytes of an error's text that a client is told, and of what else an author puts into an error."""

_CODE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class PushsvcError(Exception):
    """Something went wrong in pushsvc itself."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    close_code: ClassVar[int] = 4000
    temporary: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises ValueError where `code` is not a token, or `status` not that of an error."""
        super().__init_subclass__(**options)
        _check_member(cls.__name__, "code", cls.code)
        _check_member(cls.__name__, "status", cls.status)

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        """`extra` are more members of the problem object. `status`, `code`, `title` and `type` may be among them.

        Raises ValueError on one that could not stand there: a status that is no error's, NaN, what has no JSON form.
        """
        super().__init__(detail or self.title())
        self.detail = detail
        self.extra = _members(type(self).__name__, extra) if extra else {}

    @classmethod
    def title(cls) -> str:
        """The first line of the class's docstring: what happened, in one sentence."""
        first, *_ = (cls.__doc__ or "").strip().splitlines() or [cls.__name__]
        return legible(first, 300)

    def problem(self) -> dict[str, Any]:
        """The problem object (RFC 9457) of this error."""
        body: dict[str, Any] = {
            "type": f"urn:pushsvc:error:{self.extra.get('code', self.code)}",
            "title": self.title(),
            "status": self.status,
            "code": self.code,
        }
        if self.detail:
            body["detail"] = legible(str(self.detail), DETAIL)
        return body | self.extra

    def frame(self) -> dict[str, Any]:
        """The `error` member of a WebSocket answer."""
        body: dict[str, Any] = {"code": self.code, "title": self.title(), "temporary": self.temporary}
        if self.detail:
            body["detail"] = legible(str(self.detail), DETAIL)
        return body | self.extra


def _members(what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The members as JSON has them. Raises ValueError."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        if not is_name(name, 64):
            raise ValueError(f"{what}: {legible(name, 64)!r} can't be a member's name")
        try:
            made[name] = from_json(to_json(value, inf_nan_mode="constants"), allow_inf_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{what}: {name} has no JSON form: {type(error).__name__}") from None
        _check_member(what, name, made[name])
    return made


def _check_member(what: str, name: str, value: object) -> None:
    """Raises ValueError where a member that every problem object has is not as RFC 9457 wants it."""
    if name == "status" and not (type(value) is int and 400 <= value <= 599):
        raise ValueError(f"{what}: a status is a whole number from 400 to 599")
    if name == "code" and not (isinstance(value, str) and _CODE.fullmatch(value)):
        raise ValueError(f"{what}: a code is a short word in small letters, such as no_flights")
    if name in ("type", "title") and not (isinstance(value, str) and is_name(value, 300)):
        raise ValueError(f"{what}: {name} is text of 1 to 300 characters without control characters")


class SettingsError(PushsvcError):
    """The settings are not valid."""

    code = "settings"


class BudgetError(PushsvcError):
    """The database server could not bear the connections that these settings ask for."""

    code = "budget"


class RequestError(PushsvcError):
    """The request can't be served as it stands."""

    code = "bad_request"
    status = 400
    close_code = 4400


class BadRequest(RequestError):
    """The request is malformed."""


class BadCursor(RequestError):
    """The cursor is malformed."""

    code = "bad_cursor"


class BadFrame(RequestError):
    """The frame is malformed or its operation unknown."""

    code = "bad_frame"


class Unauthorized(RequestError):
    """The request carries no valid credentials."""

    code = "unauthorized"
    status = 401
    close_code = 4401


class Forbidden(RequestError):
    """The credentials do not allow this."""

    code = "forbidden"
    status = 403
    close_code = 4403


class NotFound(RequestError):
    """There is no such thing, or it is not yours."""

    code = "not_found"
    status = 404
    close_code = 4404


class UnknownJob(NotFound):
    """No job of that name is registered."""

    code = "unknown_job"


class InvalidParams(RequestError):
    """The parameters do not fit the job's signature."""

    code = "invalid_params"
    status = 422


class KeyReused(RequestError):
    """The idempotency key was used before with another payload."""

    code = "key_reused"
    status = 422


class AlreadyFinished(RequestError):
    """The job has already finished."""

    code = "already_finished"
    status = 409


class Gone(RequestError):
    """The result is not there any more, or never will be."""

    code = "gone"
    status = 410


class TooLarge(RequestError):
    """The request is larger than allowed."""

    code = "too_large"
    status = 413
    close_code = 4413


class BadSignature(RequestError):
    """The webhook is not signed as it should be."""

    code = "bad_signature"


class TooMany(RequestError):
    """There are too many of these at once."""

    code = "too_many"
    status = 429
    close_code = 4029
    temporary = True


class TooManyConnections(TooMany):
    """The principal has as many connections as it may."""

    code = "too_many_connections"


class TooManyChannels(TooMany):
    """One connection can't hear this many channels."""

    code = "too_many_channels"
    status = 400
    close_code = 4413
    temporary = False


class TooManyDevices(TooMany):
    """The subject has as many devices as are remembered."""

    code = "too_many_devices"
    close_code = 4413
    temporary = False


class RateLimited(TooMany):
    """Requests come faster than allowed."""

    code = "rate_limited"


class QueueFull(TooMany):
    """The queue is full."""

    code = "queue_full"


class Unavailable(PushsvcError):
    """The service can't reach what it needs right now."""

    code = "unavailable"
    status = 503
    close_code = 4003
    temporary = True


class QueryBroken(Unavailable):
    """The database was lost in the midst of a query."""


class JobError(PushsvcError):
    """The job did not succeed."""

    code = "job_failed"

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        """For authors: `raise JobError("there are no flights in May", code="no_flights", status=409)`.

        What stands in it is told to the job's subscribers; the text is cut at 2 KiB. Raises ValueError as every
        error does, and when `extra` has more than 2 KiB.
        """
        super().__init__(detail, **extra)
        if extra and len(to_json(self.extra)) > DETAIL:
            raise ValueError(
                f"{type(self).__name__}: its members have more than {DETAIL} bytes; give a result instead"
            )


class ResultMismatch(JobError):
    """The result is not what the job's signature says."""

    code = "result_mismatch"


class JobFailed(JobError):
    """The job raised an error."""


class JobTimedOut(JobError):
    """The job took longer than it may."""

    code = "job_timed_out"
    status = 504


class WorkerLost(JobError):
    """The worker running the job died and no attempt was left."""

    code = "worker_lost"


class JobCancelled(JobError):
    """The job was cancelled."""

    code = "job_cancelled"
    status = 410


class JobExpired(JobError):
    """The job's deadline passed before it could finish."""

    code = "job_expired"
    status = 410


class QueryError(PushsvcError):
    """The query can't be run like this."""

    code = "query"


class QueryCancelled(QueryError):
    """The query was cancelled before it had an answer."""

    code = "query_cancelled"


class TransactionOpen(QueryError):
    """An asynchronous query was asked for inside a transaction that forbids it."""

    code = "transaction_open"


class RecordNotFound(QueryError):
    """There is no row with this primary key."""

    code = "record_not_found"
    status = 404


def causes(error: BaseException | None, *, contexts: bool = False) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on, each once; with `contexts` also what was being handled then.

    Whatever looks for causes uses this: it takes only `raise error from error` to have them go in a circle.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if contexts else None)
