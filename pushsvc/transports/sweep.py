"""Pings for all the sockets of a server by one timer, and the end of those whose peer is not there any more."""

from __future__ import annotations

import asyncio
import itertools
from typing import Protocol

from ..tasks import tolerated

SHARES = 25
"""In how many parts an interval is swept: with pings every 25 s, a 25th of the sockets each second."""

PING = b"\x89\x00"
"""A whole Ping frame (RFC 6455, section 5.5.2), the same for everybody: any Pong says that the peer is there."""


class Pinged(Protocol):
    """What the sweep needs of a socket."""

    share: int
    """The sweep's own note: which part it is in."""
    unanswered: bool
    """A ping is under way. Whoever reads the socket clears it when a Pong comes."""

    def ping(self, frame: bytes) -> None:
        """Send the frame, unless the socket is full."""

    def moving(self) -> bool:
        """Whether there is another sign of life: something has come that nobody has read yet, or what waits to be
        sent is less than it was, or is at least acknowledged."""

    def lost(self) -> None:
        """The peer is gone: end, and leave the sweep."""


class Sweep:
    """Each socket is pinged once an interval. One that has not answered by the next time is looked at again a share
    of an interval later, after all that was there to read has been read, and then is lost.

    So a process that was busy, or stopped, for longer than an interval loses nobody: answers that it had no time for
    count as answers, and pings that it could not send are not held against anybody.
    """

    def __init__(self, interval: float) -> None:
        self._pause = interval / SHARES
        self._shares: list[set[Pinged]] = [set() for _ in range(SHARES)]
        self._next = itertools.cycle(range(SHARES))
        self._turn = 0
        self._suspects: list[Pinged] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._shares))

    def __contains__(self, socket: Pinged) -> bool:
        return socket in self._shares[socket.share]

    def add(self, socket: Pinged) -> None:
        socket.share = next(self._next)
        self._shares[socket.share].add(socket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._tick)

    def discard(self, socket: Pinged) -> None:
        self._shares[socket.share].discard(socket)

    def _tick(self) -> None:
        suspects, self._suspects = self._suspects, []
        for socket in suspects:
            with tolerated("ending a socket whose peer is gone"):
                self._look_again(socket)
        for socket in tuple(self._shares[self._turn]):
            with tolerated("pinging a socket"):
                self._ping(socket)
        self._turn = (self._turn + 1) % SHARES
        # With nobody to ping there is nothing to wake for.
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._tick) if any(self._shares) else None

    def _look_again(self, socket: Pinged) -> None:
        if socket in self and socket.unanswered:
            if socket.moving():
                socket.unanswered = False
            else:
                self.discard(socket)
                socket.lost()

    def _ping(self, socket: Pinged) -> None:
        if socket.unanswered and not socket.moving():
            self._suspects.append(socket)
        else:
            socket.unanswered = True
            socket.ping(PING)
