"""How much: what each principal holds at once, and how fast it may ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from ..errors import RateLimited, TooManyConnections

Member = TypeVar("Member")
BURST = 5.0
"""Seconds' worth of requests that may come at once."""


class Slots(Generic[Member]):
    """At most `limit` connections at once for each holder, and which they are."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Hashable, list[Member]] = {}

    def take(self, holder: Hashable, member: Member) -> None:
        """Raises TooManyConnections when the holder has as many as it may."""
        members = self._held.setdefault(holder, [])
        if len(members) >= self._limit:
            raise TooManyConnections(f"at most {self._limit} connections at once")
        members.append(member)

    def give_back(self, holder: Hashable, member: Member) -> None:
        members = self._held[holder]
        members.remove(member)
        if not members:
            del self._held[holder]

    def of(self, holder: Hashable) -> tuple[Member, ...]:
        """What the holder has."""
        return tuple(self._held.get(holder, ()))

    @contextmanager
    def held(self, holder: Hashable, member: Member) -> Iterator[None]:
        self.take(holder, member)
        try:
            yield
        finally:
            self.give_back(holder, member)


class Rate:
    """At most `limit` requests a second for each holder, on the average of `BURST` seconds.

    The generic cell rate algorithm (ITU-T I.371): one moment is kept for each holder, that at which its next
    request would come on time.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._due: dict[Hashable, float] = {}
        self._swept = clock()

    def count(self, holder: Hashable) -> None:
        """Raises RateLimited, with the seconds after which to come again; then the request does not count."""
        now = self._clock()
        due = max(self._due.get(holder, now), now) + 1 / self._limit
        if due - now > BURST:
            wait = max(1, math.ceil(due - now - BURST))
            raise RateLimited(f"at most {self._limit:g} requests a second", retry_after=wait)
        self._due[holder] = due
        if now - self._swept > BURST:
            self._swept = now
            self._due = {holder: due for holder, due in self._due.items() if due > now}
