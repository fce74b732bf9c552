"""Judges what the doctor found: what is well, what is worth a look, what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..settings import PREFIX
from .advice import Advice, advise, duration
from .budget import Allotment
from .doctor import DatabaseFacts, Examination, RedisFacts, StoreFacts
from .probe import Probed
from .servers import COUNTED, Pool
from .slow_queries import Queries, Statistics

SKEW_LIMIT = 0.5
"""Seconds that a machine's clock may differ from PostgreSQL's before deferred jobs and tokens feel it."""

SLOW_ROUND_TRIP = 0.02
"""Seconds to an engine and back, above which every step of a job waits noticeably."""

OVERDUE = 5.0
"""Seconds that a job may wait for a free worker before it is worth a look."""

SHORT_SECRET = 32
SHORTEST_SECRET = 8

START_A_WORKER = "start one: `pushsvc worker MODULE:SERVICE`"

Mark = Literal["ok", "note", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. Only `wrong` ones mean that the service does not work as it should."""

    section: str
    mark: Mark
    text: str
    todo: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlowQueries:
    """The statements of one database with advice, those first that took longest in all; `left_out` more."""

    databases: tuple[str, ...]
    advice: tuple[Advice, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything judged."""

    findings: tuple[Finding, ...]
    slow_queries: tuple[SlowQueries, ...]

    @property
    def well(self) -> bool:
        return not any(finding.mark == "wrong" for finding in self.findings)


def diagnose(found: Examination, top: int = 20) -> Diagnosis:
    """Judge an examination; of each database the `top` statements."""
    findings = [
        *_settings(found),
        *(finding for each in found.databases for finding in _database(each)),
        *(_redis(each) for each in found.redis),
        *(_store(found.store) if found.store else ()),
        *_budget(found),
        *_probe(found),
        *_queues(found),
        *(_statistics(each) for each in found.databases if each.queries is not None),
    ]
    return Diagnosis(tuple(findings), tuple(_slow_queries(found, top)))


def _settings(found: Examination) -> Iterable[Finding]:
    for name in found.lacking:
        yield Finding("settings", "wrong", f"{PREFIX}{name.upper()} is not set")
    if 0 < found.secret_length < SHORT_SECRET:
        yield Finding(
            "settings",
            "warning" if found.secret_length >= SHORTEST_SECRET else "wrong",
            f"{PREFIX}SECRET is shorter than {SHORT_SECRET} characters: it could be guessed from a token",
            ("make one with `openssl rand -base64 32`",),
        )
    if not found.lacking:
        yield Finding("settings", "ok", "all that is needed is set")


def _database(facts: DatabaseFacts) -> Iterable[Finding]:
    names = ", ".join(facts.names)
    if facts.error is not None or facts.limits is None:
        yield Finding("engines", "wrong", f"PostgreSQL ({names}) can't be asked: {facts.error}", (facts.url,))
        return
    title = f"PostgreSQL {facts.limits.version.split()[0]} ({names}), round trip {duration(facts.round_trip * 1000)}"
    title += ", behind a pooler" if facts.limits.pooled else f", {facts.in_use} connections in use"
    yield _near(title, facts.round_trip)
    if abs(facts.skew) - facts.round_trip / 2 > SKEW_LIMIT:
        where = "ahead of" if facts.skew > 0 else "behind"
        yield Finding(
            "engines",
            "wrong",
            f"the clock of PostgreSQL ({names}) is {duration(abs(facts.skew) * 1000)} {where} this machine's",
            ("keep all clocks by NTP: deferred jobs, deadlines and tokens go by both",),
        )
    if facts.row_security is not None and facts.row_security.why_not is not None:
        role, why = facts.row_security.role, facts.row_security.why_not
        yield Finding(
            "engines",
            "warning",
            f"row-level security of {names} does not hold for {role}, which {why}",
            (
                "give the URL another role, or FORCE ROW LEVEL SECURITY on tables that it owns",
                'or have jobs change to one: pg_settings={"role": …}',
            ),
        )


def _redis(facts: RedisFacts) -> Finding:
    names = ", ".join(facts.names)
    if facts.error is not None:
        return Finding("engines", "wrong", f"Redis ({names}) can't be asked: {facts.error}", (facts.url,))
    return _near(f"{facts.version} ({names}), round trip {duration(facts.round_trip * 1000)}", facts.round_trip)


def _near(text: str, round_trip: float) -> Finding:
    if round_trip <= SLOW_ROUND_TRIP:
        return Finding("engines", "ok", text)
    return Finding("engines", "warning", text, ("every step of a job waits for it: run it nearer to the service",))


def _store(facts: StoreFacts) -> Iterable[Finding]:
    if facts.error is not None:
        yield Finding("engines", "wrong", f"the service's tables can't be read: {facts.error}")
    elif facts.version is None:
        text = f"the service's tables are not there yet; this code needs version {facts.needed}"
        yield Finding("engines", "warning", text, ("run `pushsvc migrate`; the first start does so, too",))
    elif facts.version != facts.needed:
        text = f"the service's tables are at version {facts.version}, this code needs {facts.needed}"
        yield Finding("engines", "wrong", text, ("run `pushsvc migrate`",))
    else:
        yield Finding("engines", "ok", f"the service's tables are at version {facts.version}")


def _budget(found: Examination) -> Iterable[Finding]:
    for allotment in found.allotments:
        if allotment.fits:
            yield Finding("connections", "ok", str(allotment))
        else:
            todo = (*_one_of(allotment), COUNTED)
            yield Finding("connections", "wrong", f"all processes together may open {allotment}", todo)
    yield from map(_pool, found.pools)


def _pool(pool: Pool) -> Finding:
    names = ", ".join(pool.databases)
    size = [f"set {PREFIX}POOLER_CONNECTIONS to how many it has for us: a sum that does not fit is refused then"]
    if pool.mode == "session":
        text = f"{names}: behind a pooler in session mode, where each of our connections keeps one of the pooler's"
        return Finding("connections", "note", f"{text}: {pool.budget}", () if pool.size else tuple(size))
    text = f"{names}: behind a pooler, taken for one in transaction mode; at once it may be asked for {pool.budget}"
    size.append("until then, queries that see a snapshot run one after another")
    other = f"if it is in session mode, set {PREFIX}POOLER=session"
    return Finding("connections", "note", text, (other,) if pool.size else (*size, other))


def _one_of(allotment: Allotment) -> Iterable[str]:
    for number, way in enumerate(allotment.ways_out()):
        yield way if number == 0 else f"or {way}"


def _probe(found: Examination) -> Iterable[Finding]:
    probed, store = found.probed, found.store
    if probed is None or store is None:
        yield Finding("probe", "note", "not sent: it takes PostgreSQL, Redis and the service's tables")
    elif isinstance(probed, str):
        yield Finding("probe", "wrong", f"broke off: {probed}")
    elif probed.taken is None:
        yield _nobody(store)
    elif probed.error is not None:
        todo = ("look at the worker's log; a worker of an older version does not know the probe",)
        yield Finding("probe", "wrong", f"a worker is there, but the probe did not succeed: {probed.error}", todo)
    else:
        assert probed.stored is not None
        assert probed.done is not None
        after = duration((probed.done - probed.stored) * 1000)
        times = f"stored in {duration(probed.stored * 1000)}, its result was there {after} later"
        if probed.pushed is None:
            todo = ("clients only hear of results when they look at PostgreSQL: is the bus the right Redis?",)
            yield Finding("probe", "wrong", f"done, but its result was not pushed: {times}", todo)
        else:
            yield Finding("probe", "ok", f"a job went all the way and was pushed: {times}")


def _queues(found: Examination) -> Iterable[Finding]:
    store, probed = found.store, found.probed
    if store is None or not isinstance(probed, Probed) or probed.taken is None:
        return
    for name, count in store.unserved:
        text = f"{count} jobs wait on the queue {name}, which no worker serves"
        yield Finding("queues", "wrong", text, (f"start one: `pushsvc worker MODULE:SERVICE --queues {name}`",))


def _nobody(store: StoreFacts) -> Finding:
    if store.running:
        return Finding("probe", "note", f"not sent: no worker has room, {store.running} jobs are running")
    if store.waiting and store.longest > OVERDUE:
        text = f"no worker takes jobs; {store.waiting} wait, the first for {duration(store.longest * 1000)}"
        return Finding("probe", "wrong", text, (START_A_WORKER,))
    return Finding("probe", "warning", "not sent: no worker is there", (START_A_WORKER,))


def _statistics(facts: DatabaseFacts) -> Finding:
    names, queries = ", ".join(facts.names), facts.queries
    if not isinstance(queries, Queries):
        return Finding("slow queries", "note", f"{names}: pg_stat_statements can't be read: {queries}")
    if queries.statistics is not Statistics.READY:
        text = f"{names}: what queries cost is not known, for lack of pg_stat_statements"
        return Finding("slow queries", "note", text, (queries.statistics.value,))
    if not queries.statements:
        return Finding("slow queries", "ok", f"{names}: no query of a job has been counted yet")
    calls = sum(each.calls for each in queries.statements)
    return Finding("slow queries", "ok", f"{names}: {len(queries.statements)} statements, {calls} calls")


def _slow_queries(found: Examination, top: int) -> Iterable[SlowQueries]:
    times = found.store.job_times if found.store else None
    for facts in found.databases:
        if isinstance(facts.queries, Queries) and facts.queries.statements:
            advice = advise(facts.queries.statements, found.executor_concurrency, times)
            yield SlowQueries(facts.names, tuple(advice[:top]), max(len(advice) - top, 0))
