"""What a job leaves in its session is gone when another job gets the connection; who leaves nothing pays nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Pool,
    String,
    Table,
    Text,
    cast,
    column,
    event,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, mapped_column

from pushsvc.errors import QueryError
from pushsvc.queries import Database, DatabasePool
from pushsvc.queries.running.traces import Catalog, words_in

from .queries_support import Server

pytest_plugins = ["tests.unit.queries_postgres"]

SCHEMA = """
DROP SCHEMA IF EXISTS sessions CASCADE; DROP ROLE IF EXISTS sessions_other;
CREATE ROLE sessions_other; GRANT sessions_other TO CURRENT_USER;
CREATE SCHEMA sessions; SET search_path = sessions; GRANT USAGE ON SCHEMA sessions TO sessions_other;
CREATE FUNCTION leave(value text) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT set_config('work_mem', '9MB', false) $$;
CREATE FUNCTION leave_by_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('work_mem', '9MB', false); RETURN NEW; END $$;
CREATE FUNCTION leave_by_operator(int, text) RETURNS text LANGUAGE sql AS $$ SELECT sessions.leave($2) $$;
CREATE OPERATOR |@| (LEFTARG = int, RIGHTARG = text, FUNCTION = leave_by_operator);
CREATE TABLE plain (id int PRIMARY KEY, name text);
INSERT INTO plain VALUES (1, 'a'), (2, 'b');
CREATE TABLE kept (id serial PRIMARY KEY, name text DEFAULT sessions.leave(''));
CREATE TABLE watched (id int);
CREATE TRIGGER leaves BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION leave_by_trigger();
CREATE VIEW leaving AS SELECT id, set_config('work_mem', '9MB', false) AS name FROM plain;
CREATE VIEW leaving_deeper AS SELECT id, name FROM leaving;
CREATE VIEW harmless AS SELECT id, upper(name) AS name, current_setting('work_mem') AS memory FROM plain;
CREATE VIEW searched AS SELECT name FROM pg_settings;
CREATE DOMAIN leaving_domain AS text CHECK (sessions.leave(VALUE) <> '');
CREATE TABLE guarded (id int);
INSERT INTO guarded VALUES (1);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY leaving ON guarded USING (sessions.leave('') <> '');
CREATE TABLE tenants (id int, name text);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY harmless ON tenants USING (name = current_setting('app.tenant', true));
GRANT SELECT ON ALL TABLES IN SCHEMA sessions TO sessions_other;
RESET search_path
"""

STATE = """
SELECT json_build_object(
    'settings', (SELECT json_object_agg(name, setting || source) FROM pg_settings WHERE name !~ '^plpgsql'),
    'ours', current_setting('client_connection_check_interval'),
    'roles', session_user || current_user || current_setting('role'),
    'setting', coalesce(current_setting('app.tenant', true), ''),
    'locks', (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
    'channels', (SELECT count(*) FROM pg_listening_channels()),
    'temporary', (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    'temporary functions', (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
    'prepared', (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''),
    'cursors', (SELECT count(*) FROM pg_cursors WHERE name <> ''),
    'transaction', now() <> statement_timestamp()
)::text
"""

METADATA = MetaData(schema="sessions")
PLAIN, LEAVING, DEEPER, HARMLESS, SEARCHED, GUARDED, TENANTS, KEPT, WATCHED = (
    Table(name, METADATA, Column("id", Integer), Column("name", Text))
    for name in (
        *("plain", "leaving", "leaving_deeper", "harmless", "searched", "guarded", "tenants", "kept", "watched"),
    )
)


class Base(DeclarativeBase):
    metadata = METADATA


class Plain(Base):
    __table__ = PLAIN
    __mapper_args__ = {"primary_key": [PLAIN.c.id]}  # noqa: RUF012 - SQLAlchemy's own way


class Calculated(Base):
    __tablename__ = "plain"
    __table_args__ = {"extend_existing": True}  # noqa: RUF012 - SQLAlchemy's own way
    id: Mapped[int] = mapped_column(primary_key=True)
    left = column_property(func.sessions.leave(PLAIN.c.name))


TEXTS = {
    "a setting": "SET search_path = sessions",
    "a setting that is none of PostgreSQL's": "SELECT set_config('app.tenant', 'alice', false)",
    "a time-out": "SET statement_timeout = '77s'",
    "a zone": "SET TIME ZONE 'Asia/Tokyo'",
    "transactions that only read": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "what is ours": "SET client_connection_check_interval = 0",
    "a role": "SET ROLE sessions_other",
    "a role, by its setting": "SELECT set_config('role', 'sessions_other', false)",
    "another user": "SET SESSION AUTHORIZATION sessions_other",
    "a channel": "LISTEN news",
    "a temporary table": "CREATE TEMPORARY TABLE mine AS SELECT 1 AS id",
    "a temporary table of a select": "SELECT 1 AS id INTO TEMPORARY mine",
    "a temporary view": "CREATE TEMPORARY VIEW mine AS SELECT 1 AS id",
    "a temporary function": "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a lock": "SELECT pg_advisory_lock(4711)",
    "a lock that is shared": "SELECT pg_advisory_lock_shared(47, 11)",
    "a prepared statement": "PREPARE mine AS SELECT 1",
    "a transaction": "BEGIN",
    "a transaction that only reads": "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY",
    "a comment before it": "/* harmless */ -- really\n SET work_mem = '9MB'",
    "a code block": "DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$",
    "no prepared statements": "DEALLOCATE ALL",
    "nothing at all": "DISCARD ALL",
}

Way = Callable[[Database], Awaitable[Any]]


def _text(sql: str) -> Way:
    async def way(db: Database) -> None:
        for _ in range(3):  # the first by SQLAlchemy, the others by the short way
            try:
                await db.async_find_by_sql(sql)
            except (ResourceClosedError, DBAPIError, QueryError):
                """A command has no rows, a table can't be made twice."""

    return way


def _written(statement: Any) -> Way:
    async def way(db: Database) -> None:
        async with db.transaction() as transaction:
            await transaction.execute(statement)

    return way


def _loaded(*statements: Any) -> Way:
    async def way(db: Database) -> None:
        for statement in statements * 3:
            await db.load_async(statement)

    return way


async def _cursor(db: Database) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(text("DECLARE mine CURSOR WITH HOLD FOR SELECT 1"))


async def _raw_cursor(db: Database) -> None:
    def work(session: Session) -> None:
        session.connection().connection.cursor().execute("SET work_mem = '9MB'")

    async with db.transaction() as transaction:
        await transaction.run_sync(work)


async def _rolled_back(db: Database) -> None:
    async with db.transaction() as transaction:
        await transaction.execute(text("SELECT pg_advisory_lock(4711)"))
        transaction.roll_back()


async def _failed(db: Database) -> None:
    with pytest.raises(DBAPIError, match="division by zero"):
        await db.async_find_by_sql("SELECT pg_advisory_lock(4711), 1 / 0")


async def _cancelled(db: Database) -> None:
    promise = db.async_find_by_sql("SELECT pg_advisory_lock(4711), pg_sleep(60)")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await promise


async def _counted(db: Database) -> None:
    await db.async_count(select(LEAVING), where=LEAVING.c.name == "")


async def _grouped(db: Database) -> None:
    await db.async_maximum(func.sessions.leave(PLAIN.c.name))


async def _listened(db: Database) -> None:
    def look(_connection: Any, cursor: Any, *_: Any) -> None:
        cursor.execute("SET work_mem = '9MB'")

    event.listen(Engine, "before_cursor_execute", look)
    try:
        await db.load_async(select(Plain))
    finally:
        event.remove(Engine, "before_cursor_execute", look)


OTHERS: dict[str, Way] = {
    "a function of PostgreSQL's": _loaded(select(func.set_config("work_mem", "9MB", False))),
    "a function of the author's": _loaded(select(func.sessions.leave(PLAIN.c.name))),
    "a function in a condition": _loaded(select(PLAIN.c.id).where(func.sessions.leave("") != "")),
    "a function in an order": _loaded(select(PLAIN.c.id).order_by(func.sessions.leave(PLAIN.c.name))),
    "a function in a part that is text": _loaded(select(text("sessions.leave('')"))),
    "a function in a column that is text": _loaded(select(literal_column("sessions.leave('')"))),
    "a function in a prefix": _loaded(select(PLAIN.c.id).prefix_with("set_config('work_mem', '9MB', false),")),
    "a function in an operator": _loaded(select(PLAIN.c.id.op("OPERATOR(sessions.|@|)")(PLAIN.c.name))),
    "a column that is a function": _loaded(select(column("leave", Text)).select_from(text("sessions.leave('')"))),
    "a quoted function": _loaded(select(literal_column('"sessions"."leave"(\'\')'))),
    "a domain": _loaded(select(cast(PLAIN.c.name, String).op("::")(literal_column("sessions.leaving_domain")))),
    "a lock of the session": _loaded(select(func.pg_advisory_lock(4711))),
    "a view": _loaded(select(LEAVING)),
    "a view of a view": _loaded(select(DEEPER)),
    "a count of a view": _counted,
    "an aggregate": _grouped,
    "a policy": _loaded(select(GUARDED.c.id)),
    "a property of an entity": _loaded(select(Calculated)),
    "the default of a column": _written(insert(KEPT).values(id=1)),
    "a sequence": _written(insert(KEPT).values(name="x")),
    "a trigger": _written(insert(WATCHED).values(id=1)),
    "a text in a transaction": _written(text("SET work_mem = '9MB'")),
    "a lock, rolled back": _rolled_back,
    "a lock, and an error": _failed,
    "a lock, and a cancel": _cancelled,
    "a cursor that is held": _cursor,
    "a cursor of the driver's": _raw_cursor,
    "a listener to all engines": _listened,
}

WAYS = {name: _text(sql) for name, sql in TEXTS.items()} | OTHERS


@pytest_asyncio.fixture
async def sessions(server: Server) -> AsyncIterator[None]:
    await server.connection.execute(SCHEMA)
    yield
    await server.connection.execute(
        "DROP SCHEMA sessions CASCADE; DROP OWNED BY sessions_other; DROP ROLE sessions_other"
    )


@pytest.fixture
def sent(pool: DatabasePool) -> list[str]:
    """All that goes to the server on the pool's connections."""
    texts: list[str] = []

    def listen(connection: Any, _record: object) -> None:
        connection.driver_connection.add_query_logger(lambda record: texts.append(record.query))

    event.listen(pool.connections.engine.sync_engine, "connect", listen)
    return texts


async def looked(pool: DatabasePool) -> dict[str, Any]:
    """The only connection of the pool, and the state of its session, seen by another owner."""
    async with Database(pool, owner="looks", inline=True) as db:
        [pid] = await db.async_find_by_sql("SELECT pg_backend_pid()")
        [state] = await db.async_find_by_sql(STATE)
    assert pool.connections.idle == 1
    state = json.loads(state)
    return {"pid": pid, **state.pop("settings"), **state}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)}


@pytest.mark.parametrize("way", WAYS)
async def test_the_next_owner_finds_the_session_as_if_nobody_had_used_it(
    way: str, pool: DatabasePool, sessions: None, server: Server
) -> None:
    before = await looked(pool)
    async with Database(pool, owner="leaves", inline=True) as db:
        await WAYS[way](db)
    # With the job, its locks are gone, whether or not somebody takes the connection.
    assert await server.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = $1", before["pid"]) == []
    after = await looked(pool)
    assert differences(after, before) == {}
    async with Database(pool, owner="next", inline=True) as db:
        for _ in range(3):
            assert await db.async_pluck(PLAIN.c.id, where=PLAIN.c.id == 1) == [1]
        with pytest.raises(DBAPIError, match="not yet defined in this session"):
            await db.async_find_by_sql("SELECT lastval()")
        with pytest.raises(DBAPIError, match="does not exist"):
            await db.async_find_by_sql("SELECT FROM mine")


async def test_random_numbers_do_not_follow_from_anothers_seed(pool: DatabasePool) -> None:
    drawn = set()
    for _ in range(2):
        async with Database(pool, owner="seeds", inline=True) as db:
            await db.async_find_by_sql("SELECT setseed(0.5)")
        async with Database(pool, owner="draws", inline=True) as db:
            drawn.add(tuple(await db.async_find_by_sql("SELECT random()")))
    assert len(drawn) == 2


async def test_what_is_left_is_the_jobs_own_while_it_runs_and_others_get_another_connection(
    pool: DatabasePool, sent: list[str]
) -> None:
    async with Database(pool, owner="one", inline=True) as one, Database(pool, owner="two", inline=True) as two:
        first, second = (
            one.async_find_by_sql("SELECT pg_backend_pid()"),
            two.async_find_by_sql("SELECT pg_sleep(0.05)"),
        )
        await asyncio.gather(first, second)
        await one.async_find_by_sql("SELECT set_config('work_mem', '9MB', false)")
        await two.load_async(select(1))
        assert await one.async_find_by_sql("SELECT pg_backend_pid()") == await first
        assert await one.async_find_by_sql("SHOW work_mem") == ["9MB"]
        assert not any("RESET ALL" in text for text in sent)
    assert sum("RESET ALL" in text for text in sent) == 2


@pytest.mark.parametrize(
    "statement",
    [
        select(PLAIN),
        select(Plain),
        select(func.count(), func.max(PLAIN.c.name)).where(PLAIN.c.id.in_([1, 2])),
        select(func.lower(PLAIN.c.name), func.now(), func.random(), func.gen_random_uuid()),
        select(PLAIN.c.name + "x", PLAIN.c.id * 2).order_by(PLAIN.c.id.desc()).limit(1),
        select(cast(PLAIN.c.id, Text), literal_column("1.5"), literal_column("'it''s'")),
        select(PLAIN.c.id).union(select(HARMLESS.c.id)),
        select(PLAIN.alias("p").c.id, func.row_number().over(order_by=literal_column("1"))),
        select(select(PLAIN.c.id).cte("those")),
        select(func.jsonb_agg(PLAIN.c.name), func.extract("epoch", func.now())),
        select(HARMLESS),
        select(SEARCHED.c.name),
        select(TENANTS),
        select(func.pg_advisory_xact_lock(1)),
    ],
    ids=lambda statement: str(statement).replace("\n", "")[:40],
)
async def test_what_leaves_nothing_costs_nothing(
    statement: Any, pool: DatabasePool, sessions: None, sent: list[str]
) -> None:
    async with Database(pool, owner="first", inline=True) as db:
        await db.load_async(statement)
    # Now the server has been asked about its words.
    sent.clear()
    for number in range(3):
        async with Database(pool, owner=str(number), inline=True) as db:
            await db.load_async(statement)
            async with db.transaction():
                await db.load_async(statement)
    assert not [text for text in sent if "RESET" in text or "pg_proc" in text]
    assert len([text for text in sent if text.startswith("SELECT") or text.startswith("WITH")]) <= 9


async def test_a_view_in_the_place_of_a_table_is_noticed_after_a_while(
    pool: DatabasePool, sessions: None, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(pool, owner="first", inline=True) as db:
        await db.load_async(select(HARMLESS.c.name))
    before = await looked(pool)
    await server.connection.execute(
        "CREATE OR REPLACE VIEW sessions.harmless AS"
        " SELECT id, set_config('work_mem', '9MB', false) AS name, '' AS memory FROM sessions.plain"
    )
    later = asyncio.get_running_loop().time() + 61
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    async with Database(pool, owner="leaves", inline=True) as db:
        await db.load_async(select(HARMLESS.c.name))
    monkeypatch.undo()
    assert differences(await looked(pool), before) == {}


async def test_a_text_that_leaves_a_transaction_open_is_refused_and_undone(
    pool: DatabasePool, flights: None, server: Server
) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        with pytest.raises((QueryError, ResourceClosedError)):
            await db.async_find_by_sql("BEGIN")
        [(state,)] = await server.fetch("SELECT state FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %'")
        assert state == "idle"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "END"])
async def test_a_text_that_ends_the_transaction_around_it_is_refused(
    end: str, pool: DatabasePool, sessions: None, server: Server
) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        with pytest.raises(QueryError, match="a text has ended the transaction"):
            async with db.transaction() as transaction:
                await transaction.execute(text(end))
        assert await db.async_pluck(PLAIN.c.id, where=PLAIN.c.id == 1) == [1]


async def test_no_more_connections_than_places_while_some_are_reset(postgres_url: str, server: Server) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1, own_connections=1)
    most = 0

    async def job(number: int) -> None:
        async with Database(pool, owner=str(number)) as db:
            await asyncio.gather(*(db.async_find_by_sql("SELECT pg_advisory_lock_shared(1)") for _ in range(3)))

    async def watch() -> None:
        nonlocal most
        while not jobs.done():
            most = max(most, await server.connections())

    jobs = asyncio.gather(*map(job, range(20)))
    await asyncio.gather(jobs, watch())
    await pool.close()
    assert most == 2


async def test_a_connection_that_can_not_be_reset_is_closed(pool: DatabasePool, server: Server) -> None:
    async with Database(pool, owner="leaves", inline=True) as db:
        [pid] = await db.async_find_by_sql("SELECT pg_backend_pid()")
        await server.fetch("SELECT pg_terminate_backend($1, 5000)", pid)
    async with Database(pool, owner="next", inline=True) as db:
        assert await db.async_find_by_sql("SELECT pg_backend_pid()") != [pid]


async def test_what_the_author_sets_on_every_new_connection_holds_for_every_owner(pool: DatabasePool) -> None:
    def set_up(connection: Any, _record: object) -> None:
        connection.cursor().execute("SET work_mem = '7MB'")
        connection.commit()

    event.listen(Pool, "connect", set_up)
    try:
        for number in range(3):
            async with Database(pool, owner=str(number), inline=True) as db:
                assert await db.async_find_by_sql("SHOW work_mem") == ["7MB"]
                await db.async_find_by_sql("SELECT set_config('work_mem', '9MB', false)")
    finally:
        event.remove(Pool, "connect", set_up)


async def test_an_error_of_the_servers_costs_no_further_round_trip(pool: DatabasePool, sent: list[str]) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        with pytest.raises(DBAPIError, match="division by zero"):
            await db.async_find_by_sql("SELECT 1 / 0")
        assert await db.async_find_by_sql("SELECT 2") == [2]
        assert sent == [text for text in sent if text != "SELECT"]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (
            "SELECT a.b, 'x''set_config(' FROM \"T\"\"x\" WHERE B->>'c' = $1::VARCHAR",
            'select a b from T"x where ->> = varchar',
        ),
        ("(SELECT 1) UNION VALUES (1.5e10)", "select union values"),
        ("WITH x AS (SELECT - - 1) SELECT x[1:2]", "with x as select -"),
        ("SELECT ÉT, " + "n" * 70, "select Ét " + "n" * 63),
    ],
)
def test_a_statement_is_known_by_its_words(sql: str, words: str) -> None:
    assert words_in(sql) == frozenset(words.split())


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "SELECT 1; SET x = 1",
            "SELECT E'\\'' || f()",
            "SELECT 'a\\'",
            "SELECT $$a$$",
            "SELECT U&'a'",
            'SELECT U&"a"',
        ),
        *("SELECT 1 -- x", "SELECT /*+ x */ 1", "SELECT N'a'", "SELECT 'open", 'SELECT "open', "SET x = 1", ""),
        *("WITH x AS (DELETE FROM y) SELECT 1", "SELECT 1 INTO x", "INSERT INTO x VALUES (1)", "EXPLAIN SELECT 1"),
        *("SELECT x FROM y FOR UPDATE", "SELECT {a}", "SELECT a\x00"),
    ],
)
def test_what_can_not_be_taken_apart_with_certainty_may_be_anything(sql: str) -> None:
    assert words_in(sql) is None


@given(st.text("aE'\"$\\-/*;&U (),.=\n1", max_size=30))
def test_no_name_outside_of_strings_escapes(rest: str) -> None:
    """However strings and names are quoted before it, a call is seen, or the whole is taken for unknown."""
    words = words_in(f"SELECT {rest} , set_config(")
    strings = f"SELECT {rest} ".replace("''", "").count("'") % 2 or rest.replace('""', "").count('"') % 2
    assert words is None or "set_config" in words or strings or "'" in rest or '"' in rest


def test_words_are_forgotten_in_time_and_bounded() -> None:
    async def check() -> None:
        catalog = Catalog()
        asked: list[set[str]] = []

        async def ask(_query: str, words: list[str]) -> list[tuple[str]]:
            asked.append(set(words))
            return [(word,) for word in words if word == "bad"]

        good, bad = frozenset({"select", "good"}), frozenset({"select", "bad"})
        assert not catalog.harmless(good, 0)
        await catalog.learn(ask, [good, bad])
        await catalog.learn(ask, [good])
        assert asked == [{"select", "good", "bad"}]
        assert (catalog.harmless(good, 59), catalog.harmless(bad, 59)) == (True, False)
        assert not catalog.harmless(good, 61)
        await catalog.learn(ask, [good])
        assert asked[1:] == [{"select", "good", "bad"}]
        for number in range(30):
            await catalog.learn(ask, [frozenset({f"{number}-{word}" for word in range(1000)})])
        assert len(catalog._harmless) <= 10_000

    asyncio.run(check())
