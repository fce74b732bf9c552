"""What it looks like when PostgreSQL can't serve right now: told from a fault of ours, and in words.

By SQLSTATE (PostgreSQL's manual, appendix A) rather than by class: a server newer than the driver has codes that
the driver knows no class for.
"""

from __future__ import annotations

import asyncpg

from ..errors import causes

# Its connections: gone, or not to be had.
_LOST = (
    OSError,  # which a time-out is, too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # the server's good-bye has been read, the end of the connection not yet
)

# Plans and types are of tables that a migration has changed since.
_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)

READ_ONLY = "25006"

_AWAY = ("08", "53", "57", "58")
"""Classes of which every code says that the server, its operator or its machine is in the way."""

_AWAY_TOO = frozenset(
    {
        READ_ONLY,
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "40000",  # the transaction was rolled back
        "40001",  # serialization failure
        "40003",  # whether the statement is done is not known
        "40P01",  # deadlock
        "55P03",  # lock_timeout
        "72000",  # snapshot too old
    }
)

_CLOSED_TO_US = ("28", "3D", "42501", "55000", "55006", "F0")

_WORDS = {
    READ_ONLY: "PostgreSQL is read-only",
    "25P": "PostgreSQL ended the session: a transaction took too long",
    "28": "PostgreSQL does not let the service in",
    "3D": "the database is not there",
    "42501": "PostgreSQL does not let the service in",
    "53100": "PostgreSQL's disk is full",
    "53200": "PostgreSQL is out of memory",
    "53300": "PostgreSQL takes no more connections",
    "53": "PostgreSQL lacks resources",
    "55": "PostgreSQL waited too long for a lock",
    "57014": "PostgreSQL cancelled the statement",
    "57P03": "PostgreSQL is starting up or shutting down",
    "57": "PostgreSQL has closed the connection",
    "58": "PostgreSQL can't use its files",
}
"""By SQLSTATE, or by how it begins."""


class Refused(ConnectionError):
    """PostgreSQL lets us in no more, though it did before. The cause is its own error."""


def is_lost(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, is what a restarting or unreachable PostgreSQL looks like from
    here: whatever was asked may be asked again, on another connection."""
    for each in causes(error):
        if isinstance(each, _LOST):
            return True
        # asyncpg says with one class that a connection is closed and that an argument is of the wrong type.
        if isinstance(each, asyncpg.InterfaceError) and not isinstance(each, ValueError) and "clos" in str(each):
            return True
    return False


def is_away(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, says that the server can't do this now, be it that it is lost, read-only,
    full, busy or being looked after; it may be able to later. Anything else is a fault of ours."""
    if is_lost(error):
        return True
    for each in causes(error):
        state = sqlstate(each)
        if state.startswith(_AWAY) or state in _AWAY_TOO or isinstance(each, _OUTDATED):
            return True
    return False


def is_unreachable(error: BaseException | None) -> bool:
    """Whether a query of an author's own failed because its server can't be reached, is full or takes no changes, by
    the SQLSTATE of the error or of what caused it. What the author may have brought about, such as a time-out, a
    deadlock or a cancel, is not that."""
    for _ in range(20):
        if error is None:
            return False
        state = sqlstate(error)
        if state.startswith(("08", "53", "57P")) or state == READ_ONLY:
            return True
        error = error.__cause__
    return False


def is_closed_to_us(error: BaseException) -> bool:
    """Whether a connection was refused for a reason that is in the server's settings: a role, a password, a database
    that is not there. At first it is ours that are wrong; later on, somebody is at work there."""
    return sqlstate(error).startswith(_CLOSED_TO_US)


def is_read_only(error: BaseException) -> bool:
    """Whether the session, or the whole server, takes no changes."""
    return sqlstate(error) == READ_ONLY


def sqlstate(error: BaseException) -> str:
    """The error's SQLSTATE; empty if it is none of the server's."""
    return str(getattr(error, "sqlstate", None) or "") if isinstance(error, asyncpg.PostgresError) else ""


def described(error: BaseException) -> str:
    """What is the matter with PostgreSQL, for operators and clients: nothing of what the server itself has written,
    which may name hosts, roles and values."""
    if isinstance(error, Refused) and error.__cause__ is not None:
        error = error.__cause__
    # Of several hosts, none is the primary.
    state = READ_ONLY if isinstance(error, asyncpg.TargetServerAttributeNotMatched) else sqlstate(error)
    for length in (5, 3, 2):
        if state[:length] in _WORDS:
            return _WORDS[state[:length]]
    if state and not state.startswith("08"):
        return f"PostgreSQL can't do this (SQLSTATE {state})"
    return "PostgreSQL does not answer" if isinstance(error, TimeoutError) else "PostgreSQL can't be reached"
