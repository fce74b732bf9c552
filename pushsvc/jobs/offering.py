"""How an author makes functions jobs: `@service.job`, and `@jobs.job` in a module that knows no service."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from ..domain import DEFAULT_QUEUE, check_queue
from ..errors import PushsvcError, SettingsError
from ..queries import PgSettings
from ..settings import LONGEST, parse_duration
from .context import PgSettingsFor
from .options import Priority, check_priority
from .registry import JobSpec
from .retries import retries_of
from .schedule import Missed, Schedule, schedule_of
from .signature import params_model

MOST_ATTEMPTS = 1000
MOST_RUNNING = 1_000_000

Function = TypeVar("Function", bound=Callable[..., object])
RetryFor = type[Exception] | tuple[type[Exception], ...] | Mapping[type[Exception], Any] | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What the decorator was given."""

    name: str
    timeout: float | str
    retention: float | str | None
    max_attempts: int
    coalesce: bool
    pg_settings: PgSettingsFor
    retry: RetryFor
    queue: str
    priority: Priority
    max_running: int | None
    max_running_each: int | None
    cron: str | None
    tz: str | None
    every: float | str | None
    missed: Missed
    overlap: bool
    owner: str

    def named(self, prefix: str) -> Terms:
        return replace(self, name=prefix + self.name)


class Offers(ABC):
    """What has the decorator."""

    @abstractmethod
    def _offer(self, function: Callable[..., Any], terms: Terms) -> None:
        """Take the function for a job."""

    @overload
    def job(self, function: Function, /) -> Function: ...

    @overload
    def job(
        self,
        *,
        name: str | None = None,
        timeout: float | str = 300.0,
        retention: float | str | None = None,
        max_attempts: int = 1,
        coalesce: bool = False,
        pg_settings: PgSettingsFor = None,
        retry: RetryFor = None,
        queue: str = DEFAULT_QUEUE,
        priority: Priority = "normal",
        max_running: int | None = None,
        max_running_each: int | None = None,
        cron: str | None = None,
        tz: str | None = None,
        every: float | str | None = None,
        missed: Missed = "one",
        overlap: bool = False,
        owner: str = "service",
    ) -> Callable[[Function], Function]: ...

    def job(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        timeout: float | str = 300.0,
        retention: float | str | None = None,
        max_attempts: int = 1,
        coalesce: bool = False,
        pg_settings: PgSettingsFor = None,
        retry: RetryFor = None,
        queue: str = DEFAULT_QUEUE,
        priority: Priority = "normal",
        max_running: int | None = None,
        max_running_each: int | None = None,
        cron: str | None = None,
        tz: str | None = None,
        every: float | str | None = None,
        missed: Missed = "one",
        overlap: bool = False,
        owner: str = "service",
    ) -> Any:
        """Make a function a job: `async def`, or `def`, which runs in a thread.

        `timeout` and `retention` are seconds, or text like `"24h"`. `max_attempts` is how often the job is
        tried when it raises; a worker's death does not count as one. With `coalesce`, equal submissions of
        one owner are one job while it is in flight. `pg_settings`, a mapping or a function that gives one for a
        JobContext, are settings of PostgreSQL's, `role` included, which hold for all that the job asks of its
        databases. `retry` says after which errors it is tried again, and when: `(TimeoutError, OSError)`, after those
        only; `{TimeoutError: "30s", ValueError: False}`, in so many seconds after the one, and not after the other;
        the rest as ever, after a second, then two, four and so on, up to a minute. `queue` says which workers run it,
        `priority` what comes first among one owner's jobs; a submission may say otherwise. `max_running` is how many
        of it run at once over all workers, `max_running_each` how many of them for one owner; the others wait.

        With `cron`, as in `"0 3 * * *"`, in the time zone `tz`, or `every`, a duration, it is submitted by itself,
        each time once over all workers. Of ticks that were `missed` while no worker ran, the last `one`, `none` or
        `all` are made up for. While the job of one tick runs the next is skipped, unless they may `overlap`. It is
        the `owner`'s.

        The function itself stays as it is. Raises SettingsError when its signature can't be filled from JSON by name.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            own = str(name or getattr(function, "__name__", ""))
            said = Terms(
                own,
                timeout,
                retention,
                max_attempts,
                coalesce,
                pg_settings,
                retry,
                queue,
                priority,
                max_running,
                max_running_each,
                cron,
                tz,
                every,
                missed,
                overlap,
                owner,
            )
            self._offer(function, said)
            return function

        return register if function is None else register(function)


class Jobs(Offers):
    """The jobs of one module, which imports no service: `service.include(jobs)` offers them."""

    def __init__(self) -> None:
        self._offered: list[tuple[Callable[..., Any], Terms]] = []
        self._included: list[Callable[[Callable[..., Any], Terms], None]] = []

    def __repr__(self) -> str:
        return f"<Jobs {len(self._offered)} jobs>"

    def _offer(self, function: Callable[..., Any], terms: Terms) -> None:
        # What is wrong with it is said where it stands.
        spec_of(function, terms, 1.0)
        self._offered.append((function, terms))
        for offer in self._included:
            offer(function, terms)

    def include_in(self, offer: Callable[[Callable[..., Any], Terms], None]) -> None:
        """From now on, whatever it has is offered there, too."""
        for function, terms in self._offered:
            offer(function, terms)
        self._included.append(offer)


def spec_of(function: Callable[..., Any], terms: Terms, retention: float) -> JobSpec:
    """The job; `retention` is that of jobs that say none. Raises SettingsError."""
    job, tries = terms.name, terms.max_attempts
    params, context = params_model(job, function)
    if not isinstance(tries, int) or not 1 <= tries <= MOST_ATTEMPTS:
        raise SettingsError(f"job {job}: max_attempts is a number from 1 to {MOST_ATTEMPTS}")
    check_priority(f"job {job}: priority", terms.priority, SettingsError)
    if terms.retry is not None and tries == 1:
        raise SettingsError(f"job {job}: retry says when to try again, and max_attempts=1 that it is tried once")
    return JobSpec(
        name=job,
        function=function,
        timeout=seconds(f"job {job}: timeout", terms.timeout),
        retention=seconds(f"job {job}: retention", retention if terms.retention is None else terms.retention),
        max_attempts=tries,
        coalesce=terms.coalesce,
        params=params,
        context=context,
        pg_settings=_settings_of_queries(job, terms.pg_settings),
        retries=retries_of(job, terms.retry),
        queue=check_queue(terms.queue, SettingsError),
        priority=terms.priority,
        max_running=_limit(f"job {job}: max_running", terms.max_running),
        schedule=_schedule(terms, params),
        max_running_each=_limit(f"job {job}: max_running_each", terms.max_running_each),
    )


def _schedule(terms: Terms, params: type[BaseModel]) -> Schedule | None:
    made = schedule_of(terms.name, terms.cron, terms.tz, terms.every, terms.missed, terms.overlap, terms.owner)
    needed = [name for name, field in params.model_fields.items() if field.is_required()]
    if made is not None and needed:
        raise SettingsError(f"job {terms.name} is periodic, so nobody gives {needed[0]}: let it have a default")
    return made


def _limit(what: str, given: object) -> int | None:
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_RUNNING
    ):
        raise SettingsError(f"{what} is a number from 1 to {MOST_RUNNING}")
    return given


def _settings_of_queries(job: str, given: Any) -> PgSettingsFor:
    """What was given, if it can be what it is to be. Raises SettingsError."""
    if inspect.iscoroutinefunction(given):
        raise SettingsError(f"job {job}: pg_settings is a plain function of the context, not an async one")
    if not callable(given):
        try:
            PgSettings.of(given)
        except SettingsError as error:
            raise SettingsError(f"job {job}: {error}") from None
    checked: PgSettingsFor = given
    return checked


def seconds(what: str, value: float | str, error: type[PushsvcError] = SettingsError) -> float:
    """The duration in seconds. Raises `error`, saying of what it was."""
    try:
        given = parse_duration(value)
    except ValueError as wrong:
        raise error(f"{what}: {wrong}") from None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= LONGEST:
        raise error(f"{what}: a duration is more than 0 seconds, and at most a hundred years")
    return float(given)
