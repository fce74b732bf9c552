"""`docs/queries.md` says what is so: its code runs, its log lines come out, its rows name tests that show them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
import pytest_asyncio
from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from starlette.applications import Starlette
from starlette.routing import Route

from pushsvc import JobContext, Service, Settings
from pushsvc.queries import Database

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "queries.md").read_text()

NUMBER = r"\d+\.\dms"
LINE = re.compile(
    rf"ASYNC [\w ]+ \({NUMBER}\) \(db time {NUMBER}\) \[queued {NUMBER}\]"
    rf"|SHARED [\w ]+ \({NUMBER}\) \(db time {NUMBER}\)"
    rf"|[\w ]+ \({NUMBER}\) \[foreground: (not_started|queue_full|transaction|inline)\]"
)
TIMED = re.compile(rf"{NUMBER}\)")
TOP_LEVEL = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
NAME = "queries_guide"
ROWS = """
INSERT INTO airports VALUES ('EWR', 'Newark Liberty Intl'), ('JFK', 'John F Kennedy Intl');
INSERT INTO airlines VALUES ('OO', 'SkyWest Airlines Inc.'), ('UA', 'United Air Lines Inc.');
INSERT INTO flights VALUES (1, 'EWR', 'UA', 2, 1400), (2, 'JFK', 'OO', NULL, 229), (3, 'JFK', 'UA', 61, 2586);
"""


@dataclass(frozen=True)
class Block:
    """A block of Python, and the log lines shown below it."""

    code: str
    log: tuple[str, ...]

    def __str__(self) -> str:
        return self.code.strip().splitlines()[-1].strip()[:60]


def blocks() -> list[Block]:
    found = re.findall(r"```python\n(.*?)```\n(?:\n```\n((?:[^`\n]+\n)+)```\n)?", TEXT, re.DOTALL)
    return [Block(code, tuple(line for line in log.splitlines() if LINE.fullmatch(line))) for code, log in found]


BLOCKS = blocks()
[MODELS] = [block for block in BLOCKS if "class Base" in block.code]
JOB = BLOCKS[0]


def shape(line: str) -> str:
    return re.sub(NUMBER, "0.0ms", line)


# The tables


def rows() -> list[str]:
    """The rows of the tables beside Rails: header and rule are the first two of each."""
    tables = re.findall(r"((?:^\|.*\n)+)", TEXT.partition("## Coming from Rails")[2], re.MULTILINE)
    return [row for table in tables for row in table.splitlines()[2:]]


def shown_by() -> dict[str, list[tuple[str, str]]]:
    """The tests of each footnote: file and name."""
    notes: dict[str, list[tuple[str, str]]] = {}
    for name, text in re.findall(r"^\[\^(\w+)\]: (.+)$", TEXT, re.MULTILINE):
        file = ""
        for given, test in re.findall(r"`([\w.]*)::(\w+)`", text):
            file = given or file
            notes.setdefault(name, []).append((file, test))
    return notes


def functions_of(file: str) -> set[str]:
    [path] = TESTS.rglob(file)
    functions = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {function.name for function in functions}


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", " ", row.split("|")[1])[:30].strip())
def test_each_row_beside_rails_names_the_tests_that_show_it(row: str) -> None:
    notes = re.findall(r"\[\^(\w+)\]", row)
    assert notes
    for note in notes:
        for file, test in shown_by()[note]:
            assert test in functions_of(file), f"{file} has no {test}"


def test_there_are_two_tables_and_no_idle_footnote() -> None:
    assert len(rows()) > 30
    assert {note for row in rows() for note in re.findall(r"\[\^(\w+)\]", row)} == shown_by().keys()


# The text


def test_every_public_method_of_a_database_is_in_the_guide() -> None:
    public = [name for name, _ in inspect.getmembers(Database) if not name.startswith("_")]
    assert [
        name for name in public if not re.search(rf"`[^`\n]*\b{name}\b|^.*\bdb\.{name}\b", TEXT, re.MULTILINE)
    ] == []


def test_all_that_looks_like_a_log_line_is_of_the_form_that_is_logged() -> None:
    shown = [line for line in re.findall(r"^(?!\|).*$", TEXT, re.MULTILINE) if TIMED.search(line) and "`" not in line]
    assert len(shown) > 20
    assert [line for line in shown if not LINE.fullmatch(line)] == []


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_of_code_compiles(block: Block) -> None:
    compile(block.code, "docs/queries.md", "exec", flags=TOP_LEVEL)


# The code


@pytest.fixture(scope="module")
def guide_url(postgres_url: str) -> Iterator[str]:
    """A database with the guide's tables and a few rows."""
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{NAME}"))
    asyncio.run(execute(postgres_url, f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)", f"CREATE DATABASE {NAME}"))
    tables = run(MODELS, {})["Base"].metadata.sorted_tables
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so
    asyncio.run(execute(url, *(str(CreateTable(table).compile(dialect=dialect)) for table in tables), ROWS))
    yield url
    asyncio.run(execute(postgres_url, f"DROP DATABASE {NAME} WITH (FORCE)"))


async def execute(url: str, *commands: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for command in commands:
            await connection.execute(command)
    finally:
        await connection.close()


def run(block: Block, names: dict[str, Any]) -> dict[str, Any]:
    """What is defined when the block, which awaits nothing, has run."""
    # Not this file's `annotations`: the guide's reader has none.
    names.setdefault("__name__", "guide")
    exec(compile(block.code, "docs/queries.md", "exec", dont_inherit=True), names)
    return names


@pytest_asyncio.fixture
async def names(guide_url: str) -> AsyncIterator[dict[str, Any]]:
    """What the guide's blocks know: SQLAlchemy, its classes, its service."""
    known = run(JOB, run(MODELS, {"select": select, "insert": insert, "update": update}))
    service: Service = known["service"]
    service.settings = Settings.from_env({}, database_url=guide_url)
    try:
        yield known
    finally:
        await service.close()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.log], ids=str)
async def test_each_block_logs_what_is_shown(
    block: Block, names: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    if block is JOB:
        await a_job(names)
    elif "Request" in block.code:
        await an_endpoint(run(block, names))
    elif "async def test_" in block.code:
        await run(block, names)["test_the_report_counts_flights"](names["service"])
    else:
        await a_body(block, names)
    assert [shape(message) for message in caplog.messages] == [shape(line) for line in block.log]


async def test_the_apps_own_session_narrows_what_is_counted(guide_url: str, names: dict[str, Any]) -> None:
    [block] = [block for block in BLOCKS if "class AppSession" in block.code]
    names["Service"] = partial(Service, settings=Settings.from_env({}, database_url=guide_url))
    guide = run(block, names)
    try:
        for _ in range(2):
            assert [await guide["own_flights"](code) for code in ("UA", "OO", "DL")] == [2, 1, 0]
    finally:
        await guide["service"].close()


async def a_body(block: Block, names: dict[str, Any]) -> None:
    async with names["service"].queries() as names["db"]:
        await eval(compile(block.code, "docs/queries.md", "exec", flags=TOP_LEVEL, dont_inherit=True), names)


async def a_job(names: dict[str, Any]) -> None:
    pool = names["service"].parts.databases["primary"]

    async def tell(_: object) -> None: ...

    context = JobContext(
        id="1", name="airport_report", attempt=1, tenant="default", user=None, tell=tell,
        open_database=lambda name, observer: Database(pool, owner="1", observer=observer),
    )  # fmt: skip
    report = await names["airport_report"](context, "JFK")
    await context.close()
    assert (report["flights"], report["mean_delay"], len(report["worst"])) == (2, 61.0, 2)


async def an_endpoint(names: dict[str, Any]) -> None:
    transport = httpx.ASGITransport(app=Starlette(routes=[Route("/{code}", names["airport"])]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/JFK")).json() == {"flights": 2, "carriers": ["OO", "UA"]}
