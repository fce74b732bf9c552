"""A WebSocket client that writes bytes rather than messages, and keeps account of every byte that comes back.

It may break each rule of RFC 6455, in segments as small as one byte; what the server sends must break none.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NO_CODE = 1005
"""Stands for a Close frame without a code (RFC 6455, section 7.1.5)."""

Message = tuple[int, bytes]
"""Opcode of the first frame, and the whole payload."""

PATIENCE = 45.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def masked(payload: bytes, key: bytes) -> bytes:
    """Section 5.3; as one big number, since byte by byte takes seconds for megabytes."""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = b"\x37\xfa\x21\x3d",
    size: int | None = None,
    form: int = 0,
) -> bytes:
    """A client's frame. `rsv` is the three reserved bits; without `key` it is not masked. `size` is another than
    the payload's, and `form`, 126 or 127, a longer way to write it than needed."""
    length = len(payload) if size is None else size
    form = form or (127 if length > 65535 else 126 if length > 125 else length)
    head = bytes((fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | form))
    head += struct.pack("!Q", length) if form == 127 else struct.pack("!H", length) if form == 126 else b""
    return head + payload if key is None else head + key + masked(payload, key)


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode: int, *parts: bytes) -> list[bytes]:
    """One message in as many frames."""
    last = len(parts) - 1
    return [frame(CONT if n else opcode, part, fin=n == last) for n, part in enumerate(parts)]


def handshake(host: str, path: str, headers: Iterable[str] = (), *, line: str | None = None) -> bytes:
    """The request. A header given here stands in the place of the usual one of its name; `Name:` leaves it out."""
    usual = {
        "host": f"Host: {host}",
        "upgrade": "Upgrade: websocket",
        "connection": "Connection: Upgrade",
        "sec-websocket-key": f"Sec-WebSocket-Key: {KEY}",
        "sec-websocket-version": "Sec-WebSocket-Version: 13",
    }
    given = list(headers)
    for header in given:
        usual.pop(header.partition(":")[0].lower(), None)
    rows = [line or f"GET {path} HTTP/1.1", *usual.values(), *(row for row in given if not row.endswith(":"))]
    return "\r\n".join([*rows, "", ""]).encode()


@dataclass
class Heard:
    """What a server said. `wrong` names each rule that it broke."""

    head: bytes = b""
    messages: list[Message] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    code: int | None = None
    reason: bytes = b""
    wrong: list[str] = field(default_factory=list)
    ended: bool = False
    reset: bool = False
    _rest: bytearray = field(default_factory=bytearray)
    _opened: Message | None = None

    @property
    def status(self) -> int:
        """Of the handshake's answer; 0 when there was none."""
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    def header(self, name: str) -> str | None:
        for row in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = row.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def feed(self, data: bytes) -> None:
        self._rest += data
        if not self.head:
            ends = self._rest.find(b"\r\n\r\n")
            if ends < 0:
                return
            self.head = bytes(self._rest[:ends])
            del self._rest[: ends + 4]
        if self.status != 101:
            return
        at = 0
        while (size := _whole(self._rest, at)) is not None:
            self._frame(bytes(self._rest[at : at + size]))
            at += size
        del self._rest[:at]

    def end(self, *, reset: bool) -> None:
        self.ended, self.reset = True, reset
        if self._rest and self.status == 101:
            self.wrong.append("half a frame")

    def _frame(self, raw: bytes) -> None:
        fin, opcode, form = raw[0] >> 7, raw[0] & 15, raw[1] & 127
        payload = raw[2 + (2 if form == 126 else 8 if form == 127 else 0) :]
        self._need(self.code is None, "a frame after Close")
        self._need(not raw[0] & 0x70, "reserved bits")
        self._need(raw[1] < 128, "a masked frame")
        self._need(form == min(len(payload), 126) or (form == 127 and len(payload) > 65535), "a length's form")
        self._need(opcode < CLOSE or (fin == 1 and len(payload) < 126), "a control frame's form")
        if opcode == CLOSE:
            self._need(len(payload) != 1, "a Close frame of one byte")
            self.code = int.from_bytes(payload[:2]) if payload else NO_CODE
            self.reason = payload[2:]
            self._need(not payload or on_the_wire(self.code), f"close code {self.code}")
            self._need(utf8(self.reason), "a reason that is no UTF-8")
        elif opcode in (PING, PONG):
            (self.pings if opcode == PING else self.pongs).append(payload)
        elif opcode == CONT or opcode in (TEXT, BINARY):
            self._need((opcode == CONT) == (self._opened is not None), "a fragment out of place")
            first, before = self._opened or (opcode, b"")
            self._opened = None if fin else (first, before + payload)
            if fin:
                self._need(first == BINARY or utf8(before + payload), "text that is no UTF-8")
                self.messages.append((first, before + payload))
        else:
            self.wrong.append(f"opcode {opcode}")

    def _need(self, right: bool, rule: str) -> None:
        if not right:
            self.wrong.append(rule)


def _whole(data: bytearray, at: int) -> int | None:
    """The size of the frame that stands there; None while it is not all there."""
    if len(data) < at + 2:
        return None
    form = data[at + 1] & 127
    extra = 2 if form == 126 else 8 if form == 127 else 0
    if len(data) < at + 2 + extra:
        return None
    size = 2 + extra + (int.from_bytes(data[at + 2 : at + 2 + extra]) if extra else form)
    return size if len(data) >= at + size else None


def on_the_wire(code: int) -> bool:
    """Whether a Close frame may carry it: section 7.4, and what IANA has registered since."""
    return code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code <= 4999


def utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Line(asyncio.Protocol):
    """One connection, from its first byte."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.transport: asyncio.Transport
        self._something = asyncio.Event()
        self._silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By its methods: uvloop's is no subclass.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard.feed(data)
        self._something.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.heard.end(reset=error is not None)
        self._something.set()

    async def until(self, messages: int = 0, pongs: int = 0, *, head: bool = False, end: bool = False) -> bool:
        """Wait until that many have come, or the connection has ended. False when neither happened."""
        heard = self.heard

        def enough() -> bool:
            if end:
                return heard.code is not None
            return bool(heard.head) if head else len(heard.messages) >= messages and len(heard.pongs) >= pongs

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not (heard.ended or enough()):
                    self._something.clear()
                    await self._something.wait()
                return True
        return False

    async def until_end(self) -> bool:
        """Wait until the server ends the connection; its Close is answered, once."""
        if not await self.until(end=True):
            return False
        if not self.heard.ended and not self._silent:
            self.transport.write(close_frame())
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not self.heard.ended:
                    self._something.clear()
                    await self._something.wait()
                return True
        return False

    def end(self) -> None:
        """Close our half of the connection."""
        self._silent = True
        # The server's may be gone already, and the two loops say so in different ways.
        with suppress(OSError, RuntimeError):
            self.transport.write_eof()

    async def write(self, *segments: bytes) -> None:
        """Each as a TCP segment of its own: the server's turn comes between two."""
        for segment in segments:
            if self.heard.ended:
                return
            self.transport.write(segment)
            await asyncio.sleep(0)


async def dial(port: int) -> Line:
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line


async def shaken(port: int, path: str = "/v1/ws", headers: Iterable[str] = ()) -> Line:
    """A connection whose handshake was answered with 101."""
    line = await dial(port)
    line.transport.write(handshake(f"127.0.0.1:{port}", path, headers))
    assert await line.until(head=True)
    assert line.heard.status == 101, line.heard.head
    return line


WAYS = ("frames", "bytes", "merged")
"""How a case's frames are cut into segments: each one for itself, one byte at a time, all in one."""


def segments(frames: Sequence[bytes], way: str) -> list[bytes]:
    if way == "frames":
        return list(frames)
    whole = b"".join(frames)
    return [whole] if way == "merged" else [whole[n : n + 1] for n in range(len(whole))]
