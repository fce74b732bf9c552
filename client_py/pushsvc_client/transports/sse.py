"""`/v1/events/stream`: server-sent events, where WebSockets do not get through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import httpx

from ..http import Http
from ..session import End
from ..wire import Located, Signal, channel_list, event_of, progress_of, reset_of
from .line import OPENING, Clock, Ended, Opening, broken, refused

QUIET = 60.0
"""Seconds; a comment comes every 25."""


@dataclass(slots=True)
class Block:
    """What stands between two empty lines."""

    event: str = "message"
    data: list[str] = field(default_factory=list)
    id: str | None = None
    retry: float | None = None
    comments: list[str] = field(default_factory=list)


class StreamReader:
    """Reads an event stream (WHATWG HTML, section 9.2.6): lines in, blocks out."""

    def __init__(self) -> None:
        self._block = Block()

    def feed(self, line: str) -> Block | None:
        """The block that this line ends, if it ends one."""
        if not line:
            done, self._block = self._block, Block()
            return done
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        block = self._block
        match name:
            case "data":
                block.data.append(value)
            case "event":
                block.event = value
            case "id":
                block.id = value
            case "retry" if value.isascii() and value.isdigit():
                block.retry = int(value) / 1000
            case "":
                block.comments.append(value)
        return None


class EventStream:
    duplex = False

    def __init__(self, http: Http, opening: Opening) -> None:
        self._http = http
        self._opening = opening
        self._clock = Clock()
        self._retry: float | None = None

    async def send(self, text: str) -> None:
        raise AssertionError("a stream has one direction")

    async def signals(self) -> AsyncGenerator[Signal, None]:
        url = self._http.url("/v1/events/stream")
        opening = self._opening
        names = channel_list([*opening.channels, *opening.extra])
        query = {"channels": names} | ({"device": opening.device} if opening.device else {})
        headers = self._http.headers_for(url, opening.token) | {"Accept": "text/event-stream"}
        headers |= {"Last-Event-ID": opening.cursor} if opening.cursor else {}
        timeout = httpx.Timeout(QUIET, connect=OPENING, pool=None)
        try:
            async with self._http.client.stream(
                "GET", url, params=query, headers=headers, timeout=timeout
            ) as response:
                if response.status_code == 204:
                    raise Ended(End(closed=True))
                if response.status_code != 200:
                    await response.aread()
                    raise Ended(refused(response))
                async for signal in self._read(response):
                    yield signal
        except httpx.TransportError as error:
            raise Ended(broken(error, self._clock.lived)) from error
        retry = None if self._retry is None else (self._retry, 2 * self._retry)
        raise Ended(End(self._clock.lived, retry=retry))

    async def _read(self, response: httpx.Response) -> AsyncGenerator[Signal, None]:
        reader = StreamReader()
        lines = _lines(response)
        while True:
            try:
                # A proxy that keeps everything back until the end lets nothing through, not even the first line.
                async with asyncio.timeout(OPENING if self._clock.lived is None else None):
                    line = await anext(lines)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise Ended(End(unfit=True)) from error
            block = reader.feed(line)
            for signal in [] if block is None else self._signals(block):
                yield signal

    def _signals(self, block: Block) -> list[Signal]:
        if block.retry is not None:
            self._retry = block.retry
        if "closed" in block.comments:
            raise Ended(End(self._clock.lived, closed=True))
        if not block.data:
            if block.id is None or self._clock.lived is not None:
                return []
            self._clock.start()
            return [Located(block.id)]
        try:
            body = json.loads("\n".join(block.data))
            match block.event:
                case "event":
                    return [event_of(body)]
                case "reset":
                    return [reset_of(body)]
                case "progress":
                    return [progress_of(body)]
        except (ValueError, KeyError, TypeError) as error:
            raise Ended(End(self._clock.lived, unfit=True)) from error
        return []


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Lines end with a line feed here: httpx' own also end at separators that stand within JSON."""
    rest = b""
    async for chunk in response.aiter_raw():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
