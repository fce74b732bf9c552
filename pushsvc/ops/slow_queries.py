"""What `pg_stat_statements` knows of the queries that jobs and endpoints run: who asked, how often, how long."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

import asyncpg

from .servers import Connection

MOST_READ = 2000
"""Statements read from one database, those that took longest in all."""

# `job='airport_report',job_id='01J…'` within one comment, as sqlcommenter writes it; names and values are
# percent-encoded. The comment may stand anywhere: PostgreSQL 18 keeps none before the first word.
_PAIR = r"[\w.%~-]+='(?:[^'\\]|\\.)*'"
_COMMENT = re.compile(rf"/\*\s*({_PAIR}(?:\s*,\s*{_PAIR})*)\s*\*/")
_FIRST_PAIR = re.compile(r"([^=]+)='((?:[^'\\]|\\.)*)'")
_ANY_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)

STATE = """
SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL AS loaded,
    (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_stat_statements') AS schema,
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') AS available
"""

# `{schema}` is what PostgreSQL's own quote_ident made of the extension's schema.
STATEMENTS = """
SELECT query, sum(calls)::bigint AS calls, sum(total_exec_time)::float AS total_ms,
    max(max_exec_time)::float AS max_ms, sum(rows)::bigint AS rows
FROM {schema}.pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND calls > 0
    AND query LIKE '%/*%=''%''%*/%'
GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT $1
"""

# A sample of the latest, by the primary key: the table may hold a day of jobs.
JOB_TIMES = """
SELECT name, count(*) AS runs, avg(extract(epoch FROM finished_at - started_at))::float * 1000 AS mean_ms
FROM (
    SELECT deployment, name, status, attempt, started_at, finished_at FROM pushsvc.jobs ORDER BY id DESC LIMIT 5000
) latest
WHERE deployment = $1 AND status = 'succeeded' AND attempt = 1 GROUP BY name
"""


class Statistics(Enum):
    """Whether a database has `pg_stat_statements`, and else what has to be done for it."""

    READY = ""
    NOT_INSTALLED = (
        "install PostgreSQL's contrib modules on the server, then set "
        "shared_preload_libraries = 'pg_stat_statements' in postgresql.conf, restart PostgreSQL, and run "
        "CREATE EXTENSION pg_stat_statements in this database"
    )
    NOT_LOADED = (
        "set shared_preload_libraries = 'pg_stat_statements' in postgresql.conf, restart PostgreSQL, and run "
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements in this database"
    )
    NOT_CREATED = "run CREATE EXTENSION pg_stat_statements in this database, as a superuser"
    TOO_OLD = "run ALTER EXTENSION pg_stat_statements UPDATE in this database, as a superuser"


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Who asks a statement: the first tag of its comment, as in `job` and `airport_report`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == "job" else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of one source, its constants as `$1`, without comments. Times in milliseconds."""

    source: Source
    text: str
    calls: int
    total_ms: float
    max_ms: float
    rows: int

    @property
    def mean_ms(self) -> float:
        return self.total_ms / self.calls


@dataclass(frozen=True, slots=True)
class JobTime:
    """How long a job took lately, from its start to its end: the mean over `runs`, in milliseconds."""

    runs: int
    mean_ms: float


@dataclass(frozen=True, slots=True)
class Queries:
    """What one database knows of its queries."""

    statistics: Statistics
    statements: tuple[Statement, ...] = ()


def source_of(query: str) -> Source | None:
    """The first tag of the first comment that holds any; None where there is none."""
    comment = _COMMENT.search(query)
    pair = _FIRST_PAIR.match(comment[1]) if comment else None
    return Source(unquote(pair[1].strip()), unquote(pair[2])) if pair else None


def shown(query: str) -> str:
    """The statement on one line, without comments."""
    return " ".join(_ANY_COMMENT.sub(" ", query).split())


def grouped(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """Equal statements of one source as one, those first that took longest in all."""
    groups: dict[tuple[Source, str], Statement] = {}
    for each in statements:
        key = (each.source, each.text)
        found = groups.get(key)
        groups[key] = each if found is None else _sum(found, each)
    return tuple(sorted(groups.values(), key=lambda each: -each.total_ms))


def _sum(one: Statement, other: Statement) -> Statement:
    return Statement(
        one.source,
        one.text,
        one.calls + other.calls,
        one.total_ms + other.total_ms,
        max(one.max_ms, other.max_ms),
        one.rows + other.rows,
    )


async def read_queries(connection: Connection, jobs: Collection[str]) -> Queries:
    """The statements that these jobs ran, and those with any other first tag than `job`, in this database.

    PostgreSQL keeps the text that came first: a statement that two jobs share is counted for one of them.
    Raises asyncpg's errors.
    """
    state = await connection.fetchrow(STATE)
    assert state is not None
    if not state["loaded"]:
        return Queries(Statistics.NOT_LOADED if state["available"] else Statistics.NOT_INSTALLED)
    if state["schema"] is None:
        return Queries(Statistics.NOT_CREATED)
    try:
        rows = await connection.fetch(STATEMENTS.format(schema=state["schema"]), MOST_READ)
    except asyncpg.UndefinedColumnError:
        return Queries(Statistics.TOO_OLD)
    found = []
    for row in rows:
        source = source_of(row["query"])
        if source is not None and (source.kind != "job" or source.name in jobs):
            found.append(
                Statement(source, shown(row["query"]), row["calls"], row["total_ms"], row["max_ms"], row["rows"])
            )
    return Queries(Statistics.READY, grouped(found))


async def read_job_times(connection: Connection, deployment: str) -> dict[str, JobTime]:
    """How long jobs took lately, by name. Raises asyncpg's errors."""
    return {
        row["name"]: JobTime(row["runs"], row["mean_ms"]) for row in await connection.fetch(JOB_TIMES, deployment)
    }
