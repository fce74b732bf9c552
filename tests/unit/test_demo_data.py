"""The demo's loader, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from sqlalchemy import Table

from pushsvc.demo import data
from pushsvc.demo.data import SOURCES, Advance, Source, load, load_async, terminal_bar
from pushsvc.errors import PushsvcError, SettingsError


class Heard:
    """What a load said, and how far its bar came."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.length = 0
        self.advanced = 0

    @contextmanager
    def bar(self, length: int) -> Iterator[Advance]:
        self.length = length
        yield self._advance

    def _advance(self, step: int) -> None:
        self.advanced += step


async def connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[str]:
    """A database of this test's own."""
    name = f"demo_{time.time_ns()}"
    admin = await connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Only the airlines, from a directory that the test may change."""
    (tmp_path / "airlines.csv").write_bytes((data.find_data() / "airlines.csv").read_bytes())
    monkeypatch.setattr(data, "SOURCES", SOURCES[:1])
    monkeypatch.setattr(data, "find_data", lambda: tmp_path)
    return tmp_path


async def rows(url: str, source: Source) -> int:
    connection = await connect(url)
    try:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {source.table.fullname}")
        return found
    finally:
        await connection.close()


async def test_all_rows_are_loaded_and_the_second_load_does_nothing(database: str) -> None:
    heard = Heard()
    await load_async(database, heard.said.append, heard.bar)
    assert {source.file: await rows(database, source) for source in SOURCES} == {
        "airlines.csv": 16,
        "airports.csv": 1_458,
        "planes.csv": 3_322,
        "weather.csv": 26_115,
        "flights.csv.zip": 336_776,
    }
    assert heard.advanced == heard.length > 30_000_000
    assert heard.said[-1] == "367,687 rows are loaded."

    again = Heard()
    began = time.perf_counter()
    await load_async(database, again.said.append, again.bar)
    assert time.perf_counter() - began < 0.5
    assert (again.said, again.length) == ([], 0)

    connection = await connect(database)
    first = await connection.fetchrow("SELECT * FROM flights.flights WHERE id = 1")
    missing = await connection.fetchval("SELECT count(*) FROM flights.flights WHERE dep_time IS NULL")
    analyzed = await connection.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'flights.flights'::regclass")
    await connection.close()
    assert first is not None
    assert (first["carrier"], first["flight"], first["dep_delay"]) == ("UA", 1545, 2)
    assert first["time_hour"].isoformat() == "2013-01-01T10:00:00+00:00"
    assert missing == 8_255
    assert analyzed == 336_776


@pytest.mark.usefixtures("small")
async def test_of_two_loads_at_once_only_one_loads(database: str) -> None:
    one, two = Heard(), Heard()
    await asyncio.gather(
        load_async(database, one.said.append, one.bar), load_async(database, two.said.append, two.bar)
    )
    assert sorted([one.length, two.length])[0] == 0
    assert await rows(database, SOURCES[0]) == 16


async def test_a_file_with_rows_missing_is_refused_and_leaves_no_trace(database: str, small: Path) -> None:
    lines = (small / "airlines.csv").read_text().splitlines()
    (small / "airlines.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(PushsvcError, match=r"airlines\.csv holds 15 rows, not 16"):
        await load_async(database, Heard().said.append, Heard().bar)
    connection = await connect(database)
    assert await connection.fetchval("SELECT to_regnamespace('flights')") is None
    await connection.close()


@pytest.mark.usefixtures("small")
async def test_tables_of_somebody_else_are_not_touched(database: str) -> None:
    connection = await connect(database)
    await connection.execute("CREATE SCHEMA flights; CREATE TABLE flights.airlines (mine text)")
    await connection.close()
    with pytest.raises(SettingsError, match=r"flights\.airlines exists and is not the demo's"):
        await load_async(database, Heard().said.append, Heard().bar)


@pytest.mark.usefixtures("small")
async def test_load_needs_no_event_loop_and_takes_a_url_that_names_its_driver(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(load, database.replace("postgresql:", "postgresql+asyncpg:"), bar=terminal_bar)
    assert await rows(database, SOURCES[0]) == 16
    out, err = capsys.readouterr()
    assert "16 rows are loaded." in err
    assert out == ""


def test_without_the_data_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'pushsvc\[demo\]'"):
        data.find_data()


def test_every_column_of_the_files_is_in_its_model() -> None:
    for source in SOURCES:
        with data._open(data.find_data() / source.file) as opened:
            assert isinstance(source.table, Table)
            assert set(opened.columns) == set(source.table.columns.keys()) - {"id"}
