"""Settings of PostgreSQL that hold for all that one job asks, on whatever connection, and for nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from ...errors import SettingsError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*", re.ASCII)
_REFUSED = {
    "session_authorization": "use role",
    "client_encoding": "the driver needs UTF-8",
    "transaction_isolation": "use db.transaction(isolation=…)",
    "transaction_read_only": "use default_transaction_read_only of the role",
    "transaction_deferrable": "use default_transaction_deferrable of the role",
    "is_superuser": "use role",
    "seed": "use setseed() in a transaction",
}
_NAMING = {"role", "search_path"}


class PgSettings:
    """Some settings, and the SQL that sets them until the transaction's end. Shows no values: they may be secret."""

    __slots__ = ("renames", "sql", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        # The role comes last: it may not be allowed to set the others.
        self.values = dict(sorted(values.items(), key=lambda item: item[0] == "role"))
        self.sql = set_locally(self.values)
        self.renames = not _NAMING.isdisjoint(self.values)
        """Whether a name in a statement may mean another table than it does without them."""

    def __repr__(self) -> str:
        return f"<PgSettings {', '.join(self.values)}>"

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> PgSettings | None:
        """Raises SettingsError for what can't be a setting's name or value. None: there is nothing to set."""
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise SettingsError(f"pg_settings is a mapping from names to values, not {type(given).__name__}")
        values: dict[str, str] = {}
        for name, value in given.items():
            key = _checked(name)
            if key in values:
                raise SettingsError(f"pg_settings has {name!r} twice: PostgreSQL takes no account of case")
            values[key] = _text(name, value)
        return cls(values) if values else None


class Connection(Protocol):
    """Where a transaction is open."""

    async def set_locally(self, settings: PgSettings) -> None:
        """Have these hold until the end of the transaction."""

    async def current_settings(self, names: Sequence[str]) -> dict[str, str]:
        """What these are set to."""


class SettingsHeld:
    """Which settings hold in a transaction that several owners share, as in a test that is rolled back in the end.

    Each has its own while something of its own runs, on top of what held before there were any.
    """

    def __init__(self, settings: PgSettings | None) -> None:
        self._holding: PgSettings | None = settings
        self._before: dict[str, str] = {}
        self._certain = True

    def doubt(self) -> None:
        """Something may have changed them."""
        self._certain = not self._before

    async def hold(self, connection: Connection, wanted: PgSettings | None) -> None:
        """See to it that these hold. Raises what the connection does."""
        if wanted is self._holding and self._certain:
            return
        if wanted is not None and (unknown := [name for name in wanted.values if name not in self._before]):
            self._before |= await connection.current_settings(unknown)
        self._certain = False
        if values := self._before | ({} if wanted is None else wanted.values):
            await connection.set_locally(PgSettings(values))
        self._holding, self._certain = wanted, True


def set_locally(values: Mapping[str, str], *, local: bool = True) -> str:
    """The command that sets these until the end of the transaction. There is nothing in it but digits of theirs.

    As hexadecimal text rather than as parameters: commands with parameters can't be sent together with BEGIN.
    """
    calls = (f"pg_catalog.set_config({_literal(name)}, {_literal(value)}, {local})" for name, value in values.items())
    return f"SELECT {', '.join(calls)}"


def _literal(text: str) -> str:
    return f"pg_catalog.convert_from(pg_catalog.decode('{text.encode().hex()}', 'hex'), 'UTF8')"


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} in pg_settings is no name of a setting: it is like work_mem or app.tenant")
    key = name.lower()
    if key in _REFUSED:
        raise SettingsError(f"pg_settings can't have {name}: {_REFUSED[key]}")
    return key


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, str | int | float | UUID):
        raise SettingsError(f"{name} in pg_settings is a str, int, float, bool or UUID, not {type(value).__name__}")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{name} in pg_settings is no valid Unicode") from None
    if "\0" in text:
        raise SettingsError(f"{name} in pg_settings has a NUL, which PostgreSQL can't keep")
    return text
