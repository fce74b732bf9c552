"""Turns: first come, first served, from the moment of coming."""

from __future__ import annotations

import asyncio


class Turns:
    """Lets one at a time do something, in the order of `take`.

    An asyncio.Lock serves whoever first gets to run; here a place is taken in one step, before the task that
    will use it has begun.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    def take(self) -> Turn:
        """A place at the end, which has to be ended, whether or not it was waited for."""
        turn = Turn(self._last)
        self._last = turn.over
        return turn


class Turn:
    """One place."""

    __slots__ = ("_before", "over")

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Until all before it are over."""
        if self._before is not None:
            await asyncio.shield(self._before)

    def end(self) -> None:
        """Let the next have it, as soon as those before are over."""
        if self._before is not None and not self._before.done():
            self._before.add_done_callback(lambda _: self.end())
        elif not self.over.done():
            self.over.set_result(None)
