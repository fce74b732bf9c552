"""Each transport as one small interface, for the scenarios that all of them must pass."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pushsvc_client as client
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pushsvc.domain import Cursor, Position, format_cursor
from pushsvc.wire import SUBPROTOCOL, dump

from .kit import soon, until
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
        assert self.event is not None, f"a reset of {self.channel} to {self.position}"
        return json.loads(self.event)["data"]

    @classmethod
    def of(cls, text: str) -> Item:
        """An item's JSON, or a frame's; the event's bytes are cut out, not encoded again."""
        head, is_event, event = text.partition(',"event":')
        item = json.loads(head + "}" if is_event else head)
        return cls(item["channel"], item["position"], event[:-1].encode() if is_event else None)


class Ended(Exception):
    """The connection is gone: whoever still has something to hear goes on with its cursor, elsewhere."""


class Subscriber(ABC):
    """A client of one transport, as little as the scenarios need of it."""

    def __init__(self, node: Node, sub: str = "me", *, device: str | None = None, **claims: Any) -> None:
        self._node = node
        self._inbox = f"user:{sub}"
        self._token = node.token(sub, **claims)
        self._device = device
        self._http = httpx.AsyncClient(
            base_url=node.http,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=60,
            trust_env=False,
            verify=False,  # there is no TLS, and loading the certificates takes longer than most tests
        )
        self._at: dict[str, Position] = {}
        self._resets = 0
        self._told: bool | None = None
        """Whether nothing is gone, if the transport says so at once."""

    @property
    def cursor(self) -> str:
        """Where it stands, as far as its items have been taken: whoever opens with it goes on from there."""
        return format_cursor(self._at.items())

    @property
    def recovered(self) -> bool:
        """Whether nothing is gone of what it should have heard so far."""
        assert self._told is not False or self._resets, "a reset was told of and never came"
        return self._resets == 0

    @abstractmethod
    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        """Connect; when it returns, everything that comes from now on will be heard."""

    @abstractmethod
    async def _next(self) -> Item: ...

    async def next_event(self) -> Item:
        """The next item; waits for it. Raises Ended."""
        item = await self._next()
        self._at[item.channel] = Position.parse(item.position)
        self._resets += item.event is None
        return item

    async def ack(self) -> None:
        """Remember for the device where it stands."""
        response = await self._http.post("/v1/ack", json={"cursor": self.cursor, "device": self._device})
        assert response.status_code == 204, response.text

    async def close(self) -> None:
        await self._http.aclose()


class WebSocketSubscriber(Subscriber):
    """`/v1/ws`."""

    _socket: ClientConnection | None = None

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        subprotocols = [Subprotocol(SUBPROTOCOL)]
        # Without a bound on what waits here: a client that stops reading would wait long for its own Close.
        opening = connect(self._node.ws, subprotocols=subprotocols, compression=None, max_queue=None, proxy=None)
        self._socket = await soon(opening)
        self._early: deque[str] = deque()
        hello = {"op": "hello", "token": self._token, "channels": list(channels), "cursor": cursor}
        ok = await self._ask(hello | {"device": self._device})
        for channel, position in Cursor.parse(ok["cursor"]).positions.items():
            self._at[channel] = position
        self._told = ok["recovered"]

    async def _ask(self, frame: dict[str, Any]) -> Any:
        """The answer; what comes before it is kept."""
        assert self._socket is not None
        await self._socket.send(json.dumps({"id": 1} | frame))
        while (text := await self._frame()).startswith('{"op":'):
            self._early.append(text)
        answer = json.loads(text)
        assert "ok" in answer, answer
        return answer["ok"]

    async def _frame(self) -> str:
        assert self._socket is not None
        try:
            text = await soon(self._socket.recv())
        except ConnectionClosed as error:
            raise Ended from error
        assert isinstance(text, str)
        return text

    async def _next(self) -> Item:
        while True:
            text = self._early.popleft() if self._early else await self._frame()
            if text.startswith('{"op":"event"') or text.startswith('{"op":"reset"'):
                return Item.of(text)
            assert json.loads(text)["op"] in ("progress", "bye"), text

    async def ack(self) -> None:
        await self._ask({"op": "ack", "cursor": self.cursor})

    async def close(self) -> None:
        await super().close()
        if self._socket is not None:
            await self._socket.close()
            await self._socket.wait_closed()


@dataclass
class Block:
    """What stands between two empty lines of an event stream."""

    event: str = "message"
    data: bytes | None = None
    id: str = ""
    retry: int | None = None
    comments: list[str] = field(default_factory=list)


class StreamReader:
    """Reads an event stream as WHATWG HTML, section 9.2.6, says, but that a CR, which we never write, fails."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that are whole by now, with the last id that was given."""
        assert b"\r" not in data
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        return [self._block(text) for text in whole]

    def _block(self, text: bytes) -> Block:
        block = Block()
        for line in text.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                block.data = value if block.data is None else block.data + b"\n" + value
            elif name == b"id":
                self._id = value.decode()
            elif name == b"event":
                block.event = value.decode()
            elif name == b"retry":
                block.retry = int(value)
            else:
                assert name == b"", f"what is {line!r}?"
                block.comments.append(value.decode())
        block.id = self._id
        return block


class StreamSubscriber(Subscriber):
    """`/v1/events/stream`; its cursor is the id of the last event, as an EventSource would send it."""

    _response: httpx.Response | None = None
    _chunks: AsyncIterator[bytes]
    _id = ""
    closed = False

    @property
    def cursor(self) -> str:
        return self._id

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        query = {"channels": ",".join([self._inbox, *channels])} | ({"device": self._device} if self._device else {})
        query |= {"cursor": ""} if cursor == "" else {}
        headers = {"Last-Event-ID": cursor} if cursor else {}
        request = self._http.build_request("GET", "/v1/events/stream", params=query, headers=headers)
        self._response = await soon(self._http.send(request, stream=True))
        if self._response.status_code != 200:
            raise AssertionError((await self._response.aread()).decode())
        self._chunks = self._response.aiter_raw()
        self._reader = StreamReader()
        self._blocks: deque[Block] = deque()
        first = await self._next_block()
        assert first.data is None
        assert first.comments in (["recovered"], ["a reset follows"])
        self._id, self._told = first.id, first.comments == ["recovered"]

    async def _next_block(self) -> Block:
        while not self._blocks:
            try:
                self._blocks.extend(self._reader.feed(await soon(anext(self._chunks))))
            except (StopAsyncIteration, httpx.TransportError) as error:
                raise Ended from error
        return self._blocks.popleft()

    async def _next(self) -> Item:
        while True:
            block = await self._next_block()
            if block.data is not None and block.event in ("event", "reset"):
                item = Item.of(block.data.decode())
                self._id = block.id
                return item
            assert block.data is None or block.event == "progress"

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
        await super().close()


class LongPollSubscriber(Subscriber):
    """`/v1/events`, each request waiting for what comes."""

    wait = 10.0

    def __init__(self, node: Node, sub: str = "me", *, limit: int = 1000, **claims: Any) -> None:
        super().__init__(node, sub, **claims)
        self._limit = limit
        self._channels: list[str] = []
        self._items: deque[Item] = deque()
        self._asked: str | None = None

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        self._channels = [self._inbox, *channels]
        self._asked = cursor
        await self._poll(0)

    async def _poll(self, wait: float) -> bool:
        """Whether something came."""
        query: dict[str, Any] = {"channels": ",".join(self._channels), "wait": wait, "limit": self._limit}
        query |= {"cursor": self._asked} if self._asked is not None else {}
        query |= {"device": self._device} if self._device else {}
        try:
            response = await soon(self._http.get("/v1/events", params=query))
        except httpx.TransportError as error:
            raise Ended from error
        assert response.status_code == 200, response.text
        events, body = _parsed(response.text)
        assert len(events) <= self._limit
        resets = [Item(reset["channel"], reset["position"], None) for reset in body["resets"]]
        self._items.extend([*resets, *events])
        self._asked = body["cursor"]
        self._stand(Cursor.parse(body["cursor"]))
        return bool(self._items)

    def _stand(self, cursor: Cursor) -> None:
        """A channel of which nothing waits to be taken stands where the answer says; else, before what waits."""
        waiting = {item.channel: item for item in reversed(self._items)}
        for channel, position in cursor.positions.items():
            if channel not in waiting:
                self._at[channel] = position
            elif channel not in self._at:
                first = Position.parse(waiting[channel].position)
                self._at[channel] = Position(first.epoch, first.offset - (waiting[channel].event is not None))

    async def _next(self) -> Item:
        while not self._items:
            await self._poll(self.wait)
        return self._items.popleft()


class PollingSubscriber(LongPollSubscriber):
    """`/v1/events` without waiting, again and again."""

    async def _next(self) -> Item:
        if not self._items:
            await until(lambda: self._poll(0), "a poll brings something")
        return self._items.popleft()


def _parsed(text: str) -> tuple[list[Item], Any]:
    """The events of an answer, their bytes as they stand there, and its other members."""
    assert text.startswith('{"events":[')
    found: list[Item] = []
    at = len('{"events":[')
    while text[at] != "]":
        item, end = _decoder.raw_decode(text, at)
        event = text[text.index(',"event":', at) + len(',"event":') : end - 1].encode()
        found.append(Item(item["channel"], item["position"], event))
        at = end + (text[end] == ",")
    return found, json.loads("{" + text[at + 2 :])


_decoder = json.JSONDecoder()


def small_polls(node: Node, sub: str = "me", **claims: Any) -> Subscriber:
    return LongPollSubscriber(node, sub, limit=7, **claims)


class ClientSubscriber(Subscriber):
    """The Python client's events, by the transport that it is told to use. Its cursor is that of the last item."""

    way = "websocket"

    async def open(self, channels: Sequence[str], cursor: str | None) -> None:
        self._client = client.AsyncClient(self._node.http, self._token, http=self._http, transports=[self.way])
        names = [self._inbox, *channels]
        self._stream = self._client.events(names, cursor, device=self._device)
        try:
            await soon(self._stream.__aenter__())
        except client.RequestError as error:
            raise AssertionError(error.code) from error

    @property
    def cursor(self) -> str:
        return self._stream.cursor or ""

    async def _next(self) -> Item:
        """The client comes back by itself to a node that is there again; what it hears, it has decoded."""
        item = await soon(anext(self._stream))
        event = written(item) if isinstance(item, client.Event) else None
        return Item(item.channel, str(item.position), event)

    async def ack(self) -> None:
        await self._stream.ack()

    async def close(self) -> None:
        await self._client.close()
        await super().close()


def written(event: client.Event) -> bytes:
    """The event's JSON, written again of what the client has read."""
    names = ("id", "type", "job", "name", "version", "at", "final")
    members = {name: value for name in names if (value := getattr(event, name)) not in (None, "")}
    return dump(members | {"data": event.data})


class ClientStreamSubscriber(ClientSubscriber):
    way = "sse"


class ClientPollSubscriber(ClientSubscriber):
    way = "longpoll"


TRANSPORTS: dict[str, tuple[str, Callable[..., Subscriber]]] = {
    "websocket direct": ("direct", WebSocketSubscriber),
    "websocket asgi": ("asgi", WebSocketSubscriber),
    "event stream": ("direct", StreamSubscriber),
    "long-poll": ("direct", LongPollSubscriber),
    "long-poll in small answers": ("asgi", small_polls),
    "polling": ("asgi", PollingSubscriber),
}
"""By name: which node serves it, and its driver."""

CLIENTS: dict[str, tuple[str, Callable[..., Subscriber]]] = {
    "Python client, websocket": ("direct", ClientSubscriber),
    "Python client, event stream": ("asgi", ClientStreamSubscriber),
    "Python client, long-poll": ("direct", ClientPollSubscriber),
}
"""The same of the Python client. It decodes events: bytes are compared without it. It comes back by itself."""


async def take(subscriber: Subscriber, count: int) -> list[Item]:
    return [await subscriber.next_event() for _ in range(count)]
