"""When to send a request again: pure, without clocks and sockets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST = 0.5
LAST = 20.0
"""Seconds: the bound of the first wait, which doubles, and that of all waits."""

TEMPORARY = frozenset({429, 502, 503, 504})


def back_off(tries: int, chance: float) -> float:
    """Full jitter, in seconds: between nothing and a bound that doubles with each try. `chance` is from 0 to 1."""
    return chance * min(LAST, FIRST * 2.0 ** min(tries, 16))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, said as seconds or as a date; `now` in seconds since 1970."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Retries:
    """For how many seconds a request is repeated. With 0, never."""

    seconds: float = 60.0

    def wait(self, tries: int, spent: float, asked: float | None, chance: float) -> float | None:
        """Seconds to wait before the next try, `tries` having failed in `spent` seconds; None to give up.

        Not before the server asked for it: what `asked` says comes on top, so that those who were sent away
        together do not come back together.
        """
        wait = (asked or 0.0) + back_off(tries - 1, chance)
        return wait if spent + wait <= self.seconds else None
