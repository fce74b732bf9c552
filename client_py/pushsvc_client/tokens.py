"""Tokens: one that is given, or a function that gives the present one; renewed before it expires, and when it is
refused, once."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import time
from collections.abc import Awaitable, Callable

AHEAD = 30.0
"""Seconds before its end from which on a token is renewed; of a short one, the last tenth."""

Source = str | Callable[[], str | Awaitable[str]] | None


def lifetime(token: str) -> tuple[float | None, float]:
    """When a JWT expires (seconds since 1970), and for how long it was made; nothing is known of other tokens."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends = float(claims["exp"])
        return ends, ends - float(claims.get("iat", 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None, 0.0


class Tokens:
    """Whoever needs a token asks here; several that need another one at the same time get the same one."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        self._token = source if isinstance(source, str) else None
        self._due: float | None = None
        self._renewing = asyncio.Lock()

    def __repr__(self) -> str:
        return "<Tokens>"

    @property
    def given(self) -> bool:
        return self._source is not None

    async def current(self) -> str | None:
        """The token to show now; None where there is none to show."""
        if callable(self._source) and (self._token is None or self._left() <= 0):
            await self.renew(self._token)
        return self._token

    async def renew(self, refused: str | None) -> bool:
        """Get another token than the one that was refused or is about to expire. False: there is no other."""
        if not callable(self._source):
            return False
        async with self._renewing:
            if self._token is not None and self._token != refused:
                return True
            made = self._source()
            token = await made if inspect.isawaitable(made) else made
            if not isinstance(token, str):
                raise TypeError("the function that gives the token gave something else than text")
            different = token != self._token
            self._token = token
            ends, whole = lifetime(token)
            now = self._clock()
            # A function that keeps its tokens for a while may give one that is about to end: it is asked again soon,
            # and not all the time. One that has ended is shown until it is refused.
            least = now + max(1.0, ((ends or now) - now) / 2)
            self._due = None if ends is None or ends <= now else max(ends - min(AHEAD, whole / 10), least)
            return different

    def due(self) -> float | None:
        """Seconds until the token should be renewed; None: never."""
        return None if self._due is None or not callable(self._source) else max(0.0, self._left())

    def _left(self) -> float:
        return float("inf") if self._due is None else self._due - self._clock()
