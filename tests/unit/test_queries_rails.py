"""Side by side with Rails: what `docs/queries.md` says of each behaviour and is shown nowhere else."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import Column, ForeignKey, Table, event, false, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pushsvc import Service, Settings
from pushsvc.domain import Json
from pushsvc.errors import QueryError, RecordNotFound, TransactionOpen
from pushsvc.queries import Database, DatabasePool, Promise

from .queries_support import Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("posts")


class Base(DeclarativeBase):
    pass


tagged = Table(
    "rails_tagged",
    Base.metadata,
    Column("post_id", ForeignKey("rails_posts.id"), primary_key=True),
    Column("tag", ForeignKey("rails_tags.name"), primary_key=True),
)


class Author(Base):
    __tablename__ = "rails_authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    posts: Mapped[list[Post]] = relationship(back_populates="author", order_by="Post.id")


class Tag(Base):
    __tablename__ = "rails_tags"

    name: Mapped[str] = mapped_column(primary_key=True)


class Post(Base):
    __tablename__ = "rails_posts"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("rails_authors.id"))
    author: Mapped[Author] = relationship(back_populates="posts")
    comments: Mapped[list[Comment]] = relationship(order_by="Comment.number")
    tags: Mapped[list[Tag]] = relationship(secondary=tagged, order_by="Tag.name")


class Comment(Base):
    __tablename__ = "rails_comments"

    post_id: Mapped[int] = mapped_column(ForeignKey("rails_posts.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    likes: Mapped[int | None]


TABLES = """
DROP TABLE IF EXISTS rails_tagged, rails_tags, rails_comments, rails_posts, rails_authors;
CREATE TABLE rails_authors (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE rails_posts (id int PRIMARY KEY, title text NOT NULL, author_id int NOT NULL REFERENCES rails_authors);
CREATE TABLE rails_comments (
    post_id int REFERENCES rails_posts, number int, likes int, PRIMARY KEY (post_id, number)
);
CREATE TABLE rails_tags (name text PRIMARY KEY);
CREATE TABLE rails_tagged (post_id int REFERENCES rails_posts, tag text REFERENCES rails_tags);
INSERT INTO rails_authors VALUES (1, 'Ann'), (2, 'Ben');
INSERT INTO rails_posts VALUES (1, 'first', 1), (2, 'second', 1), (3, 'third', 2);
INSERT INTO rails_comments VALUES (1, 1, 5), (1, 2, NULL), (3, 1, 7);
INSERT INTO rails_tags VALUES ('a'), ('b');
INSERT INTO rails_tagged VALUES (1, 'a'), (1, 'b'), (2, 'b');
"""

NOTHING = Post.id.in_([])
NEW = insert(Post).values(id=4, title="fourth", author_id=2)


@pytest_asyncio.fixture
async def posts(server: Server) -> None:
    """Three posts of two authors, with their comments and tags."""
    await server.connection.execute(TABLES)


@pytest_asyncio.fixture
async def service(postgres_url: str) -> AsyncIterator[Service]:
    databases = {"primary": postgres_url, "replica": postgres_url}
    made = Service(settings=Settings.from_env({}, database_url=postgres_url), databases=databases)
    try:
        yield made
    finally:
        await made.close()


def everything(db: Database, where: Any = None) -> dict[str, Promise[Any]]:
    """Each method of a Database that asks something, by its name, and its promise."""
    narrowed = select(Post) if where is None else select(Post).where(where)
    ids = narrowed.with_only_columns(Post.id)
    return {
        "load_async": db.load_async(Post, where=where),
        "preload_async": db.preload_async([], Post.author),
        "async_count": db.async_count(Post, where=where),
        "async_sum": db.async_sum(Post.id, where=where),
        "async_minimum": db.async_minimum(ids),
        "async_maximum": db.async_maximum(Post.id, where=where),
        "async_average": db.async_average(ids),
        "async_exists": db.async_exists(narrowed),
        "async_pluck": db.async_pluck(Post.title, where=where),
        "async_pick": db.async_pick(Post.title, where=where),
        "async_ids": db.async_ids(Post, where=where),
        "async_first": db.async_first(Post, where=where),
        "async_find": db.async_find(Post, [] if where is not None else [1, 2]),
        "async_find_by": db.async_find_by(Post, where, title="first"),
        "async_find_by_sql": db.async_find_by_sql(Post, "SELECT * FROM rails_posts"),
        "async_count_by_sql": db.async_count_by_sql("SELECT count(*) FROM rails_posts"),
        "async_json": db.async_json(Post, where=where),
    }


# What is asked


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("where", [None, NOTHING, false()], ids=["rows", "IN ()", "false"])
@pytest.mark.parametrize("transaction", [False, True])
async def test_every_method_gives_a_promise_wherever_and_whatever_it_asks(
    pool: DatabasePool, inline: bool, where: Any, transaction: bool
) -> None:
    async with Database(pool, owner="job", inline=inline) as db, AsyncExitStack() as stack:
        if transaction:
            await stack.enter_async_context(db.transaction())
        promises = everything(db, where)
        assert all(type(promise) is Promise for promise in promises.values())
        assert type(db.async_count(select(Post).limit(0))) is Promise
        await asyncio.gather(*promises.values())
    methods = {name for name, _ in inspect.getmembers(Database, inspect.isfunction) if "async" in name.strip("_")}
    assert promises.keys() == {name for name in methods if not name.startswith("_")}


async def test_what_can_not_match_is_complete_from_the_start_and_asks_nothing(
    pool: DatabasePool, db: Database
) -> None:
    promises = everything(db, NOTHING)
    asked = {"async_find_by_sql", "async_count_by_sql"}
    empty = {name: promise for name, promise in promises.items() if name not in asked}
    assert {promise.status for promise in empty.values()} == {"complete"}
    assert {name: await promise for name, promise in empty.items()} == {
        "load_async": [], "preload_async": [], "async_pluck": [], "async_ids": [], "async_find": [],
        "async_count": 0, "async_sum": 0,
        "async_minimum": None, "async_maximum": None, "async_average": None,
        "async_exists": False, "async_pick": None, "async_first": None, "async_find_by": None,
        "async_json": Json(b"[]"),
    }  # fmt: skip
    grouped: Any = select(Post.author_id).group_by(Post.author_id).where(NOTHING)
    by_author: Any = await db.async_count(grouped)
    assert by_author == {}
    assert await db.async_count(select(Post).limit(0)) == 0
    assert len(db.queries) == len(asked)
    assert pool.counters["empty"] == len(empty) - len(["preload_async"]) + 2


async def test_pluck_pick_and_ids_give_values_or_rows_and_none_of_nothing(db: Database) -> None:
    posts = select(Post).order_by(Post.id)
    assert await db.async_pluck(posts, Post.title) == ["first", "second", "third"]
    rows = await db.async_pluck(posts, Post.id, Post.title)
    assert rows == [(1, "first"), (2, "second"), (3, "third")]
    assert rows[0].title == "first"
    assert await db.async_pick(posts, Post.title) == "first"
    assert await db.async_pick(posts, Post.id, Post.title) == (1, "first")
    assert await db.async_pick(Post.title, where=Post.id == 9) is None
    assert await db.async_ids(posts) == [1, 2, 3]
    assert await db.async_ids(select(Comment).order_by(Comment.post_id, Comment.number)) == [(1, 1), (1, 2), (3, 1)]


async def test_finders_that_rails_has_in_turn_only(db: Database) -> None:
    first, found, many = db.async_first(Post), db.async_find(Post, 2), db.async_find(Post, [3, 1])
    none, exists = db.async_find_by(Post, title="nothing"), db.async_exists(Post, where=Post.id > 2)
    assert ((await first).id, (await found).title) == (1, "second")  # type: ignore[union-attr]
    assert [post.id for post in await many] == [3, 1]
    assert (await none, await exists) == (None, True)
    with pytest.raises(RecordNotFound, match="there is no Post 9"):
        await db.async_find(Post, [1, 9])


async def test_a_sql_text_needs_no_model_and_takes_parameters_by_name(db: Database) -> None:
    text = "SELECT * FROM rails_posts WHERE author_id = :author ORDER BY id"
    entities, rows = db.async_find_by_sql(Post, text, author=1), db.async_find_by_sql(text, {"author": 1})
    count = db.async_count_by_sql("SELECT count(*) FROM rails_posts WHERE id IN :ids", ids=[1, 2, 9])
    assert [(type(post), post.title) for post in await entities] == [(Post, "first"), (Post, "second")]
    assert await rows == [(1, "first", 1), (2, "second", 1)]
    assert await count == 2


# Promises


async def test_an_error_tells_on_which_line_its_query_was_asked_for(db: Database) -> None:
    asked = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    promise = db.async_count_by_sql("SELECT 1 / 0")
    with pytest.raises(DBAPIError, match="division by zero") as raised:
        await promise
    [note] = raised.value.__notes__
    here = test_an_error_tells_on_which_line_its_query_was_asked_for.__qualname__
    assert note == f"SQL Count, asked for in {here}, {__file__}:{asked}"


async def test_a_promise_tells_whether_it_is_there_without_waiting(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1))
        assert (promise.status, promise.settled) == ("running", False)
        waiting = [db.load_async(behind(1)) for _ in range(4)][-1]
        assert waiting.status == "pending"
        await open_gate()
        await until(lambda: promise.settled)
    assert promise.status == "complete"
    await waiting


async def test_what_follows_an_answer_runs_once_for_all_that_follows_it(db: Database) -> None:
    calls: list[str] = []

    def shout(titles: list[str]) -> list[str]:
        calls.append("shout")
        return [title.upper() for title in titles]

    shouted = db.async_pluck(select(Post.title).order_by(Post.id)).then(shout)
    first, last = shouted.then(lambda titles: titles[0]), shouted.then(lambda titles: titles[-1])
    assert (await first, await last, len(await shouted), calls) == ("FIRST", "THIRD", 3, ["shout"])


async def test_equal_queries_run_once_while_they_are_on_their_way_and_again_later(
    db: Database, pool: DatabasePool, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    one, other = db.async_count(Post), db.async_count(Post)
    assert one is not other
    assert (await one, await other, len(db.queries), pool.counters["shared"]) == (3, 3, 1, 1)
    await server.fetch("INSERT INTO rails_posts VALUES (4, 'fourth', 2)")
    assert await one == 3, "an answer stays what it was"
    assert (await db.async_count(Post), len(db.queries)) == (4, 2)
    shapes = [re.sub(r"\d+\.\d", "0.0", message) for message in caplog.messages]
    assert shapes == [
        "ASYNC Post Count (0.0ms) (db time 0.0ms) [queued 0.0ms]",
        "SHARED Post Count (0.0ms) (db time 0.0ms)",
        "ASYNC Post Count (0.0ms) (db time 0.0ms) [queued 0.0ms]",
    ]
    draws = [db.load_async(select(func.random())) for _ in range(2)]
    assert await draws[0] != await draws[1], "a function that may answer anything is asked each time"


_request: ContextVar[str] = ContextVar("request")


async def test_a_query_runs_in_the_context_of_the_job_that_asked_for_it(postgres_url: str) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    seen: list[tuple[str, str]] = []

    def before(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "rails_posts" in statement:
            seen.append((_request.get("none"), statement.split("'")[1]))

    event.listen(pool.connections.engine.sync_engine, "before_cursor_execute", before)

    async def job(name: str) -> list[list[Post]]:
        _request.set(name)
        async with Database(pool, owner=name, tags={"job": name}) as db:
            # With one place, each is started by the end of another job's, whose context is another.
            promises = [db.load_async(select(Post).where(Post.id > number)) for number in range(2)]
            await until(lambda: all(promise.settled for promise in promises))
            return [await promise for promise in promises]

    try:
        await asyncio.gather(job("one"), job("two"))
    finally:
        await pool.close()
    assert sorted(seen) == [("one", "one")] * 2 + [("two", "two")] * 2


# The executor and the connections


async def test_each_database_has_an_executor_of_its_own(service: Service, server: Server) -> None:
    async with server.gate(1), service.queries() as db, service.queries(database="replica") as replica:
        blocked = [db.load_async(behind(1)) for _ in range(20)]
        await server.until_running(4)
        assert await replica.async_count(Post) == 3
        assert [record.mode for record in replica.queries] == ["async"]
        for promise in blocked:
            promise.cancel()


async def test_under_saturation_each_query_still_has_its_line_and_its_reason(
    db: Database, pool: DatabasePool, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(20)]
        await server.until_running(4)
        full = [db.async_count(Post, where=Post.id > number) for number in range(3)]
        assert [promise.status for promise in full] == ["pending"] * 3, "asking does not wait"
        assert [await promise for promise in full] == [3, 2, 1]
        for promise in blocked:
            promise.cancel()
    shapes = [re.sub(r"\d+\.\d", "0.0", message) for message in caplog.messages]
    assert shapes == ["Post Count (0.0ms) [foreground: queue_full]"] * 3
    assert pool.counters["foreground:queue_full"] == 3
    assert pool.counters["async"] == 4


def test_a_pool_has_a_connection_for_each_place_of_both_kinds(postgres_url: str) -> None:
    assert DatabasePool(postgres_url).size == 10 + 4 == 14


# Relationships


async def test_preloads_start_when_the_rows_are_there_and_run_side_by_side(
    db: Database, server: Server, postgres_url: str
) -> None:
    async def held() -> list[str]:
        rows = await server.fetch(
            "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %' AND wait_event_type = 'Lock'"
        )
        return [row["query"] for row in rows]

    async def three_are_held() -> bool:
        return len(await held()) == 3

    locker = await asyncpg.connect(postgres_url)
    try:
        locking = locker.transaction()
        await locking.start()
        await locker.execute("LOCK TABLE rails_authors, rails_comments, rails_tags")
        promise = db.load_async(select(Post).order_by(Post.id), preload=[Post.author, Post.comments, Post.tags])
        await until(three_are_held)  # and nobody has awaited anything
        assert not promise.settled
        await locking.rollback()
    finally:
        await locker.close()
    first, second, third = await promise
    assert [post.author.name for post in (first, second, third)] == ["Ann", "Ann", "Ben"]
    assert [[comment.likes for comment in post.comments] for post in (first, second, third)] == [[5, None], [], [7]]
    assert [[tag.name for tag in post.tags] for post in (first, second, third)] == [["a", "b"], ["b"], []]
    assert {(record.mode, record.status) for record in db.queries} == {("async", "complete")}


async def test_what_is_related_to_one_that_is_there_is_loaded_and_kept(db: Database) -> None:
    ann = await db.async_find(Author, 1)
    posts = db.load_async(Author.posts, of=ann)
    assert [post.title for post in await posts] == ["first", "second"]
    assert [post.title for post in ann.posts] == ["first", "second"]
    assert await db.load_async(Author.posts, of=ann) is ann.posts
    assert [record.name for record in db.queries] == ["Author Load", "Author posts Preload"]


# Transactions


async def test_in_a_transaction_everything_asked_runs_in_it_and_sees_its_writes(
    pool: DatabasePool, server: Server
) -> None:
    async with Database(pool, owner="job") as db:
        async with db.transaction() as transaction:
            before = db.async_count(Post)
            await transaction.execute(NEW)
            after, titles = db.async_count(Post), db.async_pluck(Post.title, where=Post.id > 3)
            assert (await after, await before, await titles) == (4, 3, ["fourth"])
            assert (await server.fetch("SELECT count(*) FROM rails_posts"))[0][0] == 3
        assert {(record.mode, record.reason) for record in db.queries} == {("foreground", "transaction")}
        assert await db.async_count(Post) == 4
        assert db.queries[-1].mode == "async"


async def test_a_transaction_may_refuse_what_could_run_beside_it(db: Database) -> None:
    async with db.transaction("raise") as transaction:
        with pytest.raises(TransactionOpen, match="Post Count was asked for in a transaction"):
            db.async_count(Post)
        await transaction.execute(NEW)
    assert await db.async_count(Post) == 4


async def test_parallel_queries_may_see_one_state_of_the_database(db: Database, server: Server) -> None:
    async with db.transaction("snapshot"):
        async with server.gate(1) as open_gate:
            held = [db.load_async(behind(1, number)) for number in range(2)]
            await server.until_running(2)
            await server.fetch("INSERT INTO rails_posts VALUES (4, 'fourth', 2)")
            count, highest = db.async_count(Post), db.async_maximum(Post.id)
            assert (await count, await highest) == (3, 3)
            await open_gate()
            assert [await promise for promise in held] == [[0], [1]]
        assert {record.mode for record in db.queries} == {"async"}
    assert await db.async_count(Post) == 4


async def test_a_transaction_is_undone_when_something_in_it_fails(db: Database) -> None:
    async def failing_query() -> None:
        async with db.transaction() as transaction:
            await transaction.execute(NEW)
            db.async_count_by_sql("SELECT 1 / 0")

    async def failing_block() -> None:
        async with db.transaction():
            async with db.transaction() as savepoint:
                await savepoint.execute(NEW)
            raise RuntimeError

    with pytest.raises(QueryError, match="the transaction was rolled back"):
        await failing_query()
    with pytest.raises(RuntimeError):
        await failing_block()
    assert await db.async_count(Post) == 3
