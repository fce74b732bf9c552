"""Hearing: one Redis connection in subscriber mode, read by hiredis inside an `asyncio.Protocol`.

redis-py's own PubSub costs 2.7 times the CPU a message; everything else about Redis goes through redis-py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from .. import telemetry
from ..tasks import stop
from .connection import away

logger = logging.getLogger(__name__)

PING_EVERY = 5.0
"""Seconds of silence before we ask whether Redis is still there; twice that, and the connection is dropped."""


STABLE = 2.0
"""Seconds that a connection must have lived for the next to be tried at once: one that is refused right after
it was made, as for a wrong password, is not."""


class Subscriber:
    """Stays connected to `url`, subscribed to whatever `subscribe` named, until `stop`.

    `on_message(topic, payload)` is called for each message; `on_connected()` when every topic is confirmed
    again after a (re)connect, which is when whoever listens must look for what was missed; `on_lost()` when
    from now on nothing is heard.
    """

    def __init__(
        self,
        url: str,
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._topics: dict[str, asyncio.Future[bool]] = {}
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._link is not None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._stay_connected(), name="bus:subscriber")

    async def stop(self) -> None:
        await stop(self._task)
        self._task = None

    async def subscribe(self, topic: str, patience: float = 2.0) -> bool:
        """True once Redis has confirmed the topic; False if it can't right now (it will be, on reconnect)."""
        future = self._topics.get(topic)
        if future is None:
            future = self._topics[topic] = asyncio.get_running_loop().create_future()
            if self._link is not None:
                self._link.send(b"SUBSCRIBE", topic.encode())
        if future.done():
            return self.connected
        if self._link is None:
            return False
        with suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(asyncio.shield(future), patience)
        return False

    def unsubscribe(self, topic: str) -> None:
        future = self._topics.pop(topic, None)
        if future is None:
            return
        if not future.done():
            future.set_result(False)
        if self._link is not None:
            self._link.send(b"UNSUBSCRIBE", topic.encode())

    # The connection

    async def _stay_connected(self) -> None:
        delay = 0.05
        while True:
            try:
                link = await _connect(self._url, self._received)
            except (OSError, hiredis.HiredisError) as error:
                away("connecting to pub/sub", error)
            else:
                connected_at = time.monotonic()
                await self._serve(link)
                if time.monotonic() - connected_at > STABLE:
                    delay = 0.05
                telemetry.emit("bus.lost", {"count": 1}, {"role": "subscriber"})
                logger.warning("Redis pub/sub connection lost")
                self._on_lost()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, 1.0)

    async def _serve(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        for topic in self._topics:
            self._topics[topic] = loop.create_future()
        self._link = link
        if self._topics:
            link.send(b"SUBSCRIBE", *(topic.encode() for topic in self._topics))
        try:
            confirmed = list(self._topics.values())
            announcer = asyncio.create_task(self._announce(confirmed))
            try:
                await link.until_lost(PING_EVERY)
            finally:
                announcer.cancel()
        finally:
            self._link = None
            link.close()

    async def _announce(self, confirmed: list[asyncio.Future[bool]]) -> None:
        if confirmed:
            await asyncio.wait(confirmed)
        telemetry.emit("bus.connected", {"count": 1}, {"role": "subscriber"})
        self._on_connected()

    def _received(self, reply: Any) -> None:
        if isinstance(reply, list) and reply:
            if reply[0] == b"message":
                self._on_message(reply[1].decode(), reply[2])
            elif reply[0] == b"subscribe":
                future = self._topics.get(reply[1].decode())
                if future is not None and not future.done():
                    future.set_result(True)
        elif isinstance(reply, hiredis.ReplyError):
            logger.error("Redis pub/sub refused a command: %s", reply)
            if self._link is not None:
                self._link.close()


class _Link(asyncio.Protocol):
    """One connection: bytes in, replies out."""

    def __init__(self, on_reply: Callable[[Any], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour only.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            self._reader.feed(data)
            # False is hiredis' word for "no whole reply yet".
            while (reply := self._reader.gets()) is not False:
                self._on_reply(reply)
        except hiredis.ProtocolError:
            logger.exception("Redis spoke no RESP")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()

    def send(self, *command: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # stub: a 1-tuple

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def until_lost(self, ping_every: float) -> None:
        """Return when the connection is gone, or when nothing, not even a pong, came for two pings."""
        silent = 0
        while silent < 2:
            self._heard = False
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._lost.wait(), ping_every)
                return
            silent = 0 if self._heard else silent + 1
            self.send(b"PING")


async def _connect(url: str, on_reply: Callable[[Any], None]) -> _Link:
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = dict(parse_url(url))
    link = _Link(on_reply)
    async with asyncio.timeout(2):
        if path := options.get("path"):
            await loop.create_unix_connection(lambda: link, str(path))
        else:
            tls = ssl.create_default_context() if url.startswith("rediss:") else None
            host, port = str(options.get("host", "localhost")), int(options.get("port", 6379))
            await loop.create_connection(lambda: link, host, port, ssl=tls)
    if password := options.get("password"):
        user = [str(options["username"]).encode()] if options.get("username") else []
        link.send(b"AUTH", *user, str(password).encode())
    link.send(b"CLIENT", b"SETNAME", b"pushsvc-subscriber")
    return link
