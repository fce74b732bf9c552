"""How much: counts of what each principal holds at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from ..errors import TooMany


class Slots:
    """At most `limit` of something at once for each holder."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._held: Counter[Hashable] = Counter()

    def take(self, holder: Hashable) -> None:
        """Raises TooMany when the holder has as many as it may."""
        if self._held[holder] >= self._limit:
            raise TooMany(f"at most {self._limit} {self._what} at once")
        self._held[holder] += 1

    def give_back(self, holder: Hashable) -> None:
        self._held[holder] -= 1
        if self._held[holder] <= 0:
            del self._held[holder]

    @contextmanager
    def held(self, holder: Hashable) -> Iterator[None]:
        self.take(holder)
        try:
            yield
        finally:
            self.give_back(holder)
