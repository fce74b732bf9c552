"""What the server says, as types: the source of `/asyncapi.json`, and what tests hold the real bytes against.

Nothing is encoded by them. An event's bytes are composed once and never parsed on their way.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositionText = Annotated[
    str, Field(pattern=r"^[0-9a-z]{1,16}\.[0-9]{1,18}$", description="A place in one channel: `epoch.offset`.")
]
CursorText = Annotated[str, Field(description="`channel@epoch.offset,…`, channel names percent-encoded.")]
ChannelName = Annotated[str, Field(description="`job:<id>`, `user:<subject>` or `group:<name>`.")]


class Said(BaseModel):
    """Whatever the server says. A client ignores members it does not know: later versions add some."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """An error: a problem object (RFC 9457), with more members where they help."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None


class Reference(Said):
    """Where a result is fetched that is too large for an event."""

    href: str
    bytes: int
    sha256: str


class JobEvent(Said):
    """A change of a job. `data` is the result; `error` or `ref` may stand in its place."""

    id: str
    type: Literal[
        "job.queued",
        "job.started",
        "job.retrying",
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "job.expired",
    ]
    job: str
    name: str
    version: int
    at: str
    final: bool
    data: Any = None
    error: Problem | None = None
    ref: Reference | None = None


class AppEvent(Said):
    """What an app published."""

    id: str
    type: Annotated[str, Field(description="Of the app's choosing; never `job.…`.")]
    at: str
    final: Literal[False]
    data: Any


class EventItem(Said):
    """An event at its position, as SSE and long-poll carry it."""

    channel: ChannelName
    position: PositionText
    event: JobEvent | AppEvent


class EventFrame(EventItem):
    """An event."""

    op: Literal["event"]


class ResetItem(Said):
    """What lay between is gone: read the state at `links`, and go on from `position`."""

    channel: ChannelName
    position: PositionText
    links: dict[str, str]


class ResetFrame(ResetItem):
    """A reset."""

    op: Literal["reset"]


class ProgressItem(Said):
    """How far a job is, from 0 to 1. The latest wins; it is in no log."""

    job: str
    value: Annotated[float, Field(ge=0, le=1, strict=False)]
    message: str
    queries: list[dict[str, Any]]


class ProgressFrame(ProgressItem):
    """Progress."""

    op: Literal["progress"]


class Joined(Said):
    """Where each channel goes on from. `recovered` is false when one was reset."""

    cursor: CursorText
    recovered: bool


class Welcome(Joined):
    """The answer to `hello`. `ping` is in seconds."""

    session: str
    user: str
    ping: Annotated[float, Field(strict=False)]


class Refreshed(Said):
    """The groups that the new token does not name, which are left now."""

    unsubscribed: list[ChannelName]


class Done(Said):
    """Nothing to add."""


class JobView(Said):
    """A job, as over HTTP."""

    id: str
    job: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    version: int
    attempt: int
    progress: ProgressItem | None
    queue_position: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None
    error: Problem | None
    links: dict[str, str]
    cursor: CursorText


class OkFrame(Said):
    """The answer to the frame of this id."""

    id: int | None
    ok: Welcome | Joined | Refreshed | JobView | Done


class FrameError(BaseModel):
    """What was wrong. With `temporary`, the same may succeed later."""

    model_config = ConfigDict(extra="allow", strict=True)

    code: str
    title: str
    temporary: bool
    detail: str | None = None


class ErrorFrame(Said):
    """The frame of this id was refused, and changed nothing."""

    id: int | None
    error: FrameError


class ByeFrame(Said):
    """A Close frame of this code follows. With `retry_ms`, connect again after a random time within it."""

    op: Literal["bye"]
    code: int
    retry_ms: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None


class PollAnswer(Said):
    """What `GET /v1/events` answers."""

    events: list[EventItem]
    progress: list[ProgressItem]
    resets: list[ResetItem]
    cursor: CursorText
    up_to_date: bool
    closed: bool


ServerFrame = OkFrame | ErrorFrame | EventFrame | ResetFrame | ProgressFrame | ByeFrame
