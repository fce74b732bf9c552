"""Each transport as one small interface, for the scenarios that all of them must pass."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pushsvc.domain import Cursor, Position, format_cursor
from pushsvc.wire import SUBPROTOCOL

from .kit import soon
from .node import Node


@dataclass(frozen=True)
class Item:
    """What a subscriber hears: an event with its bytes as they came, or a reset."""

    channel: str
    position: str
    event: bytes | None

    @property
    def offset(self) -> int:
        return Position.parse(self.position).offset

    @property
    def data(self) -> Any:
        assert self.event is not None
        return json.loads(self.event)["data"]


class Subscriber(Protocol):
    """A client of one transport, as little as the scenarios need of it."""

    recovered: bool

    @property
    def cursor(self) -> str:
        """Where it stands: whoever opens with it goes on from there."""

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        """Connect; when it returns, everything that comes from now on will be heard."""

    async def next_event(self) -> Item:
        """The next item; waits for it."""

    async def close(self) -> None: ...


class WebSocketSubscriber:
    """`/v1/ws`."""

    def __init__(self, node: Node, sub: str = "me", **claims: Any) -> None:
        self._node = node
        self._token = node.token(sub, **claims)
        self._socket: ClientConnection | None = None
        self._positions: dict[str, Position] = {}
        self.recovered = True

    @property
    def cursor(self) -> str:
        return format_cursor(self._positions.items())

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        subprotocols = [Subprotocol(SUBPROTOCOL)]
        # Without a bound on what waits here: a client that stops reading would wait long for its own Close.
        opening = connect(self._node.ws, subprotocols=subprotocols, compression=None, max_queue=None)
        self._socket = await soon(opening)
        hello = {"id": 1, "op": "hello", "token": self._token, "channels": list(channels), "cursor": cursor}
        await self._socket.send(json.dumps(hello))
        answer = json.loads(await soon(self._socket.recv()))
        assert "ok" in answer, answer
        self.recovered = answer["ok"]["recovered"]
        self._positions = dict(Cursor.parse(answer["ok"]["cursor"]).positions)

    async def next_event(self) -> Item:
        assert self._socket is not None
        while True:
            text = await soon(self._socket.recv())
            assert isinstance(text, str)
            frame = json.loads(text)
            if frame["op"] in ("event", "reset"):
                break
            assert frame["op"] == "progress"
        self._positions[frame["channel"]] = Position.parse(frame["position"])
        event = text.partition(',"event":')[2][:-1].encode() if frame["op"] == "event" else None
        return Item(frame["channel"], frame["position"], event)

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            await self._socket.wait_closed()


class LongPollSubscriber:
    """`/v1/events`."""

    def __init__(self, node: Node, sub: str = "me", *, limit: int = 100, **claims: Any) -> None:
        headers = {"Authorization": f"Bearer {node.token(sub, **claims)}"}
        self._inbox = f"user:{sub}"
        self._http = httpx.AsyncClient(base_url=node.http, headers=headers, timeout=60)
        self._limit = limit
        self._channels: list[str] = []
        self._items: deque[Item] = deque()
        self._at: dict[str, Position] = {}
        self._cursor = ""
        self.recovered = True

    @property
    def cursor(self) -> str:
        """As far as its items have been taken, not as far as they have been fetched."""
        return format_cursor(self._at.items())

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        self._channels = [self._inbox, *channels]
        self._cursor = cursor or "now"
        self._at = dict(Cursor.parse(cursor).positions)
        await self._poll(wait=0)
        self.recovered = not any(item.event is None for item in self._items)

    async def _poll(self, wait: float) -> None:
        query: dict[str, Any] = {"channels": ",".join(self._channels), "cursor": self._cursor}
        query |= {"wait": wait, "limit": self._limit}
        response = await soon(self._http.get("/v1/events", params=query))
        assert response.status_code == 200, response.text
        body = response.json()
        resets = [Item(reset["channel"], reset["position"], None) for reset in body["resets"]]
        events = [
            Item(item["channel"], item["position"], raw.partition(',"event":')[2][:-1].encode())
            for item, raw in zip(body["events"], _raw_items(response.text), strict=True)
        ]
        self._items.extend([*resets, *events])
        self._cursor = body["cursor"]
        heard = {item.channel for item in self._items}
        for channel, position in Cursor.parse(body["cursor"]).positions.items():
            if channel not in heard:
                self._at[channel] = position
            elif channel not in self._at:
                first = next(item for item in self._items if item.channel == channel)
                epoch, offset = first.position.split(".")
                self._at[channel] = Position(epoch, int(offset) - (first.event is not None))

    async def next_event(self) -> Item:
        while not self._items:
            await self._poll(wait=10)
        item = self._items.popleft()
        self._at[item.channel] = Position.parse(item.position)
        return item

    async def close(self) -> None:
        await self._http.aclose()


def _raw_items(text: str) -> list[str]:
    """The members of `events`, as they stand in the answer."""
    found: list[str] = []
    decoder = json.JSONDecoder()
    at = text.index('"events":[') + len('"events":[')
    while text[at] != "]":
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = end + (text[end] == ",")
    return found


def small_polls(node: Node, sub: str = "me", **claims: Any) -> Subscriber:
    return LongPollSubscriber(node, sub, limit=7, **claims)


TRANSPORTS: dict[str, tuple[str, Callable[..., Subscriber]]] = {
    "websocket direct": ("direct", WebSocketSubscriber),
    "websocket asgi": ("asgi", WebSocketSubscriber),
    "long-poll": ("direct", LongPollSubscriber),
    "long-poll in small answers": ("asgi", small_polls),
}
"""By name: which node serves it, and its driver."""


async def take(subscriber: Subscriber, count: int) -> list[Item]:
    return [await subscriber.next_event() for _ in range(count)]
