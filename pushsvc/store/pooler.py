"""A pooler between us and PostgreSQL, such as PgBouncer: how it is seen, and what is different behind it.

In its transaction mode each transaction may run in another session of the server, which is somebody else's before and
after. So there is no session of our own: nothing may be set, prepared or locked in one for longer than a transaction.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import asyncpg

from ..errors import SettingsError

PoolerMode = Literal["auto", "transaction", "session"]
"""What is in front of the server, as the operator says. `auto`: a pooler that is seen counts as one in transaction
mode. In session mode a connection is one session of the server as long as it lasts."""

_REFUSED_PARAMETER = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")


if TYPE_CHECKING:
    _Driver: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Driver = asyncpg.Connection


class DriverConnection(_Driver):
    """The driver's connection. `pooled`: its transactions may run in different sessions of the server."""

    pooled = False

    def keep_statements(self, number: int) -> None:
        """Keep up to so many prepared statements in the server from now on. It was opened to keep none."""
        # The driver has no public way to say so later than at connect; a test pins this one.
        driver: Any = self
        driver._stmt_cache.set_max_size(number)
        driver._stmt_cache_enabled = number > 0

    async def _introspect_types(self, typeoids: Any, timeout: Any) -> Any:
        # To look at types, the driver turns the JIT compiler off and on again by `SET`: behind a pooler, others would
        # find that. It is off until the transaction's end instead.
        driver: Any = self
        if self.pooled:
            driver._server_caps = driver._server_caps._replace(jit=False)
            if self.is_in_transaction():
                await driver._protocol.query("SET LOCAL jit = off", timeout)
        inherited: Any = super()
        return await inherited._introspect_types(typeoids, timeout)


async def is_pooled(connection: DriverConnection, mode: PoolerMode, within: float | None = None) -> bool:
    """Whether its transactions may run in different sessions, asked within so many seconds. A pooler greets with a
    process id of its own."""
    if mode != "auto":
        return mode == "transaction"
    # With nothing kept, the driver sends a statement's text again when it runs it: whichever session that is in.
    process = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()", timeout=within)
    return bool(process != connection.get_server_pid())


def mistaken_mode(error: BaseException) -> SettingsError | None:
    """What to say where the pooler allows no transactions at all."""
    if isinstance(error, asyncpg.PostgresConnectionError) and "statement pooling" in str(error):
        return SettingsError(
            "the database URL can't be used: the pooler in front of the server is in statement mode, which allows no"
            " transactions; set pool_mode = transaction"
        )
    return None


def refused_parameter(error: BaseException) -> str | None:
    """The startup parameter that a pooler did not take."""
    match = _REFUSED_PARAMETER.match(str(error)) if isinstance(error, asyncpg.ProtocolViolationError) else None
    return None if match is None else match[1]


def mistaken_parameter(name: str) -> SettingsError:
    """For one that the URL itself asks for."""
    return SettingsError(
        f"the database URL can't be used: the pooler in front of the server takes no {name}; take it out of the URL,"
        " and have the role set what it sets: ALTER ROLE … SET …"
    )
