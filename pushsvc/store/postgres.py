"""The one owner of the service's PostgreSQL connections: a small asyncpg pool, and what a lost one means."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from ..domain import DEFAULT_DEPLOYMENT
from ..errors import Unavailable
from .conninfo import Conninfo
from .faults import Refused, described, is_away, is_closed_to_us, is_lost, is_read_only
from .pooler import DriverConnection, PoolerMode, mistaken_mode

logger = logging.getLogger(__name__)
T = TypeVar("T")

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

PATIENCE = 3.0
"""Seconds that a call has in all, with waiting for a connection and trying again: whoever waits for an answer over
HTTP is told within 5 s that there is none."""

FOREVER = 10 * 365 * 86400.0
"""Seconds of patience for what must not be given up."""

UNHURRIED = 30.0
"""Seconds for one try where nobody waits for it. A connection that says nothing for so long is not believed any
more."""

CONNECT_WITHIN = 5.0

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two tries, and between two connects of the process when the last was refused: for each attempt,
the server forks a process."""

RENEW_EVERY = 5.0
"""Seconds between two times that all connections are made anew because one turned out to be read-only."""

SAY_EVERY = 10.0
"""Seconds between two warnings that PostgreSQL can't serve."""

SETTINGS = {
    "application_name": "pushsvc",
    "jit": "off",
    # The few statements are known: planning them anew with each batch would cost the most.
    "plan_cache_mode": "force_generic_plan",
    # How long a statement may take is for `Postgres` to say; this is for the server to know that nobody waits.
    "statement_timeout": str(int(2 * UNHURRIED * 1000)),
    "idle_in_transaction_session_timeout": str(int(2 * UNHURRIED * 1000)),
    "lock_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "search_path": "pg_catalog",
    # Rather an error than rows that are kept from us without a word.
    "row_security": "off",
}
"""What the statements go by, whatever is set for the server, the role or the database. Not among them is
`default_transaction_read_only`: with it an operator fences a server that is being replaced, and what such a server
took would be lost."""

UNBOUNDED = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
"""For what takes what it takes."""


def adjusting(settings: Mapping[str, str], *, local: bool, where: str = "true") -> str:
    """The query that sets these, and what else there is; poolers do not take them as startup parameters.

    Some names are not known to every version. A commit that is not on disk yet has not happened; what else is set of
    `synchronous_commit` says on how many.
    """
    more = {"transaction_timeout": "0", "idle_session_timeout": "0", "client_connection_check_interval": "2s"}
    pairs = [(name, value) for name, value in {**settings, **more}.items() if name != "application_name"]
    return f"""
SELECT pg_catalog.set_config(name, wanted, {local}) FROM (VALUES
    {", ".join(f"('{name}', '{value}')" for name, value in pairs)}
) AS ours (name, wanted)
WHERE {where} AND pg_catalog.current_setting(name, true) IS NOT NULL
    AND (name <> 'client_connection_check_interval' OR pg_catalog.version() LIKE '%linux%')
UNION ALL
SELECT pg_catalog.set_config('synchronous_commit', 'on', {local})
WHERE {where} AND pg_catalog.current_setting('synchronous_commit') = 'off'
"""


ADJUST = adjusting(SETTINGS, local=False, where="{direct}")
"""What is set in a session of our own, as `Conninfo.connect` takes it."""

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE"

BEGIN_ADJUSTED = f"{BEGIN}; {adjusting(SETTINGS, local=True)}"
"""Begins a transaction in a session that is not ours, in one trip."""


# What a server is called by itself and its replicas, and by no other unless its files were copied.
IDENTITY = "SELECT system_identifier || ' ' || current_database() FROM pg_control_system()"

# For roles that may not ask: what tells databases of one server apart.
IDENTITY_BY_OID = "SELECT format('oid %s %s', oid, datname) FROM pg_database WHERE datname = current_database()"


class Postgres:
    """A pool of up to `connections` asyncpg connections to `url`, opened when they are needed.

    Every statement of the store is safe to repeat (guarded by a version, or ON CONFLICT), so a statement
    whose connection was lost, and which may or may not have been committed, is simply run again.

    `within` is how many seconds one try may take where a call does not say; without it, what is left of its patience.
    Behind a pooler in transaction mode, each try is a transaction, which begins with what is else set in a session.
    """

    def __init__(
        self,
        url: str,
        connections: int = 4,
        deployment: str = DEFAULT_DEPLOYMENT,
        *,
        within: float | None = None,
        pooler: PoolerMode = "auto",
    ) -> None:
        self.deployment = deployment
        """Whose rows are asked for: those of other deployments in the same database are not there."""
        self._conninfo = Conninfo.parse(url, "PUSHSVC_DATABASE_URL", writes=True, pooler=pooler)
        self._within = within
        self._size = connections
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._connecting = asyncio.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which it is at home, once that is known."""
        self._identity: str | None = None
        """Which database of which server this is: once there has been a connection, it is known."""
        self._pause = 0.0
        self._not_before = 0.0
        self._renewed_at = float("-inf")
        self._said_at = float("-inf")
        self._fault: BaseException | None = None
        """Why the last try failed; None if it did not."""

    async def __aenter__(self) -> Postgres:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def ask(
        self, sql: str, *args: Any, patience: float = PATIENCE, within: float | None = None
    ) -> list[asyncpg.Record]:
        """Run one of the store's statements, whose first parameter is the deployment; see `fetch`."""
        return await self.fetch(sql, self.deployment, *args, patience=patience, within=within)

    async def fetch(
        self, sql: str, *args: Any, patience: float = PATIENCE, within: float | None = None
    ) -> list[asyncpg.Record]:
        """Run one statement. Raises Unavailable after `patience` seconds without PostgreSQL; see `run`."""

        async def once(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(sql, *args)

        return await self.run(once, patience=patience, within=within)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        patience: float = PATIENCE,
        within: float | None = None,
        transaction: bool = False,
    ) -> T:
        """Run `work` with a connection, and again when it is lost or the server can't now, for up to `patience`
        seconds; with `transaction`, all of it in one. Raises Unavailable, which says what is the matter.

        One try may take `within` seconds, with the connection that it has; then that is closed, and whatever `work`
        waits for on it ends.
        """
        within = self._within if within is None else within
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        delay = FIRST_PAUSE
        while True:
            try:
                result = await self._try(work, give_up, within, transaction)
            except Exception as error:
                if not is_away(error):
                    raise
                # Who waited for a connection in vain knows less than who was refused one.
                if self._fault is None or not isinstance(error, TimeoutError):
                    self._fault = error
                if loop.time() + delay > give_up:
                    raise self._unavailable(self._fault) from error
            else:
                self._fault = None
                return result
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, LONGEST_PAUSE)

    async def _try(
        self, work: Callable[[Connection], Awaitable[T]], give_up: float, within: float | None, transaction: bool
    ) -> T:
        loop = asyncio.get_running_loop()
        pool = await self.pool()
        async with asyncio.timeout_at(min(give_up, loop.time() + UNHURRIED)):
            connection = await pool.acquire()
        until = min(give_up, loop.time() + UNHURRIED) if within is None else loop.time() + within
        # Not by cancelling: what a cancelled statement leaves to do on its connection would wait for the server, too.
        watchdog = loop.call_at(until, _drop, connection)
        try:
            if transaction or _pooled(connection):
                return await _in_transaction(connection, work)
            return await work(connection)
        except Exception as error:
            if is_read_only(error):
                await self._renew(pool)
            if is_read_only(error) or is_lost(error):
                _drop(connection)
            if loop.time() >= until:
                raise TimeoutError("PostgreSQL does not answer") from error
            raise
        except BaseException:
            _drop(connection)
            raise
        finally:
            watchdog.cancel()
            await pool.release(connection)

    def _unavailable(self, error: BaseException) -> Unavailable:
        cause = described(error)
        now = asyncio.get_running_loop().time()
        if now - self._said_at > SAY_EVERY:
            self._said_at = now
            logger.warning("%s (%s)", cause, type(error).__name__)
        return Unavailable(f"{cause} right now")

    def identity(self) -> str:
        """Which database of which server this is. Raises Unavailable until there has been a connection."""
        if self._identity is None:
            raise Unavailable("PostgreSQL has not been reached yet")
        return self._identity

    # Connections

    async def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool, which has no connection yet until one is asked for."""
        if self._pool is None:
            self.loop = asyncio.get_running_loop()
            self._pool = asyncpg.create_pool(
                # A floor would be restored by a loop of the driver's own, with a traceback for each try.
                min_size=0,
                max_size=self._size,
                connect=self._connect,
                connection_class=DriverConnection,
                timeout=CONNECT_WITHIN,
                # No statement leaves anything behind in its session; resetting would be a round trip each.
                reset=_nothing,
                server_settings=SETTINGS,
            )
            await self._pool  # with nothing to connect, it does not wait
        return self._pool

    async def _connect(self, *_dsn: Any, **options: Any) -> DriverConnection:
        """One at a time; and when that fails, the next after a pause, whoever wants it."""
        loop = asyncio.get_running_loop()
        async with self._connecting:
            if (wait := self._not_before - loop.time()) > 0:
                await asyncio.sleep(wait)
            try:
                connection = await self._conninfo.connect(session=ADJUST, within=CONNECT_WITHIN, **options)
                try:
                    if self._identity is None:
                        self._identity = await _identify(connection)
                except BaseException:
                    connection.terminate()
                    raise
            except BaseException as error:
                self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
                self._not_before = loop.time() + self._pause * random.uniform(0.5, 1.0)
                if self._identity is not None and is_closed_to_us(error):
                    raise Refused from error
                raise
        self._pause = 0.0
        return connection

    async def _renew(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        """Another server may be the primary by now, or the session alone be read-only: none of them is kept."""
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at > RENEW_EVERY:
            self._renewed_at = now
            await pool.expire_connections()

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.wait_for(pool.close(), 5)


def _pooled(connection: Connection) -> bool:
    driver: Any = connection  # the pool's proxy passes it on
    return bool(driver.pooled)


async def _in_transaction(connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
    try:
        await connection.execute(BEGIN_ADJUSTED if _pooled(connection) else BEGIN)
    except asyncpg.PostgresConnectionError as error:
        raise mistaken_mode(error) or error from None
    try:
        result = await work(connection)
    except Exception:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    return result


async def _identify(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    try:
        return str(await connection.fetchval(IDENTITY, timeout=CONNECT_WITHIN))
    except asyncpg.InsufficientPrivilegeError:
        logger.warning("the role may not call pg_control_system(): copies of this database need names of their own")
        return str(await connection.fetchval(IDENTITY_BY_OID, timeout=CONNECT_WITHIN))


async def _nothing(_connection: object) -> None: ...


def _drop(connection: Connection) -> None:
    """Close it without a word, and end whatever waits for it."""
    # Closed already, it has left the pool.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()
