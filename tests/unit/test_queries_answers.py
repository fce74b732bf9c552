"""Numbers, names and keys come out as the server gives them, or are refused in a sentence; forgotten awaits too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Column,
    Double,
    Enum,
    Float,
    Integer,
    Interval,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    cast,
    column,
    extract,
    func,
    literal,
    literal_column,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import contains_eager

from pushsvc.errors import QueryError
from pushsvc.queries import Database, DatabasePool

from .queries_support import Airport, Flight, Server

pytest_plugins = ["tests.unit.queries_postgres"]


class Euros(TypeDecorator[Decimal]):
    """Cents in the table, euros outside."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


NUMBERS: dict[str, tuple[Any, str, list[str]]] = {
    "smallint": (SmallInteger(), "smallint", ["1", "3"]),
    "integer": (Integer(), "integer", ["1", "-7"]),
    "bigint": (BigInteger(), "bigint", ["9223372036854775807", "9223372036854775807"]),
    "numeric": (Numeric(10, 2), "numeric(10, 2)", ["0.25", "0.50"]),
    "whole numeric": (Numeric(10, 0), "numeric(10, 0)", ["2", "5"]),
    "numeric as float": (Numeric(10, 2, asdecimal=False), "numeric(10, 2)", ["0.25", "0.50"]),
    "numeric that is taken for integers": (Integer(), "numeric", ["0.25", "0.50"]),
    "huge numeric that is taken for integers": (BigInteger(), "numeric", ["1e30", "0.5"]),
    "float that is taken for integers": (Integer(), "float8", ["0.25", "0.5"]),
    "real": (REAL(), "real", ["0.25", "0.5"]),
    "double": (Double(), "float8", ["0.1", "0.2"]),
    "float as decimal": (Float(asdecimal=True), "float8", ["0.25", "0.5"]),
    "of the author's own": (Euros(), "bigint", ["1250", "25"]),
    "interval": (Interval(), "interval", ["1 hour", "90 minutes"]),
}


FUNCTIONS = (func.sum, func.min, func.max, func.avg)


@pytest.mark.parametrize("kind", NUMBERS)
async def test_numbers_are_what_a_session_gives_and_never_cut(db: Database, server: Server, kind: str) -> None:
    type_, sql, values = NUMBERS[kind]
    rows = ", ".join(f"('{value}'::{sql})" for value in values)
    numbers = table("answers_numbers", column("n", type_))
    await server.connection.execute(f"CREATE TABLE answers_numbers AS SELECT * FROM (VALUES {rows}) v (n)")
    try:
        async with db.transaction() as transaction:
            expected = await transaction.run_sync(
                lambda session: [
                    session.scalar(select(f(numbers.c.n))) for f in (func.sum, func.min, func.max, func.avg)
                ]
            )
        wanted = expected[0]
        if isinstance(wanted, Decimal) and sql in ("bigint", "smallint", "integer") and kind != "of the author's own":
            wanted = int(wanted)
        for _ in range(2):  # the second time they go the short way
            for source in (numbers.c.n, select(numbers.c.n)):
                found = await db.async_sum(source)
                assert (type(found), found) == (type(wanted), wanted)
                assert await db.async_minimum(source) == expected[1]
                assert await db.async_maximum(source) == expected[2]
                mean: Any = await db.async_average(source)
                assert mean == (float(expected[3]) if isinstance(expected[3], Decimal) else expected[3])
    finally:
        await server.connection.execute("DROP TABLE answers_numbers")


async def test_the_seconds_of_intervals_keep_their_fractions(db: Database) -> None:
    seconds = extract("epoch", literal(timedelta(milliseconds=750), Interval))
    for _ in range(2):
        assert await db.async_sum(select(seconds)) == Decimal("0.75")
        assert await db.async_maximum(select(seconds)) == Decimal("0.75")
    whole = await db.async_sum(select(extract("year", func.make_date(2024, 1, 1))))
    assert (type(whole), whole) == (int, 2024)


@pytest.mark.parametrize("answer", ["0.75", "'NaN'::numeric", "'12'", "true || ''", "'{1}'::int[]"])
async def test_a_count_of_a_text_is_a_whole_number_or_refused(db: Database, answer: str) -> None:
    with pytest.raises(QueryError, match="is no count"):
        await db.async_count_by_sql(f"SELECT {answer}")
    assert await db.async_count_by_sql("SELECT 3.0") == 3


async def test_calculations_take_a_column_beside_the_statement(db: Database, flights: None) -> None:
    late = select(Flight).where(Flight.origin == "JFK").order_by(Flight.id)
    assert await db.async_sum(late, Flight.dep_delay) == 70
    assert await db.async_sum(late.limit(2), Flight.dep_delay) == 30
    assert await db.async_minimum(late, Flight.dep_delay) == 10
    assert await db.async_maximum(late.offset(1), Flight.id) == 3
    assert await db.async_average(Flight, Flight.fare, where=Flight.id < 3) == 100.15
    assert (
        await db.async_count(select(Flight), Flight.dep_delay) == 4 == await db.async_count(Flight, Flight.dep_delay)
    )
    assert await db.async_exists(select(Flight).where(Flight.id == 4), Flight.dep_delay) is False
    assert await db.async_exists(late.offset(3), Flight.dep_delay) is False
    by_origin = select(Flight.origin).group_by(Flight.origin)
    assert await db.async_sum(by_origin, Flight.dep_delay) == {"JFK": 70, "EWR": -6}
    assert await db.async_count(by_origin, Flight.dep_delay) == {"JFK": 3, "EWR": 1}
    joined = select(Airport).join(Airport.flights)
    assert await db.async_sum(joined, Flight.dep_delay) == 64
    no_column: Any = "id"
    asks: list[Any] = [db.async_sum, db.async_count, db.async_exists]
    for source, column_ in ((Flight.id, Flight.id), (select(Flight), no_column), (Flight, no_column)):
        for ask in asks:
            with pytest.raises(QueryError, match="column"):
                ask(source, column_)


async def test_sql_of_the_authors_own_is_calculated_with(db: Database, flights: None) -> None:
    late = select(literal_column("dep_delay * 0.5", Integer)).select_from(Flight)
    for _ in range(2):
        assert await db.async_sum(late) == 32
        assert await db.async_maximum(late.order_by(Flight.id).limit(2)) == 10
        assert await db.async_count(select(Flight), literal_column("dep_delay")) == 4
        assert await db.async_exists(select(Flight).limit(1), literal_column("dep_delay + 1")) is True
    by_origin = select(Flight.origin).group_by(Flight.origin)
    with pytest.raises(QueryError, match="groups have no values of another column"):
        db.async_exists(by_origin, Flight.dep_delay)


async def test_a_statement_that_fills_collections_is_read_whole(db: Database, flights: None) -> None:
    joined = select(Airport).join(Airport.flights).options(contains_eager(Airport.flights))
    by_code = joined.order_by(Airport.code.desc(), Flight.id)
    for asked in (
        db.async_first(by_code),
        db.async_find_by(joined, code="JFK"),
        db.async_find(joined, "JFK"),
        db.async_find(joined, ["JFK"]).then(lambda airports: airports[0]),
    ):
        airport = await asked
        assert airport is not None
        assert (airport.code, sorted(flight.id for flight in airport.flights)) == ("JFK", [1, 2, 3])
    assert await db.async_count(joined) == 2 == len(await db.load_async(joined))
    assert await db.async_count(by_code.limit(3)) == 1
    assert sorted(await db.async_ids(joined)) == ["EWR", "JFK"]
    with pytest.raises(QueryError, match="select one entity"):
        db.async_count(select(Airport, Flight.id).join(Airport.flights).options(contains_eager(Airport.flights)))


async def test_groups_that_a_dict_can_not_hold_apart_are_refused(db: Database, flights: None) -> None:
    origins = func.array_agg(Flight.origin).over(partition_by=Flight.carrier).label("origins")
    of_arrays = select(origins).subquery()
    with pytest.raises(QueryError, match=r"can't be a key of a dict: group by a text of it"):
        await db.async_count(select(of_arrays.c.origins).group_by(of_arrays.c.origins))
    document = func.jsonb_build_object("from", Flight.origin, type_=JSONB)
    with pytest.raises(QueryError, match=r"can't be a key"):
        await db.async_sum(select(document, Flight.id).group_by(document, Flight.id))
    as_text = cast(func.jsonb_build_object("from", Flight.origin), Text)
    assert await db.async_count(select(as_text).group_by(as_text)) == {'{"from": "JFK"}': 3, '{"from": "EWR"}': 2}
    with pytest.raises(QueryError, match=r"several groups '\w+': select all columns it groups by"):
        await db.async_count(select(Flight.origin).group_by(Flight.origin, Flight.carrier))
    rolled = select(Flight.origin, Flight.carrier).group_by(func.rollup(Flight.origin, Flight.carrier))
    answer: Any = await db.async_count(rolled)
    assert answer[None, None] == 5


async def test_rows_have_the_names_that_a_session_gives(db: Database, crew: None) -> None:
    from .queries_support import Leg

    for _ in range(2):
        rows = await db.load_async(select(Leg.number, Leg.trip).order_by(Leg.trip, Leg.number))
        assert rows[0].number == rows[0][0] == rows[0]._mapping[Leg.number]
        assert rows[0]._fields == ("number", "trip")
        assert (await db.async_pluck(Leg.number, Leg.trip))[0]._fields == ("number", "trip")


@pytest.mark.parametrize("condition", ["{} IN :values", "{} in (:values)", "lower({}) IN :values"])
async def test_no_value_is_in_an_empty_list_of_a_text(db: Database, flights: None, condition: str) -> None:
    """Whatever the type of what is looked for in it."""
    for name in ("origin", "carrier"):
        sql = f"SELECT id FROM queries_flights WHERE {condition.format(name)}"
        assert await db.async_find_by_sql(sql, values=[]) == []
        negated = sql.replace(" IN ", " NOT IN ").replace(" in ", " not in ")
        assert len(await db.async_find_by_sql(negated, values=[])) == 5
    assert await db.async_count_by_sql("SELECT count(*) FROM queries_flights WHERE id NOT IN :ids", ids=set()) == 5
    assert await db.async_find_by_sql(Flight, "SELECT * FROM queries_flights WHERE fare IN :fares", fares=[]) == []
    with pytest.raises(QueryError, match=":ids is an empty list"):
        db.async_find_by_sql("SELECT count(*) FROM queries_flights WHERE id = any(:ids)", ids=[])


# Types that are made anew


ROW = "SELECT 1 AS id, 'a'::answers_kind AS kind, '{a}'::answers_kind[] AS kinds"
CHANGES = {
    "made anew": f"""DROP TABLE answers_enums; DROP TYPE answers_kind;
        CREATE TYPE answers_kind AS ENUM ('c', 'b', 'a'); CREATE TABLE answers_enums AS {ROW}""",
    "other labels": """
        ALTER TYPE answers_kind RENAME VALUE 'a' TO 'x'; ALTER TYPE answers_kind RENAME VALUE 'b' TO 'a';
        UPDATE answers_enums SET kind = 'a', kinds = '{a}'; ALTER TYPE answers_kind RENAME VALUE 'x' TO 'b'""",
}
KIND = Enum("a", "b", "c", name="answers_kind")
enums = Table("answers_enums", MetaData(), Column("id", Integer), Column("kind", KIND), Column("kinds", ARRAY(KIND)))


@pytest_asyncio.fixture
async def enum_type(server: Server) -> AsyncIterator[None]:
    await server.connection.execute("CREATE TYPE answers_kind AS ENUM ('a', 'b')")
    await server.connection.execute(f"CREATE TABLE answers_enums AS {ROW}")
    yield
    await server.connection.execute("DROP TABLE answers_enums; DROP TYPE answers_kind")


@pytest.mark.parametrize("change", CHANGES)
async def test_an_enum_that_is_made_anew_is_read_and_bound_by_open_connections(
    postgres_url: str, server: Server, enum_type: None, change: str
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    asks: list[Any] = [
        lambda db: db.async_pluck(enums.c.kind),
        lambda db: db.async_pluck(enums.c.kinds, where=enums.c.kinds == ["a"]),
        lambda db: db.async_count(select(enums), where=enums.c.kind.in_(["a", "b"])),
        lambda db: db.async_find_by_sql("SELECT kind, kinds FROM answers_enums"),
    ]
    try:
        async with Database(pool, owner="job") as db:
            # By the third time a text is prepared for good.
            before = [[await ask(db) for ask in asks] for _ in range(4)][-1]
            async with db.transaction():
                await asks[2](db)
            await server.connection.execute(CHANGES[change])
            assert [await ask(db) for ask in asks] == before
            async with db.transaction():
                assert [await ask(db) for ask in asks] == before
    finally:
        await pool.close()


async def test_a_transaction_that_meets_a_type_made_anew_says_so_and_the_next_goes_on(
    postgres_url: str, server: Server, enum_type: None
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    try:
        async with Database(pool, owner="job") as db:

            async def counted() -> int:
                async with db.transaction():
                    return int(await db.async_count(select(enums), where=enums.c.kind == "a"))

            for _ in range(4):
                assert await counted() == 1
            await server.connection.execute(CHANGES["made anew"])
            with pytest.raises(QueryError, match="a type was made anew"):
                await counted()
            assert await counted() == 1
    finally:
        await pool.close()


# Forgotten awaits


async def test_a_promise_is_no_answer(db: Database) -> None:
    promise: Any = db.async_exists(select(literal(1)))
    for misuse in (
        lambda: bool(promise),
        lambda: not promise,
        lambda: promise and 1,
        lambda: len(promise),
        lambda: list(promise),
        lambda: dict(promise),
        lambda: promise[0],
        lambda: 1 in promise,
        lambda: promise == 1,
        lambda: promise != True,  # noqa: E712
        lambda: 3 == promise,  # noqa: SIM300
        lambda: promise in [1, 2],
        lambda: promise > 1,
        lambda: 1 <= promise,  # noqa: SIM300
        lambda: sorted([promise, 1]),
        lambda: max(1, promise),
    ):
        with pytest.raises(TypeError, match="await it first"):
            misuse()
    assert promise in {promise}
    assert promise in [promise]
    assert promise != db.load_async(select(literal(1)))
    assert await promise is True


# Types

TYPED = Path(__file__).with_name("queries_typed.py")


def test_what_users_write_is_right_to_a_strict_type_checker(tmp_path: Path) -> None:
    """Without the plugins of pydantic and SQLAlchemy."""
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-incremental", str(TYPED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
