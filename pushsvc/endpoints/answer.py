"""What an endpoint answered: as it is kept, as its job's result, and as it is given out again.

Kept is a JSON object: `status`, `headers` without `Set-Cookie` (`cookies` says that there were some), and the body as
it can be: as JSON, byte for byte, as text, or in base64. It is what an event has for its data.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from .. import wire
from .record import HOP_BY_HOP, Headers

AS_KEPT = "application/vnd.pushsvc.answer+json"
"""Who accepts this gets the answer as it is kept, which is what `ref` in an event tells size and digest of."""

GZIP_FROM = 500
"""Bytes of a body from which on it is compressed, where the app says that it would (`Vary: Accept-Encoding`)."""

_MADE_AT_DELIVERY = HOP_BY_HOP | {b"content-length", b"date", b"server", b"set-cookie"}
_WHERE = b',"encoding":"'
_TEXTS = ("application/xml", "application/javascript", "application/ecmascript", "image/svg+xml")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and body, and the `Set-Cookie` headers apart."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    cookies: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Answer:
        """What is kept of a response. Raises ValueError for a header that could break out of its line."""
        kept: list[tuple[bytes, bytes]] = []
        cookies: list[bytes] = []
        for key, value in headers:
            name, text = bytes(key).lower(), bytes(value)
            if any(forbidden in part for part in (name, text) for forbidden in (b"\r", b"\n", b"\0")):
                raise ValueError("a header of the response has a line break in it")
            if name == b"set-cookie":
                cookies.append(text)
            elif name not in _MADE_AT_DELIVERY and not name.startswith(b"access-control-"):
                kept.append((name, text))
        return cls(status, kept, body, tuple(cookies))

    def header(self, name: bytes) -> str:
        """All values of a header, joined by commas."""
        return ", ".join(value.decode("latin-1") for key, value in self.headers if key == name)

    @property
    def media_type(self) -> str:
        return self.header(b"content-type").partition(";")[0].strip().lower()

    @property
    def reusable(self) -> bool:
        """Whether an equal request may be given the same: it is nobody's own, and no error."""
        return self.status < 400 and not self.cookies and "no-store" not in self.header(b"cache-control").lower()

    # As it is kept

    def encode(self) -> bytes:
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in self.headers]
        # A page that gets the event fetches the answer itself where there are cookies in it.
        cookies = {"cookies": True} if self.cookies else {}
        head = wire.dump({"status": self.status, "headers": headers, **cookies})[:-1]
        encoding, body = self._encoded()
        return b'%b%b%b","body":%b}' % (head, _WHERE, encoding, body)

    def _encoded(self) -> tuple[bytes, bytes]:
        kind = self.media_type
        if (kind == "application/json" or kind.endswith("+json")) and _is_json(self.body):
            return b"json", self.body
        if not self.body or kind.startswith("text/") or kind.endswith("+xml") or kind in _TEXTS:
            try:
                return b"text", json.dumps(self.body.decode(), ensure_ascii=False).encode()
            except UnicodeDecodeError:
                pass
        return b"base64", b'"%b"' % base64.b64encode(self.body)

    @classmethod
    def decode(cls, kept: bytes, cookies: Iterable[bytes] = ()) -> Answer:
        """What `encode` made, byte for byte."""
        # No object stands before it, so that this can't be part of anything but the names of members.
        at = kept.index(_WHERE)
        said = wire.load(kept[:at] + b"}")
        encoding, _, body = kept[at + len(_WHERE) : -1].partition(b'","body":')
        if encoding == b"json":
            data = body
        elif encoding == b"text":
            data = str(json.loads(body)).encode()
        else:
            data = base64.b64decode(body[1:-1])
        headers = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in said["headers"]]
        return cls(said["status"], headers, data, tuple(cookies))

    # As it is given out

    async def deliver(
        self, request: Headers, send: Send, more: Iterable[tuple[bytes, bytes]] = (), *, head: bool = False
    ) -> None:
        """Send it to whoever sent these headers: `304` if he has it, compressed if he and the app like it so. `more`
        headers stand beside its own; of `Vary` there is one in the end."""
        asked = {key: value.decode("latin-1") for key, value in request}
        status, body = self.status, self.body
        headers = _varying([*self.headers, *more])
        if status == 200 and self._is_known_to(asked):
            status, body = 304, b""
            headers = [pair for pair in headers if pair[0] not in (b"content-type", b"content-encoding")]
        elif self._compresses(asked):
            body = gzip.compress(body, 6, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
        if status >= 200 and status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(body)))
        headers += [(b"set-cookie", cookie) for cookie in self.cookies]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else body})

    def _compresses(self, asked: Mapping[bytes, str]) -> bool:
        return (
            len(self.body) >= GZIP_FROM
            and "gzip" in asked.get(b"accept-encoding", "")
            and "accept-encoding" in self.header(b"vary").lower()
            and not self.header(b"content-encoding")
        )

    def _is_known_to(self, asked: Mapping[bytes, str]) -> bool:
        """The two conditions of RFC 9110, section 13.2.2, under which a GET is answered with 304."""
        tag = self.header(b"etag")
        if b"if-none-match" in asked:
            known = [each.strip().removeprefix("W/") for each in asked[b"if-none-match"].split(",")]
            return bool(tag) and ("*" in known or tag.removeprefix("W/") in known)
        changed, since = self.header(b"last-modified"), asked.get(b"if-modified-since", "")
        try:
            return bool(changed and since) and parsedate_to_datetime(since) >= parsedate_to_datetime(changed)
        except ValueError:
            return False


class Given:
    """The answer as an ASGI app, for whoever asks."""

    def __init__(self, answer: Answer, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._answer = answer
        self._more = list(more)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await self._answer.deliver(scope["headers"], send, self._more, head=scope["method"] == "HEAD")


def _varying(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with all that they vary by in one."""
    found: dict[str, str] = {}
    rest = []
    for key, value in headers:
        if key == b"vary":
            names = [name.strip() for name in value.decode("latin-1").split(",")]
            found |= {name.lower(): name for name in names if name}
        else:
            rest.append((key, value))
    return [*rest, (b"vary", ", ".join(found.values()).encode("latin-1"))] if found else rest


def _is_json(data: bytes) -> bool:
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        return False
    return True


# Cookies ------------------------------------------------------------------------------------------


def bound_cookies(cookies: Iterable[bytes], recorded: Mapping[str, str]) -> bytes:
    """The `Set-Cookie` headers, each with the value that the recorded request sent of that cookie."""
    kept: list[Any] = []
    for cookie in cookies:
        text = cookie.decode("latin-1")
        name = text.partition(";")[0].partition("=")[0].strip()
        kept.append([text, name, recorded.get(name)])
    return wire.dump(kept)


def cookies_for(kept: bytes, present: Mapping[str, str] | None) -> list[bytes]:
    """Those that a request may get which sends the cookies `present`: a cookie that was changed since the request was
    recorded, or taken away, is not brought back from the past. None: the recorded request itself, which gets all."""
    return [
        text.encode("latin-1")
        for text, name, value in wire.load(kept)
        if present is None or present.get(name) == value
    ]
