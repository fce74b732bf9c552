"""What is recorded of a request: all that an app can see of it, but what concerns one connection or one delivery."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import cookie_parser
from starlette.types import Scope

from .. import wire
from .sealing import Seals

Headers = Sequence[tuple[bytes, bytes]]

JOB_PARAMETER = "pushsvc-job"
"""In an endpoint's URL: the job whose answer is asked for."""

_JOB_PARAMETER = re.compile(rb"(?:^|&)pushsvc-job=[^&]*")

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Of one connection (RFC 9110, section 7.6.1)."""

OF_DELIVERY = frozenset(
    {b"prefer", b"accept-encoding", b"expect", b"if-none-match", b"if-modified-since", b"range", b"if-range"}
)
"""Of one delivery: the answer is kept whole, and made to fit whoever fetches it."""

INCIDENTAL = frozenset(
    {
        b"user-agent",
        b"referer",
        b"cache-control",
        b"pragma",
        b"dnt",
        b"priority",
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"x-request-id",
        b"x-correlation-id",
        b"x-amzn-trace-id",
        b"x-cloud-trace-context",
        b"x-forwarded-for",
        b"x-forwarded-port",
        b"x-real-ip",
        b"forwarded",
        b"via",
        b"cf-ray",
        b"cf-connecting-ip",
    }
)
"""In which requests may differ and yet be equal; and all that begin with `sec-`. See docs/endpoints.md."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request without its body. `has_body` says whether one is kept beside it."""

    method: str
    scheme: str
    http_version: str
    path: str
    raw_path: bytes | None
    query: bytes
    root_path: str
    headers: Headers
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    has_body: bool

    def __repr__(self) -> str:
        return f"<RecordedRequest {self.method}>"

    @classmethod
    def of(cls, scope: Scope, has_body: bool) -> RecordedRequest:
        """What is recorded of the request of this ASGI scope."""
        named = {
            name.strip().lower()
            for key, value in scope["headers"]
            if key == b"connection"
            for name in value.split(b",")
        }
        dropped = HOP_BY_HOP | OF_DELIVERY | named
        client, server = scope.get("client"), scope.get("server")
        return cls(
            method=scope["method"],
            scheme=scope.get("scheme", "http"),
            http_version=scope.get("http_version", "1.1"),
            path=scope["path"],
            raw_path=scope.get("raw_path"),
            query=scope.get("query_string", b""),
            root_path=scope.get("root_path", ""),
            headers=[(bytes(key), bytes(value)) for key, value in scope["headers"] if key not in dropped],
            client=None if client is None else (client[0], client[1]),
            server=None if server is None else (server[0], server[1]),
            has_body=has_body,
        )

    @property
    def safe(self) -> bool:
        """Whether it may be answered twice: its method only reads (RFC 9110, section 9.2.1)."""
        return self.method in ("GET", "HEAD", "OPTIONS", "TRACE")

    def scope(self, state: Mapping[str, Any]) -> Scope:
        """The ASGI scope of its replay; `state` is that of the app's lifespan."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.http_version,
            "method": self.method,
            "scheme": self.scheme,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "root_path": self.root_path,
            "headers": list(self.headers),
            "client": self.client,
            "server": self.server,
            "state": dict(state),
        }

    @property
    def cookies(self) -> dict[str, str]:
        return cookies_of(self.headers)

    @property
    def has_credentials(self) -> bool:
        """Whether it says who it is from, in a way that is not for us to know."""
        return any(key in (b"cookie", b"authorization") for key, _ in self.headers)

    def target(self, seals: Seals) -> str:
        """The keyed digest of its URL, by which a job is known to be this URL's."""
        return seals.digest(*target_of(self.root_path, self.path, self.query))

    def digest(self, seals: Seals, name: str, body_sha256: bytes) -> str:
        """The keyed digest of all in which equal requests agree."""
        headers = sorted(
            (key.lower(), value)
            for key, value in self.headers
            if key.lower() not in INCIDENTAL and not key.lower().startswith(b"sec-")
        )
        flat = [part for pair in headers for part in pair]
        return seals.digest(name.encode(), *self.address, body_sha256, *flat)

    @property
    def address(self) -> tuple[bytes, ...]:
        """What is asked for: method and URL."""
        path = self.path.encode(errors="surrogatepass")
        return self.method.encode(), self.scheme.encode(), self.root_path.encode(), path, self.query

    def dump(self) -> bytes:
        return wire.dump(
            {
                "method": self.method,
                "scheme": self.scheme,
                "http_version": self.http_version,
                "path": self.path.encode(errors="surrogatepass").decode("latin-1"),
                "raw_path": None if self.raw_path is None else self.raw_path.decode("latin-1"),
                "query": self.query.decode("latin-1"),
                "root_path": self.root_path,
                "headers": [(key.decode("latin-1"), value.decode("latin-1")) for key, value in self.headers],
                "client": self.client,
                "server": self.server,
                "has_body": self.has_body,
            }
        )

    @classmethod
    def load(cls, data: bytes) -> RecordedRequest:
        said = wire.load(data)
        raw_path = said.pop("raw_path")
        return cls(
            path=said.pop("path").encode("latin-1").decode(errors="surrogatepass"),
            raw_path=None if raw_path is None else raw_path.encode("latin-1"),
            query=said.pop("query").encode("latin-1"),
            headers=[(key.encode("latin-1"), value.encode("latin-1")) for key, value in said.pop("headers")],
            client=_address(said.pop("client")),
            server=_address(said.pop("server")),
            **said,
        )


def target_of(root_path: str, path: str, query: bytes) -> tuple[bytes, ...]:
    """What of a URL counts: not the job's id, by which its answer is asked for."""
    return b"target", root_path.encode(), path.encode(errors="surrogatepass"), without_job(query)


def without_job(query: bytes) -> bytes:
    """The query string without `pushsvc-job=…`."""
    return _JOB_PARAMETER.sub(b"", query).removeprefix(b"&")


def cookies_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The cookies that a request sends."""
    found: dict[str, str] = {}
    for key, value in headers:
        if key == b"cookie":
            found |= cookie_parser(value.decode("latin-1"))
    return found


def _address(said: Sequence[Any] | None) -> Any:
    return None if said is None else (said[0], said[1])
