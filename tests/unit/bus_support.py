"""What the tests of the bus share: a subscriber that remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pushsvc.bus import Ear, Scope, Subscriber

from ..contract.kit import soon, until

SCOPE = Scope("tests", lambda: "a database")
"""Of what has no database."""


class Listening:
    """A subscriber, what it heard by topic, and how often it was told that all is heard, or not."""

    def __init__(self, url: str) -> None:
        self.heard: dict[str, list[bytes]] = {}
        self.told = 0
        self.lost = 0
        self.subscriber = Subscriber(url, self, self._connected, self._lost)

    def get(self, topic: bytes) -> Ear:
        """Whoever hears the topic: always this one."""
        return self.heard.setdefault(topic.decode(), []).extend

    def _connected(self) -> None:
        self.told += 1

    def _lost(self) -> None:
        self.lost += 1

    async def told_again(self, told: int) -> None:
        """Wait until it is told to look for what it missed."""
        await until(lambda: self.told > told)


@asynccontextmanager
async def listening(url: str, *topics: str) -> AsyncIterator[Listening]:
    """A subscriber that is connected and hears the topics."""
    found = Listening(url)
    found.subscriber.start()
    try:
        await until(lambda: found.subscriber.connected, "connected to every server")
        assert await soon(found.subscriber.subscribe_all(topics))
        yield found
    finally:
        await found.subscriber.stop()
