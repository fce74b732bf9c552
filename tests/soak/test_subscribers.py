"""Subscribers outlive whatever happens to their connections, and tell what was no fault of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from pushsvc.tasks import stop
from pushsvc.wire import SUBPROTOCOL

from ..contract.kit import until
from . import subscribers
from .lines import Line
from .plan import Member, Plan, Transport
from .subscribers import Subscriber

PLAN = Plan.of(seed=1, seconds=1.0)


@asynccontextmanager
async def living(
    node: str, transport: Transport = "websocket"
) -> AsyncIterator[tuple[Subscriber, asyncio.Task[None]]]:
    member = Member("someone", "alice", (), "steady", (transport,))
    subscriber = Subscriber(member, [node, node], "a token", PLAN.legs(member), PLAN.pauses("someone"))
    task = asyncio.create_task(subscriber.run())
    try:
        yield subscriber, task
    finally:
        await stop(task)


@dataclass
class Closing:
    """A node that closes with 4001 as soon as the handshake is done, before it has heard anything."""

    handshakes: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, socket: ServerConnection) -> None:
        self.handshakes += 1
        await socket.close(4001, "drained")


async def test_a_node_that_closes_before_hello_is_come_back_to() -> None:
    closing = Closing()
    async with serve(closing, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with living(f"http://127.0.0.1:{port}") as (subscriber, task):
            await until(lambda: closing.handshakes >= 3, "it has come back twice")
            assert not task.done()
            assert subscriber.journal.broken == []
            assert set(subscriber.journal.ends) == {"drained"}


async def test_what_nobody_foresaw_is_told_and_the_subscriber_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn(Line):
        async def listen(self) -> None:
            raise KeyError("op")

        async def close(self, end: str) -> None:
            raise OSError("closed already")

    monkeypatch.setattr(subscribers, "LINES", {"websocket": Torn})
    async with living("http://127.0.0.1:1") as (subscriber, task):
        await until(lambda: len(subscriber.journal.broken) >= 2, "it went wrong, and again")
        assert not task.done()
        assert "KeyError('op') in listen, test_subscribers.py" in subscriber.journal.broken[0]
        assert set(subscriber.journal.ends) == {"auditor broke"}
