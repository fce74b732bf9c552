"""Who comes in, and how much of it: one answer for requests, sessions, streams and polls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ..domain import Principal
from .limits import Rate, Slots
from .tokens import Tokens


class Connection(Protocol):
    """What a principal holds: a session, a stream, a poll."""

    def revoked(self) -> None:
        """Some tokens of its principal are void: end, if its own is one of them."""


class Admission:
    """Lets in who shows a token that is good, as often and as many times at once as it may."""

    def __init__(self, tokens: Tokens, connections: Slots[Connection], rate: Rate) -> None:
        self.tokens = tokens
        self.connections = connections
        self._rate = rate

    def count(self, principal: Principal) -> None:
        """One more request of the principal. Raises RateLimited."""
        self._rate.count(principal.holder)

    @contextmanager
    def held(self, principal: Principal, connection: Connection) -> Iterator[None]:
        """One more connection of the principal in this block. Raises TooManyConnections, and Unauthorized when the
        token has been revoked since it was looked at."""
        with self.connections.held(principal.holder, connection):
            self.tokens.need_valid(principal)
            yield
