"""Events: their bytes, and the forms in which each transport carries them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ..domain import Channel, Job, JobStatus, Position, Progress, timestamp
from .encoding import dump
from .frames import text_frame
from .problems import problem_bytes


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
        return b'%b,"error":%b}' % (opened, problem_bytes(job.error))
    return b'%b,"data":{"attempt":%d}}' % (opened, job.attempt)


def published(event_id: str, kind: str, at: datetime, data: bytes) -> bytes:
    """An event of the app's own; `data` is JSON, put in unparsed."""
    head = {"id": event_id, "type": kind, "at": timestamp(at), "final": False}
    return b'%b,"data":%b}' % (dump(head)[:-1], data)


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
    def sse(self) -> bytes:
        """As an event stream carries it, after the line with the id, which is each stream's own."""
        return sse_block("event", self.item)

    @cached_property
    def ws(self) -> bytes:
        """As a whole WebSocket frame, header included, ready for the socket."""
        return text_frame(self.frame)

    @classmethod
    def heard(cls, channel: Channel, position: Position, ws: bytes) -> Delivery:
        """The event of a frame that another process has made."""
        delivery = cls(channel, position, ws[ws.index(_EVENT) + len(_EVENT) : -1])
        # A cached property is a plain attribute once it is known.
        delivery.__dict__["ws"] = ws
        return delivery


_EVENT = b'","event":'
"""What stands between a position and its event. No channel can have it in its name: JSON escapes quotes."""


def is_event_frame(ws: bytes) -> bool:
    return _EVENT in ws


def sse_block(event: str, data: bytes) -> bytes:
    """An event of an event stream (WHATWG HTML, section 9.2), but for its id.

    A line break is white space here, since JSON's strings have none: it becomes the client's own `\\n`.
    """
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


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
