"""A few clients that do not read, among many that do: nobody else is held up, nothing is lost, nothing piles up."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b

import pytest

from pushsvc.settings import Settings

from .kit import Kit, opened, until
from .node import WS_CLASSES, Node, serving
from .websocket_client import Line, handshake
from .websocket_trial import hello

SUBSCRIBERS, DEAF = 100, 3
BATCHES, BATCH, SIZE = 10, 8, 24 * 1024
"""Of results: 2 MB for each subscriber, in bytes."""
LIMIT = 64 * 1024
"""Of a connection's backlog."""
SMALL = 16 * 1024
"""What the kernel is asked to keep for a deaf client."""
GROUP = "group:ops"
POSITION = re.compile(rb'"position":"[^".]+\.(\d+)"')


class Subscriber(Line):
    """Keeps of each event its offset and a digest: all of them at once would be 200 MB."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.events: list[tuple[int, bytes]] = []
        self._look = look

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()
        messages, self.heard.messages = self.heard.messages, []
        for _, body in messages:
            position = POSITION.search(body, 0, 200)
            if position is None:
                self.heard.messages.append((1, body))
            else:
                self.events.append((int(position[1]), blake2b(body, digest_size=8).digest()))

    def deafen(self) -> None:
        self.transport.pause_reading()

    def hear(self) -> None:
        self.transport.resume_reading()


class Watch:
    """The largest backlog that any of some connections has had."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ports: set[int] = set()
        self.largest = 0

    def over(self, subscribers: list[Subscriber]) -> None:
        self._ports = {it.transport.get_extra_info("sockname")[1] for it in subscribers}

    def look(self) -> None:
        for connection in self._node.server.server_state.connections:
            transport = getattr(connection, "transport", None)
            if transport is None or transport.is_closing():
                continue
            if transport.get_extra_info("peername")[1] in self._ports:
                self.largest = max(self.largest, transport.get_write_buffer_size())
        for listener in self._node.listeners:
            self.largest = max(self.largest, getattr(getattr(listener, "_socket", None), "_bytes", 0))


@asynccontextmanager
async def subscribed(node: Node, watch: Watch, count: int, *, small: bool = False) -> AsyncIterator[list[Subscriber]]:
    loop = asyncio.get_running_loop()
    greeting = hello(node.token(channels=[GROUP]), channels=[GROUP])
    made: list[Subscriber] = []
    try:
        for _ in range(count):
            sock = socket.socket()
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", node.port))
            _, it = await loop.create_connection(lambda: Subscriber(watch.look), sock=sock)
            made.append(it)
            it.transport.write(handshake("x", "/v1/ws"))
            assert await it.until(head=True)
            it.transport.write(greeting)
            assert await it.until(messages=1)
        yield made
    finally:
        for it in made:
            it.transport.abort()


def _has(subscriber: Subscriber, count: int) -> bool:
    return len(subscriber.events) >= count


async def publish(kit: Kit, heard: Subscriber) -> list[int]:
    """All results, each batch when the one before has been `heard`; the offsets that the group's log gives them."""
    for number in range(1, BATCHES + 1):
        results = (f"{number}/{n} " + "x" * SIZE for n in range(BATCH))
        await asyncio.gather(*(kit.finish(result, owner="you", channels=(GROUP,)) for result in results))
        await until(partial(_has, heard, number * BATCH), "a batch is heard")
    return list(range(1, BATCHES * BATCH + 1))


@pytest.mark.parametrize("ws", WS_CLASSES)
async def test_three_deaf_ones_of_a_hundred_cost_the_others_nothing_and_lose_nothing(
    settings: Settings, ws: str
) -> None:
    changed = settings.model_copy(update={"backlog_limit": LIMIT, "connection_limit": 1000, "rate_limit": 1e9})
    async with opened(changed) as kit, serving(changed, ws) as node:
        watch = Watch(node)
        async with (
            subscribed(node, watch, SUBSCRIBERS - DEAF) as others,
            subscribed(node, watch, DEAF, small=True) as deaf,
        ):
            watch.over(deaf)
            for it in deaf:
                it.deafen()
            offsets = await publish(kit, others[0])
            await until(lambda: all(_has(it, len(offsets)) for it in others), "the others have everything")
            assert [offset for offset, _ in others[0].events] == offsets
            assert all(it.events == others[0].events for it in others)
            assert all(len(it.events) < len(offsets) // 2 for it in deaf), "they were deaf in earnest"
            for it in deaf:
                it.hear()
            await until(lambda: all(_has(it, len(offsets)) for it in deaf), "the deaf ones have everything")
            assert all(it.events == others[0].events for it in deaf)
            # uvicorn's own class has a buffer besides, of which it keeps 64 KiB and one message.
            assert LIMIT / 2 < watch.largest < LIMIT + BATCH * (SIZE + 1000)
            assert all(it.heard.wrong == [] and not it.heard.ended for it in (*others, *deaf))
        await until(lambda: node.listeners == [])
