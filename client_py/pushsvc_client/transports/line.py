"""What all ways to hear have in common."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from ..errors import ConnectionFailed
from ..http import Http, refusal
from ..retries import TEMPORARY
from ..session import End
from ..wire import Signal

OPENING = 10.0
"""Seconds within which a connection has to deliver."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What is said at the start. No `channels` is the inbox; `extra` ones may be refused apart, where that can be."""

    token: str | None = field(repr=False)
    channels: Sequence[str]
    extra: Sequence[str]
    cursor: str | None
    device: str | None = None


class Ended(Exception):
    """The connection is over."""

    def __init__(self, end: End) -> None:
        super().__init__(repr(end))
        self.end = end


class Line(Protocol):
    """One connection. `duplex`: frames can be sent on it."""

    duplex: bool

    def __init__(self, http: Http, opening: Opening) -> None: ...

    def signals(self) -> AsyncGenerator[Signal, None]:
        """What comes, once. Raises Ended."""

    async def send(self, text: str) -> None:
        """Raises Ended."""


class Clock:
    """For how long a connection has delivered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def start(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    @property
    def lived(self) -> float | None:
        return None if self._since is None else time.monotonic() - self._since


def refused(response: httpx.Response) -> End:
    """How it ended with an answer that is no stream: what is not of the service's making is a gateway's."""
    status = response.status_code
    ours = "problem+json" in response.headers.get("content-type", "")
    if ours or status in TEMPORARY or status == 401:
        return End(error=refusal(response))
    return End(unfit=True, error=None)


def broken(error: Exception, lived: float | None) -> End:
    """How it ended when the network broke, or nobody was there."""
    return End(lived, error=ConnectionFailed(f"{type(error).__name__}: {error}"))
