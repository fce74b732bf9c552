"""Small clients of the contract: HTTP, WebSocket and long-poll, each keeping an event's very text."""

from __future__ import annotations

import asyncio
import itertools
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pushsvc.wire import SUBPROTOCOL

PATIENCE = 30.0
"""Seconds after which something counts as never coming; only a failing test waits so long."""

Json = dict[str, Any]


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Ask again until the condition holds; what it gave then."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if found := await condition():
                    return found
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


@dataclass(frozen=True)
class Received:
    """An event as it came: where it was logged, and its object's text, byte for byte."""

    channel: str
    position: str
    text: str

    @property
    def event(self) -> Json:
        return dict(json.loads(self.text))

    @property
    def job(self) -> str:
        return str(self.event["job"])

    @property
    def offset(self) -> int:
        return int(self.position.partition(".")[2])


def events_in(message: str) -> list[Received]:
    """The events of a WebSocket frame or of a long-poll answer, their texts cut out, not encoded again."""
    parsed = json.loads(message)
    items = parsed.get("events", [parsed])
    found, at = [], 0
    for item in items:
        start = message.index('"event":{', at) + len('"event":')
        _, at = json.JSONDecoder().raw_decode(message, start)
        found.append(Received(item["channel"], item["position"], message[start:at]))
    return found


class Client(httpx.AsyncClient):
    """One user at one node; without a token, nobody in particular."""

    def __init__(self, url: str, token: str | None = None, user: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)
        self.node = url
        self.token = token
        self.user = user

    @property
    def inbox(self) -> str:
        return f"user:{self.user}"

    async def post_job(self, job: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return await self.post("/v1/jobs", json={"job": job, **body}, headers=headers)

    async def submit(self, job: str, **params: Any) -> Json:
        """The accepted job, with its links and its cursor."""
        response = await self.post_job(job, params=params)
        assert response.status_code == 202, response.text
        return dict(response.json())

    async def job(self, id: str, wait: float = 0) -> Json:
        """The job as it is now, or as soon as it has finished if that takes less than `wait` seconds."""
        response = await self.get(f"/v1/jobs/{id}", params={"wait": wait} if wait else {})
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def until_status(self, id: str, status: str) -> Json:
        async def reached() -> Json | None:
            found = await self.job(id)
            return found if found["status"] == status else None

        return dict(await until(reached, f"{id} is {status}"))

    async def log(self, *channels: str) -> list[Received]:
        """Everything that is kept in the channels (by default the inbox) now."""
        poll, found = self.long_poll("start", *channels), []
        while not poll.up_to_date:
            found += await poll.ask(wait=0)
        return found

    def long_poll(self, cursor: str | None, *channels: str) -> LongPoll:
        return LongPoll(self, cursor, channels)

    @asynccontextmanager
    async def handshake(self, **options: Any) -> AsyncIterator[ClientConnection]:
        """A WebSocket on which nothing has been said."""
        url = self.node.replace("http", "ws", 1) + "/v1/ws"
        # A bounded queue would leave the server's Close unread behind events that nobody takes any more.
        options |= {"proxy": None, "max_queue": None}
        async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], **options) as connection:
            yield connection

    @asynccontextmanager
    async def websocket(self, cursor: str | None = None, *channels: str) -> AsyncIterator[WebSocket]:
        """A WebSocket attached to the inbox and to `channels`, from the cursor on."""
        async with self.handshake() as connection:
            websocket = WebSocket(connection)
            websocket.hello = await websocket.ask("hello", token=self.token, cursor=cursor, channels=list(channels))
            yield websocket


class Stream(ABC):
    """What both transports give: events one after another, and the cursor behind the last one taken."""

    def __init__(self) -> None:
        self._positions: dict[str, str] = {}

    @property
    def cursor(self) -> str:
        return ",".join(f"{quote(channel, safe=':')}@{at}" for channel, at in self._positions.items())

    @abstractmethod
    async def next(self) -> Received:
        """The next event."""

    async def take(self, count: int) -> list[Received]:
        """The next so many events, each of them taken."""
        found = []
        for _ in range(count):
            received = await self.next()
            self._positions[received.channel] = received.position
            found.append(received)
        return found

    async def take_final(self, job: str) -> Received:
        """Take events up to the last one of this job."""
        while True:
            (received,) = await self.take(1)
            if received.job == job and received.event["final"]:
                return received


class WebSocket(Stream):
    """A session of `pushsvc.v1`."""

    hello: Json

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.connection = connection
        self.progress: list[Json] = []
        self.resets: list[Json] = []
        self._events: deque[Received] = deque()
        self._numbers = itertools.count(1)

    async def ask(self, op: str, **members: Any) -> Json:
        """The `ok` of an answer. What comes before it is kept. Raises AssertionError with its `error`."""
        number = next(self._numbers)
        await self.connection.send(json.dumps({"id": number, "op": op} | members))
        while (frame := await self._frame()).get("id") != number:
            pass
        assert "ok" in frame, frame["error"]
        return dict(frame["ok"])

    async def next(self) -> Received:
        while not self._events:
            await self._frame()
        return self._events.popleft()

    async def _frame(self) -> Json:
        async with asyncio.timeout(PATIENCE):
            message = str(await self.connection.recv())
        frame = dict(json.loads(message))
        if frame.get("op") == "event":
            self._events.extend(events_in(message))
        elif frame.get("op") in ("progress", "reset"):
            (self.progress if frame["op"] == "progress" else self.resets).append(frame)
        return frame


class LongPoll(Stream):
    """A loop of polls by cursor."""

    def __init__(self, client: Client, cursor: str | None, channels: tuple[str, ...]) -> None:
        super().__init__()
        self._client = client
        self._asked = cursor
        self._channels = channels
        self._events: deque[Received] = deque()
        self.up_to_date = False
        self.resets: list[Json] = []
        self.limit = 100

    async def ask(self, wait: float = 25) -> list[Received]:
        """One poll."""
        query: dict[str, str | float] = {"wait": wait, "limit": self.limit}
        if self._channels:
            query["channels"] = ",".join(self._channels)
        if self._asked is not None:
            query["cursor"] = self._asked
        response = await self._client.get("/v1/events", params=query)
        assert response.status_code == 200, response.text
        answer = response.json()
        self._asked, self.up_to_date = answer["cursor"], answer["up_to_date"]
        self.resets += answer["resets"]
        return events_in(response.text)

    async def next(self) -> Received:
        async with asyncio.timeout(PATIENCE):
            while not self._events:
                self._events.extend(await self.ask())
        return self._events.popleft()
