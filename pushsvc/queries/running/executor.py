"""Who may run when: a bound on how many queries run at once, shared fairly between jobs."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from .log import Mode


class Runnable(Protocol):
    """What a lane runs."""

    @property
    def owner(self) -> str:
        """Whose it is: lanes take turns between owners."""

    def start(self, lane: Lane, freed: Callable[[], None]) -> None:
        """Leave the other lanes and run; call `freed`, once, as soon as its connection serves others again."""

    def displaced(self, lane: Lane) -> None:
        """The lane's queue has no room for it, or had to give its place to an owner who had fewer there."""

    def queued(self, lane: Lane) -> None:
        """There was room in the lane's queue after all."""

    def lend(self, lane: Lane) -> None:
        """Wait in this lane, too."""


class Lane:
    """Runs at most `capacity` queries at a time and keeps the others waiting, in turns between their owners.

    At most `backlog` of them wait in its queue, shared out between owners. What finds it full waits behind it with
    its owner, and moves up as soon as there is room, in turns again.

    A lane gives a place before its query asks the pool for a connection, and the pool has one for every
    place: so nothing waits for a place while it holds a connection, and nothing waits for a connection.

    There are two for each database: the executor's, and one for queries in the foreground, where each owner
    has one place only (`each`), its own connection. A query that is awaited may wait in both; whichever has
    a place first runs it. Everything here happens within one event loop, in one step each: no query can be
    started twice.
    """

    def __init__(self, mode: Mode, capacity: int, *, backlog: int | None = None, each: int | None = None) -> None:
        self.mode: Mode = mode
        self.capacity = capacity
        self._backlog = backlog
        self._each = each
        # Each in the order of the owners' turns.
        self._waiting: OrderedDict[str, dict[Runnable, None]] = OrderedDict()
        self._behind: OrderedDict[str, OrderedDict[Runnable, None]] = OrderedDict()
        self._running: Counter[str] = Counter()
        self.active = 0
        """How many queries run now."""
        self.waiting = 0
        """How many queries wait in its queue now."""

    def offer(self, work: Runnable) -> None:
        """Run it now, or queue it, or keep it behind the queue.

        A full queue is shared out: an owner who has fewer places takes one, the latest, from whoever has
        the most.
        """
        if self._full and not self._make_room(work.owner):
            self._behind.setdefault(work.owner, OrderedDict())[work] = None
            work.displaced(self)
            return
        self._queue(work)
        self._advance()

    def idle(self, owner: str) -> bool:
        """Whether nothing of this owner's runs or waits here."""
        return not self._running[owner] and owner not in self._waiting

    def next_of(self, owner: str) -> Runnable | None:
        """What of this owner's has longest to wait: the first behind the queue, else the first in it."""
        return next(iter(self._behind.get(owner) or self._waiting.get(owner) or ()), None)

    def withdraw(self, work: Runnable) -> None:
        """Let it wait here no longer, if it did."""
        owner = work.owner
        if work in self._waiting.get(owner, ()):
            del self._waiting[owner][work]
            self.waiting -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]
            self._move_up()
        elif work in self._behind.get(owner, ()):
            del self._behind[owner][work]
            if not self._behind[owner]:
                del self._behind[owner]

    @property
    def _full(self) -> bool:
        return self._backlog is not None and self.waiting >= self._backlog

    def _queue(self, work: Runnable) -> None:
        self._waiting.setdefault(work.owner, {})[work] = None
        self.waiting += 1

    def _move_up(self) -> None:
        while self._behind and not self._full:
            owner, behind = next(iter(self._behind.items()))
            work, _ = behind.popitem(last=False)
            if behind:
                self._behind.move_to_end(owner)
            else:
                del self._behind[owner]
            self._queue(work)
            work.queued(self)

    def _make_room(self, owner: str) -> bool:
        queue = max(self._waiting.values(), key=len)
        # The difference of two, or owners with equal shares would keep displacing one another.
        if len(queue) < len(self._waiting.get(owner, ())) + 2:
            return False
        latest = next(reversed(queue))
        del queue[latest]
        self.waiting -= 1
        behind = self._behind.setdefault(latest.owner, OrderedDict())
        behind[latest] = None
        behind.move_to_end(latest, last=False)
        latest.displaced(self)
        return True

    def _advance(self) -> None:
        while self.active < self.capacity and (work := self._next()):
            self._running[work.owner] += 1
            self.active += 1
            self._move_up()
            work.start(self, partial(self._freed, work.owner))

    def _next(self) -> Runnable | None:
        for owner, queue in self._waiting.items():
            if self._each is not None and self._running[owner] >= self._each:
                continue
            work = next(iter(queue))
            del queue[work]
            self.waiting -= 1
            if queue:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            return work
        return None

    def _freed(self, owner: str) -> None:
        self.active -= 1
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._advance()


class Place:
    """A place in the foreground for a whole transaction, rather than for one query."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._freed: Callable[[], None] | None = None

    def start(self, lane: Lane, freed: Callable[[], None]) -> None:
        """Take it, until it is released."""
        self._freed = freed
        if not self.granted.done():
            self.granted.set_result(None)

    def displaced(self, lane: Lane) -> None:
        """Does not happen: the foreground's queue has room for all."""

    def queued(self, lane: Lane) -> None:
        """Does not happen."""

    def lend(self, lane: Lane) -> None:
        """Does not happen."""

    def release(self) -> None:
        """Let others have it."""
        freed, self._freed = self._freed, None
        if freed is not None:
            freed()
