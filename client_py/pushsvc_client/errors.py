"""One tree of errors, as the server has it: each class is a code, an HTTP status, and whether to try again.

PushsvcError
├── RequestError           the caller's fault; nothing was changed
│   ├── BadRequest  Unauthorized  Forbidden  NotFound  UnknownJob  InvalidParams
│   ├── KeyReused  AlreadyFinished  Gone  TooLarge  BadCursor  BadFrame
│   └── TooMany
│       ├── TooManyConnections  TooManyChannels  TooManyDevices
│       └── RateLimited  QueueFull
├── Unavailable            the service is away, or what it needs is; try again
│   └── ConnectionFailed   nobody answered
└── JobError               how a job ended when it did not succeed
    ├── JobFailed  ResultMismatch  JobTimedOut  WorkerLost  JobCancelled  JobExpired
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class PushsvcError(Exception):
    """Something went wrong in the service itself."""

    code: str = "internal"
    status: int = 500
    temporary: ClassVar[bool] = False

    def __init__(self, detail: str | None = None, *, problem: Mapping[str, Any] | None = None) -> None:
        """`problem` is the problem object (RFC 9457) that the server sent, or the `error` of a frame."""
        self.problem: dict[str, Any] = dict(problem or {})
        self.detail = detail or _text(self.problem.get("detail"))
        self.title = _text(self.problem.get("title")) or (type(self).__doc__ or "").strip().splitlines()[0]
        code, status = self.problem.get("code"), self.problem.get("status")
        if isinstance(code, str):
            self.code = code
        if type(status) is int:
            self.status = status
        self.retry_after: float | None = None
        """Seconds after which the server thinks that the same may succeed."""
        super().__init__(f"{self.title} {self.detail}" if self.detail else self.title)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


class RequestError(PushsvcError):
    """The request can't be served as it stands."""

    code = "bad_request"
    status = 400


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


class Forbidden(RequestError):
    """The credentials do not allow this."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is no such thing, or it is not yours."""

    code = "not_found"
    status = 404


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


class TooMany(RequestError):
    """There are too many of these at once."""

    code = "too_many"
    status = 429
    temporary = True


class TooManyConnections(TooMany):
    """The principal has as many connections as it may."""

    code = "too_many_connections"


class TooManyChannels(TooMany):
    """One connection can't hear this many channels."""

    code = "too_many_channels"
    status = 400
    temporary = False


class TooManyDevices(TooMany):
    """The subject has as many devices as are remembered."""

    code = "too_many_devices"
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
    temporary = True


class ConnectionFailed(Unavailable):
    """The service could not be reached, or broke off before it had answered."""

    code = "connection_failed"


class JobError(PushsvcError):
    """The job did not succeed. `code` is the one that its author chose, or one of those below."""

    code = "job_failed"


class JobFailed(JobError):
    """The job raised an error."""


class JobTimedOut(JobError):
    """The job took longer than it may."""

    code = "job_timed_out"
    status = 504


class ResultMismatch(JobError):
    """The result is not what the job's signature says."""

    code = "result_mismatch"


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


def _below(base: type[PushsvcError]) -> Iterator[type[PushsvcError]]:
    for each in base.__subclasses__():
        yield each
        yield from _below(each)


_BY_CODE = {each.code: each for base in (RequestError, Unavailable) for each in _below(base)} | {
    PushsvcError.code: PushsvcError,
    Unavailable.code: Unavailable,
}
_JOBS = {each.code: each for each in _below(JobError)}
_BY_STATUS: dict[int, type[PushsvcError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: AlreadyFinished,
    410: Gone,
    413: TooLarge,
    422: InvalidParams,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_BY_CLOSE_CODE: dict[int, type[PushsvcError]] = {
    4003: Unavailable,
    4029: TooMany,
    4400: BadRequest,
    4401: Unauthorized,
    4403: Forbidden,
    4404: NotFound,
    4413: TooManyChannels,
}


def error_of(problem: object, status: int = 400, retry_after: float | None = None) -> PushsvcError:
    """The error that an answer is: by its code, else, where something in between answered, by its status."""
    body = problem if isinstance(problem, Mapping) else {}
    code = body.get("code")
    made = _BY_CODE.get(code) if isinstance(code, str) else None
    if made is None:
        made = _BY_STATUS.get(status, RequestError if 400 <= status < 500 else PushsvcError)
    error = made(problem={"status": status} | dict(body) if status != made.status else body)
    after = body.get("retry_after", retry_after)
    error.retry_after = float(after) if isinstance(after, int | float) else None
    return error


def closed_with(code: int) -> PushsvcError:
    """The error that a WebSocket's close code is."""
    made = _BY_CLOSE_CODE.get(code, RequestError if 4400 <= code < 5000 else PushsvcError)
    return made(f"the connection was closed with {code}")


def job_error_of(problem: object, status: str = "failed") -> JobError:
    """The error of a job that ended like this: `status` is its own, one of failed, cancelled, expired."""
    body = problem if isinstance(problem, Mapping) else {}
    code = body.get("code")
    by_status: dict[str, type[JobError]] = {"cancelled": JobCancelled, "expired": JobExpired}
    found = _JOBS.get(code, JobFailed) if isinstance(code, str) else JobFailed
    made = by_status.get(status, found)
    assert issubclass(made, JobError)
    return made(problem=body)
