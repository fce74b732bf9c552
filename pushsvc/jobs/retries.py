"""What an author says of trying again: `retry=` of a job, and `raise Retry(after=…)` within it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import JobError, SettingsError
from ..settings import LONGEST, parse_duration

logger = logging.getLogger(__name__)

Delay = Callable[[int], float]
"""Seconds until the next try, by how many have failed."""


class Retry(JobError):
    """The job asked to be tried again, and had no try left."""

    def __init__(self, detail: str | None = None, *, after: float | str, **extra: Any) -> None:
        """`raise Retry(after=30)`: end this attempt, and begin the next in so many seconds, or text like `"5m"`.

        It uses up one of the job's `max_attempts`, as every error does; with none left the job fails, and its
        subscribers are told `detail`. Raises ValueError on what is no such duration.
        """
        super().__init__(detail, **extra)
        self.after = _seconds(after)


@dataclass(frozen=True, slots=True)
class Retries:
    """After which errors a job is tried again, and when. The nearest class of an error's own counts."""

    delays: Mapping[type[BaseException], Delay | bool]
    """True: again, when any error is tried again; False: not again."""
    others: bool = True
    """Whether it is tried again after errors that are of none of these."""

    def knows(self, error: BaseException) -> bool:
        """Whether the author has said something of such an error, or in it."""
        return isinstance(error, Retry) or any(kind in self.delays for kind in type(error).__mro__)

    def delay(self, error: BaseException, tries: int, backoff: Delay) -> float | None:
        """Seconds until the next try, after `tries` that failed; None: it is not tried again."""
        if isinstance(error, Retry):
            return error.after
        said = next((self.delays[kind] for kind in type(error).__mro__ if kind in self.delays), self.others)
        if said is True or said is False:
            return backoff(tries) if said else None
        try:
            return max(0.0, min(LONGEST, float(said(tries))))
        except Exception:
            logger.exception("the retry= of a job says no delay after %s", type(error).__name__)
            return backoff(tries)


AS_EVER = Retries({})
"""Again after any error, later each time."""


def retries_of(job: str, given: Any) -> Retries:
    """What `retry=` says: errors after which alone to try again, as a class or several; or a mapping of such to the
    seconds until then, a duration, True, False for not again, or a function of how many tries have failed.

    Raises SettingsError.
    """
    if given is None:
        return AS_EVER
    if isinstance(given, Mapping):
        return Retries({_error(job, kind): _delay(job, kind, value) for kind, value in given.items()})
    kinds = given if isinstance(given, tuple | list | set | frozenset) else (given,)
    return Retries({_error(job, kind): True for kind in kinds}, others=False)


def _error(job: str, kind: Any) -> type[BaseException]:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise SettingsError(f"job {job}: retry names classes of errors, and {kind!r:.80} is none")
    return kind


def _delay(job: str, kind: type[BaseException], value: Any) -> Delay | bool:
    if isinstance(value, bool):
        return value
    if callable(value):
        delay: Delay = value
        return delay
    try:
        seconds = _seconds(value)
    except ValueError as error:
        raise SettingsError(f"job {job}: retry of {kind.__name__}: {error}") from None
    return lambda _tries: seconds


def _seconds(value: Any) -> float:
    seconds = parse_duration(value)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST:
        raise ValueError("a duration is 0 seconds or more, and at most a hundred years")
    return float(seconds)
