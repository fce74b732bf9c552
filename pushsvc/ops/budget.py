"""How many connections a deployment may open, as arithmetic: no server is asked here.

A process opens at most one connection for each job it runs, and one for each place of its executor, on every
database that jobs query; besides, those for the service's own tables. What all processes may open together
has to fit under each limit of the server, or queries would fail under load rather than wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..settings import PREFIX, Settings

LEAST_STORE_CONNECTIONS = 2
"""What `store_connections` is at least."""

KEEPER_CONNECTIONS = 1
"""What keeps the leases of a worker process while a job blocks its event loop."""

EAR_CONNECTIONS = 1
"""What hears in a worker process that a transaction has submitted jobs."""

_OWNERS = {"web": "endpoints"}


@dataclass(frozen=True, slots=True)
class Processes:
    """`count` processes of one kind, and how many connections each may open.

    `own` is one for each job (or each thread of a web server) in the foreground, `executor` those for queries
    side by side: both on every database. `store` is for the service's own tables, and `keeper` for whoever keeps the
    leases while a job blocks the event loop.
    """

    kind: str
    count: int
    own: int
    executor: int
    store: int = 0
    keeper: int = 0

    @property
    def pool(self) -> int:
        """The size of one process' pool for one database."""
        return self.own + self.executor


@dataclass(frozen=True, slots=True)
class Term:
    """One product of the sum: so many processes, each with so many connections, and what they are for."""

    processes: int
    each: int
    what: str

    def __str__(self) -> str:
        return f"{self.processes} × {self.each}"

    @property
    def total(self) -> int:
        return self.processes * self.each


@dataclass(frozen=True, slots=True)
class Budget:
    """The most connections that these processes open together. As text, the arithmetic:

    `8 × 5 + 8 × 4 + 1 × 10 + 1 × 4 = 86`
    """

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{' + '.join(map(str, self.terms)) or '0'} = {self.total}"

    @property
    def total(self) -> int:
        return sum(term.total for term in self.terms)


def budget(processes: Iterable[Processes], databases: Sequence[str] = ("primary",), *, store: bool = True) -> Budget:
    """The budget of these processes on `databases`, and on the service's own tables with `store`."""
    kinds = tuple(processes)
    terms = [
        term
        for database in databases
        for each in kinds
        for term in (
            Term(each.count, each.own, f"{each.kind}: the {_OWNERS.get(each.kind, 'jobs')}' own, {database}"),
            Term(each.count, each.executor, f"{each.kind}: executor, {database}"),
        )
    ]
    if store:
        terms += [Term(each.count, each.store, f"{each.kind}: the service's tables") for each in kinds]
        terms += [Term(each.count, each.keeper, f"{each.kind}: leases while a job blocks") for each in kinds]
    return Budget(tuple(term for term in terms if term.total))


def deployment(settings: Settings) -> tuple[Processes, ...]:
    """All processes of the deployment, as the settings have them: equal ones, since all read the same settings."""
    each = (settings.executor_concurrency, settings.store_connections)
    return (
        Processes("web", settings.web_processes, settings.endpoint_connections, *each),
        Processes(
            "worker",
            settings.worker_processes,
            settings.max_jobs,
            settings.executor_concurrency,
            settings.store_connections + EAR_CONNECTIONS,
            keeper=KEEPER_CONNECTIONS,
        ),
    )


# Against a limit ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """The most connections that something takes, and how it is raised.

    `raised_by` says it, with `{n}` for the number. Of a server's connections, `reserved` are not for us:
    `connections` is what is left.
    """

    name: str
    connections: int
    raised_by: str
    reserved: int = 0

    def __str__(self) -> str:
        if not self.reserved:
            return str(self.connections)
        return f"{self.connections + self.reserved} − {self.reserved} reserved = {self.connections}"


@dataclass(frozen=True, slots=True)
class Allotment:
    """What the deployment may open under one limit: the databases it counts, and whether the service's tables
    are among them."""

    limit: Limit
    processes: tuple[Processes, ...]
    databases: tuple[str, ...]
    store: bool

    @property
    def budget(self) -> Budget:
        return budget(self.processes, self.databases, store=self.store)

    @property
    def fits(self) -> bool:
        return self.budget.total <= self.limit.connections

    def __str__(self) -> str:
        """In one sentence, the arithmetic and the limit."""
        verb = "within" if self.fits else "more than"
        return f"{self.budget}, {verb} what {self.limit.name} takes: {self.limit}"

    def ways_out(self) -> list[str]:
        """What makes it fit, each with a number that does: settings first, then the limit itself."""
        ways = [*self._by_one_setting()] or [*self._by_more_settings()]
        if (value := self._largest("count", _fewer)) is not None:
            count = sum(_fewer(each, value).count for each in self.processes)
            ways.append(f"run {count} processes instead of {sum(each.count for each in self.processes)}")
        ways.append(self.limit.raised_by.format(n=self.budget.total + self.limit.reserved))
        return ways

    def _by_one_setting(self) -> Iterable[str]:
        if (value := self._largest("own", _own)) is not None:
            yield f"set {_MAX_JOBS} to {value}"
        if (value := self._largest("executor", _executor)) is not None:
            yield f"set {_EXECUTOR} to {value}"

    def _by_more_settings(self) -> Iterable[str]:
        if (value := self._largest("pool", _both)) is not None:
            yield f"set {_MAX_JOBS} and {_EXECUTOR} to {value}"
        elif (value := self._largest("pool", _all)) is not None:
            yield f"set {_MAX_JOBS} and {_EXECUTOR} to {value}, {_STORE} to {LEAST_STORE_CONNECTIONS}"

    def _largest(self, attribute: str, change: Callable[[Processes, int], Processes]) -> int | None:
        """The largest value below what the processes have now that makes them fit; None if 1 does not."""
        now = max((getattr(each, attribute) for each in self.processes if each.count), default=1)
        fitting = bisect_left(range(1, now), True, key=lambda value: not self._changed(change, value).fits)
        return fitting or None

    def _changed(self, change: Callable[[Processes, int], Processes], value: int) -> Allotment:
        return replace(self, processes=tuple(change(each, value) for each in self.processes))


_MAX_JOBS = f"{PREFIX}MAX_JOBS"
_EXECUTOR = f"{PREFIX}EXECUTOR_CONCURRENCY"
_STORE = f"{PREFIX}STORE_CONNECTIONS"


def _own(each: Processes, most: int) -> Processes:
    return replace(each, own=min(each.own, most))


def _executor(each: Processes, most: int) -> Processes:
    return replace(each, executor=min(each.executor, most))


def _both(each: Processes, most: int) -> Processes:
    return _executor(_own(each, most), most)


def _all(each: Processes, most: int) -> Processes:
    return replace(_both(each, most), store=min(each.store, LEAST_STORE_CONNECTIONS))


def _fewer(each: Processes, most: int) -> Processes:
    return replace(each, count=min(each.count, most))
