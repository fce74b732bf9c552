"""What the PostgreSQL servers take, read from them, and the refusal to start where that is too little."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import asyncpg

from ..errors import BudgetError
from ..settings import PREFIX, Settings
from ..store import Conninfo, Postgres
from .budget import Allotment, Budget, Limit, budget, deployment

logger = logging.getLogger(__name__)

STORE = "the service's tables"
"""Stands among the names of databases for where the service keeps its own tables."""

COUNTED = f"How many run in all is what {PREFIX}WEB_PROCESSES and {PREFIX}WORKER_PROCESSES say."

CONNECT_TIMEOUT = 5.0
"""Seconds for one server to answer."""

# When a server was started tells it from all others, whichever way it is reached: to the microsecond, and
# everybody may read it. The system identifier would not do, as a standby has that of its primary.
LIMITS = """
SELECT session_user::text AS role, current_database()::text AS database, pg_backend_pid() AS pid,
    current_setting('server_version') AS version,
    current_setting('port') || '/' || extract(epoch FROM pg_postmaster_start_time())::text AS server,
    current_setting('max_connections')::int AS max_connections,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
    CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS role_limit,
    CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END AS database_limit
FROM pg_roles r, pg_database d WHERE r.rolname = session_user AND d.datname = current_database()
"""


class Connection(Protocol):
    """What is asked of a connection, of a pool or not."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: object) -> Any: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    def get_server_pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server takes, from where one of our connections stands. A limit of -1 is none.

    `server` is the same for every connection to the same server. `pooled`: a pooler such as PgBouncer is in
    between, so that what the server takes says nothing about our connections, which the pooler takes.
    """

    server: str
    version: str
    role: str
    database: str
    max_connections: int
    reserved: int
    role_limit: int
    database_limit: int
    pooled: bool = False


async def read_limits(connection: Connection) -> ServerLimits:
    """What the server takes, in one query. Raises asyncpg's errors where it can't be read."""
    row = await connection.fetchrow(LIMITS)
    if row is None:
        raise asyncpg.UndefinedObjectError("the catalog knows neither this role nor this database")
    values = dict(row)
    # A pooler greets with a process id of its own.
    pooled = values.pop("pid") != connection.get_server_pid()
    return ServerLimits(pooled=pooled, **values)


def allotments(settings: Settings, limits: Mapping[str, ServerLimits]) -> list[Allotment]:
    """What the deployment may open under each limit there is: of each server, role and database; behind a pooler, of
    its connections for a role and a database, where the settings say how many those are.

    `limits` has them by the database's name, STORE among them.
    """
    groups: dict[tuple[str, ...], tuple[Limit, list[str]]] = {}
    for name, found in limits.items():
        for key, limit in _pool(found, settings.pooler_connections) if found.pooled else _limits(found):
            groups.setdefault(key, (limit, []))[1].append(name)
    return [
        Allotment(
            limit=replace(limit, name=limit.name.format(databases=", ".join(names))),
            processes=deployment(settings),
            databases=tuple(name for name in names if name != STORE),
            store=STORE in names,
        )
        for limit, names in groups.values()
    ]


@dataclass(frozen=True, slots=True)
class Pool:
    """A pooler's connections for one role and database, and what all processes may have of them at a time. `size` is
    None where nobody has said how many there are."""

    databases: tuple[str, ...]
    mode: Literal["transaction", "session"]
    budget: Budget
    size: int | None


def pools(settings: Settings, limits: Mapping[str, ServerLimits]) -> list[Pool]:
    """The pools of poolers that are in front of these servers."""
    mode: Literal["transaction", "session"] = "session" if settings.pooler == "session" else "transaction"
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, found in limits.items():
        if found.pooled:
            groups.setdefault((found.server, found.role, found.database), []).append(name)
    return [
        Pool(
            databases=tuple(names),
            mode=mode,
            budget=budget(deployment(settings), tuple(name for name in names if name != STORE), store=STORE in names),
            size=settings.pooler_connections,
        )
        for names in groups.values()
    ]


def _pool(found: ServerLimits, size: int | None) -> Iterable[tuple[tuple[str, ...], Limit]]:
    if size is not None:
        raised_by = f"raise the pooler's own (PgBouncer: default_pool_size) and {PREFIX}POOLER_CONNECTIONS to {{n}}"
        yield ("pooler", found.server, found.role, found.database), Limit("the pooler ({databases})", size, raised_by)


def _limits(found: ServerLimits) -> Iterable[tuple[tuple[str, ...], Limit]]:
    usable = max(found.max_connections - found.reserved, 0)
    raised_by = "raise max_connections to {n} (postgresql.conf; it takes a restart of the server)"
    reserved = found.max_connections - usable
    yield ("server", found.server), Limit("the server ({databases})", usable, raised_by, reserved)
    if found.role_limit >= 0:
        name, quoted = _formatless(f"role {found.role}"), _formatless(_quoted(found.role))
        raised_by = f"ALTER ROLE {quoted} CONNECTION LIMIT {{n}}"
        yield ("role", found.server, found.role), Limit(name, found.role_limit, raised_by)
    if found.database_limit >= 0:
        name, quoted = _formatless(f"database {found.database}"), _formatless(_quoted(found.database))
        raised_by = f"ALTER DATABASE {quoted} CONNECTION LIMIT {{n}}"
        yield ("database", found.server, found.database), Limit(name, found.database_limit, raised_by)


def _quoted(name: str) -> str:
    """The name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _formatless(text: str) -> str:
    """The text such that `str.format` leaves it as it is."""
    return text.replace("{", "{{").replace("}", "}}")


# The check at start -------------------------------------------------------------------------------


async def check_budget(settings: Settings, postgres: Postgres, store_url: str, urls: Mapping[str, str]) -> None:
    """Refuse to start where all processes together may open more connections than a server takes.

    `urls` are those of the databases that jobs query, by name. One query for each different URL, the store's
    on a connection that it has open already. Where a limit can't be read, the log says so, and nothing is
    refused. Raises BudgetError, with the arithmetic and what would fit.
    """
    asked = list(dict.fromkeys([store_url, *urls.values()]))
    answers = await asyncio.gather(*(_read(postgres if url == store_url else None, url) for url in asked))
    found = dict(zip(asked, answers, strict=True))
    named = {**urls, STORE: store_url}
    for url, answer in found.items():
        names = ", ".join(name for name, its in named.items() if its == url)
        if isinstance(answer, Exception):
            logger.warning("connections are not budgeted for %s: %s", names, type(answer).__name__)
        elif answer.pooled and settings.pooler_connections is None:
            said = "connections are not budgeted for %s: there is a pooler in front of the server; %s says its size"
            logger.info(said, names, f"{PREFIX}POOLER_CONNECTIONS")
    limits = {name: found[url] for name, url in named.items()}
    readable = {name: answer for name, answer in limits.items() if isinstance(answer, ServerLimits)}
    if over := [each for each in allotments(settings, readable) if not each.fits]:
        raise BudgetError("\n".join([*map(refusal, over), COUNTED]))


def refusal(allotment: Allotment) -> str:
    """The arithmetic, the limit, and what to do."""
    ways = "\n".join(f"  - {way}" for way in allotment.ways_out())
    return f"all processes together may open {allotment}.\nOne of these makes it fit:\n{ways}"


async def _read(postgres: Postgres | None, url: str) -> ServerLimits | Exception:
    try:
        if postgres is not None:
            return await postgres.run(read_limits)
        async with connected(url) as connection:
            return await read_limits(connection)
    except Exception as error:
        return error


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection for a moment, that works through a pooler too: in one transaction, with nothing prepared
    beyond it. Raises asyncpg's errors, OSError, or SettingsError for a URL that is not PostgreSQL's."""
    connection = await Conninfo.parse(url).connect(
        timeout=CONNECT_TIMEOUT,
        command_timeout=30,
        statement_cache_size=0,
        server_settings={"application_name": "pushsvc"},
    )
    try:
        async with connection.transaction(readonly=True):
            yield connection
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT)
