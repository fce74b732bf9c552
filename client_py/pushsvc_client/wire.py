"""What goes over the wire, as values: positions and cursors, frames, and what a subscriber hears. No sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

SUBPROTOCOL = "pushsvc.v1"
_POSITION = re.compile(r"([0-9a-z]{1,16})\.([0-9]{1,18})")
_CHANNEL = re.compile(r"(?:job|user|group):[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one channel, written `epoch.offset`. Offsets of different epochs do not compare."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Raises ValueError."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is not a position; positions look like k3.41")
        return cls(match[1], int(match[2]))

    def after(self, other: Position | None) -> bool:
        """Whether this place has not been passed by who stands at `other`: another epoch is another history."""
        return other is None or self.epoch != other.epoch or self.offset > other.offset


def parse_cursor(text: str) -> dict[str, Position]:
    """The positions of `channel@epoch.offset,…`; none for `now`, `start` and nothing. Raises ValueError."""
    positions: dict[str, Position] = {}
    for part in [] if text in ("", "now", "start") else text.split(","):
        encoded, at, position = part.rpartition("@")
        name = unquote(encoded)
        if not at or not _CHANNEL.fullmatch(name) or name in positions:
            raise ValueError(f"{part[:80]!r} is not channel@epoch.offset")
        positions[name] = Position.parse(position)
    return positions


def format_cursor(positions: Mapping[str, Position]) -> str:
    return ",".join(f"{quote(name, safe=':')}@{position}" for name, position in positions.items())


def channel_list(names: Iterable[str]) -> str:
    """Channels as they stand in a query: percent-encoded as in a cursor, joined by commas."""
    return ",".join(quote(name, safe=":") for name in names)


# What is heard ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `data` is what the job gave or the app published; of a job that did not succeed `error` has the
    problem object instead, of a large result `ref` where to fetch it. `cursor` is where to go on from after it."""

    channel: str
    position: Position
    id: str
    type: str
    at: str
    final: bool
    job: str | None = None
    name: str | None = None
    version: int | None = None
    data: Any = None
    error: Mapping[str, Any] | None = None
    ref: Mapping[str, Any] | None = None
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """What lay between the last position of this channel and this one is gone. Read the state at the links, and go
    on from `cursor`."""

    channel: str
    position: Position
    links: Mapping[str, str]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: `value` from 0 to 1, where the job says it; the latest wins."""

    job: str
    value: float | None = None
    message: str | None = None
    queries: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """Everything after this cursor is heard from now on; before that, these items."""

    cursor: str
    items: tuple[Event | Reset, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a frame of ours."""

    id: int | None
    ok: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """The server is about to close: with which code, and within how many seconds to come again."""

    code: int
    retry: tuple[float, float] | None = None


Item = Event | Reset
Signal = Event | Reset | Progress | Located | Answer


def event_of(item: Mapping[str, Any]) -> Event:
    """Of `{"channel","position","event"}`. Raises ValueError, KeyError, TypeError on what is no event."""
    event = item["event"]
    return Event(
        channel=item["channel"],
        position=Position.parse(item["position"]),
        id=event.get("id", ""),
        type=event.get("type", ""),
        at=event.get("at", ""),
        final=event.get("final", False),
        job=event.get("job"),
        name=event.get("name"),
        version=event.get("version"),
        data=event.get("data"),
        error=event.get("error"),
        ref=event.get("ref"),
    )


def reset_of(item: Mapping[str, Any]) -> Reset:
    return Reset(item["channel"], Position.parse(item["position"]), item.get("links", {}))


def progress_of(item: Mapping[str, Any]) -> Progress:
    return Progress(item["job"], item.get("value"), item.get("message"), tuple(item.get("queries") or ()))


def parse_frame(text: str | bytes) -> Event | Reset | Progress | Answer | Bye | None:
    """A frame of the server's; None for one that a later version knows. Raises ValueError."""
    frame = json.loads(text)
    if not isinstance(frame, dict):
        raise ValueError("a frame is an object")
    try:
        match frame.get("op"):
            case "event":
                return event_of(frame)
            case "reset":
                return reset_of(frame)
            case "progress":
                return progress_of(frame)
            case "bye":
                retry = frame.get("retry_ms")
                return Bye(frame["code"], (retry[0] / 1000, retry[1] / 1000) if retry else None)
            case None if "ok" in frame or "error" in frame:
                return Answer(frame.get("id"), frame.get("ok"), frame.get("error"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the frame lacks something: {error!r}") from None
    return None


def frame(op: str, number: int | None = None, **members: Any) -> str:
    """A frame of ours; members that are None are left out."""
    given = {name: value for name, value in members.items() if value is not None}
    return json.dumps(({} if number is None else {"id": number}) | {"op": op} | given)


# A job's view -------------------------------------------------------------------------------------

FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the server shows it. Moments are RFC 3339; `raw` has all members, those of later versions too."""

    id: str
    job: str
    status: str
    version: int
    attempt: int = 0
    progress: Progress | None = None
    queue_position: int | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    expires_at: str | None = None
    error: Mapping[str, Any] | None = None
    waiting_for: Any = None
    links: Mapping[str, str] = field(default_factory=dict)
    cursor: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def finished(self) -> bool:
        return self.status in FINAL


def view_of(body: Any) -> JobView:
    """Raises ValueError on what is no job."""
    if not isinstance(body, dict) or not isinstance(body.get("id"), str) or "status" not in body:
        raise ValueError("the answer is not a job")
    names = JobView.__dataclass_fields__.keys() - {"raw", "progress"}
    told = body.get("progress")
    progress = progress_of({"job": body["id"]} | told) if isinstance(told, dict) else None
    members: dict[str, Any] = {"version": 0, "job": ""} | {name: body[name] for name in names if name in body}
    return JobView(**members, progress=progress, raw=body)
