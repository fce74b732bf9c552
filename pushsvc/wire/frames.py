"""WebSocket frames: what clients may say, and the answers to it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ..errors import BadFrame, PushsvcError
from ..text import DeviceName, Key, Name
from .encoding import dump, mistakes, read

SUBPROTOCOL = "pushsvc.v1"

# Client frames ------------------------------------------------------------------------------------

_Channels = Annotated[list[str], Field(max_length=1000)]
_Id = Annotated[int, Field(ge=0, le=2**53)]


class Hello(BaseModel, extra="ignore"):
    """The first frame: who it is, and where to go on from. Attaches the inbox."""

    op: Literal["hello"]
    id: _Id | None = None
    token: str | None = None
    device: DeviceName | None = None
    channels: _Channels = []
    cursor: str | None = None


class Subscribe(BaseModel, extra="ignore"):
    """Hear more channels."""

    op: Literal["subscribe"]
    id: _Id | None = None
    channels: _Channels
    cursor: str | None = None


class Unsubscribe(BaseModel, extra="ignore"):
    """Hear these no more."""

    op: Literal["unsubscribe"]
    id: _Id | None = None
    channels: _Channels


class Ack(BaseModel, extra="ignore"):
    """The device has everything up to this cursor, for good."""

    op: Literal["ack"]
    id: _Id | None = None
    cursor: Annotated[str, Field(min_length=1)]


class Refresh(BaseModel, extra="ignore"):
    """Another token of the same subject, before the present one expires."""

    op: Literal["refresh"]
    id: _Id | None = None
    token: str


class Submit(BaseModel, extra="ignore"):
    """A job; `key` is what `Idempotency-Key` is over HTTP."""

    op: Literal["submit"]
    id: _Id | None = None
    job: Name
    params: dict[str, Any] = {}
    key: Key | None = None


ClientFrame = Hello | Subscribe | Unsubscribe | Ack | Refresh | Submit
_frames: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="op")])


def parse_frame(text: str | bytes) -> ClientFrame:
    """A client's frame. Raises BadFrame, saying which member is wrong; a token is never in the message."""
    try:
        value = read(text)
    except ValueError as error:
        raise BadFrame(f"the frame is not JSON as it should be: {error}") from None
    try:
        return _frames.validate_python(value)
    except ValidationError as error:
        [first, *_] = mistakes(error)
        where = f"{first['field']}: " if first["field"] else ""
        raise BadFrame(where + first["message"], **_echo(value)) from None


def _echo(value: Any) -> dict[str, Any]:
    """The id of a frame that is otherwise wrong, so that its sender knows which one was."""
    number = value.get("id") if isinstance(value, dict) else None
    return {"request": number} if type(number) is int and abs(number) <= 2**53 else {}


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65536:
        return b"\x81\x7e" + struct.pack("!H", size) + payload
    return b"\x81\x7f" + struct.pack("!Q", size) + payload


# Server frames ------------------------------------------------------------------------------------


def ok_frame(request: int | None, body: Mapping[str, Any]) -> bytes:
    return dump({"id": request, "ok": body})


def ok_frame_of(request: int | None, body: bytes) -> bytes:
    """The same, its body being JSON already."""
    return b'{"id":%b,"ok":%b}' % (dump(request), body)


def error_frame(request: int | None, error: PushsvcError) -> bytes:
    return dump({"id": request, "error": error.frame()})


def bye_frame(code: int, retry_ms: tuple[int, int] | None = None) -> bytes:
    return dump({"op": "bye", "code": code} | ({"retry_ms": list(retry_ms)} if retry_ms else {}))
