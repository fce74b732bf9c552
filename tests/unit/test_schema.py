"""The schema: the migrations lead exactly to the tables, from anywhere, and a wrong version is refused."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pushsvc.errors import SettingsError
from pushsvc.store import Postgres, check_schema, migrate
from pushsvc.store.schema import alembic_config, head
from pushsvc.store.tables import SCHEMA, metadata


def _difference(connection: Connection) -> list[object]:
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
        "version_table_schema": SCHEMA,
        "compare_type": True,
    }
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def difference(url: str) -> list[object]:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_difference)
    finally:
        await engine.dispose()


async def described(url: str) -> list[str]:
    """Every column, constraint and index as PostgreSQL itself writes them down."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            """
            SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
            FROM information_schema.columns WHERE table_schema = 'pushsvc'
            UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
            WHERE connamespace = 'pushsvc'::regnamespace
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'pushsvc' ORDER BY 1
            """
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


async def test_the_migrations_lead_exactly_to_the_tables(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == (None, head())
    assert await difference(empty_database_url) == []


async def test_the_migrations_make_the_same_constraints_and_indexes_as_the_tables(
    empty_database_url: str, database_url: str
) -> None:
    """Alembic compares neither check constraints nor partial indexes' conditions; PostgreSQL's own words do."""
    engine = create_async_engine(
        empty_database_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA pushsvc")
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    migrated = [line for line in await described(database_url) if "alembic_version" not in line]
    assert migrated == await described(empty_database_url)


async def test_migrating_again_changes_nothing(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    before = await described(empty_database_url)
    assert await migrate(empty_database_url) == (head(), head())
    assert await described(empty_database_url) == before


async def test_processes_that_migrate_at_once_wait_for_each_other(empty_database_url: str) -> None:
    answers = await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    assert sorted(answers, key=lambda answer: answer[0] or "") == [(None, head())] + [(head(), head())] * 3


async def test_down_to_nothing_and_up_again(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    before = await described(empty_database_url)

    def down(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    engine = create_async_engine(
        empty_database_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(down)
    await engine.dispose()
    assert [line for line in await described(empty_database_url) if "alembic_version" not in line] == []
    await migrate(empty_database_url)
    assert await described(empty_database_url) == before


ROWS_OF_0003 = """
INSERT INTO pushsvc.channels (tenant, name, floor, top) VALUES ('t', 'user:me', 2, 3), ('t', 'group:new', 0, 1);
INSERT INTO pushsvc.jobs (id, tenant, owner, name, params, timeout, retention, max_attempts, digest, shared, status,
    version, run_at, finished_at, expires_at)
VALUES ('a', 't', 'me', 'report', '{}', 30, 60, 1, 'd', true, 'queued', 1, now(), NULL, NULL),
    ('b', 't', 'me', 'report', '{}', 30, 3e11, 1, 'd', true, 'succeeded', 3, now(), now(), '12000-01-01'),
    ('c', 't', 'me', 'report', '{}', 30, 60, 1, 'd', true, 'succeeded', 3, now(), now(), now() + '1 hour');
INSERT INTO pushsvc.events (channel, "offset", job) SELECT id, 3, 'b' FROM pushsvc.channels WHERE name = 'user:me';
INSERT INTO pushsvc.positions (tenant, subject, device, channel, epoch, "offset")
VALUES ('t', 'me', 'd1', 'user:me', 'k1', 3);
INSERT INTO pushsvc.tickets (id, claims, expires_at) VALUES ('x', '{}', now());
INSERT INTO pushsvc.webhooks (id, job, tenant, owner, url, own) VALUES ('w', 'b', 't', 'me', 'https://a/b', true);
INSERT INTO pushsvc.disabled_endpoints (id, tenant, owner, url) VALUES ('e', 't', 'me', 'https://a/b');
"""


async def test_rows_from_before_become_those_of_whoever_upgrades(empty_database_url: str) -> None:
    def prepare(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE SCHEMA pushsvc")
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")

    engine = create_async_engine(
        empty_database_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(prepare)
    await engine.dispose()
    reader = await asyncpg.connect(empty_database_url)
    try:
        await reader.execute(ROWS_OF_0003)
        assert await migrate(empty_database_url, "it's mine") == ("0003", head())
        for table in ("jobs", "channels", "positions", "tickets", "webhooks", "disabled_endpoints"):
            names = await reader.fetch(f"SELECT DISTINCT deployment FROM pushsvc.{table}")
            assert [row[0] for row in names] == ["it's mine"], table
        gone = await reader.fetch("SELECT name, gone FROM pushsvc.channels ORDER BY name")
        assert [tuple(row) for row in gone] == [("group:new", 0), ("user:me", 2)]
        expiries = await reader.fetch("SELECT id, audience, expires_at FROM pushsvc.jobs ORDER BY id")
        assert [(row["id"], row["audience"]) for row in expiries] == [("a", 1), ("b", 1), ("c", 1)]
    finally:
        await reader.close()
    assert await difference(empty_database_url) == []


async def test_an_empty_database_gets_its_tables_at_the_first_start(empty_database_url: str) -> None:
    postgres = Postgres(empty_database_url)
    try:
        await asyncio.gather(*(check_schema(postgres, empty_database_url) for _ in range(3)))
        await check_schema(postgres, empty_database_url)
    finally:
        await postgres.close()
    assert await difference(empty_database_url) == []


@pytest.mark.parametrize(("version", "said"), [("0001", r"0001.*pushsvc migrate"), ("9999", r"9999.*code is older")])
async def test_another_version_is_refused_and_the_message_says_what_to_do(
    empty_database_url: str, version: str, said: str
) -> None:
    await migrate(empty_database_url)
    postgres = Postgres(empty_database_url)
    try:
        await postgres.fetch(f"UPDATE pushsvc.alembic_version SET version_num = '{version}'")
        with pytest.raises(SettingsError, match=said):
            await check_schema(postgres, empty_database_url)
    finally:
        await postgres.close()


async def test_the_authors_own_tables_are_left_alone(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute("CREATE TABLE jobs (mine int); CREATE TABLE alembic_version (version_num text)")
        await connection.execute("INSERT INTO alembic_version VALUES ('theirs')")
        await migrate(empty_database_url)
        assert await connection.fetchval("SELECT version_num FROM public.alembic_version") == "theirs"
        assert await connection.fetchval("SELECT count(*) FROM public.jobs") == 0
    finally:
        await connection.close()
    assert await difference(empty_database_url) == []


async def test_an_unreachable_database_is_named_by_its_setting_and_its_password_is_not_shown() -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_DATABASE_URL") as caught:
        await migrate("postgresql://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
