"""Hearing: whatever is published on our topics, wherever in Redis they live just now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from .. import telemetry
from ..tasks import forever, stop
from .endpoint import Address, Endpoint
from .faults import FAULTS, away
from .line import Line
from .link import Ears, Link, open_link
from .topology import topology_of

SETTING = "PUSHSVC_BUS_URL, or PUSHSVC_REDIS_URL in its place,"

SHORTEST, LONGEST = 0.05, 0.5
"""Seconds between two looks where topics live, while something is wrong."""

TOLD_AGAIN_AFTER = (3.0, 8.0)
"""Seconds after which a failover is told once more: a publisher may learn of it later than we, and what it said to
the former master meanwhile was heard by nobody."""


class _Topic:
    __slots__ = ("confirmed", "line", "waiting")

    def __init__(self) -> None:
        self.line: Line | None = None
        self.confirmed = False
        self.waiting: list[_Waiter] | None = None


class _Waiter:
    """One call that waits for the confirmation of `missing` topics."""

    __slots__ = ("future", "missing")

    def __init__(self, missing: int) -> None:
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.missing = missing

    def one_less(self) -> None:
        self.missing -= 1
        if not self.missing:
            self._tell(True)

    def give_up(self) -> None:
        self._tell(False)

    def _tell(self, confirmed: bool) -> None:
        if not self.future.done():
            self.future.set_result(confirmed)


def _give_up(waiters: Iterable[_Waiter]) -> None:
    for waiter in waiters:
        waiter.give_up()


class Subscriber:
    """Stays connected to `url`, subscribed to whatever `subscribe` named, until `stop`.

    What is said on a topic goes to its ear in `ears`; `on_connected()` is called when every topic is confirmed again
    after a (re)connect, a failover or a move to another shard, which is when whoever listens must look for what was
    missed; `on_lost()` when from now on something is not heard. Raises SettingsError on a URL that is not one.
    """

    def __init__(
        self,
        url: str,
        ears: Ears,
        on_connected: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoint = Endpoint.parse(url, SETTING)
        self._topology = topology_of(self._endpoint)
        self._ears = ears
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._topics: dict[str, _Topic] = {}
        self._lines: dict[Address, Line] = {}
        self._homeless: set[str] = set()
        self._recovering: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._look_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn: dict[float, list[_Waiter]] = {}
        self._later: list[asyncio.TimerHandle] = []
        self._version = -1
        self._delay = SHORTEST
        self.connected = False
        """Whether everything published on the topics is heard."""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(forever("looking where pub/sub is", self._follow), name="bus:subscriber")

    async def stop(self) -> None:
        await stop(self._task)
        self._task = None
        self._forget_later()
        self.connected = False
        lines, self._lines = self._lines, {}
        for line in lines.values():
            self._close(line)
        await stop(*self._ending)
        await self._topology.close()

    def renew(self) -> None:
        """Connect anew: whoever listens has learnt in another way that something was not heard."""
        for line in self._lines.values():
            line.renew()

    # Topics

    async def subscribe(self, topic: str, patience: float = 2.0) -> bool:
        """`subscribe_all` of one topic."""
        return await self.subscribe_all((topic,), patience)

    async def subscribe_all(self, topics: Sequence[str], patience: float = 2.0) -> bool:
        """True once Redis has confirmed all of the topics, for which it has `patience` seconds.

        False if it can't right now: it will, and `on_connected` says when. What is confirmed already costs
        nothing; what all callers ask for in one turn of the loop is one write. Raises ValueError when one is no
        valid Unicode: then none of them is subscribed.
        """
        missing = [topic for topic in topics if (known := self._topics.get(topic)) is None or not known.confirmed]
        if not missing:
            return True
        new = [topic for topic in missing if topic not in self._topics]
        for topic in new:
            # All topics go out in one write: one that can't be written would keep back those of all the others.
            topic.encode()
        self._add(new)
        if not self.connected:
            self._recovering.update(missing)
            return False
        waiter = _Waiter(len(missing))
        for topic in missing:
            known = self._topics[topic]
            if known.waiting is None:
                known.waiting = []
            known.waiting.append(waiter)
        self._give_up_after(patience, waiter)
        confirmed = await waiter.future
        if not confirmed:
            self._await([topic for topic in missing if (known := self._topics.get(topic)) and not known.confirmed])
        return confirmed

    def _give_up_after(self, patience: float, waiter: _Waiter) -> None:
        """One timer for all that began to wait in this turn of the loop."""
        waiters = self._turn.get(patience)
        if waiters is None:
            waiters = self._turn[patience] = []
            loop = asyncio.get_running_loop()
            loop.call_soon(self._turn.clear)
            loop.call_later(patience, _give_up, waiters)
        waiters.append(waiter)

    def _add(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._topics[topic] = _Topic()
            self._house(topic)

    def _house(self, topic: str) -> None:
        line = self._line_to(topic)
        if line is None:
            self._homeless.add(topic)
            self._look_now.set()
        else:
            self._homeless.discard(topic)
            self._topics[topic].line = line
            line.add((topic,))

    def _line_to(self, topic: str) -> Line | None:
        home = self._topology.home(topic)
        return None if home is None else self._lines.get(home)

    def unsubscribe(self, topic: str) -> None:
        known = self._topics.pop(topic, None)
        if known is None:
            return
        if known.line is not None:
            known.line.drop(topic)
        for waiter in known.waiting or ():
            waiter.give_up()
        self._homeless.discard(topic)
        self._recovering.discard(topic)
        self._settle()

    # What the lines tell

    def up(self, line: Line) -> None:
        self._settle()

    def down(self, line: Line) -> None:
        self._await(line.topics)
        for topic in line.topics:
            for waiter in self._topics[topic].waiting or ():
                waiter.give_up()
        self._look_now.set()
        self._settle()

    def confirmed(self, topic: str) -> None:
        known = self._topics.get(topic)
        if known is None:
            return
        known.confirmed = True
        waiting, known.waiting = known.waiting, None
        for waiter in waiting or ():
            waiter.one_less()
        if topic in self._recovering:
            self._recovering.discard(topic)
            self._settle()

    def moved(self, line: Line, topics: Iterable[str]) -> None:
        for topic in topics:
            self._topics[topic].line = None
            self._homeless.add(topic)
        self._await(topics)
        self._look_now.set()

    def _await(self, topics: Iterable[str]) -> None:
        """Until these are confirmed, not everything is heard."""
        for topic in topics:
            known = self._topics.get(topic)
            if known is not None:
                known.confirmed = False
                self._recovering.add(topic)
        self._settle()

    def _settle(self) -> None:
        connected = (
            not self._recovering
            and not self._homeless
            and bool(self._lines)
            and all(line.connected for line in self._lines.values())
        )
        if connected == self.connected:
            return
        self.connected = connected
        self._forget_later()
        if connected:
            telemetry.emit("bus.connected", {"count": 1}, {"role": "subscriber"})
            self._on_connected()
            if self._topology.look_every is not None:
                loop = asyncio.get_running_loop()
                self._later = [loop.call_later(delay, self._on_connected) for delay in TOLD_AGAIN_AFTER]
        else:
            telemetry.emit("bus.lost", {"count": 1}, {"role": "subscriber"})
            self._on_lost()

    def _forget_later(self) -> None:
        for timer in self._later:
            timer.cancel()
        self._later = []

    # Where the topics live

    async def _follow(self) -> None:
        """Look where the topics live, and wait: until something is wrong, or for a while."""
        self._look_now.clear()
        try:
            await self._topology.look()
            self._arrange()
        except FAULTS as error:
            away("looking for pub/sub", error)
        if self.connected:
            self._delay = SHORTEST
            await self._told_to_look(self._topology.look_every)
        else:
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, LONGEST)
            await self._told_to_look(LONGEST)

    async def _told_to_look(self, within: float | None) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._look_now.wait(), within)

    def _arrange(self) -> None:
        """Have a line to each server, and each topic on the line to its home."""
        addresses = self._topology.addresses
        changed = addresses != self._lines.keys()
        for address in self._lines.keys() - addresses:
            self._close(self._lines.pop(address))
        for address in addresses - self._lines.keys():
            line = self._lines[address] = Line(
                partial(self._open, address), self, sharded=self._endpoint.kind == "cluster"
            )
            line.start()
        if self._version != self._topology.version:
            self._version = self._topology.version
            self._move()
        for topic in list(self._homeless):
            self._house(topic)
        if changed:
            self._settle()

    def _move(self) -> None:
        """The map is another: take topics off the lines that are no longer theirs."""
        for topic, known in self._topics.items():
            if known.line is not None and known.line is not self._line_to(topic):
                known.line.drop(topic)
                self.moved(known.line, [topic])

    def _close(self, line: Line) -> None:
        topics = list(line.topics)
        ending = line.close()
        if ending is not None:
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self.moved(line, topics)

    async def _open(self, address: Address, on_reply: Callable[[Any], None]) -> Link:
        return await open_link(self._endpoint, address, self._ears, on_reply)
