"""The pure codec: values to bytes and bytes to values, no sockets.

An event's bytes are a function of its job's row, made once and written as they are to every transport;
`tests/vectors/` holds examples that both languages test against.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from .domain import Channel, Job, JobStatus, Position, Progress, timestamp
from .errors import BadFrame, PushsvcError

SUBPROTOCOL = "pushsvc.v1"


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON."""
    return to_json(value)


def load(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError on anything that is not (NaN and Infinity are not)."""
    return from_json(data, allow_inf_nan=False)


# Events -------------------------------------------------------------------------------------------


def event_type(job: Job) -> str:
    if job.status is JobStatus.QUEUED:
        return "job.retrying" if job.attempt else "job.queued"
    return "job.started" if job.status is JobStatus.RUNNING else f"job.{job.status}"


def event(job: Job, result: bytes | None, prefix: str = "") -> bytes:
    """The event of the job's present state: its result (or `ref`, or `error`) if it is finished.

    `result` is the stored JSON, put in unparsed; `prefix` is where the API is mounted.
    """
    head: dict[str, Any] = {
        "id": f"evt_{job.id}_{job.version}",
        "type": event_type(job),
        "job": job.id,
        "name": job.name,
        "version": job.version,
        "at": timestamp(job.changed_at),
        "final": job.status.terminal,
    }
    if job.status is JobStatus.SUCCEEDED and not job.inline:
        href = f"{prefix}/v1/jobs/{job.id}/result"
        return dump(head | {"ref": {"href": href, "bytes": job.result_bytes, "sha256": job.result_sha256}})
    opened = dump(head)[:-1]
    if job.status is JobStatus.SUCCEEDED:
        return b'%b,"data":%b}' % (opened, result if result is not None else b"null")
    if job.error is not None and job.status.terminal:
        return b'%b,"error":%b}' % (opened, job.error.encode())
    return b'%b,"data":{"attempt":%d}}' % (opened, job.attempt)


_FINAL = b',"final":'


def is_final(event_bytes: bytes) -> bool:
    """Whether nothing follows this event in its job's channel. `final` stands before anything a job wrote."""
    at = event_bytes.find(_FINAL)
    return at >= 0 and event_bytes.startswith(b"true", at + len(_FINAL))


@dataclass(frozen=True)
class Delivery:
    """An event at its position in a channel; each form is encoded at most once, whoever asks first."""

    channel: Channel
    position: Position
    event: bytes

    @cached_property
    def item(self) -> bytes:
        """As SSE and long-poll carry it."""
        return b'{"channel":%b,"position":"%b","event":%b}' % (
            dump(self.channel.name),
            str(self.position).encode(),
            self.event,
        )

    @cached_property
    def frame(self) -> bytes:
        """As a WebSocket message carries it."""
        return b'{"op":"event",' + self.item[1:]

    @cached_property
    def ws(self) -> bytes:
        """As a whole WebSocket frame, header included, ready for the socket."""
        return text_frame(self.frame)


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65536:
        return b"\x81\x7e" + struct.pack("!H", size) + payload
    return b"\x81\x7f" + struct.pack("!Q", size) + payload


def progress_frame(item: bytes) -> bytes:
    """A progress item as a WebSocket message carries it."""
    return b'{"op":"progress",' + item[1:]


def reset_frame(item: bytes) -> bytes:
    return b'{"op":"reset",' + item[1:]


def progress_item(progress: Progress) -> dict[str, Any]:
    return {
        "job": progress.job,
        "value": progress.value,
        "message": progress.message,
        "queries": list(progress.queries),
    }


def reset_item(channel: str, position: Position, prefix: str = "") -> bytes:
    """What lay between is gone: the link is where to read the state instead."""
    kind, _, key = channel.partition(":")
    link = {"self": f"{prefix}/v1/jobs/{key}"} if kind == "job" else {"jobs": f"{prefix}/v1/jobs"}
    return dump({"channel": channel, "position": str(position), "links": link})


def ok_frame(request: int | None, body: Mapping[str, Any]) -> bytes:
    return dump({"id": request, "ok": body})


def error_frame(request: int | None, error: PushsvcError) -> bytes:
    return dump({"id": request, "error": error.frame()})


def bye_frame(code: int, retry_ms: tuple[int, int] | None = None) -> bytes:
    return dump({"op": "bye", "code": code} | ({"retry_ms": list(retry_ms)} if retry_ms else {}))


def poll_answer(
    events: Iterable[bytes],
    progress: Iterable[bytes],
    resets: Iterable[bytes],
    cursor: str,
    *,
    up_to_date: bool,
    closed: bool,
) -> bytes:
    """The long-poll answer; events come encoded already."""
    rest = dump({"cursor": cursor, "up_to_date": up_to_date, "closed": closed})
    return b'{"events":[%b],"progress":[%b],"resets":[%b],%b' % (
        b",".join(events),
        b",".join(progress),
        b",".join(resets),
        rest[1:],
    )


# Client frames ------------------------------------------------------------------------------------

_Channels = Annotated[list[str], Field(max_length=1000)]
_Id = Annotated[int, Field(ge=0, le=2**53)]


class Hello(BaseModel, extra="ignore"):
    op: Literal["hello"]
    id: _Id | None = None
    token: str | None = None
    device: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    channels: _Channels = []
    cursor: str | None = None


class Subscribe(BaseModel, extra="ignore"):
    op: Literal["subscribe"]
    id: _Id | None = None
    channels: _Channels
    cursor: str | None = None


class Unsubscribe(BaseModel, extra="ignore"):
    op: Literal["unsubscribe"]
    id: _Id | None = None
    channels: _Channels


ClientFrame = Hello | Subscribe | Unsubscribe
_frames: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="op")])


def parse_frame(text: str | bytes) -> ClientFrame:
    """A client's frame. Raises BadFrame, saying which member is wrong; a token is never in the message."""
    try:
        return _frames.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFrame(f"{where}: {first['msg']}" if where else first["msg"], **_echo(text)) from None


def _echo(text: str | bytes) -> dict[str, Any]:
    """The id of a frame that is otherwise wrong, so that its sender knows which one was."""
    try:
        value = load(text)
    except ValueError:
        return {}
    number = value.get("id") if isinstance(value, dict) else None
    return {"request": number} if isinstance(number, int) else {}


# Bus messages -------------------------------------------------------------------------------------
# `e k3.41 {event}` or `p {progress}`: readable in MONITOR, and split without parsing any JSON.


def bus_event(position: Position, event_bytes: bytes) -> bytes:
    return b"e %b %b" % (str(position).encode(), event_bytes)


def bus_progress(progress: Progress) -> bytes:
    return b"p " + dump(progress_item(progress))


def parse_bus(message: bytes) -> tuple[Position, bytes] | bytes | None:
    """An event with its position, a progress item's JSON, or None for what this version does not know."""
    kind, _, rest = message.partition(b" ")
    if kind == b"e":
        position, _, body = rest.partition(b" ")
        return Position.parse(position.decode()), body
    return rest if kind == b"p" else None
