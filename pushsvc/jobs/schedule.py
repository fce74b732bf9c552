"""When a periodic job is due: by a cron expression in a time zone, or every so often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice, takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..domain import check_subject
from ..errors import BadRequest, SettingsError
from ..settings import parse_duration

Missed = Literal["one", "none", "all"]

LATE = 60.0
"""Seconds by which a tick may be late without having been missed."""
MOST_MISSED = 1000
"""Ticks that are made up for at once, the oldest first."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`cron` as crontab(5) of Debian reads it, daylight saving included, or `every` in seconds, counted from 1970."""

    cron: str | None = None
    tz: str = "UTC"
    every: float | None = None
    missed: Missed = "one"
    overlap: bool = False
    owner: str = "service"

    def key(self, job: str) -> str:
        """By which its ticks are remembered: an expression that is another one begins anew."""
        return f"{job} every {self.every:g} s" if self.every is not None else f"{job} {self.cron} {self.tz}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All ticks after a moment, in UTC."""
        if self.every is not None:
            first = math.floor(moment.timestamp() / self.every) + 1
            return (datetime.fromtimestamp(number * self.every, UTC) for number in count(first))
        assert self.cron is not None
        found = CronSim(self.cron, moment.astimezone(ZoneInfo(self.tz)))
        return (tick.astimezone(UTC) for tick in found)

    def due(self, last: datetime, now: datetime) -> list[datetime]:
        """The ticks after the last one that are due, as many as are to be made up for."""
        found = list(islice(takewhile(lambda tick: tick <= now, self.after(last)), MOST_MISSED))
        if self.missed == "one":
            return found[-1:]
        if self.missed == "none":
            return [tick for tick in found if (now - tick).total_seconds() <= LATE]
        return found


def schedule_of(
    job: str,
    cron: str | None,
    tz: str | None,
    every: float | str | None,
    missed: Missed,
    overlap: bool,
    owner: str,
) -> Schedule | None:
    """What the decorator was given; None for a job that is not periodic. Raises SettingsError."""
    if cron is None and every is None:
        if tz is not None:
            raise SettingsError(f"job {job}: tz says where cron= is meant; without that it says nothing")
        return None
    if cron is not None and every is not None:
        raise SettingsError(f"job {job}: cron= or every=, not both")
    if missed not in ("one", "none", "all"):
        raise SettingsError(f"job {job}: missed is 'one', 'none' or 'all'")
    try:
        seconds = None if every is None else _seconds(every)
        made = Schedule(cron, _zone(tz), seconds, missed, overlap, check_subject(owner))
        next(made.after(datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        hint = "minute hour day month weekday, as in `0 3 * * *`"
        raise SettingsError(f"job {job}: {cron!r} is no cron expression ({error}); write {hint}") from None
    except ValueError as error:
        raise SettingsError(f"job {job}: {error}") from None
    except BadRequest as error:
        raise SettingsError(f"job {job}: owner: {error.detail}") from None
    return made


def _seconds(every: float | str) -> float:
    given = parse_duration(every)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given <= 366 * 86400:
        raise ValueError("every is from 1 second to a year, such as 30 or '5m'")
    return float(given)


def _zone(name: str | None) -> str:
    try:
        return ZoneInfo(name or "UTC").key
    except (ValueError, KeyError, OSError):
        raise ValueError(f"there is no time zone {name!r}; names are as in Europe/Berlin") from None
