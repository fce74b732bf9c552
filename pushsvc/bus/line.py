"""A connection to one Redis server that is kept, and subscribed to the topics that it is given."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import hiredis
from redis.crc import key_slot

from ..tasks import forever, tolerated
from .faults import FAULTS, away
from .link import Link

logger = logging.getLogger(__name__)

CHECK_EVERY = 5.0
"""Seconds between two questions whether Redis is still there and still knows of us; two without a word in return,
and the connection is dropped."""

STABLE = 2.0
"""Seconds that a connection must have lived for the next to be tried at once: one that is refused right after
it was made, as for want of rights, is not."""

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between two tries to connect."""

Connect = Callable[[Callable[[Any], None]], Awaitable[Link]]


class Patron(Protocol):
    """Whom a line tells what became of it and its topics."""

    def up(self, line: Line) -> None:
        """It is connected and has asked for its topics."""

    def down(self, line: Line) -> None:
        """From now on it hears nothing; it connects again by itself."""

    def confirmed(self, topic: str) -> None: ...

    def moved(self, line: Line, topics: list[str]) -> None:
        """These topics are no longer the line's: their slot is another server's by now."""


class Line:
    """Stays connected through `connect` from `start` to `close`.

    All that is asked of it in one turn of the loop goes out in one write. `sharded` is for a Cluster, where
    topics belong to slots, and one command may name topics of one slot only.
    """

    def __init__(self, connect: Connect, patron: Patron, *, sharded: bool = False) -> None:
        self._connect = connect
        self._patron = patron
        self._sharded = sharded
        prefix = "s" if sharded else ""
        self._subscribe = f"{prefix}subscribe".encode()
        self._unsubscribe = f"{prefix}unsubscribe".encode()
        self.topics: set[str] = set()
        # How many confirmations are under way: only after the last one a topic is surely heard.
        self._asked: dict[str, int] = {}
        self._unsent: dict[str, bool] = {}
        self._probe: tuple[str, int] | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._delay = SHORTEST

    @property
    def connected(self) -> bool:
        return self._link is not None

    def start(self) -> None:
        self._task = asyncio.create_task(forever("a line to pub/sub", self._connect_and_serve), name="bus:line")

    def close(self) -> asyncio.Task[None] | None:
        """Hear nothing more at once; the answer is the task that ends on its own."""
        self.topics.clear()
        if self._link is not None:
            self._link.close()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def renew(self) -> None:
        """Drop the connection and make another."""
        if self._link is not None:
            self._link.close()

    # Topics

    def add(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.topics.add(topic)
            self._send_soon(topic, True)

    def drop(self, topic: str) -> None:
        self.topics.discard(topic)
        self._send_soon(topic, False)

    def _send_soon(self, topic: str, wanted: bool) -> None:
        if self._link is None:
            return  # connecting sends them all
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent[topic] = wanted

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, {}
        if self._link is not None and unsent:
            self._link.send(*self._commands(unsent))

    def _commands(self, changes: Mapping[str, bool]) -> Iterable[tuple[bytes, ...]]:
        groups: dict[tuple[bool, int], list[bytes]] = {}
        for topic, wanted in changes.items():
            name = topic.encode()
            slot = key_slot(name) if self._sharded else 0
            groups.setdefault((wanted, slot), []).append(name)
            if wanted:
                self._asked[topic] = self._asked.get(topic, 0) + 1
        for (wanted, _), names in groups.items():
            yield (self._subscribe if wanted else self._unsubscribe, *names)

    # The connection

    async def _connect_and_serve(self) -> None:
        """One connection, from its beginning to its end, and the pause before the next."""
        try:
            link = await self._connect(self._received)
        except FAULTS as error:
            away("connecting to pub/sub", error)
        else:
            begun = time.monotonic()
            await self._serve(link)
            if time.monotonic() - begun > STABLE:
                self._delay = SHORTEST
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
        self._delay = min(self._delay * 2, LONGEST)

    async def _serve(self, link: Link) -> None:
        self._link = link
        try:
            with tolerated("a connection to pub/sub"):
                link.send(*self._commands(dict.fromkeys(self.topics, True)))
                self._patron.up(self)
                await self._until_lost(link)
        finally:
            self._link, self._probe = None, None
            self._asked.clear()
            self._unsent.clear()
            link.close()
        logger.warning("Redis pub/sub connection lost")
        self._patron.down(self)

    async def _until_lost(self, link: Link) -> None:
        """Return when the connection is gone, or when nothing, not even an answer, came for two checks."""
        silent = 0
        while silent < 2:
            link.heard = False
            if await link.lost_within(CHECK_EVERY):
                return
            silent = 0 if link.heard else silent + 1
            self._check(link)

    def _check(self, link: Link) -> None:
        """Ask for one of our topics again: the answer says how many Redis knows of here.

        A PING would be answered just as well by a server that was put in the place of ours, behind a proxy, and
        knows of none.
        """
        self._flush()
        sure = not (self._sharded and self._asked)
        topic = next((topic for topic in self.topics if topic not in self._asked), None) if sure else None
        if topic is None:
            link.send((b"PING",))
        elif self._probe is None:
            self._probe = (topic, len(self.topics))
            link.send((self._subscribe, topic.encode()))

    def _received(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._refused(str(reply))
        elif isinstance(reply, list) and len(reply) == 3:
            if reply[0] == self._subscribe:
                self._subscribed(reply[1].decode(), reply[2])
            elif reply[0] == self._unsubscribe and self._sharded:
                self._unsubscribed(reply[1])

    def _subscribed(self, topic: str, count: int) -> None:
        if self._probe is not None and self._probe[0] == topic:
            expected, self._probe = self._probe[1], None
            if count != expected:
                logger.warning("Redis knows of %d subscriptions where there are %d", count, expected)
                self.renew()
            return
        under_way = self._asked.pop(topic, 1) - 1
        if under_way:
            self._asked[topic] = under_way
        elif topic in self.topics:
            self._patron.confirmed(topic)

    def _unsubscribed(self, name: bytes | None) -> None:
        """Unasked, it means that the topic's slot has moved away."""
        topic = name.decode() if name is not None else ""
        if topic in self.topics and topic not in self._asked and topic not in self._unsent:
            self._lose([topic])

    def _refused(self, error: str) -> None:
        code, _, rest = error.partition(" ")
        slot = rest.partition(" ")[0]
        if code == "MOVED" and slot.isdecimal():
            self._lose([topic for topic in self._asked if key_slot(topic.encode()) == int(slot)])
            return
        away(f"subscribing, which Redis refuses ({code})", hiredis.ReplyError())
        self.renew()

    def _lose(self, topics: list[str]) -> None:
        self._probe = None
        for topic in topics:
            self._asked.pop(topic, None)
        ours = [topic for topic in topics if topic in self.topics]
        self.topics.difference_update(ours)
        self._patron.moved(self, ours)
