"""Behind PgBouncer: what a connection may do where each of its transactions is in another session of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, event, func, literal_column, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool as SQLAlchemyPool

from pushsvc.errors import QueryError, SettingsError
from pushsvc.queries import Database, DatabasePool
from pushsvc.queries.running.transaction import Transaction
from pushsvc.store import Connection, Conninfo, DriverConnection, Ear, Postgres, migrate
from pushsvc.store.postgres import SETTINGS
from pushsvc.store.schema import check_schema, head
from pushsvc.store.statements import SWEEP_LOCK

from ..pgbouncer import Pooler, needed, pgbouncer

pytestmark = needed

SIZE = 5
SET_BY_SESSIONS = """
SELECT name, setting FROM pg_settings WHERE source = 'session'
    AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
"""
"""Less what PgBouncer itself gives back to each client."""


@pytest.fixture(scope="module")
def pooler(postgres_url: str) -> Iterator[Pooler]:
    """In transaction mode, with five connections to each database."""
    with pgbouncer(postgres_url, size=SIZE) as pooler:
        yield pooler


@pytest.fixture
def pooled_url(pooler: Pooler, empty_database_url: str) -> str:
    return pooler.url(empty_database_url)


@asynccontextmanager
async def asked(url: str, *, jobs: int = 1, side_by_side: bool = False) -> AsyncIterator[DatabasePool]:
    pool = DatabasePool(url, executor_concurrency=4, own_connections=max(jobs, 2), side_by_side=side_by_side)
    try:
        yield pool
    finally:
        await pool.close()


async def everywhere(url: str, sql: str) -> list[asyncpg.Record]:
    """The rows of the query from all of the pooler's sessions: another client holds each of them at once."""
    clients = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(SIZE)]
    try:
        for client in clients:
            await client.execute("BEGIN")
        return [row for client in clients for row in await client.fetch(sql)]
    finally:
        for client in clients:
            # The pooler would close a session that is left within a transaction.
            await client.execute("ROLLBACK")
            await client.close()


async def becomes(value: object, connection: asyncpg.Connection[asyncpg.Record], sql: str) -> None:
    async with asyncio.timeout(30):
        while await connection.fetchval(sql) != value:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)


async def setting(transaction: Transaction, *more: str) -> None:
    """Set something in the transaction, and run these texts."""
    async with transaction:
        for sql in ("SET work_mem = '1MB'", *more):
            await transaction.execute(text(sql))


# Who is in front


async def test_a_pooler_is_seen_by_its_greeting_and_the_server_itself_is_not_one(
    pooled_url: str, empty_database_url: str
) -> None:
    for url, pooled in ((pooled_url, True), (empty_database_url, False)):
        connection = await Conninfo.parse(url).connect()
        assert connection.pooled is pooled
        await connection.close()


@pytest.mark.parametrize(("mode", "pooled"), [("transaction", True), ("session", False)])
async def test_what_is_said_of_a_pooler_counts_whatever_is_seen(
    pooled_url: str, empty_database_url: str, mode: str, pooled: bool
) -> None:
    for url in (pooled_url, empty_database_url):
        connection = await Conninfo.parse(url, pooler=mode).connect()  # type: ignore[arg-type]
        assert connection.pooled is pooled
        await connection.close()


async def test_statements_are_kept_on_the_server_itself_and_not_behind_a_pooler(
    pooled_url: str, empty_database_url: str
) -> None:
    for url, kept in ((pooled_url, 0), (empty_database_url, 1)):
        connection = await Conninfo.parse(url).connect()
        assert await connection.fetchval("SELECT $1::int", 1) == 1
        prepared = await connection.fetch("SELECT statement FROM pg_prepared_statements")
        assert [row[0] for row in prepared].count("SELECT $1::int") == kept
        await connection.close()


async def test_a_parameter_of_the_url_that_a_pooler_does_not_take_is_named(
    pooler: Pooler, empty_database_url: str
) -> None:
    async with Postgres(pooler.url(empty_database_url, options="-cjit%3Don")) as postgres:
        with pytest.raises(SettingsError, match=r"the pooler in front of the server takes no options.*ALTER ROLE"):
            await postgres.fetch("SELECT 1")


async def test_a_pooler_that_allows_no_transactions_is_refused(postgres_url: str, empty_database_url: str) -> None:
    with pgbouncer(postgres_url, mode="statement") as pooler:
        url = pooler.url(empty_database_url)
        with pytest.raises(SettingsError, match="pool_mode = transaction"):
            await migrate(url)
        async with Postgres(url) as postgres:
            with pytest.raises(SettingsError, match="pool_mode = transaction"):
                await check_schema(postgres, url)


async def test_a_pooler_that_ignores_what_it_is_not_told_to_set_is_seen_all_the_same(
    postgres_url: str, empty_database_url: str
) -> None:
    with pgbouncer(postgres_url, ignore_startup_parameters=", ".join(SETTINGS)) as pooler:
        async with Postgres(pooler.url(empty_database_url)) as postgres:
            assert (await postgres.fetch("SHOW search_path"))[0][0] == "pg_catalog"


async def test_the_service_finds_its_way_back_when_the_pooler_was_started_again(
    postgres_url: str, empty_database_url: str
) -> None:
    with pgbouncer(postgres_url) as first:
        url = first.url(empty_database_url)
        postgres, pool = Postgres(url), DatabasePool(url)
        db = Database(pool, owner="job")
        assert (await postgres.fetch("SELECT 1"))[0][0] == 1
        assert await db.async_pick(literal_column("1", Integer)) == 1
    with pgbouncer(postgres_url, port=first.port):
        assert (await postgres.fetch("SELECT 2", patience=30))[0][0] == 2
        assert await db.async_pick(literal_column("2", Integer)) == 2
        async with db.transaction():
            assert await db.async_pick(literal_column("3", Integer)) == 3
        await db.close()
        await pool.close()
        await postgres.close()


async def test_a_listener_that_sets_up_connections_is_warned_of_once(
    pooled_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(_connection: object, _record: object) -> None: ...

    event.listen(SQLAlchemyPool, "connect", listener)
    try:
        async with asked(pooled_url) as pool, Database(pool, owner="job") as db:
            found = [db.async_pick(literal_column(str(n), Integer)) for n in range(3)]
            assert [await each for each in found] == [0, 1, 2]
    finally:
        event.remove(SQLAlchemyPool, "connect", listener)
    assert caplog.text.count("a listener sets up new connections") == 1


# The service's own tables


async def test_the_schema_is_made_through_a_pooler(pooled_url: str) -> None:
    assert await migrate(pooled_url) == (None, head())
    assert await migrate(pooled_url) == (head(), head())
    async with Postgres(pooled_url) as postgres:
        await check_schema(postgres, pooled_url)
    assert await everywhere(pooled_url, SET_BY_SESSIONS) == []


async def test_the_stores_statements_have_their_settings_and_leave_none(pooled_url: str) -> None:
    async with Postgres(pooled_url, 8) as postgres:
        shown = await asyncio.gather(*(postgres.fetch(f"SELECT current_setting('{name}')") for name in SETTINGS))
        wanted = {**SETTINGS, "statement_timeout": "1min", "idle_in_transaction_session_timeout": "1min"}
        assert [rows[0][0] for rows in shown] == list(wanted.values())
        assert (await postgres.fetch("SHOW transaction_isolation"))[0][0] == "read committed"
        assert await everywhere(pooled_url, SET_BY_SESSIONS) == []
        assert await everywhere(pooled_url, "SELECT name FROM pg_prepared_statements WHERE name <> ''") == []


async def test_a_statement_that_fails_leaves_its_connection_as_it_was(pooled_url: str) -> None:
    async with Postgres(pooled_url, 1) as postgres:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await postgres.fetch("SELECT 1 / $1::int", 0)
        assert (await postgres.fetch("SELECT $1::int", 1))[0][0] == 1


async def test_a_sweepers_lock_lasts_as_long_as_its_transaction_and_holds_nobody_of_another_deployment(
    pooled_url: str,
) -> None:
    async with Postgres(pooled_url, 2) as one, Postgres(pooled_url, 2) as other:

        async def sweep(connection: Connection) -> list[bool]:
            mine = await connection.fetchval(SWEEP_LOCK, "a")
            theirs = [(await other.fetch(SWEEP_LOCK, name))[0][0] for name in ("a", "b")]
            return [mine, *theirs]

        assert await one.run(sweep, transaction=True) == [True, False, True]
        assert (await other.fetch(SWEEP_LOCK, "a"))[0][0] is True


async def test_nobody_listens_behind_a_pooler(pooled_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the session next would hear it."""
    connects = 0
    connect = Conninfo.connect

    async def counted(self: Conninfo, **options: Any) -> DriverConnection:
        nonlocal connects
        connects += 1
        return await connect(self, **options)

    monkeypatch.setattr(Conninfo, "connect", counted)
    monkeypatch.setattr("pushsvc.store.ear.POOLED", 0.0)
    listening = asyncio.create_task(Ear(pooled_url, "a").listen(lambda: None))
    async with asyncio.timeout(30):
        while connects < 3:  # noqa: ASYNC110  it has no event of its own
            await asyncio.sleep(0)
    listening.cancel()
    await asyncio.wait([listening])
    assert await everywhere(pooled_url, "SELECT pg_listening_channels()") == []


async def test_many_clients_at_once_share_five_connections(pooled_url: str, empty_database_url: str) -> None:
    direct = await asyncpg.connect(empty_database_url)
    stores = [Postgres(pooled_url, 4) for _ in range(10)]
    async with asked(pooled_url, jobs=20) as pool:

        async def ask(number: int) -> tuple[int | None, int]:
            async with Database(pool, owner=f"job {number}") as db:
                mine = db.async_pick(literal_column(str(number), Integer))
                stored = await stores[number % 10].fetch("SELECT $1::int", number)
                return await mine, stored[0][0]

        answers = await asyncio.gather(*(ask(number) for number in range(200)))
        assert answers == [(number, number) for number in range(200)]
        backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert await direct.fetchval(backends) <= SIZE + 1
    for store in stores:
        await store.close()
    await direct.close()


# Queries of jobs

LEAVING = {
    "a setting": "SELECT set_config('work_mem', '1MB', false)",
    "a setting of its own": "SELECT set_config('app.tenant', 'mine', false)",
    "a session's lock": "SELECT pg_advisory_lock(42)",
}


@pytest.mark.parametrize("sql", LEAVING.values(), ids=LEAVING.keys())
@pytest.mark.parametrize("fails", [False, True], ids=["committed", "failed"])
async def test_what_a_text_leaves_in_a_session_is_gone_with_its_transaction(
    pooled_url: str, sql: str, fails: bool
) -> None:
    async with asked(pooled_url) as pool, Database(pool, owner="job") as db:
        await db.async_find_by_sql(sql)
        async with db.transaction() as transaction:
            await transaction.execute(text(sql))
            await transaction.execute(text("CREATE TEMPORARY TABLE mine (a int) ON COMMIT PRESERVE ROWS"))
            await transaction.execute(text("LISTEN something"))
            await transaction.execute(text("PREPARE kept AS SELECT 1"))
            if fails:
                transaction.roll_back()
        assert await everywhere(pooled_url, SET_BY_SESSIONS) == []
        assert await everywhere(pooled_url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
        assert await everywhere(pooled_url, "SELECT 1 FROM pg_class WHERE relname = 'mine'") == []
        assert await everywhere(pooled_url, "SELECT pg_listening_channels()") == []
        assert await everywhere(pooled_url, "SELECT 1 FROM pg_prepared_statements WHERE name = 'kept'") == []
        tenants = await everywhere(pooled_url, "SELECT coalesce(current_setting('app.tenant', true), '')")
        assert {row[0] for row in tenants} == {""}


async def test_the_applications_name_survives_what_is_removed(pooled_url: str) -> None:
    name = select(func.current_setting("application_name"))
    async with asked(pooled_url) as pool, Database(pool, owner="job") as db:
        for _ in range(3):
            await db.async_find_by_sql("SELECT set_config('work_mem', '1MB', false)")
            assert await db.load_async(name) == ["pushsvc primary"]


@pytest.mark.parametrize(
    "ending", ["COMMIT", " /* a */ -- b\n rollback", "END", "ABORT", "ROLLBACK AND CHAIN", "PREPARE TRANSACTION 'a'"]
)
async def test_a_text_that_would_end_the_transaction_is_refused(pooled_url: str, ending: str) -> None:
    async with asked(pooled_url) as pool, Database(pool, owner="job") as db:
        transaction = db.transaction()
        with pytest.raises(QueryError, match="a text can't end a transaction"):
            await setting(transaction, ending)
        assert await everywhere(pooled_url, SET_BY_SESSIONS) == []
        async with db.transaction() as transaction:
            await transaction.execute(text("SAVEPOINT here"))
            await transaction.execute(text("ROLLBACK TO SAVEPOINT here"))


async def test_types_that_the_driver_has_to_look_at_leave_no_setting(
    pooled_url: str, empty_database_url: str
) -> None:
    direct = await asyncpg.connect(empty_database_url)
    await direct.execute("CREATE TYPE mood AS ENUM ('fine'); CREATE TYPE pair AS (a int, b mood)")
    await direct.close()
    async with asked(pooled_url) as pool, Database(pool, owner="job") as db:
        assert await db.load_async(select(literal_column("ARRAY['fine']::mood[]"))) == [["fine"]]
        assert (await db.load_async(select(literal_column("(1, 'fine')::pair"))))[0] == (1, "fine")
    async with Postgres(pooled_url) as postgres:
        assert (await postgres.fetch("SELECT ARRAY[(1, 'fine')::public.pair]"))[0][0] == [(1, "fine")]
    assert await everywhere(pooled_url, SET_BY_SESSIONS) == []


async def test_a_type_that_has_changed_is_read_as_it_is_now(pooled_url: str, empty_database_url: str) -> None:
    direct = await asyncpg.connect(empty_database_url)
    await direct.execute("CREATE TYPE pair AS (a int)")
    pair: Any = select(literal_column('jsonb_populate_record(NULL::pair, \'{"a": 1, "b": 2}\')'))
    async with asked(pooled_url) as pool, Database(pool, owner="job", inline=True) as db:
        for _ in range(2):
            assert (await db.load_async(pair))[0] == (1,)
        await direct.execute("ALTER TYPE pair ADD ATTRIBUTE b int")
        assert (await db.load_async(pair))[0] == (1, 2)
        await direct.execute("DROP TYPE pair; CREATE TYPE pair AS (b text)")
        assert (await db.load_async(pair))[0] == ("2",)
    await direct.close()


async def test_a_jobs_settings_hold_for_each_of_its_queries_and_for_nothing_else(pooled_url: str) -> None:
    tenant = select(func.current_setting("app.tenant", True))
    async with asked(pooled_url, jobs=8) as pool:

        async def ask(number: int) -> set[str]:
            async with Database(pool, owner=str(number), pg_settings={"app.tenant": f"t{number}"}) as db:
                found = [
                    db.load_async(tenant.where(literal_column(str(n)) == literal_column(str(n)))) for n in range(5)
                ]
                return {value for answer in found for value in await answer}

        assert await asyncio.gather(*map(ask, range(20))) == [{f"t{number}"} for number in range(20)]
    assert await everywhere(pooled_url, SET_BY_SESSIONS) == []


@pytest.mark.parametrize("side_by_side", [False, True])
async def test_queries_that_see_a_snapshot_never_wait_for_the_connection_that_holds_it(
    pooler: Pooler, empty_database_url: str, postgres_url: str, side_by_side: bool
) -> None:
    """Where the pooler is known to have enough they run side by side, else on that connection; the same answers."""
    with pgbouncer(postgres_url, size=SIZE if side_by_side else 1) as smaller:
        url = smaller.url(empty_database_url)
        async with asked(url, side_by_side=side_by_side) as pool, Database(pool, owner="job") as db:
            async with asyncio.timeout(20), db.transaction("snapshot"):
                found = [
                    db.async_pick(func.pg_current_snapshot(), where=literal_column(f"{n} = {n}")) for n in range(3)
                ]
                assert len({str(await each) for each in found}) == 1
            modes = {record.mode for record in db.queries}
            assert modes == ({"async"} if side_by_side else {"foreground"})
            with pytest.raises(DBAPIError, match="read-only transaction"):
                async with db.transaction("snapshot") as transaction:
                    await transaction.execute(text("CREATE TABLE a (b int)"))


async def test_a_cancel_reaches_the_server_and_nobody_else(pooled_url: str, empty_database_url: str) -> None:
    direct = await asyncpg.connect(empty_database_url)
    asleep = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE state = 'active' AND query LIKE '%pg_sleep(3%' AND pid <> pg_backend_pid()"
    )
    async with asked(pooled_url, jobs=2) as pool:
        async with Database(pool, owner="job") as db, Database(pool, owner="neighbour") as neighbour:
            other = neighbour.load_async(select(func.pg_sleep(0.5), literal_column("7")))
            slow = db.load_async(select(func.pg_sleep(literal_column("3600"))))
            await becomes(1, direct, asleep)
            slow.cancel()
            await becomes(0, direct, asleep)
            assert (await other)[0][1] == 7
            assert await db.async_pick(literal_column("1", Integer)) == 1
    await direct.close()


# Session mode


async def test_in_session_mode_a_connection_is_a_session(postgres_url: str, empty_database_url: str) -> None:
    with pgbouncer(postgres_url, mode="session", size=12) as pooler:
        url = pooler.url(empty_database_url)
        await migrate(url, pooler="session")
        async with Postgres(url, 2, pooler="session") as postgres:
            assert (await postgres.fetch("SHOW search_path"))[0][0] == "pg_catalog"
            kept = "SELECT count(*) FROM pg_prepared_statements"
            assert (await postgres.fetch(kept))[0][0] > 0
        pool = DatabasePool(url, pooler="session")
        async with Database(pool, owner="job") as db, db.transaction("snapshot"):
            assert await asyncio.gather(*(db.async_pick(literal_column(str(n), Integer)) for n in range(3))) == [
                0,
                1,
                2,
            ]
        await pool.close()
