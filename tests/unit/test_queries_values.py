"""What Python can't hold: the same error by every way, whenever it is asked for, and all else goes on."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Date, Enum, Interval, Numeric, Time, cast, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import create_async_engine

from pushsvc.errors import causes
from pushsvc.queries import Database
from pushsvc.store import is_lost
from pushsvc.webhooks.sender import _reason

from .queries_support import Server

pytest_plugins = ["tests.unit.queries_postgres"]

VALUES = [
    *("'0044-03-15 BC'::date", "'infinity'::date", "'-infinity'::timestamp", "'infinity'::timestamptz"),
    *("'12000-01-01'::timestamp", "'12000-01-01'::timestamptz", "'4000-01-01 BC'::timestamptz"),
    *("'infinity'::interval", "'178000000 years'::interval", "'24:00:00'::time", "'24:00:00+01'::timetz"),
    *("'NaN'::numeric", "'-Infinity'::numeric", "repeat('9', 5000)::numeric", "'nan'::float8", "1e-400::numeric"),
    *("('[' || repeat('9', 5000) || ']')::jsonb", "('[' || repeat('9', 5000) || ']')::json", "'\"\\ud800\"'::json"),
    *("ARRAY['0044-03-15 BC'::date]", "row(1, '0044-03-15 BC'::date)", "daterange('0044-03-15 BC', '0040-01-01 BC')"),
    *(
        "'\\x00ff'::bytea",
        "'a'::\"char\"",
        "'1 week'::interval",
        "pg_current_snapshot()::text = ''",
        "'1.2.3.4/8'::inet",
    ),
]


class Color(enum.Enum):
    RED = "red"


STATEMENTS = [
    select(cast(literal("0044-03-15 BC").op("||")(""), Date)),
    select(cast(literal("24:00").op("||")(""), Time)),
    select(cast(literal("infinity").op("||")(""), Interval)),
    select(cast(literal("NaN").op("||")(""), Numeric)),
    select(func.array_agg(cast(literal("0044-03-15 BC").op("||")(""), Date), type_=ARRAY(Date))),
    select(func.to_jsonb(cast(func.repeat("9", 5000), Numeric), type_=JSONB)),
    select(literal("blue").op("||", return_type=Enum(Color, native_enum=False))("")),
]


def told(outcome: Any) -> str:
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {str(outcome).splitlines()[0]}"
    return repr(outcome)


async def asked(db: Database, statement: Any) -> Any:
    try:
        async with asyncio.timeout(5):
            return await (db.async_find_by_sql(statement) if isinstance(statement, str) else db.load_async(statement))
    except Exception as error:
        return error


@pytest.mark.parametrize("statement", [*(f"SELECT {value}" for value in VALUES), *STATEMENTS], ids=str)
async def test_a_value_is_read_or_refused_as_by_sqlalchemy_whenever_it_is_asked_for(
    statement: Any, db: Database, postgres_url: str, server: Server
) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url))
    try:
        async with engine.connect() as connection:
            executable = text(statement) if isinstance(statement, str) else statement
            expected: Any = list((await connection.execute(executable)).scalars())
    except Exception as error:
        expected = error
    finally:
        await engine.dispose()
    # The first goes by SQLAlchemy, the others straight to the driver.
    outcomes = [told(await asked(db, statement)) for _ in range(3)]
    assert outcomes == [told(expected)] * 3
    assert await db.load_async(select(literal(1))) == [1]
    assert len(await server.fetch("SELECT FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %'")) == 1


def test_causes_that_go_in_a_circle_are_followed_once() -> None:
    own, first, second = ValueError("own"), OSError("first"), ValueError("second")
    own.__cause__ = own
    first.__cause__, second.__cause__ = second, first
    assert list(causes(own)) == list(causes(own, contexts=True)) == [own]
    assert list(causes(first)) == [first, second]
    assert not is_lost(own)
    assert is_lost(second)
    assert _reason(own)
    third = KeyError()
    third.__context__ = second
    assert list(causes(third)) == [third]
    assert list(causes(third, contexts=True)) == [third, second, first]
    assert list(causes(None)) == []
