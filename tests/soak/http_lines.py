"""What a subscriber has over HTTP: an event stream, or polls."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any
from urllib.parse import quote

import httpx

from pushsvc.domain import Cursor, Position

from ..acceptance.clients import events_in
from ..contract.drivers import StreamReader
from .lines import PATIENCE, SMALL, TEMPORARY, Ended, Line, Listening, Refused
from .plan import Leg

ABORTING = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""Closing sends RST at once, as when a process has died."""


class HttpLine(Line):
    """What the transports over HTTP share."""

    def __init__(self, who: Listening, node: str, leg: Leg) -> None:
        super().__init__(who, node, leg)
        options: list[Any] = [ABORTING] if leg.end == "vanished" else []
        if leg.deaf:
            options.append((socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL))
        self._http = httpx.AsyncClient(
            base_url=node,
            headers={"Authorization": f"Bearer {who.token}"},
            transport=httpx.AsyncHTTPTransport(socket_options=options, verify=False, trust_env=False),
            timeout=PATIENCE,
        )

    async def close(self, end: str) -> None:
        await self._http.aclose()

    def _query(self) -> dict[str, str]:
        who = self._who
        query = {"channels": ",".join(quote(channel, safe=":") for channel in who.channels)}
        if (cursor := who.cursor) is not None:
            return query | {"cursor": cursor}
        return query | ({"device": who.device} if who.device else {})

    async def _ack(self) -> None:
        cursor = self._who.acking()
        if cursor is None:
            return
        response = await self._http.post("/v1/ack", json={"cursor": cursor, "device": self._who.device})
        self._check(response.status_code, response.text)
        self._who.acked(cursor)

    @staticmethod
    def _check(status: int, text: str) -> None:
        if status in TEMPORARY:
            raise Ended(str(status))
        if status not in (200, 204):
            raise Refused(f"{status} {text}")


class StreamLine(HttpLine):
    """`/v1/events/stream`; the ids are the cursor."""

    async def listen(self) -> None:
        query = self._query()
        headers = {"Last-Event-ID": cursor} if (cursor := query.pop("cursor", "")) else {}
        try:
            async with self._http.stream("GET", "/v1/events/stream", params=query, headers=headers) as response:
                if response.status_code != 200:
                    self._check(response.status_code, (await response.aread()).decode())
                await self._read(response)
        except httpx.ConnectError:
            raise Ended("not there") from None
        except httpx.TransportError:
            raise Ended("broken") from None
        raise Ended("drained")

    async def _read(self, response: httpx.Response) -> None:
        reader, begun = StreamReader(), False
        async for chunk in response.aiter_raw():
            await self._hearing.wait()
            for block in reader.feed(chunk):
                if not begun:
                    begun = True
                    self._who.located(Cursor.parse(block.id).positions)
                if block.event == "reset":
                    self._who.reset(str(block.data))
                elif block.event == "event" and block.data is not None:
                    (received,) = events_in(block.data.decode())
                    self._who.take(received)
                    self._who.moved(Cursor.parse(block.id).positions)
            await self._ack()


class PollLine(HttpLine):
    """`/v1/events`, again and again."""

    wait = 5.0
    pause = 0.0

    async def listen(self) -> None:
        try:
            while True:
                await self._poll()
                await self._ack()
                await asyncio.sleep(self.pause)
        except httpx.ConnectError:
            raise Ended("not there") from None
        except httpx.TransportError:
            raise Ended("broken") from None

    async def _poll(self) -> None:
        # Who does not know where it is asks that first.
        wait = self.wait if self._who.cursor else 0.0
        query = self._query() | {"wait": str(wait), "limit": str(self._leg.limit)}
        response = await self._http.get("/v1/events", params=query)
        await self._hearing.wait()
        self._check(response.status_code, response.text)
        answer = response.json()
        for reset in answer["resets"]:
            self._who.reset(str(reset))
        some, cursor = events_in(response.text), Cursor.parse(answer["cursor"]).positions
        before = {each.channel: Position.parse(each.position) for each in reversed(some)}
        first = {channel: Position(at.epoch, at.offset - 1) for channel, at in before.items()}
        self._who.located({**cursor, **first})
        for received in some:
            self._who.take(received)
        self._who.moved(cursor)


class PollingLine(PollLine):
    """The same without waiting."""

    wait = 0.0
    pause = 0.2
