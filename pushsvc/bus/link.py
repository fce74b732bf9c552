"""One Redis connection in subscriber mode, read by hiredis inside an `asyncio.Protocol`.

redis-py's own PubSub costs 2.7 times the CPU a message; everything else about Redis goes through redis-py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.exceptions import ConnectionError

from .endpoint import Address, Endpoint
from .faults import away
from .sentinel import is_master

logger = logging.getLogger(__name__)

NAME = b"pushsvc-subscriber"
"""What `CLIENT LIST` calls these connections."""

CONNECT_WITHIN = 2.0

_MESSAGES = (b"message", b"smessage")

Ear = Callable[[Sequence[bytes]], None]
"""Is told what one read brought of a topic, in its order."""


class Ears(Protocol):
    """Who hears which topic: a dictionary, that may change."""

    def get(self, topic: bytes, /) -> Ear | None: ...


class Link(asyncio.Protocol):
    """One connection: bytes in, messages and replies out. `heard` says that something came since it was cleared.

    What one read brought of a topic is told in one call, so that it can go on in one write.
    """

    def __init__(self, ears: Ears, on_reply: Callable[[Any], None]) -> None:
        self._reader = hiredis.Reader()
        self._ears = ears
        self._on_reply = on_reply
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        self.heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour only.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        heard: dict[bytes, list[bytes]] = {}
        try:
            self._reader.feed(data)
            # False is hiredis' word for "no whole reply yet".
            for reply in iter(self._reader.gets, False):
                if type(reply) is list and reply[0] in _MESSAGES:
                    _, topic, message = reply
                    if topic in heard:
                        heard[topic].append(message)
                    else:
                        heard[topic] = [message]
                elif self._asked:
                    self._answered(reply)
                else:
                    self._on_reply(reply)
        except Exception as error:
            # Such as TLS where none was expected. The reader can't find the next reply any more.
            away("reading what comes by pub/sub", error)
            self.close()
        for topic, messages in heard.items():
            ear = self._ears.get(topic)
            if ear is None:
                continue
            try:
                ear(messages)
            except Exception:
                logger.exception("messages on %r could not be taken", topic)

    def _answered(self, reply: Any) -> None:
        future = self._asked.popleft()
        if not future.done():
            future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        for future in self._asked:
            future.cancel()

    def send(self, *commands: tuple[bytes, ...]) -> None:
        """All of them in one write."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]  # stub: a 1-tuple

    async def ask(self, *command: bytes) -> Any:
        """A command's reply, be it an error; only before the first subscription. Raises ConnectionError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.lost.is_set():
            self._asked.append(future)
            self.send(command)
            await asyncio.wait([future])
        if not future.done() or future.cancelled():
            raise ConnectionError("lost while connecting")
        return future.result()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def lost_within(self, seconds: float) -> bool:
        """Wait until the connection is lost, or for so many seconds."""
        waiting = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds)
            return self.lost.is_set()
        finally:
            waiting.cancel()


async def open_link(endpoint: Endpoint, address: Address, ears: Ears, on_reply: Callable[[Any], None]) -> Link:
    """Connect to the server at `address`, logged in.

    Raises OSError, TimeoutError or RedisError: it isn't there, does not answer, does not let us in, or is not
    the master that the Sentinels take it for.
    """
    loop = asyncio.get_running_loop()
    link = Link(ears, on_reply)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            if "path" in endpoint.options:
                await loop.create_unix_connection(lambda: link, address[0])
            else:
                await loop.create_connection(lambda: link, *address, ssl=endpoint.tls())
            await _introduce(link, endpoint)
    except BaseException:
        link.close()
        raise
    return link


async def _introduce(link: Link, endpoint: Endpoint) -> None:
    if endpoint.login:
        reply = await link.ask(b"AUTH", *(part.encode() for part in endpoint.login))
        if isinstance(reply, hiredis.ReplyError):
            away(f"logging in to pub/sub, which Redis refuses ({str(reply).partition(' ')[0]})", reply)
            raise ConnectionError("not let in")
    # An access list may forbid it; it is only there to be recognised by.
    await link.ask(b"CLIENT", b"SETNAME", NAME)
    if endpoint.kind == "sentinel" and not is_master(await link.ask(b"ROLE")):
        raise ConnectionError("not the master, or not yet")
