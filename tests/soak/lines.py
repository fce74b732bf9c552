"""A connection, as the subscriber sees it whose it is: what it asks of it, and what it tells."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from pushsvc.domain import Position

from ..acceptance.clients import Received
from .plan import Leg

PATIENCE = 60.0
"""Seconds after which a server that says nothing at all counts as gone."""

SMALL = 4096
"""Bytes that the kernel takes in for a deaf client; left alone, it takes megabytes."""

TEMPORARY = (429, 503)


class Ended(Exception):
    """The connection is gone, or was not to be had: come again, after up to so many seconds."""

    def __init__(self, reason: str, within: tuple[float, float] = (0.05, 0.5)) -> None:
        super().__init__(reason)
        self.reason = reason
        self.within = within


class Refused(Exception):
    """An answer that no fault explains."""


class Listening(Protocol):
    """Whose connection it is."""

    token: str
    device: str | None
    channels: dict[str, Position | None]
    """What it wants to hear, and where it is."""
    fresh: asyncio.Event
    """Set when there are others in `channels` than there were."""

    @property
    def cursor(self) -> str | None:
        """Where it is; None where it goes by its device, or has been nowhere yet."""

    def located(self, positions: Mapping[str, Position]) -> None:
        """Where the server says that it goes on from."""

    def take(self, received: Received) -> None:
        """An event."""

    def reset(self, item: str) -> None:
        """What lay between is gone."""

    def moved(self, positions: Mapping[str, Position]) -> None:
        """The cursor that came with what it has just taken."""

    def acking(self) -> str | None:
        """The cursor to acknowledge now, if there is one."""

    def acked(self, cursor: str) -> None:
        """It has been acknowledged for good."""


class Line(ABC):
    """One leg's connection."""

    def __init__(self, who: Listening, node: str, leg: Leg) -> None:
        self._who = who
        self._node = node
        self._leg = leg
        self._hearing = asyncio.Event()
        self._hearing.set()

    @abstractmethod
    async def listen(self) -> None:
        """Connect and hear until it ends. Raises Ended, Refused."""

    @abstractmethod
    async def close(self, end: str) -> None:
        """`closed` in good order, or `vanished`: the connection is aborted."""

    def deafen(self) -> None:
        """From now on nothing is read; what has been read, and not been heard yet, is kept."""
        self._hearing.clear()

    def hear(self) -> None:
        """Read again."""
        self._hearing.set()
