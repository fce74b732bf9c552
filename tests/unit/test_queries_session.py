"""Every method against `Session.execute`: forms of statements × methods × what may change an answer.

The reference is a Session of SQLAlchemy's own on another engine. What a method has to give is made of that one's rows
in Python. Where a method refuses a statement, it says so with QueryError, and that is an answer too; how many there
are of each is counted, so that it can't be that nothing is compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    Numeric,
    Row,
    Select,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    column,
    delete,
    event,
    exists,
    extract,
    false,
    func,
    insert,
    intersect,
    literal,
    select,
    text,
    true,
    type_coerce,
    union,
    union_all,
    update,
)
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    aliased,
    contains_eager,
    defer,
    joinedload,
    load_only,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
    subqueryload,
    with_loader_criteria,
)

from pushsvc.errors import QueryError, RecordNotFound, SettingsError
from pushsvc.queries import Database, DatabasePool
from pushsvc.service import Service
from pushsvc.settings import Settings


class Base(DeclarativeBase):
    pass


class Shouted(TypeDecorator[str]):
    """A type of the author's own: letters are upper outside, and lower in the table."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()


tags_of_books = Table(
    "like_tags_of_books",
    Base.metadata,
    Column("book_id", ForeignKey("like_books.id"), primary_key=True),
    Column("tag_id", ForeignKey("like_tags.id"), primary_key=True),
    Column("place", Integer),
)


class Author(Base):
    __tablename__ = "like_authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Shouted)
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Tag(Base):
    __tablename__ = "like_tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    hidden: Mapped[bool]


class Book(Base):
    __tablename__ = "like_books"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "book"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    nick: Mapped[str] = mapped_column("title")
    deleted: Mapped[bool]
    score: Mapped[int | None]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    author_id: Mapped[int] = mapped_column(ForeignKey("like_authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")
    tags: Mapped[list[Tag]] = relationship(secondary=tags_of_books, order_by=tags_of_books.c.place)


class Novel(Book):
    __mapper_args__ = {"polymorphic_identity": "novel"}  # noqa: RUF012


SCHEMA = "like_tenant"
ROWS = """
DROP SCHEMA IF EXISTS like_tenant CASCADE; CREATE SCHEMA like_tenant;
DROP TABLE IF EXISTS like_tags_of_books, like_books, like_tags, like_authors;
CREATE TABLE like_authors (id int PRIMARY KEY, name text);
CREATE TABLE like_tags (id int PRIMARY KEY, hidden bool);
CREATE TABLE like_books (id int PRIMARY KEY, kind text, title text, deleted bool, score bigint, price numeric(10, 2),
    author_id int REFERENCES like_authors);
CREATE TABLE like_tags_of_books (book_id int, tag_id int, place int, PRIMARY KEY (book_id, tag_id));
CREATE TABLE like_tenant.like_authors (LIKE like_authors); CREATE TABLE like_tenant.like_tags (LIKE like_tags);
CREATE TABLE like_tenant.like_books (LIKE like_books);
CREATE TABLE like_tenant.like_tags_of_books (LIKE like_tags_of_books);
INSERT INTO like_authors SELECT i, 'a' || i FROM generate_series(1, 4) i;
INSERT INTO like_tags SELECT i, i = 2 FROM generate_series(1, 3) i;
INSERT INTO like_books SELECT i, CASE i % 4 WHEN 1 THEN 'novel' ELSE 'book' END, 't' || i, i > 8,
    nullif(i % 5, 0), i * 1.25, 1 + i % 3 FROM generate_series(1, 11) i;
INSERT INTO like_tags_of_books SELECT b, t, (7 * b + 5 * t) % 11 FROM generate_series(1, 11) b,
    generate_series(1, 3) t WHERE (b + t) % 3 > 0;
INSERT INTO like_tenant.like_authors SELECT i, 'b' || i FROM generate_series(1, 2) i;
INSERT INTO like_tenant.like_tags VALUES (1, false), (2, true);
INSERT INTO like_tenant.like_books SELECT i, 'book', 'u' || i, i = 3, i, i, 1 + i % 2 FROM generate_series(3, 7) i;
INSERT INTO like_tenant.like_tags_of_books SELECT b, 1 + b % 2, b FROM generate_series(3, 7) b;
"""


# Forms

other = aliased(Book)
newest = select(Book).order_by(Book.id.desc()).limit(6).subquery()
newest_book = aliased(Book, newest)
scored = select(Book.id, Book.score).where(Book.score > 1).cte("scored")
books = Book.__table__

FORMS: dict[str, Callable[[], Any]] = {
    "entity": lambda: select(Book),
    "where": lambda: select(Book).where(Book.score > 1),
    "order": lambda: select(Book).order_by(Book.nick.desc()),
    "limit": lambda: select(Book).order_by(Book.id).limit(5).offset(2),
    "fetch": lambda: select(Book).order_by(Book.id).fetch(4),
    "distinct": lambda: select(Book).distinct(),
    "join": lambda: select(Book).join(Book.author),
    "join and where": lambda: select(Book).join(Book.author).where(Author.name == "A1"),
    "outer join": lambda: select(Book).outerjoin(Book.tags).where(Tag.id.is_(None)),
    "join on": lambda: select(Author).join(Book, (Book.author_id == Author.id) & (Book.score == 1)),
    "in a subquery": lambda: select(Book).where(Book.author_id.in_(select(Author.id).where(Author.id > 1))),
    "any": lambda: select(Book).where(Book.tags.any(Tag.id == 3)),
    "has": lambda: select(Book).where(Book.author.has(Author.id == 2)),
    "not exists": lambda: select(Author).where(~exists().where(Book.author_id == Author.id)),
    "joinedload": lambda: select(Book).options(joinedload(Book.author)),
    "joinedload of a collection": lambda: select(Book).options(joinedload(Book.tags)),
    "joinedload and limit": lambda: select(Book).options(joinedload(Book.tags)).order_by(Book.id).limit(3),
    "selectinload": lambda: select(Book).options(selectinload(Book.tags)),
    "selectinload of parents": lambda: select(Book).options(selectinload(Book.author)),
    "selectinload of two levels": lambda: select(Author).options(selectinload(Author.books).selectinload(Book.tags)),
    "subqueryload": lambda: select(Book).options(subqueryload(Book.tags)),
    "contains_eager": lambda: (
        select(Author).join(Author.books).options(contains_eager(Author.books)).order_by(Author.id, Book.id)
    ),
    "contains_eager of a parent": lambda: select(Book).join(Book.author).options(contains_eager(Book.author)),
    "load_only": lambda: select(Book).options(load_only(Book.nick)),
    "defer": lambda: select(Book).options(defer(Book.price)),
    "other columns": lambda: undeleted(select(Book)).with_only_columns(Book.score),
    "alias": lambda: select(other),
    "alias of a subquery": lambda: select(newest_book),
    "subclass": lambda: select(Novel),
    "two entities": lambda: select(Book, Author).join(Book.author),
    "self join": lambda: select(Book, other).join(other, Book.id == other.id + 1),
    "entity and column": lambda: select(Book, Author.name).join(Book.author),
    "column": lambda: select(Book.id),
    "attribute named otherwise": lambda: select(Book.nick),
    "attributes": lambda: select(Book.nick, Book.score),
    "own type": lambda: select(Author.name),
    "distinct column": lambda: select(Book.score).distinct(),
    "column and limit": lambda: select(Book.score).order_by(Book.id).limit(4),
    "label": lambda: select(func.lower(Book.nick).label("small"), Book.id),
    "expression": lambda: select(Book.price * 2),
    "fraction": lambda: select(extract("epoch", func.make_interval(0, 0, 0, 0, 0, 0, Book.price)).label("seconds")),
    "window": lambda: select(Book.id, func.row_number().over(order_by=Book.score)),
    "scalar subquery": lambda: select(
        Author.id, select(func.count()).where(Book.author_id == Author.id).correlate(Author).scalar_subquery()
    ),
    "bundle": lambda: select(Bundle("pair", Book.id, Book.nick)),
    "group": lambda: select(Book.author_id).group_by(Book.author_id),
    "groups": lambda: select(Book.author_id, Book.deleted).group_by(Book.author_id, Book.deleted),
    "group and value": lambda: select(Book.author_id, Book.score).group_by(Book.author_id, Book.score),
    "having": lambda: select(Book.author_id).group_by(Book.author_id).having(func.count() > 3),
    "aggregate": lambda: select(func.max(Book.score)),
    "union of columns": lambda: union_all(select(Book.id), select(Author.id)),
    "union of entities": lambda: union(select(Book), select(Book).where(Book.score > 2)),
    "intersection": lambda: intersect(select(Book.id), select(Author.id)),
    "from a subquery": lambda: select(newest.c.id, newest.c.title),
    "from a CTE": lambda: select(scored.c.score).join(Book, Book.id == scored.c.id),
    "from a text": lambda: select(Book).from_statement(text("SELECT * FROM like_books WHERE id > 5")),
    "from a union": lambda: select(Book).from_statement(union_all(select(Book), select(Book))),
    "table": lambda: select(books),
    "column of a table": lambda: select(books.c.title, books.c.id),
    "text": lambda: text("SELECT id, title FROM like_books").columns(column("id", Integer), column("title")),
    "nothing": lambda: select(Book).where(false()),
    "in nothing": lambda: select(Book.id).where(Book.id.in_([])),
    "limit of none": lambda: select(Book).limit(0),
    "for update": lambda: select(Book).where(Book.id < 4).with_for_update(),
    "called": lambda: select(Book).where(Book.id > bindparam("least", callable_=lambda: 4, type_=Integer)),
    "constant": lambda: select(literal(1).label("one"), true()),
    "tags": lambda: select(Tag).where(Tag.id < 3),
}


# What may change an answer


def as_it_is(statement: Any) -> Any:
    return statement


@dataclass
class Way:
    """One way in which an answer is changed: of the statement, of all Sessions, of a class of them."""

    on: Callable[[Any], Any] = as_it_is
    listening: Callable[[], AbstractContextManager[Any]] = nullcontext
    session_class: type[Session] = Session


def undeleted(statement: Any) -> Any:
    return statement.options(
        with_loader_criteria(Book, Book.deleted == false()),
        with_loader_criteria(Tag, lambda tag: tag.hidden == false()),
    )


def undeleted_aliases(statement: Any) -> Any:
    return statement.options(with_loader_criteria(Book, Book.deleted == false(), include_aliases=True))


@contextmanager
def listening(target: Any, name: str, function: Any, **how: Any) -> Iterator[None]:
    event.listen(target, name, function, **how)
    try:
        yield
    finally:
        event.remove(target, name, function)


def narrow(state: ORMExecuteState) -> None:
    if state.is_select and hasattr(state.statement, "options"):
        state.statement = undeleted(state.statement)


def elsewhere(state: ORMExecuteState) -> None:
    state.update_execution_options(schema_translate_map={None: SCHEMA})


def only_when_told(state: ORMExecuteState) -> None:
    if state.execution_options.get("of_the_author"):
        narrow(state)


class Listened(Session):
    """A Session class with a listener of its own."""


class Overridden(Session):
    """A Session class that does it in its own way."""

    def execute(self, statement: Any, *arguments: Any, **how: Any) -> Any:
        return super().execute(
            undeleted(statement) if hasattr(statement, "options") else statement, *arguments, **how
        )


event.listen(Listened, "do_orm_execute", narrow)
maker = sessionmaker()
event.listen(maker, "do_orm_execute", narrow)


def price_in_cents(book: Any, _context: Any) -> None:
    if "price" in book.__dict__:
        book.cents = int(book.price * 100)


def with_a_condition_more(
    connection: Connection, clause: Any, multi: Any, params: Any, options: Any
) -> tuple[Any, Any, Any]:
    return clause.where(true()) if hasattr(clause, "where") else clause, multi, params


def hidden_in_sql(
    connection: Connection, cursor: Any, sql: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    return sql.replace("like_books.deleted", "NOT like_books.deleted"), parameters


WAYS: dict[str, Way] = {
    "nothing": Way(),
    "criteria": Way(undeleted),
    "criteria of aliases": Way(undeleted_aliases),
    "schemas": Way(lambda statement: statement.execution_options(schema_translate_map={None: SCHEMA})),
    "schemas and criteria": Way(
        lambda statement: undeleted(statement).execution_options(schema_translate_map={None: SCHEMA})
    ),
    "populate_existing": Way(lambda statement: statement.execution_options(populate_existing=True)),
    "yield_per": Way(lambda statement: statement.execution_options(yield_per=2)),
    "stream_results": Way(lambda statement: statement.execution_options(stream_results=True)),
    "listener of Session": Way(listening=lambda: listening(Session, "do_orm_execute", narrow)),
    "listener that moves": Way(listening=lambda: listening(Session, "do_orm_execute", elsewhere)),
    "listener of an option": Way(
        lambda statement: statement.execution_options(of_the_author=True),
        lambda: listening(Session, "do_orm_execute", only_when_told),
    ),
    "listener of loads": Way(listening=lambda: listening(Book, "load", price_in_cents, propagate=True)),
    "listener of engines": Way(
        listening=lambda: listening(Engine, "before_cursor_execute", hidden_in_sql, retval=True)
    ),
    "listener of clauses": Way(
        listening=lambda: listening(Engine, "before_execute", with_a_condition_more, retval=True)
    ),
    "class with a listener": Way(session_class=Listened),
    "class with ways of its own": Way(session_class=Overridden),
    "class of a sessionmaker": Way(session_class=maker.class_),
}


THOROUGHLY = {
    "nothing", "criteria", "schemas", "yield_per", "listener of Session", "class with ways of its own",
}  # fmt: skip
"""With all forms; the others, which are much like one of these, with every second."""


# The reference


class Reference:
    """Sessions of SQLAlchemy's own."""

    def __init__(self, engine: AsyncEngine, session_class: type[Session]) -> None:
        self.engine = engine
        self.session_class = session_class

    async def rows(self, statement: Any) -> list[Any]:
        """What the statement gives: objects or values where one thing is selected, else Row."""

        def execute(connection: Connection) -> list[Any]:
            with self.session_class(connection, autoflush=False, expire_on_commit=False) as session:
                result: Any = session.execute(statement)
                if len(result._metadata._keys) == 1:
                    result = result.scalars()
                if (getattr(result, "_real_result", None) or result)._unique_filter_state:
                    result = result.unique()
                rows = list(result.all())
                session.expunge_all()
                return rows

        async with self.engine.connect() as connection:
            return await connection.run_sync(execute)


def plain(thing: Any) -> Any:
    """Objects as their class and what is loaded of them, rows with their names: comparable to the innermost."""
    if isinstance(thing, Base):
        loaded = {key: plain(value) for key, value in vars(thing).items() if key != "_sa_instance_state"}
        return type(thing).__name__, loaded
    if isinstance(thing, Row):
        return thing._fields, [plain(each) for each in thing]
    if isinstance(thing, list | tuple):
        return [plain(each) for each in thing]
    if isinstance(thing, dict):
        return {key: plain(value) for key, value in thing.items()}
    return type(thing).__name__, thing


# Methods: how they are asked, and what they have to give where the statement gives these rows


Asked = Callable[[Database, Any], Any]
Expected = Callable[[Reference, Any, list[Any]], Any]


class NotComparable(Exception):
    """The method has no meaning for the statement, or its rows don't tell what it has to give."""


def selects_books(statement: Any) -> bool:
    described: Any = getattr(statement, "column_descriptions", ())
    return len(described) == 1 and described[0]["expr"] is Book and isinstance(statement, Select)


def of_books(make: Callable[[list[Any]], Any], *needed: str, unlimited: bool = False) -> Expected:
    """What is made of the books that the statement gives, if these attributes are loaded."""

    async def expected(reference: Reference, statement: Any, rows: list[Any]) -> Any:
        if not selects_books(statement) or any(name not in vars(row) for row in rows for name in needed):
            raise NotComparable
        # One more condition holds before a LIMIT; other columns are distinct on their own.
        if (needed and statement._distinct) or (unlimited and statement._has_row_limiting_clause):
            raise NotComparable
        return make(rows)

    return expected


def of_values(make: Callable[[list[Any]], Any]) -> Expected:
    """What is made of the numbers that the statement gives."""

    async def expected(reference: Reference, statement: Any, rows: list[Any]) -> Any:
        if any(not isinstance(row, int | float | Decimal | None) or isinstance(row, bool) for row in rows):
            raise NotComparable
        return make(rows)

    return expected


async def all_rows(reference: Reference, statement: Any, rows: list[Any]) -> Any:
    return rows


async def is_there(reference: Reference, statement: Any, rows: list[Any]) -> Any:
    return bool(rows)


async def how_many(reference: Reference, statement: Any, rows: list[Any]) -> Any:
    if getattr(statement, "_group_by_clauses", ()):
        counted = await reference.rows(statement.add_columns(func.count()))
        return {row[0] if len(row) == 2 else tuple(row[:-1]): row[-1] for row in counted}
    return len(rows)


async def first_row(reference: Reference, statement: Any, rows: list[Any]) -> Any:
    if selects_books(statement) and not statement._order_by_clauses:
        if statement._distinct or getattr(statement, "_limit_clause", None) is not None:
            raise NotComparable
        rows = sorted(rows, key=lambda book: book.id)
    elif not getattr(statement, "_order_by_clauses", ()):
        raise NotComparable
    return rows[0] if rows else None


def related(load: Any) -> Expected:
    async def expected(reference: Reference, statement: Any, rows: list[Any]) -> Any:
        if not selects_books(statement):
            raise NotComparable
        try:
            return await reference.rows(statement.options(load()))
        except InvalidRequestError:
            # It says already how these are to be loaded.
            raise NotComparable from None

    return expected


def present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def first(values: list[Any]) -> Any:
    return values[0] if values else None


def scores(rows: list[Any]) -> list[Any]:
    return present([book.score for book in rows])


def mean(values: list[Any]) -> float | None:
    return fmean(values) if values else None


def ordered(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, list) else value


async def as_json(reference: Reference, statement: Any, rows: list[Any]) -> Any:
    if not selects_books(statement) or any(rows and "price" not in vars(row) for row in rows):
        raise NotComparable
    return [[row.id, row.kind, row.nick, row.deleted, row.score, row.author_id] for row in rows]


def ask_json(db: Database, source: Any) -> Any:
    names = ("id", "kind", "title", "deleted", "score", "author_id")
    return db.async_json(source).then(
        lambda answer: [[row.get(name) for name in names] for row in json.loads(answer.data)]
    )


async def find_or_miss(db: Database, source: Any) -> Any:
    try:
        return await db.async_find(source, 9)
    except RecordNotFound:
        return None


METHODS: dict[str, tuple[Asked, Expected]] = {
    "load": (lambda db, source: db.load_async(source), all_rows),
    "count": (lambda db, source: db.async_count(source), how_many),
    "exists": (lambda db, source: db.async_exists(source), is_there),
    "first": (lambda db, source: db.async_first(source), first_row),
    "ids": (lambda db, source: db.async_ids(source), of_books(lambda rows: [row.id for row in rows])),
    "pluck": (lambda db, source: db.async_pluck(source, Book.id), of_books(lambda rows: [row.id for row in rows])),
    "pluck two": (
        lambda db, source: db.async_pluck(source, Book.id, Book.nick).then(
            lambda rows: [(r.id, r.nick) for r in rows]
        ),
        of_books(lambda rows: [(row.id, row.nick) for row in rows]),
    ),
    "pluck itself": (lambda db, source: db.async_pluck(source), of_values(lambda rows: rows)),
    "pick": (
        lambda db, source: db.async_pick(source.order_by(None).order_by(Book.id), Book.id),
        of_books(lambda rows: min([row.id for row in rows], default=None), unlimited=True),
    ),
    "sum": (lambda db, source: db.async_sum(source, Book.score), of_books(lambda rows: sum(scores(rows)), "score")),
    "minimum": (
        lambda db, source: db.async_minimum(source, Book.score),
        of_books(lambda rows: min(scores(rows), default=None), "score"),
    ),
    "maximum": (
        lambda db, source: db.async_maximum(source, Book.score),
        of_books(lambda rows: max(scores(rows), default=None), "score"),
    ),
    "average": (
        lambda db, source: db.async_average(source, Book.score),
        of_books(lambda rows: mean(scores(rows)), "score"),
    ),
    "sum of a numeric": (
        lambda db, source: db.async_sum(source, Book.price),
        of_books(lambda rows: sum([row.price for row in rows], Decimal(0)), "price"),
    ),
    "count of a column": (
        lambda db, source: db.async_count(source, Book.score),
        of_books(lambda rows: len(scores(rows)), "score"),
    ),
    "exists of a column": (
        lambda db, source: db.async_exists(source, Book.score),
        of_books(lambda rows: bool(scores(rows)), "score"),
    ),
    "sum itself": (lambda db, source: db.async_sum(source), of_values(lambda rows: sum(present(rows)))),
    "maximum itself": (
        lambda db, source: db.async_maximum(source),
        of_values(lambda rows: max(present(rows), default=None)),
    ),
    "average itself": (lambda db, source: db.async_average(source), of_values(lambda rows: mean(present(rows)))),
    "find": (find_or_miss, of_books(lambda rows: first([row for row in rows if row.id == 9]), unlimited=True)),
    "find_by": (
        lambda db, source: db.async_find_by(source, nick="t9"),
        of_books(lambda rows: first([row for row in rows if row.nick == "t9"]), unlimited=True),
    ),
    "json": (ask_json, as_json),
    "preload": (
        lambda db, source: db.load_async(source, preload=[Book.tags]),
        related(lambda: selectinload(Book.tags)),
    ),
    "preload of parents": (
        lambda db, source: db.load_async(source, preload=[Book.author]),
        related(lambda: selectinload(Book.author)),
    ),
}
UNORDERED = {"load", "ids", "pluck", "pluck two", "pluck itself", "json", "preload", "preload of parents"}


# The comparison


@pytest_asyncio.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(ROWS)
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:", 1))
    engine.dialect.supports_server_side_cursors = False
    try:
        yield engine
    finally:
        await engine.dispose()
        await connection.execute("DROP SCHEMA like_tenant CASCADE")
        await connection.execute("DROP TABLE like_tags_of_books, like_books, like_tags, like_authors")
        await connection.close()


async def case(db: Database, reference: Reference, method: str, source: Any, rows: list[Any], times: int) -> str:
    """Compare one: `same`, `refused` or `not comparable`. Fails where the answers differ."""
    ask, expect = METHODS[method]
    try:
        expected = await expect(reference, source, rows)
    except NotComparable:
        return "not comparable"
    try:
        answers = [await ask(db, source) for _ in range(times)]
    except QueryError:
        return "refused"
    for answer in answers:
        found, wanted = plain(answer), plain(expected)
        if method in UNORDERED and not getattr(source, "_order_by_clauses", ()):
            found, wanted = ordered(found), ordered(wanted)
        assert found == wanted
    return "same"


@pytest.mark.parametrize("way", WAYS)
async def test_every_method_gives_what_a_session_gives(postgres_url: str, engine: AsyncEngine, way: str) -> None:
    chosen = WAYS[way]
    pool = DatabasePool(postgres_url, session_class=chosen.session_class)
    reference = Reference(engine, chosen.session_class)
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    times = 2 if way == "nothing" else 1  # the second one goes the short way, where it may
    try:
        with chosen.listening():
            for form in list(FORMS)[:: 1 if way in THOROUGHLY else 2]:
                make = FORMS[form]
                source = chosen.on(make()) if hasattr(make(), "options") else make()
                try:
                    rows = await reference.rows(source)
                except Exception as error:
                    # The Session itself refuses it.
                    async with Database(pool, owner=form) as db:
                        with pytest.raises(type(error)):
                            await db.load_async(source)
                    outcomes["load", "raised"] += 1
                    continue
                async with Database(pool, owner=form) as db:
                    for method in METHODS:
                        try:
                            outcomes[method, await case(db, reference, method, source, rows, times)] += 1
                        except Exception as error:
                            wrong.append(f"{form}, {method}: {type(error).__name__} {str(error)[:300]}")
    finally:
        await pool.close()
    same = sum(number for (_, outcome), number in outcomes.items() if outcome == "same")
    print(f"{way}: {same} cases alike, {outcomes.total()} tried, of {len(FORMS)} forms and {len(METHODS)} methods")
    assert not wrong, "\n".join([f"{len(wrong)} differ", *wrong])
    for method in METHODS:
        assert outcomes[method, "same"], f"{method} was compared with nothing"


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.on is as_it_is])
async def test_entities_and_columns_are_asked_for_as_a_session_would(
    postgres_url: str, engine: AsyncEngine, way: str
) -> None:
    chosen = WAYS[way]
    pool = DatabasePool(postgres_url, session_class=chosen.session_class)
    reference = Reference(engine, chosen.session_class)
    try:
        with chosen.listening():
            rows = sorted(await reference.rows(select(Book)), key=lambda book: book.id)
            tags = await reference.rows(select(Book).options(selectinload(Book.tags)).order_by(Book.id))
            for _ in range(2):  # the second time it may go the short way
                async with Database(pool, owner="job") as db:
                    assert await db.async_count(Book) == len(rows)
                    assert (
                        await db.async_count(Book.score)
                        == len(scores(rows))
                        == await db.async_count(Book, Book.score)
                    )
                    assert await db.async_sum(Book.score) == sum(scores(rows)) == await db.async_sum(Book, Book.score)
                    assert await db.async_maximum(Book.id) == max([book.id for book in rows], default=None)
                    assert await db.async_average(Book.score) == mean(scores(rows))
                    assert await db.async_exists(Book, where=Book.id > 8) == any(book.id > 8 for book in rows)
                    assert sorted(await db.async_ids(Book)) == [book.id for book in rows]
                    assert sorted(await db.async_pluck(Book.nick)) == sorted(book.nick for book in rows)
                    assert plain(await db.async_first(Book)) == plain(first(rows))
                    assert plain(await find_or_miss(db, Book)) == plain(first([b for b in rows if b.id == 9]))
                    assert plain(await db.async_find_by(Book, nick="t9")) == plain(
                        first([b for b in rows if b.id == 9])
                    )
                    assert len((await db.async_json(Book)).parse()) == len(rows)
                    assert plain(await db.load_async(select(Book).order_by(Book.id), preload=[Book.tags])) == plain(
                        tags
                    )
                    loaded = await db.load_async(select(Book).order_by(Book.id))
                    assert plain(await db.preload_async(loaded, Book.tags)) == plain(tags)
    finally:
        await pool.close()


async def test_what_is_related_is_looked_for_where_its_owner_was_found(
    postgres_url: str, engine: AsyncEngine
) -> None:
    """Also when that is asked for later, of objects: another tenant's rows never come."""
    pool, reference = DatabasePool(postgres_url), Reference(engine, Session)
    try:
        for on in (WAYS["criteria"].on, WAYS["schemas"].on, WAYS["schemas and criteria"].on):
            statement = on(select(Book).order_by(Book.id))
            expected = plain(
                await reference.rows(statement.options(selectinload(Book.tags), selectinload(Book.author)))
            )
            async with Database(pool, owner="job") as db:
                rows = await db.load_async(statement)
                await db.preload_async(rows, Book.tags)
                for row in rows:
                    await db.load_async(Book.author, of=row)
                assert plain(rows) == expected
                # Of both at once: each where it is from.
                elsewhere = await db.load_async(select(Book).order_by(Book.id))
                again = await db.load_async(statement)
                await db.preload_async([*again, *elsewhere], Book.tags, Book.author)
                assert plain(again) == expected
    finally:
        await pool.close()


@pytest.mark.parametrize("way", ["listener of Session", "class with a listener", "class with ways of its own"])
async def test_what_listeners_narrow_is_narrowed_in_writes_too(
    postgres_url: str, engine: AsyncEngine, way: str
) -> None:
    def narrowed(state: ORMExecuteState) -> None:
        state.statement = undeleted(state.statement)

    chosen = WAYS[way]
    pool = DatabasePool(postgres_url, session_class=chosen.session_class)
    try:
        with listening(chosen.session_class, "do_orm_execute", narrowed):
            async with Database(pool, owner="job") as db, db.transaction() as transaction:
                changed = await transaction.execute(update(Book).values(score=0))
                assert changed.rowcount == 8
                named = await transaction.execute(
                    update(Book).values(score=1).where(Book.id > 7).returning(Book.nick)
                )
                assert [row.nick for row in named] == ["t8"]
                assert (await transaction.execute(insert(Tag).values(id=9, hidden=False))).rowcount == 1
                assert [book.id for book in (await transaction.execute(select(Book))).scalars()] == list(range(1, 9))
                assert (await transaction.execute(delete(tags_of_books))).rowcount == 22
                assert await db.async_count(Book, where=Book.score == 0) == 7
                transaction.roll_back()
    finally:
        await pool.close()


async def test_listeners_of_engines_hear_of_each_query(postgres_url: str, engine: AsyncEngine) -> None:
    heard: list[str] = []

    def hear(_connection: Connection, _cursor: Any, sql: str, *_: Any) -> None:
        heard.append(sql)

    pool = DatabasePool(postgres_url)
    try:
        async with Database(pool, owner="job") as db:
            await db.async_pluck(Book.id)
            with listening(Engine, "before_cursor_execute", hear):
                for _ in range(3):
                    await db.async_pluck(Book.id)
                    await db.async_count(Book, where=false())
                assert await gathered(db.async_pluck(Book.id), db.async_pluck(Book.id))
        assert len(heard) == 8, "the same ones at once, and what can't match, as well"
        assert len(db.queries) == 9
    finally:
        await pool.close()


async def gathered(*promises: Any) -> list[Any]:
    return [await promise for promise in promises]


tenant: ContextVar[int] = ContextVar("tenant", default=0)


def of_the_tenant(state: ORMExecuteState) -> None:
    state.statement = state.statement.options(with_loader_criteria(Book, Book.author_id == tenant.get()))


def note_tenant(book: Any, _context: Any) -> None:
    book.asked_by = tenant.get()


class OfTenant(Shouted):
    """Values that a type of the author's makes depend on who asks."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return f"{value} for {tenant.get()}"


@pytest.mark.parametrize("warm", [False, True])
async def test_what_a_listener_reads_is_the_askers_and_equal_queries_stay_apart(
    postgres_url: str, engine: AsyncEngine, warm: bool
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    try:
        async with Database(pool, owner="job") as db:
            if warm:
                await db.async_count(Book)

            async def each_asks(ask: Callable[[], Any]) -> list[Any]:
                asked = []
                for number in (1, 2, 3):
                    tenant.set(number)
                    asked.append(ask())
                tenant.set(9)
                return await gathered(*asked)

            with listening(Session, "do_orm_execute", of_the_tenant):
                assert await each_asks(lambda: db.async_count(Book)) == [3, 4, 4]
                assert [len(rows) for rows in await each_asks(lambda: db.load_async(Book))] == [3, 4, 4]
            with listening(Book, "load", note_tenant, propagate=True):
                loaded = await each_asks(lambda: db.load_async(Book))
                assert [{book.asked_by for book in rows} for rows in loaded] == [{1}, {2}, {3}]
            name = type_coerce(Author.name, OfTenant)
            answers = await each_asks(lambda: db.async_pick(select(name).where(Author.id == 1)))
            assert answers == [f"a1 for {number}" for number in (1, 2, 3)]
            shared = pool.counters["shared"]
            await each_asks(lambda: db.async_count(Book))
            assert pool.counters["shared"] == shared + 2, "where nobody could tell, they run once"
    finally:
        await pool.close()


async def test_only_classes_of_sessions_that_leave_the_choice_of_the_database_are_taken() -> None:
    class Routing(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any: ...

    wrong: Any
    for wrong, word in ((maker, "class_"), (AsyncSession, "sync_session_class"), (Routing, "databases")):
        with pytest.raises(SettingsError, match=word):
            Service(settings=Settings(), session_class=wrong)
    assert Service(settings=Settings(), session_class=Listened)
