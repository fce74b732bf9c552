"""Requests that no well-meaning client sends: signed as they should be, and not to be understood.

Each is refused, and harms nobody else: that, the subscribers notice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from pushsvc.wire import SUBPROTOCOL

from ..acceptance.harness import SECRET
from .lines import TEMPORARY

HALF = "a\ud800"
"""Half of a surrogate pair, which no UTF-8 has."""


def _token(sub: str = "mallory", **claims: Any) -> str:
    now = int(time.time())
    whole = {"sub": sub, "tenant": "default", "scope": "submit read", "iat": now, "exp": now + 600} | claims
    return jwt.encode(whole, SECRET, "HS256")


TOKENS: tuple[dict[str, Any], ...] = (
    {"sub": HALF},
    {"sub": "a\x00"},
    {"tenant": HALF},
    {"channels": [f"group:{HALF}"]},
    {"sub": "x" * 10_000},
)

ASKED = (
    ("GET", "/v1/jobs?job=%00", None),
    ("GET", "/v1/jobs?after=%ED%A0%80", None),
    ("GET", "/v1/events?wait=0&channels=group:%ED%A0%80", None),
    ("GET", "/v1/events?wait=0&cursor=user:mallory@1e400.-1", None),
    ("POST", "/v1/jobs", b'{"job":"echo\\u0000"}'),
    ("POST", "/v1/jobs", b'{"job":"echo","params":{"value":1e400}}'),
    ("POST", "/v1/jobs", b'{"job":"echo","run_at":"9999-12-31T23:59:59-23:59"}'),
    ("POST", "/v1/jobs", b'{"job":"echo","params":{"\\ud800":"\\ud800"}}'),
)

FRAMES = (
    '{"id":2,"op":"subscribe","channels":["group:\\ud800"]}',
    '{"id":3,"op":"submit","job":"\\u0000","key":"\\u0000"}',
)


async def poison(nodes: Sequence[str], refusals: list[str]) -> None:
    """All of it, at every node that is there; what is not refused in order goes to `refusals`."""
    for node in nodes:
        async with httpx.AsyncClient(base_url=node, trust_env=False, verify=False, timeout=20) as client:
            for claims in TOKENS:
                for way in (_asking, _over_a_socket):
                    await way(client, node, _token(**{"sub": "mallory", **claims}), refusals, repr(claims)[:60])
            await _asking(client, node, _token(), refusals, "")


async def _asking(client: httpx.AsyncClient, node: str, token: str, refusals: list[str], who: str) -> None:
    for method, path, body in ASKED:
        with suppress(httpx.TransportError):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            response = await client.request(method, path, content=body, headers=headers)
            if response.status_code >= 500 and response.status_code not in TEMPORARY:
                refusals.append(f"poison {who} {method} {path} {body!r}: {response.status_code} {response.text:.200}")


async def _over_a_socket(_client: httpx.AsyncClient, node: str, token: str, refusals: list[str], who: str) -> None:
    url = node.replace("http", "ws", 1) + "/v1/ws"
    with suppress(OSError, EOFError, TimeoutError, WebSocketException):
        async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], open_timeout=20, proxy=None) as socket:
            for text in (json.dumps({"id": 1, "op": "hello", "token": token}), *FRAMES):
                await socket.send(text)
            async for answer in socket:
                if '"internal"' in str(answer):
                    refusals.append(f"poison {who} over a socket: {answer!r:.200}")
