"""The bus of a process that does everything itself (PUSHSVC_BACKEND=inline), without Redis.

It holds what this process knows, and nothing that PostgreSQL does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

from .link import Ear, Ears
from .outlet import Message
from .subscriber import Subscriber


class LocalBus:
    """What is said in this process is heard in this process, at once. It is an Outlet for the publisher.

    `alone` says that there is no other process: then all that is ever said is heard. Else hubs look at PostgreSQL
    besides, as they do without Redis.
    """

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone
        self.listening: list[Ears] = []
        self._kept: dict[str, tuple[float, bytes]] = {}

    def place(self, topic: str) -> Hashable:
        return None

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        for topic, payload in messages:
            name = topic.encode()
            heard: list[Ear] = [ear for ears in self.listening if (ear := ears.get(name)) is not None]
            for ear in heard:
                ear([payload])
        return []

    async def snapshot(self, key: str, value: bytes, seconds: int, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        if len(self._kept) > 10_000:
            self._kept = {name: each for name, each in self._kept.items() if each[0] > now}
        self._kept[key] = now + seconds, value
        await self.publish(messages)

    async def get(self, key: str) -> bytes | None:
        until, value = self._kept.get(key, (0.0, b""))
        return value if until > time.monotonic() else None

    async def delete(self, key: str) -> None:
        self._kept.pop(key, None)


class LocalSubscriber(Subscriber):
    """Hears a LocalBus. Every topic is confirmed as soon as it is asked for."""

    def __init__(self, bus: LocalBus, ears: Ears) -> None:
        self._bus = bus
        self._ears = ears
        self.connected = False

    def start(self) -> None:
        # By identity: two that hear nothing yet are equal.
        if not any(ears is self._ears for ears in self._bus.listening):
            self._bus.listening.append(self._ears)
        self.connected = self._bus.alone

    async def stop(self) -> None:
        self.connected = False
        self._bus.listening = [ears for ears in self._bus.listening if ears is not self._ears]

    def renew(self) -> None:
        """There is no connection."""

    async def subscribe_all(self, topics: Sequence[str], patience: float = 2.0) -> bool:
        for topic in topics:
            topic.encode()
        return self.connected

    def unsubscribe(self, topic: str) -> None:
        """Whoever has no ear for it any more does not hear it."""


def listen(
    bus: str | LocalBus,
    ears: Ears,
    on_connected: Callable[[], None] = lambda: None,
    on_lost: Callable[[], None] = lambda: None,
) -> Subscriber:
    """Who hears a bus: that of a Redis, by its URL, or that of this process, which is never lost."""
    return LocalSubscriber(bus, ears) if isinstance(bus, LocalBus) else Subscriber(bus, ears, on_connected, on_lost)
