"""Versions of the store's schema (Alembic): making it, bringing it up to date, refusing a wrong one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ..domain import DEFAULT_DEPLOYMENT
from ..errors import SettingsError, Unavailable, causes
from .conninfo import Conninfo
from .faults import described, is_away, is_lost
from .pooler import PoolerMode, mistaken_mode
from .postgres import SETTINGS, UNBOUNDED, Postgres, adjusting
from .tables import SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory


# Alembic is only imported where it is needed: it is much, and most processes find their tables as they should be.


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    """The version that this code needs."""
    version = _scripts().get_current_head()
    assert version is not None
    return version


def _versions() -> tuple[str, frozenset[str]]:
    """The version that this code needs, and all that it knows."""
    return head(), frozenset(script.revision for script in _scripts().walk_revisions())


async def migrate(
    url: str, deployment: str = DEFAULT_DEPLOYMENT, pooler: PoolerMode = "auto"
) -> tuple[str | None, str]:
    """Bring the schema to this code's version; the versions before and after. Rows from before deployments had names
    become those of `deployment`.

    Concurrent calls wait for each other (an advisory lock held for the transaction). All or nothing.
    Raises SettingsError when PostgreSQL can't be reached, Unavailable when it is there and can't do it right now.
    """
    conninfo = Conninfo.parse(url, "PUSHSVC_DATABASE_URL", writes=True, pooler=pooler)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        connect_args={
            "async_creator_fn": conninfo.connect,
            "prepared_statement_cache_size": 0,
            "server_settings": SETTINGS | UNBOUNDED,
        },
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_upgrade, deployment)
    except Exception as error:
        if (mistake := _mistake(_driven(error))) is not None:
            raise SettingsError(mistake) from error
        if not is_away(error):
            raise
        said = f"PUSHSVC_DATABASE_URL: {described(_driven(error))} right now"
        raise (SettingsError if is_lost(error) else Unavailable)(said) from error
    finally:
        await engine.dispose()


def _mistake(error: BaseException) -> str | None:
    """What an operator has to mend, in the server's own words; None if it is no such thing."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        made = f"CREATE SCHEMA {SCHEMA} AUTHORIZATION <role>"
        return f"PUSHSVC_DATABASE_URL: {error}; let an admin run `{made}` in that database, for this role"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return f"PUSHSVC_DATABASE_URL: {error}; create it, as with `createdb`, or correct the name"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return f"PUSHSVC_DATABASE_URL: {error}; correct the user or the password"
    if (mode := mistaken_mode(error)) is not None:
        return str(mode)
    return None


def _driven(error: BaseException) -> BaseException:
    """The driver's own error, which SQLAlchemy wraps twice."""
    *wrapping, innermost = causes(error)
    return next((each for each in wrapping if isinstance(each, asyncpg.PostgresError | OSError)), innermost)


def _upgrade(connection: Connection, deployment: str) -> tuple[str | None, str]:
    from alembic import command

    connection.exec_driver_sql(adjusting(SETTINGS | UNBOUNDED, local=True))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('pushsvc.migrate'))"))
    before = _version(connection)
    # Asked first: where an admin has made it, the role needs no right to make one.
    if connection.execute(text(f"SELECT to_regnamespace('{SCHEMA}')")).scalar() is None:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    config = alembic_config()
    config.attributes |= {"connection": connection, "deployment": deployment}
    command.upgrade(config, "head")
    return before, head()


def _version(connection: Connection) -> str | None:
    known = connection.execute(text(f"SELECT to_regclass('{SCHEMA}.alembic_version')")).scalar()
    if known is None:
        return None
    version: Any = connection.execute(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")).scalar()
    return None if version is None else str(version)


async def check_schema(postgres: Postgres, url: str, pooler: PoolerMode = "auto") -> None:
    """Make the schema where there is none; refuse one of another version.

    Raises SettingsError, saying what to run.
    """
    try:
        rows = await postgres.fetch(f"SELECT to_regclass('{SCHEMA}.alembic_version') AS known", patience=15)
    except asyncpg.PostgresError as error:
        if (mistake := _mistake(error)) is None:
            raise
        raise SettingsError(mistake) from error
    if rows[0]["known"] is None:
        await migrate(url, postgres.deployment, pooler)
        return
    version = (await postgres.fetch(f"SELECT version_num FROM {SCHEMA}.alembic_version"))[0][0]
    needed, known = await asyncio.to_thread(_versions)
    if version == needed:
        return
    if version not in known:
        raise SettingsError(f"the store's schema is at {version}, this code is older: it knows those up to {needed}")
    raise SettingsError(f"the store's schema is at {version}, this code needs {needed}: run `pushsvc migrate`")
