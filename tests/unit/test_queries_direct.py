"""The short way: what it makes of a statement is what SQLAlchemy makes of it, or it leaves it to SQLAlchemy."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import ipaddress
import logging
import pickle
import uuid
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, cast

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Dialect,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Row,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    bindparam,
    case,
    column,
    distinct,
    exists,
    func,
    insert,
    lambda_stmt,
    literal,
    literal_column,
    null,
    select,
    text,
    true,
    tuple_,
    union,
    union_all,
    values,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import ranges as pg_ranges
from sqlalchemy.exc import DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import Bundle, Session, aliased, joinedload, with_loader_criteria

from pushsvc.queries.running.direct import REMEMBERED_TEXTS, Compiled, Compiler, fetch, translate
from pushsvc.store import is_lost

from .queries_support import TABLES, Airport, Flight, Server

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("tables")

COMMENT = "/*job='report',job_id='1'*/ "


class Fares(enum.Enum):
    CHEAP = "c"
    DEAR = "d"


class Reversed(TypeDecorator[str]):
    """Text that is stored backwards, and read by SQLAlchemy only."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value[::-1]


class Uncached(TypeDecorator[str]):
    """A type of which SQLAlchemy can't say whether statements may be cached with it."""

    impl = Text
    cache_ok = False


KINDS: dict[str, tuple[Any, Any]] = {
    "small": (SmallInteger, 7),
    "integer": (Integer, -70000),
    "big": (BigInteger, 2**40),
    "boolean": (Boolean, True),
    "string": (String(40), "a 'quoted' \\ string $1 :x"),
    "text": (Text, "ünïcödé"),
    "citext": (pg.CITEXT, "Case"),
    "numeric": (Numeric(12, 4), Decimal("12.3400")),
    "numeric_as_float": (Numeric(12, 4, asdecimal=False), 12.34),
    "float": (Float, 1.5),
    "float_as_decimal": (Float(asdecimal=True, decimal_return_scale=3), Decimal("1.500")),
    "double": (pg.DOUBLE_PRECISION, 2.25),
    "date": (Date, dt.date(2013, 1, 31)),
    "time": (Time, dt.time(23, 59, 1, 5)),
    "datetime": (DateTime, dt.datetime(2013, 1, 31, 5, 6, 7)),
    "datetime_tz": (DateTime(timezone=True), dt.datetime(2013, 1, 31, 5, 6, 7, tzinfo=dt.UTC)),
    "interval": (Interval, dt.timedelta(days=2, seconds=3, microseconds=4)),
    "emulated_interval": (Interval(native=False), dt.timedelta(hours=5)),
    "binary": (LargeBinary, b"\x00\xff"),
    "uuid": (Uuid, uuid.UUID(int=5)),
    "uuid_as_string": (Uuid(as_uuid=False), str(uuid.UUID(int=5))),
    "enum": (Enum(Fares, name="queries_fares"), Fares.DEAR),
    "enum_of_strings": (Enum("low", "high", native_enum=False), "high"),
    "json": (JSON, {"a": [1, None, "ü"]}),
    "jsonb": (pg.JSONB, [1.5, {"b": None}]),
    "array": (ARRAY(Integer), [1, 2, 3]),
    "array_of_decimals": (pg.ARRAY(Numeric(asdecimal=False)), [1.5, 2.5]),
    "array_of_arrays": (pg.ARRAY(Text, dimensions=2), [["a", "b"], ["c", "d"]]),
    "array_of_enums": (pg.ARRAY(Enum(Fares, name="queries_fares")), [Fares.CHEAP, Fares.DEAR]),
    "array_as_tuple": (pg.ARRAY(Integer, as_tuple=True), (4, 5)),
    "range": (pg.INT4RANGE, pg.Range(1, 5)),
    "multirange": (pg.DATEMULTIRANGE, pg_ranges.MultiRange([pg.Range(dt.date(2013, 1, 1), dt.date(2013, 2, 1))])),
    "inet": (pg.INET, ipaddress.ip_address("10.0.0.1")),
    "bit": (pg.BIT(4), "0101"),
    "reversed": (Reversed, "abc"),
    "variant": (Text().with_variant(Reversed(), "postgresql"), "def"),
}
UNEQUATABLE = {"json", "emulated_interval"}
"""SQLAlchemy or PostgreSQL has no `=` for these."""

metadata = MetaData()
kinds = Table(
    "queries_kinds",
    metadata,
    Column("id", Integer, primary_key=True),
    *(Column(name, kind) for name, (kind, _) in KINDS.items()),
)


FAIL = """
CREATE OR REPLACE FUNCTION queries_fail(state text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN IF state = '' THEN RETURN 1; END IF; RAISE EXCEPTION 'no: %', state USING ERRCODE = state, DETAIL = 'why'; END$$
"""


class Both:
    """A connection of SQLAlchemy's, and the short way on the same one."""

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection, driver: asyncpg.Connection[Any]) -> None:
        self.engine = engine
        self.connection = connection
        self.driver = driver
        self.compiler = Compiler(engine)

    async def long(self, statement: Any) -> list[Any]:
        """The rows by a Session of SQLAlchemy's."""

        def execute(connection: Connection) -> list[Any]:
            with Session(connection, autoflush=False) as session:
                rows = list(session.execute(statement).all())
                session.expunge_all()
                return rows

        return await self.connection.run_sync(execute)

    async def short(self, statement: Any) -> tuple[Compiled, list[Any]]:
        """The statement, which SQLAlchemy must have seen the like of, and the records."""
        compiled = self.compiler.compile(statement)
        assert compiled is not None
        return compiled, await fetch(self.driver, COMMENT + compiled.sql, compiled.arguments)

    async def learned(self, statement: Any) -> Compiled | None:
        """What becomes of a statement once SQLAlchemy has run it."""
        await self.connection.execute(statement)
        return self.compiler.compile(statement)

    async def same(self, make: Callable[[Any], Any], *arguments: Any) -> list[Any]:
        """The rows of what is made of the last argument, by both; what is made of the others has run before."""
        for argument in arguments:
            expected = await self.long(make(argument))
        compiled, records = await self.short(make(arguments[-1]))
        rows = compiled.rows(records)
        assert exactly(rows) == exactly(expected)
        assert all(type(row) is Row for row in rows)
        assert exactly(compiled.values(records)) == exactly([row[0] for row in expected])
        assert exactly(compiled.answer(records)) == exactly([row[0] if len(row) == 1 else row for row in expected])
        return rows


def exactly(found: Any) -> Any:
    """What must be equal of two answers: keys, values and their types, to the innermost."""
    if isinstance(found, Row):
        return found._fields, list(found._mapping), [exactly(value) for value in found]
    if isinstance(found, list | tuple):
        return type(found), [exactly(value) for value in found]
    return type(found), repr(found)


@pytest_asyncio.fixture
async def both(postgres_url: str, tables: None) -> AsyncIterator[Both]:
    engine = create_async_engine(
        postgres_url.replace("postgresql:", "postgresql+asyncpg:", 1), isolation_level="AUTOCOMMIT"
    )
    try:
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            yield Both(engine, connection, cast("asyncpg.Connection[Any]", driver))
    finally:
        await engine.dispose()


@pytest.fixture(scope="module")
def tables(postgres_url: str) -> None:
    """The tables of flights, and one with a row of a value of each kind and one of NULLs; no test changes them."""

    async def make() -> None:
        plain = await asyncpg.connect(postgres_url)
        await plain.execute(TABLES + FAIL)
        await plain.close()
        engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:", 1))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE EXTENSION IF NOT EXISTS citext"))
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            await connection.execute(
                insert(kinds), [{"id": 1, **{name: value for name, (_, value) in KINDS.items()}}]
            )
            await connection.execute(insert(kinds), [{"id": 2}])
        await engine.dispose()

    asyncio.run(make())


# What the answer is


@pytest.mark.parametrize("name", KINDS)
async def test_each_type_is_read_and_bound_as_by_sqlalchemy(both: Both, name: str) -> None:
    [(value,), (missing,)] = await both.same(
        lambda last: select(kinds.c[name]).where(kinds.c.id <= last).order_by(kinds.c.id), 1, 2
    )
    assert (value, missing) == (KINDS[name][1], None)
    if name not in UNEQUATABLE:
        rows = await both.same(lambda wanted: select(kinds.c.id, kinds.c[name]).where(kinds.c[name] == wanted), value)
        assert [row.id for row in rows] == [1]


AIRPORTS = cast("Table", Airport.__table__)
FLIGHTS = cast("Table", Flight.__table__)
JFK = Flight.origin == "JFK"
other = aliased(Flight, name="other")
doubled = select(Flight.id, (Flight.id * 2).label("twice")).cte("doubled")
document = select(func.jsonb_build_object("a", 1, "b", "x", type_=pg.JSONB).label("json")).subquery()
kept = (Flight.id.label("id"), Flight.carrier)

FORMS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    "count": (lambda x: select(func.count()).select_from(Flight).where(Flight.origin == x), ("EWR", "JFK", "none")),
    "column of the ORM": (lambda x: select(Flight.id).where(Flight.id > x), (1, 3)),
    "column of Core": (lambda x: select(FLIGHTS.c.id, FLIGHTS.c.fare).where(FLIGHTS.c.id > x), (1, 3)),
    "table": (lambda x: select(AIRPORTS).where(AIRPORTS.c.code != x), ("JFK", "LGA")),
    "alias": (lambda x: select(other.id, other.fare).where(other.id == x), (1, 2)),
    "join": (lambda x: select(Airport.code, Flight.id).join(Flight).where(Flight.id < x), (5, 3)),
    "self-join with duplicate names": (
        lambda x: select(Flight.id, other.id, Flight.id).join(other, other.id == Flight.id + x),
        (1, 2),
    ),
    "labels": (lambda x: select(Flight.id.label("the id"), literal(x).label("x")), ("a", "b")),
    "expressions": (lambda x: select(Flight.fare * x, Flight.id + x, -Flight.air_time), (1, 2)),
    "decimal": (lambda x: select(Flight.fare + literal(x, Numeric(8, 2))), (Decimal("1.25"), Decimal("2.5"))),
    "sum and average": (
        lambda x: select(func.sum(Flight.dep_delay), func.avg(Flight.dep_delay), func.sum(Flight.fare)).where(
            Flight.id < x
        ),
        (5, 3, 0),
    ),
    "distinct": (lambda x: select(Flight.carrier).distinct().where(Flight.carrier != x), ("AA", "DL")),
    "group by": (
        lambda x: select(Flight.carrier, func.count()).group_by(Flight.carrier).having(func.count() > x),
        (0, 1),
    ),
    "count of distinct": (lambda x: select(func.count(distinct(Flight.carrier))).where(Flight.id < x), (1, 5)),
    "window": (lambda x: select(Flight.id, func.lag(Flight.id, x).over(order_by=Flight.id)), (1, 2)),
    "case": (lambda x: select(case((Flight.id > x, "late"), else_="early")), (1, 3)),
    "exists": (lambda x: select(exists().where(Flight.origin == x)), ("JFK", "none")),
    "scalar subquery": (lambda x: select(select(func.max(Flight.id) + x).scalar_subquery()), (1, 2)),
    "subquery": (lambda x: select(select(Flight.id, Flight.carrier).limit(x).subquery()), (2, 4)),
    "CTE": (lambda x: select(doubled.c.twice).where(doubled.c.id == x), (2, 3)),
    "union": (lambda x: union(select(Flight.id), select(literal(x))).order_by("id"), (7, 8)),
    "union of entities": (lambda x: union_all(select(Airport), select(Airport).where(Airport.code > x)), ("A", "K")),
    "limit and offset": (lambda x: select(Flight.id).order_by(Flight.id).limit(x).offset(1), (1, 2)),
    "for update": (lambda x: select(Flight.id).where(Flight.id == x).with_for_update(), (1, 2)),
    "in": (lambda x: select(Flight.id).where(Flight.id.in_(x)).order_by(Flight.id), ([1], [], [2, 3, 9], [4])),
    "not in": (lambda x: select(Flight.id).where(Flight.carrier.not_in(x)), (["AA"], [], ["AA", "UA"])),
    "in, twice the same": (
        lambda x: (lambda one: select(Flight.id).where(Flight.id.in_(one) | (Flight.id * 2).in_(one)))(
            bindparam("one", x, expanding=True)
        ),
        ([1], [2, 4]),
    ),
    "in of tuples": (
        lambda x: select(Flight.id).where(tuple_(Flight.id, Flight.origin).in_(x)),
        ([(1, "JFK")], [], [(1, "JFK"), (4, "EWR")]),
    ),
    "in of a decorated type": (
        lambda x: select(literal("abc", Reversed)).where(literal("abc", Reversed).in_(x)),
        (["x"], ["x", "abc"]),
    ),
    "literal execute": (
        lambda x: select(Flight.id).where(Flight.carrier == bindparam("c", x, literal_execute=True)),
        ("AA", "it's"),
    ),
    "odd name of a value": (lambda x: select(bindparam("a b%(c):d", x, Text)), ("one", "two")),
    "percent": (lambda x: select(literal_column("'100%'"), Flight.id % x, literal("%s $1")), (2, 3)),
    "null": (lambda x: select(null(), literal(x, Integer)), (1, None)),
    "true": (lambda x: select(true(), literal(x)), (True, False)),
    "array of rows": (lambda x: select(func.array_agg(Flight.id)).where(Flight.id > x), (1, 6)),
    "element of JSON": (lambda x: select(document.c.json[x], document.c.json[x].astext), ("a", "b")),
    "unnest": (lambda x: select(func.unnest(literal(x, ARRAY(Integer))).column_valued("n")), ([1], [2, 3])),
    "bundle's columns": (lambda x: select(*kept).where(Flight.id == x), (1, 2)),
    "text among the columns": (lambda x: select(text("1 + 1"), Flight.id).where(Flight.id == x), (1, 2)),
    "text": (
        lambda x: text("SELECT id, fare, carrier AS id FROM queries_flights WHERE id > :x").bindparams(x=x),
        (1, 3, 9),
    ),
    "text of one column": (lambda x: text("select :x ::text, E'\\:y'").bindparams(x=x), ("a", "b")),
    "text with": (lambda x: text("WITH a AS (SELECT :x + 1 AS b) SELECT * FROM a").bindparams(x=x), (1, 2)),
    "text in": (
        lambda x: text("SELECT id FROM queries_flights WHERE id IN :x").bindparams(bindparam("x", x, expanding=True)),
        ([1, 2], [], [3]),
    ),
    "text with columns": (
        lambda x: (
            text("SELECT id, fare FROM queries_flights WHERE id = :x")
            .bindparams(x=x)
            .columns(column("number", Text), column("price", Numeric(asdecimal=False)))
        ),
        (1, 2),
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_statement_of_a_known_shape_gives_its_own_rows(both: Both, form: str) -> None:
    make, arguments = FORMS[form]
    await both.same(make, *arguments)


async def test_what_is_read_by_name_attribute_or_expression_is_found_in_a_row(both: Both) -> None:
    def counted(number: int) -> Any:
        return (
            select(Flight.carrier, func.count().label("flights")).where(Flight.id > number).group_by(Flight.carrier)
        )

    await both.long(counted(0))
    statement = counted(4)
    compiled, records = await both.short(statement)
    [row] = compiled.rows(records)
    # This very expression is not in the statement that SQLAlchemy has compiled.
    assert (row._mapping[statement.selected_columns.flights], row.flights, row[1]) == (1, 1, 1)
    assert row._mapping[FLIGHTS.c.carrier] == row._mapping["carrier"] == "DL"
    with pytest.raises(AttributeError):
        _ = row.nothing
    assert exactly(pickle.loads(pickle.dumps(row))) == exactly(row)


@pytest.mark.parametrize(
    "statement",
    [
        select(Flight.id, other.id).join(other, other.id == Flight.id),
        select(FLIGHTS.c.id, FLIGHTS.c.id),
        select(literal(1).label("id"), literal(2).label("id")),
        text("SELECT 1 AS id, 2 AS id"),
    ],
)
async def test_a_name_of_two_columns_is_found_or_refused_as_by_sqlalchemy(both: Both, statement: Any) -> None:
    def found(row: Any) -> list[Any]:
        def value(key: Any) -> Any:
            try:
                return row._mapping[key]
            except (InvalidRequestError, KeyError) as error:
                return repr(error)

        return [value(key) for key in ("id", "id_1", FLIGHTS.c.id, "nothing")]

    [expected, *_] = await both.long(statement)
    compiled, records = await both.short(statement)
    assert found(compiled.rows(records)[0]) == found(expected)


async def test_callable_values_are_called_when_it_is_compiled(both: Both) -> None:
    tenant: ContextVar[int] = ContextVar("tenant", default=1)
    statement = select(Flight.id).where(Flight.id == bindparam("tenant", callable_=tenant.get, type_=Integer))
    assert await both.long(statement) == [(1,)]
    tenant.set(3)
    compiled = both.compiler.compile(statement)
    tenant.set(4)
    assert compiled is not None
    assert compiled.arguments == (3,)


async def test_engines_do_not_learn_from_each_other(both: Both) -> None:
    statement = select(Flight.id)
    await both.long(statement)
    another = create_async_engine(both.engine.url)
    assert Compiler(another).compile(statement) is None


# What SQLAlchemy has to run


async def test_the_first_of_a_shape_is_left_to_sqlalchemy(both: Both) -> None:
    assert both.compiler.compile(select(Flight.id).where(JFK)) is None
    await both.long(select(Flight.id).where(JFK))
    assert both.compiler.compile(select(Flight.id).where(Flight.origin == "EWR")) is not None
    assert both.compiler.compile(select(Flight.id).where(Flight.origin > "EWR")) is None


added = insert(AIRPORTS).values(code="XXX")
LEFT: dict[str, Any] = {
    "entity": select(Flight),
    "entity among columns": select(Flight.id, Flight),
    "alias of an entity": select(other),
    "criteria for entities": select(Flight.id).options(with_loader_criteria(Flight, Flight.id > 1)),
    "all columns": select(text("*")).select_from(Flight),
    "bundle": select(Bundle("bundle", Flight.id)),
    "entity with options": select(Flight).options(joinedload(Flight.airport)),
    "entities from a text": select(Flight).from_statement(text("SELECT * FROM queries_flights")),
    "lambda": lambda_stmt(lambda: select(Flight.id)),
    "function": func.now(),
    "uncached type": select(column("code", Uncached)).select_from(AIRPORTS),
    "values": select(values(column("n", Integer), name="numbers").data([(1,), (2,)])),
    "insert": added,
    "insert returning": added.returning(AIRPORTS.c.code),
    "insert within": select(added.returning(AIRPORTS.c.code).cte().c.code),
    "text that writes": text("INSERT INTO queries_airports VALUES ('XXX') RETURNING code"),
    "text that writes within": text("WITH x AS (DELETE FROM queries_flights RETURNING id) SELECT * FROM x"),
    "text that answers nothing": text("SELECT 1 AS a\nINTO TEMP queries_into"),
    "command": text("SHOW search_path"),
    "text with columns that writes": text("DELETE FROM queries_flights RETURNING id").columns(column("id")),
    "text with columns by name": text("SELECT 1 AS a, 'b' AS b").columns(b=String, a=Integer),
    "text of several columns": select(text("1 AS a, 2 AS b"), literal(3).label("c")),
}


@pytest.mark.parametrize("form", LEFT)
@pytest.mark.filterwarnings("ignore:.*will not produce a cache key")
async def test_what_can_not_be_done_alike_is_left_to_sqlalchemy(both: Both, form: str) -> None:
    changes = both.driver.transaction()
    await changes.start()
    assert await both.learned(LEFT[form]) is None
    await changes.rollback()


@pytest.mark.parametrize(
    "statement", [select(Flight.id), text("SELECT 1"), union(select(Flight.id), select(literal(1)))]
)
@pytest.mark.parametrize(
    "options",
    [
        {"yield_per": 2},
        {"stream_results": True},
        {"schema_translate_map": {None: "public"}},
        {"driver_column_names": True},
        {"of_somebody_else": 1},
    ],
)
async def test_statements_with_execution_options_are_left_to_sqlalchemy(
    both: Both, statement: Any, options: dict[str, Any]
) -> None:
    assert await both.learned(statement) is not None
    assert both.compiler.compile(statement.execution_options(**options)) is None


async def test_values_that_can_not_be_bound_are_left_for_sqlalchemy_to_refuse(both: Both) -> None:
    def priced(fare: Any) -> Any:
        return select(literal(fare, Enum("low", "high", native_enum=False, validate_strings=True)))

    assert await both.learned(priced("low")) is not None
    assert both.compiler.compile(priced("none")) is None
    with pytest.raises(StatementError):
        await both.long(priced("none"))


async def test_while_sqlalchemy_logs_statements_it_runs_them(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    statement = select(Flight.id)
    await both.long(statement)
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        assert both.compiler.compile(statement) is None
    assert both.compiler.compile(statement) is not None


# Errors


async def errors(both: Both, statement: Any) -> tuple[DBAPIError, DBAPIError]:
    """What is raised for it by SQLAlchemy, which knows its shape, and by the short way."""
    with pytest.raises(DBAPIError) as expected:
        await both.long(statement)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)) as raised:
        await both.short(statement)
    compiled = both.compiler.compile(statement)
    assert compiled is not None
    assert isinstance(raised.value, Exception)
    error = translate(raised.value, compiled.sql, compiled.arguments, both.engine.dialect)
    assert isinstance(error, DBAPIError)
    return expected.value, error


def assert_alike(error: DBAPIError, expected: DBAPIError) -> None:
    assert type(error) is type(expected)
    assert str(error) == str(expected)
    assert (error.statement, error.params, error.code) == (expected.statement, expected.params, expected.code)
    assert type(error.orig) is type(expected.orig)
    assert type(error.driver_exception) is type(expected.driver_exception)
    assert error.connection_invalidated == expected.connection_invalidated
    assert error.hide_parameters == expected.hide_parameters
    for name in ("sqlstate", "pgcode", "detail"):
        assert getattr(error.orig, name, None) == getattr(expected.orig, name, None)


STATES = "22012 23505 23503 23502 23514 23P01 23001 40001 40P01 42501 42P01 57014 55P03 0A000 P0001 53400 XX000 UU000"


@pytest.mark.parametrize("state", STATES.split())
async def test_errors_of_the_server_are_those_that_sqlalchemy_raises(both: Both, state: str) -> None:
    await both.long(select(func.queries_fail("")))
    expected, error = await errors(both, select(func.queries_fail(state)))
    assert_alike(error, expected)
    assert getattr(error.orig, "sqlstate", None) == state


async def test_errors_of_the_driver_are_those_that_sqlalchemy_raises(both: Both) -> None:
    await both.long(select(literal(1, Integer)))
    expected, error = await errors(both, select(literal("one", Integer)))
    assert_alike(error, expected)
    assert not is_lost(error)


async def test_errors_in_the_statement_are_those_that_sqlalchemy_raises(both: Both, server: Server) -> None:
    statement = text("SELECT id FROM queries_fleeting")
    await server.connection.execute("DROP TABLE IF EXISTS queries_fleeting; CREATE TABLE queries_fleeting (id int)")
    await both.long(statement)
    await server.connection.execute("DROP TABLE queries_fleeting")
    expected, error = await errors(both, statement)
    # The comment moves all of the text that the server points at.
    assert_alike(error, expected)


async def test_a_lost_connection_is_told_by_the_error(both: Both, server: Server) -> None:
    statement = select(func.pg_backend_pid())
    [(pid,)] = await both.long(statement)
    await server.fetch("SELECT pg_terminate_backend($1, 5000)", pid)
    # The first error may be the server's good-bye, the next one the driver's.
    for _ in range(2):
        with pytest.raises(Exception) as raised:
            await both.short(statement)
        assert isinstance(raised.value, Exception)
        error = translate(raised.value, "SELECT", (), both.engine.dialect)
        assert is_lost(error) or is_lost(getattr(error, "orig", None))
        assert getattr(error, "connection_invalidated", True)


async def test_an_error_that_comes_with_the_end_of_the_connection_says_so(both: Both) -> None:
    idle = asyncpg.exceptions.TransactionTimeoutError("terminating connection due to transaction timeout")
    dialect = both.engine.dialect
    assert not cast("DBAPIError", translate(idle, "SELECT", (), dialect)).connection_invalidated
    assert cast("DBAPIError", translate(idle, "SELECT", (), dialect, closed=True)).connection_invalidated


async def test_errors_that_sqlalchemy_has_no_word_for_stay_as_they_are(both: Both) -> None:
    for error in (OSError("reset"), TimeoutError(), asyncpg.PostgresError()):
        assert translate(error, "SELECT", (), both.engine.dialect) is error


# Texts that come again, and tables that change


async def prepared(both: Both) -> list[str]:
    """The texts that the server keeps prepared for the connection."""
    rows = await both.driver.fetch("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%mine%'")
    return [row["statement"] for row in rows if "pg_prepared_statements" not in row["statement"]]


async def test_a_text_is_kept_prepared_from_the_second_time_on(both: Both) -> None:
    for number in (1, 2, 1, 3, 1):
        [record] = await fetch(both.driver, f"SELECT {number} + $1::int AS mine", (number,))
        assert record["mine"] == 2 * number
    assert await prepared(both) == ["SELECT 1 + $1::int AS mine"]


async def test_texts_are_forgotten_when_many_others_have_come(both: Both) -> None:
    for number in (*range(REMEMBERED_TEXTS + 1), 0):
        await fetch(both.driver, f"SELECT {number} AS mine", ())
    assert await prepared(both) == []


CHANGING = "DROP TABLE IF EXISTS queries_changing; CREATE TABLE queries_changing AS SELECT 5 AS mine"
CHANGE = "ALTER TABLE queries_changing ALTER mine TYPE float4"


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_changed_column_is_read_by_its_new_type(both: Both, server: Server, times: int) -> None:
    await server.connection.execute(CHANGING)
    for _ in range(times):
        assert exactly((await fetch(both.driver, "SELECT * FROM queries_changing", ()))[0][0]) == exactly(5)
    await server.connection.execute(CHANGE)
    for _ in range(3):
        assert exactly((await fetch(both.driver, "SELECT * FROM queries_changing", ()))[0][0]) == exactly(5.0)


async def test_in_a_transaction_a_changed_column_is_an_error(both: Both, server: Server) -> None:
    await server.connection.execute(CHANGING)
    for _ in range(2):
        await fetch(both.driver, "SELECT * FROM queries_changing", ())
    async with both.driver.transaction():
        await server.connection.execute(CHANGE)
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            await fetch(both.driver, "SELECT * FROM queries_changing", ())
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await both.driver.execute("SELECT 1")


async def test_a_changed_type_is_read_as_it_is_now(both: Both, server: Server) -> None:
    await server.connection.execute("DROP TYPE IF EXISTS queries_pair; CREATE TYPE queries_pair AS (a int)")
    [record] = await fetch(both.driver, "SELECT ROW(1)::queries_pair", ())
    assert tuple(record[0]) == (1,)
    await server.connection.execute("ALTER TYPE queries_pair ADD ATTRIBUTE b text")
    [record] = await fetch(both.driver, "SELECT ROW(1, 'x')::queries_pair", ())
    assert tuple(record[0]) == (1, "x")
