"""The plain values everything else speaks of: job ids and states, channels, positions, cursors, principals."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NewType
from urllib.parse import quote, unquote

from .errors import BadCursor, BadRequest, PushsvcError
from .text import NAME, is_name, is_queue

JobId = NewType("JobId", str)

DEFAULT_DEPLOYMENT = "arq:queue"
"""The name of a deployment that has been given none."""

DEFAULT_QUEUE = "default"
"""The queue of jobs that name none."""


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_JOB_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def new_job_id() -> JobId:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, so ids sort by age, and 80 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return JobId("".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5)))


def is_job_id(text: str) -> bool:
    return _JOB_ID.fullmatch(text) is not None


def check_queue(name: object, error: type[PushsvcError] = BadRequest) -> str:
    """The name, if it can be a queue's; else raises `error`."""
    if not isinstance(name, str) or not is_queue(name):
        raise error("a queue's name has letters, digits, _ . - and at most 100 of them")
    return name


class Json:
    """JSON that somebody else has written: its bytes, in UTF-8, which nobody needs to parse."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __bytes__(self) -> bytes:
        return self.data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def __repr__(self) -> str:
        return f"<Json of {len(self.data)} bytes>"

    def parse(self) -> Any:
        """What it says."""
        return json.loads(self.data)


class Groups(dict[Any, Any]):
    """A calculation by several columns: values by tuples of keys. In JSON it is a list, also when there are none."""

    __slots__ = ()


class JobStatus(StrEnum):
    """The states of a job; the last four are terminal, and exactly one of them is ever reached."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Job:
    """One row of `jobs`: all that is known of a job but its result's bytes, which are read apart."""

    id: JobId
    tenant: str
    owner: str | None
    name: str
    status: JobStatus
    version: int
    attempt: int
    created_at: datetime
    changed_at: datetime
    run_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    error: str | None = None
    """The problem object as JSON text."""
    inline: bool = True
    result_bytes: int | None = None
    result_sha256: str | None = None
    callback_url: str | None = field(default=None, repr=False)

    @property
    def position(self) -> tuple[str, Position]:
        """Its own channel, and where that stands."""
        return job_channel(self.id), Position(JOB_EPOCH, self.version)


SERVICE_CALLBACK = "default"
"""What a job's row holds for a callback URL when it is the service's: that is the operator's, and may change."""


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as in `2026-11-22T09:00:00.123Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Names and moments --------------------------------------------------------------------------------


def check_name(value: object, what: str, most: int = NAME, error: type[PushsvcError] = BadRequest) -> str:
    """The value, if it is a name; else raises `error`, without repeating it."""
    if not isinstance(value, str) or not is_name(value, most):
        raise error(f"{what} is text of 1 to {most} characters without control characters")
    return value


def check_subject(name: object) -> str:
    """The name, if it can be a subject's; else raises BadRequest."""
    return check_name(name, "a subject")


def check_tenant(name: object) -> str:
    """The name, if it can be a tenant's; else raises BadRequest. No colon: on Redis it stands between the tenant and
    the channel."""
    if ":" in check_name(name, "a tenant", 100):
        raise BadRequest("a tenant has no colon in its name")
    return str(name)


def check_moment(moment: datetime, what: str) -> datetime:
    """The moment in UTC, if every part of the service can hold it; else raises BadRequest."""
    try:
        utc = moment.astimezone(UTC)
    except (OverflowError, ValueError):
        utc = datetime.max.replace(tzinfo=UTC)
    if not 1970 <= utc.year <= 9000:
        raise BadRequest(f"{what} is a moment of the years 1970 to 9000")
    return utc


# Channels -----------------------------------------------------------------------------------------

_KINDS = frozenset({"job", "user", "group"})


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of one tenant. `name` is `job:<id>`, `user:<subject>` or `group:<name>`."""

    tenant: str
    name: str

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def key(self) -> str:
        """What follows the kind: the job's id, the subject, the group's name."""
        return self.name.partition(":")[2]


def is_channel(name: str) -> bool:
    kind, _, key = name.partition(":")
    return kind in _KINDS and is_name(key)


def check_channel(name: object) -> str:
    """The name, if it is a channel's; else raises BadRequest."""
    if not isinstance(name, str) or not is_channel(name):
        raise BadRequest(f"{_shown(name)} is not a channel; channels are job:<id>, user:<subject>, group:<name>")
    return name


def _shown(value: object) -> str:
    """A little of what was wrong, escaped."""
    return f"{value[:80]!r}" if isinstance(value, str) else type(value).__name__


def inbox(subject: str) -> str:
    return f"user:{subject}"


def job_channel(job: str) -> str:
    return f"job:{job}"


# Positions and cursors ----------------------------------------------------------------------------

JOB_EPOCH = "1"
"""Job channels have one epoch for ever: their offset is the job's version."""

_POSITION = re.compile(r"([0-9a-z]{1,16})\.([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one channel, written `epoch.offset`. Offsets of different epochs do not compare."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        match = _POSITION.fullmatch(text)
        if not match:
            raise BadCursor(f"{text[:60]!r} is not a position; positions look like k3.41")
        return cls(match[1], int(match[2]))


Anchor = Literal["now", "start"]
Place = Position | Anchor
"""Where to read on from in a channel: a position, its end, or the oldest that is still kept."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Positions of several channels, and where to begin in those it does not name."""

    positions: Mapping[str, Position] = field(default_factory=dict)
    default: Anchor = "now"

    def place(self, channel: str) -> Place:
        return self.positions.get(channel, self.default)

    def __str__(self) -> str:
        return format_cursor(self.positions.items())

    @classmethod
    def parse(cls, text: str | None, limit: int = 8192) -> Cursor:
        """Read `channel@epoch.offset,…`, `now` or `start`; nothing at all is `now`.

        Raises BadCursor if it is malformed, names a channel twice, or is longer than `limit` characters.
        """
        if not text or text == "now":
            return cls()
        if text == "start":
            return cls(default="start")
        if len(text) > limit:
            raise BadCursor(f"the cursor is longer than {limit} characters; subscribe to fewer channels at once")
        positions: dict[str, Position] = {}
        for part in text.split(","):
            encoded, at, position = part.rpartition("@")
            name = unquote(encoded)
            if not at or not is_channel(name) or name in positions:
                raise BadCursor(f"{part[:80]!r} is not channel@epoch.offset")
            positions[name] = Position.parse(position)
        return cls(positions)


def format_cursor(positions: Iterable[tuple[str, Position]]) -> str:
    return ",".join(f"{quote(name, safe=':')}@{position}" for name, position in positions)


# Who ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: a subject of a tenant, with the channels and scopes that its token names."""

    subject: str
    tenant: str = "default"
    channels: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset({"submit", "read"})
    expires_at: datetime | None = None
    issued_at: datetime | None = None
    token_id: str | None = None
    login: bool = False
    """Whether the app's own login says so, anew for each request, rather than a token."""

    @property
    def holder(self) -> tuple[str, str]:
        """By what its connections and requests are counted."""
        return self.tenant, self.subject

    def left(self, most: float) -> float:
        """Seconds until its token expires, from 0 to `most`: nothing that waits for it waits longer."""
        if self.expires_at is None:
            return most
        return min(most, max(0.0, (self.expires_at - datetime.now(UTC)).total_seconds()))


NOBODY = Principal("", scopes=frozenset({"read"}))
"""Who asks without saying who it is: only what nobody in particular owns is for its eyes."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """From now on a subject's tokens issued until `before` are void; or only the one whose id is `token`."""

    tenant: str
    subject: str
    before: datetime
    token: str | None = None


# What is asked for --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """An accepted job before it is stored. `timeout` and `retention` in seconds; `params` is JSON text."""

    id: JobId
    tenant: str
    owner: str | None
    name: str
    params: str
    timeout: float
    retention: float
    max_attempts: int
    priority: int = 0
    run_at: datetime | None = None
    deadline: datetime | None = None
    channels: tuple[str, ...] = ()
    callback_url: str | None = None
    key: str | None = None
    digest: str = ""
    """SHA-256 of the payload, which `key` stands for and by which equal jobs coalesce."""
    coalesce: bool = False
    mark: str | None = None
    """Of one that may coalesce: by which it is cancelled, and not the others that have become the same job."""
    parent: str | None = None
    """The job that submits it, if one does."""
    queue: str = DEFAULT_QUEUE
    """Which workers run it: those that serve this queue."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission in the store: its job, or the one it joined, and where the owner's inbox stood just then:
    the job's last event is still to come after it."""

    job: Job
    inbox: Position | None = None
    mark: str | None = None

    @property
    def cursor(self) -> str:
        """From where on who has submitted it hears of it: its channel and the inbox, before anything came of it."""
        positions = [self.job.position]
        if self.inbox is not None and self.job.owner is not None:
            positions.append((inbox(self.job.owner), self.inbox))
        return format_cursor(positions)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker has started: what it needs to run it, and the version that fences its end."""

    job: Job
    params: str
    timeout: float
    failures: int
    max_attempts: int
    deadline: datetime | None
    channels: tuple[str, ...]
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended. The store takes it only while the job's version is still `version`."""

    id: JobId
    version: int
    status: JobStatus
    result: bytes | None = None
    """The encoded JSON, encoded once by the worker."""
    error: str | None = None
    inline: bool = True
    sha256: str | None = None
    recorded: bool = True
    """Whether it may be an endpoint's, of which a record is kept until now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Volatile: the latest wins, and it is never logged."""

    job: str
    value: float
    message: str = ""
    queries: tuple[Mapping[str, Any], ...] = ()
