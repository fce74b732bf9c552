"""Settings for one owner hold on every connection, with real row-level security, and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, event, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pushsvc import JobContext, Service, Settings
from pushsvc.errors import QueryError, SettingsError
from pushsvc.queries import Database, DatabasePool, PgSettings
from pushsvc.testing import rolled_back, run_job

from .queries_support import Server, behind

pytest_plugins = ["tests.unit.queries_postgres"]

SCHEMA = """
DROP SCHEMA IF EXISTS secured CASCADE; DROP SCHEMA IF EXISTS secured_b CASCADE;
DROP ROLE IF EXISTS secured_reader; DROP ROLE IF EXISTS secured_other;
CREATE ROLE secured_reader; CREATE ROLE secured_other; GRANT secured_reader, secured_other TO CURRENT_USER;
CREATE SCHEMA secured; GRANT USAGE ON SCHEMA secured TO secured_reader, secured_other;
CREATE TABLE secured.authors (id int PRIMARY KEY, tenant text NOT NULL);
CREATE TABLE secured.books (id int PRIMARY KEY, author_id int REFERENCES secured.authors, tenant text NOT NULL);
INSERT INTO secured.authors VALUES (1, 'a'), (2, 'a'), (3, 'b');
INSERT INTO secured.books VALUES (1, 1, 'a'), (2, 1, 'a'), (3, 2, 'a'), (4, 3, 'b'), (5, 1, 'b');
ALTER TABLE secured.authors ENABLE ROW LEVEL SECURITY; ALTER TABLE secured.books ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants ON secured.authors USING (tenant = current_setting('app.tenant', true));
CREATE POLICY tenants ON secured.books USING (tenant = current_setting('app.tenant', true));
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA secured TO secured_reader;
CREATE TYPE secured.mood AS ENUM ('glad'); CREATE TABLE secured.here (mood secured.mood);
CREATE SCHEMA secured_b; CREATE TABLE secured_b.here (mood int);
INSERT INTO secured.here VALUES ('glad'); INSERT INTO secured_b.here VALUES (7)
"""


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    __table_args__ = {"schema": "secured"}  # noqa: RUF012 - SQLAlchemy's own way
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    __tablename__ = "books"
    __table_args__ = {"schema": "secured"}  # noqa: RUF012 - SQLAlchemy's own way
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("secured.authors.id"))
    tenant: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


def of(tenant: str) -> dict[str, Any]:
    return {"app.tenant": tenant, "role": "secured_reader"}


async def _preloaded(db: Database) -> Any:
    authors = await db.load_async(select(Author).order_by(Author.id), preload=[Author.books])
    return {author.id: [book.id for book in author.books] for author in authors}


async def _associated(db: Database) -> Any:
    first = await db.async_first(Author)
    return [book.id for book in await db.load_async(Author.books, of=first)] if first else []


Method = Callable[[Database], Awaitable[Any]]

METHODS: dict[str, tuple[Method, Any, Any]] = {
    "load_async": (lambda db: db.load_async(select(Book.id).order_by(Book.id)), [1, 2, 3], [4, 5]),
    "entities": (lambda db: db.load_async(Book).then(lambda books: {b.id for b in books}), {1, 2, 3}, {4, 5}),
    "async_count": (lambda db: db.async_count(Book), 3, 2),
    "async_sum": (lambda db: db.async_sum(Book.id), 6, 9),
    "async_minimum": (lambda db: db.async_minimum(Book.id), 1, 4),
    "async_maximum": (lambda db: db.async_maximum(Book.id), 3, 5),
    "async_average": (lambda db: db.async_average(Book.id), 2.0, 4.5),
    "async_pluck": (lambda db: db.async_pluck(Book.tenant, where=Book.id > 2), ["a"], ["b", "b"]),
    "async_pick": (lambda db: db.async_pick(select(Book.tenant, Book.id).order_by(Book.id)), ("a", 1), ("b", 4)),
    "async_ids": (lambda db: db.async_ids(select(Author).order_by(Author.id)), [1, 2], [3]),
    "async_first": (lambda db: db.async_first(Book).then(lambda book: book and book.id), 1, 4),
    "async_find_by": (lambda db: db.async_find_by(Author, id=3).then(lambda found: found is None), True, False),
    "async_exists": (lambda db: db.async_exists(Author, where=Author.id == 3), False, True),
    "async_find_by_sql": (lambda db: db.async_find_by_sql("SELECT max(id) FROM secured.books"), [3], [5]),
    "async_count_by_sql": (lambda db: db.async_count_by_sql("SELECT count(*) FROM secured.books"), 3, 2),
    "async_json": (lambda db: db.async_json(select(Author.id)).then(str), None, None),
    "grouped": (lambda db: db.async_count(select(Book.tenant).group_by(Book.tenant)), {"a": 3}, {"b": 2}),
    "preload": (_preloaded, {1: [1, 2], 2: [3]}, {3: [4]}),
    "association": (_associated, [1, 2], [4]),
}


@pytest_asyncio.fixture
async def secured(server: Server) -> AsyncIterator[None]:
    await server.connection.execute(SCHEMA)
    yield
    await server.connection.execute("DROP SCHEMA secured, secured_b CASCADE; DROP ROLE secured_reader, secured_other")


@pytest.fixture
def sent(pool: DatabasePool) -> list[str]:
    """All that goes to the server on the pool's connections."""
    texts: list[str] = []

    def listen(connection: Any, _record: object) -> None:
        connection.driver_connection.add_query_logger(lambda record: texts.append(record.query))

    event.listen(pool.connections.engine.sync_engine, "connect", listen)
    return texts


async def asked(db: Database, way: str, method: Method) -> list[Any]:
    """Three times, as the first goes by SQLAlchemy and the others take the short way."""
    if way in ("foreground", "snapshot"):
        async with db.transaction("foreground" if way == "foreground" else "snapshot"):
            return [await method(db) for _ in range(3)]
    if way == "nested":
        async with db.transaction(), db.transaction():
            return [await method(db) for _ in range(3)]
    return list(await asyncio.gather(*(method(db) for _ in range(3))))


@pytest.mark.parametrize("way", ["parallel", "inline", "foreground", "nested", "snapshot"])
@pytest.mark.parametrize("name", METHODS)
async def test_each_tenant_sees_its_own_rows_by_every_method_and_way(
    name: str, way: str, pool: DatabasePool, secured: None
) -> None:
    method, of_a, of_b = METHODS[name]
    inline = way == "inline"
    async with (
        Database(pool, owner="a", pg_settings=of("a"), inline=inline) as a,
        Database(pool, owner="b", pg_settings=of("b"), inline=inline) as b,
        Database(pool, owner="all", inline=inline) as everything,
    ):
        answers_of_a, answers_of_b, _ = await asyncio.gather(
            *(asked(db, way, method) for db in (a, b, everything)),
        )
        if name == "async_json":
            assert len({*answers_of_a, *answers_of_b}) in (1, 2)
        else:
            assert answers_of_a == [of_a] * 3
            assert answers_of_b == [of_b] * 3
        # Nothing of it stays: the next sees what the connection's own role sees.
        assert await everything.async_count(Book) == 5
        assert await everything.async_find_by_sql("SHOW role") == ["none"]


async def test_settings_hold_on_every_connection_that_runs_at_once(
    pool: DatabasePool, server: Server, secured: None
) -> None:
    async with (
        Database(pool, owner="a", pg_settings={"app.tenant": "a"}) as a,
        Database(pool, owner="b", pg_settings={"app.tenant": "b"}) as b,
        server.gate(1) as open_gate,
    ):
        promises = [
            db.load_async(behind(1).add_columns(func.current_setting("app.tenant")))
            for _ in range(2)
            for db in (a, b)
        ]
        await server.until_running(4)
        await open_gate()
        assert [rows[0][1] for rows in await asyncio.gather(*promises)] == ["a", "b"] * 2


async def test_what_has_settings_pays_two_round_trips_and_what_has_none_pays_none(
    pool: DatabasePool, sent: list[str], secured: None
) -> None:
    async with (
        Database(pool, owner="a", pg_settings={"app.tenant": "a", "work_mem": "9MB"}, inline=True) as a,
        Database(pool, owner="other", inline=True) as other,
    ):
        for db in (a, other):
            await db.async_count(Book)
        sent.clear()
        await a.async_count(Book)
        assert [query.split(maxsplit=1)[0].strip(";") for query in sent] == ["BEGIN", "SELECT", "COMMIT"]
        sent.clear()
        await other.async_count(Book)
        assert len(sent) == 1
        sent.clear()
        async with a.transaction():
            await a.async_count(Book)
            await a.async_count(Book)
        assert [query.split(maxsplit=1)[0].strip(";") for query in sent] == ["BEGIN", "SELECT", "SELECT", "COMMIT"]


async def test_a_job_with_settings_leaves_nothing_to_be_reset(
    pool: DatabasePool, sent: list[str], secured: None
) -> None:
    async with Database(pool, owner="learns", pg_settings=of("a"), inline=True) as db:
        await db.async_count(Book)
    sent.clear()
    for tenant in "ab":
        async with Database(pool, owner=tenant, pg_settings=of(tenant), inline=True) as db:
            await db.async_count(Book)
    assert not any("RESET" in text for text in sent)


async def test_equal_questions_of_owners_with_other_settings_share_no_answer(
    pool: DatabasePool, server: Server, secured: None
) -> None:
    async with (
        Database(pool, owner="job", pg_settings=of("a")) as a,
        Database(pool, owner="job", pg_settings=of("b")) as b,
    ):
        both = [db.async_count(Book) for db in (a, b, a, b)]
        assert await asyncio.gather(*both) == [3, 2, 3, 2]


async def test_what_the_policy_forbids_is_not_written(pool: DatabasePool, server: Server, secured: None) -> None:
    async with Database(pool, owner="a", pg_settings=of("a")) as db:
        async with db.transaction() as transaction:
            await transaction.execute(insert(Author).values(id=10, tenant="a"))
            await transaction.run_sync(lambda session: session.add(Author(id=11, tenant="a")))
        with pytest.raises(DBAPIError, match="row-level security"):
            await db.async_find_by_sql("INSERT INTO secured.authors VALUES (12, 'b') RETURNING id")
        assert await db.async_find_by_sql("INSERT INTO secured.authors VALUES (13, 'a') RETURNING id") == [13]
    assert [row[0] for row in await server.fetch("SELECT id FROM secured.authors WHERE id > 9 ORDER BY id")] == [
        10,
        11,
        13,
    ]


async def test_names_may_mean_other_tables_for_each(pool: DatabasePool, secured: None) -> None:
    for _ in range(4):
        for schema, there in (("secured", ["glad"]), ("secured_b", [7])):
            async with Database(pool, owner="x", pg_settings={"search_path": schema}, inline=True) as db:
                assert await db.async_find_by_sql("SELECT mood FROM here") == there


async def test_in_a_transaction_that_others_share_each_has_its_own(pool: DatabasePool, secured: None) -> None:
    async with (
        Database(pool, owner="all") as everything,
        Database(pool, owner="a", pg_settings=of("a")) as a,
        Database(pool, owner="b", pg_settings={"app.tenant": "b", "role": "secured_reader", "work_mem": "9MB"}) as b,
    ):
        async with everything.transaction() as transaction:
            await transaction.execute(insert(Book).values(id=6, author_id=1, tenant="a"))
            for _ in range(2):
                assert [await db.async_count(Book) for db in (a, everything, b, a, everything)] == [4, 6, 2, 4, 6]
            async with b.transaction() as nested:
                await nested.execute(insert(Book).values(id=7, author_id=1, tenant="b"))
                assert [await db.async_count(Book) for db in (a, b, everything)] == [4, 3, 7]
                nested.roll_back()
            assert [await db.async_count(Book) for db in (a, b, everything)] == [4, 2, 6]
            assert await everything.async_find_by_sql("SHOW work_mem") == ["4MB"]
            transaction.roll_back()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"no_such_setting": 1}, "unrecognized configuration parameter"),
        ({"work_mem": "much"}, "invalid value for parameter"),
        ({"role": "nobody_at_all"}, "does not exist"),
        ({"max_connections": 7}, "cannot be changed"),
        ({"app.tenant": "a", "shared_buffers": "1GB"}, "cannot be changed"),
    ],
)
@pytest.mark.parametrize("way", ["parallel", "foreground", "snapshot"])
async def test_what_postgresql_refuses_is_said_and_nothing_is_asked(
    settings: dict[str, Any], said: str, way: str, pool: DatabasePool, secured: None
) -> None:
    async with Database(pool, owner="job", pg_settings=settings) as db:
        with pytest.raises(QueryError, match=f"refuses the job's pg_settings .*{said}"):
            await asked(db, way, lambda db: db.async_count(Book))
    async with Database(pool, owner="next") as db:
        assert await db.async_count(Book) == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({name: "x"}, "no name of a setting")
            for name in ("", "a b", "a;b", "app.", ".a", "ä", "a-b", "app.ten'ant")
        ),
        *(
            ({name: "x"}, "can't have")
            for name in ("session_authorization", "Client_Encoding", "transaction_isolation")
        ),
        ({7: "x"}, "no name of a setting"),
        *(({"app.x": value}, "str, int, float, bool or UUID") for value in (None, b"x", ["x"], {}, object())),
        ({"app.x": "a\0b"}, "NUL"),
        ({"app.x": "a\ud800"}, "Unicode"),
        ({"app.x": "1", "APP.X": "2"}, "twice"),
        ("app.x", "mapping"),
    ],
)
def test_what_can_not_be_a_setting_is_refused(given: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PgSettings.of(given)
    with pytest.raises(SettingsError, match=f"job report: .*{said}"):
        Service(settings=Settings()).job(name="report", pg_settings=given)(lambda: None)


@given(
    st.dictionaries(st.sampled_from(["app.tenant", "role", "x.y"]), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_no_value_gets_into_the_sql_nor_into_a_repr(values: dict[str, str]) -> None:
    values = {name: value.replace("\0", "") for name, value in values.items()}
    settings = PgSettings.of(values)
    if settings is not None:
        assert list(settings.values)[-1] == "role" or "role" not in values
        assert settings.sql.isascii()
        assert settings.sql.count("'") == 12 * len(values)
        assert all(len(value) < 8 or value not in repr(settings) + settings.sql for value in values.values())


async def test_values_arrive_as_they_are(pool: DatabasePool) -> None:
    values: list[tuple[Any, str]] = [
        *((value, value) for value in ("", "'", "\\", "a\nb", "日本", "🦀", "'; DROP TABLE x; --", "%s $1 :x")),
        *((True, "on"), (False, "off"), (7, "7"), (1.5, "1.5"), (UUID(int=1), str(UUID(int=1)))),
    ]
    for value, arrives in values:
        async with Database(pool, owner="job", pg_settings={"app.value": value}, inline=True) as db:
            assert await db.load_async(select(func.current_setting("app.value"))) == [arrives]


async def test_jobs_and_blocks_have_settings(database_url: str, redis_url: str, server: Server) -> None:
    service = Service(settings=Settings.from_env({}, database_url=database_url, redis_url=redis_url))

    @service.job(pg_settings=lambda ctx: {"app.tenant": ctx.tenant, "app.user": ctx.user or ""})
    async def who(ctx: JobContext) -> list[Any]:
        return [tuple(row) for row in await ctx.db.async_find_by_sql(WHO)]

    @service.job(pg_settings={"work_mem": "9MB"})
    def memory(ctx: JobContext) -> Any:
        return ctx.db.async_find_by_sql("SHOW work_mem").value()

    @service.job(pg_settings=lambda ctx: {"app.tenant": ctx.db.async_count(Book)})
    async def circular(ctx: JobContext) -> Any:
        return await ctx.db.load_async(select(1))

    @service.job(pg_settings=lambda ctx: {"app.tenant": None})
    async def nobody(ctx: JobContext) -> Any:
        return await ctx.db.load_async(select(1))

    WHO = "SELECT current_setting('app.tenant', true), current_setting('app.user', true)"
    try:
        assert (await run_job(service, "who", user="al", tenant="acme")).result == [["acme", "al"]]
        assert (await run_job(service, "memory")).result == ["9MB"]
        for _ in range(2):
            with pytest.raises(SettingsError, match="can't ask the database"):
                await run_job(service, "circular")
        with pytest.raises(SettingsError, match="not NoneType"):
            await run_job(service, "nobody")
        async with rolled_back(service):
            assert (await run_job(service, "who", user="bo", tenant="b")).result == [["b", "bo"]]
            async with service.queries(pg_settings={"app.tenant": "c"}) as db, service.queries() as plain:
                assert await db.async_find_by_sql(WHO) == [("c", "")]
                assert await plain.async_find_by_sql(WHO) == [("", "")]
        async with service.queries(pg_settings={"app.tenant": "d"}) as db:
            assert (await db.async_find_by_sql(WHO))[0][0] == "d"
    finally:
        await service.close()


async def test_an_async_function_of_settings_is_refused() -> None:
    async def later(ctx: JobContext) -> dict[str, str]:
        return {}

    with pytest.raises(SettingsError, match="not an async one"):
        Service(settings=Settings()).job(name="report", pg_settings=later)(lambda: None)  # type: ignore[arg-type]


async def test_a_snapshot_takes_no_writes_and_goes_on(pool: DatabasePool, secured: None) -> None:
    async with Database(pool, owner="job") as db, db.transaction("snapshot") as transaction:
        for statement in (insert(Author).values(id=20, tenant="x"), text("INSERT INTO secured.authors VALUES (1)")):
            with pytest.raises(QueryError, match="nothing can be written"):
                await transaction.execute(statement)
        assert await db.async_count(Author) == 3


async def test_what_was_to_see_a_snapshot_that_is_gone_says_so(pool: DatabasePool, secured: None) -> None:
    async with Database(pool, owner="job") as db:
        with suppress(QueryError):  # which the end of the block raises
            async with db.transaction("snapshot") as transaction:
                with pytest.raises(DBAPIError):
                    await transaction.execute(text("SELECT 1 / 0"))
                with pytest.raises(QueryError, match="whose snapshot it was to see has failed"):
                    await db.async_count(Author)
