"""Real engines for every test: one PostgreSQL and one Valkey a session, a database of its own for each test.

`PUSHSVC_TEST_DATABASE_URL` and `PUSHSVC_TEST_REDIS_URL` replace the embedded ones.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import redis

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.settings import Settings
from pushsvc.store import migrate

# The gate tries the same examples each time; `--hypothesis-profile=explore` others, at random.
hypothesis.settings.register_profile("gate", derandomize=True, database=None, deadline=None, print_blob=False)
hypothesis.settings.register_profile("explore", derandomize=False, database=None, deadline=None)
hypothesis.settings.load_profile("gate")

SECRET = "a secret for tests only, 32 chars"
EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DELETE FROM pushsvc.events; DELETE FROM pushsvc.jobs; DELETE FROM pushsvc.channels;
DELETE FROM pushsvc.positions; DELETE FROM pushsvc.tickets; DELETE FROM pushsvc.disabled_endpoints;
DELETE FROM pushsvc.beats; DELETE FROM pushsvc.records; DELETE FROM pushsvc.keys; DELETE FROM pushsvc.wakeups;
DELETE FROM pushsvc.ticks;
DROP SCHEMA public CASCADE; CREATE SCHEMA public
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged goes from process to process as UTF-8; jobs in tests log halves of surrogate pairs, too."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A short-lived directory for engines; short, since UNIX sockets' paths are limited."""
    path = Path(tempfile.mkdtemp(prefix="pushsvc-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(data_dir: Path) -> Iterator[str]:
    """A PostgreSQL server."""
    if url := os.environ.get("PUSHSVC_TEST_DATABASE_URL"):
        yield url
        return
    with EmbeddedPostgres(data_dir / "postgres") as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
def _valkey_url(data_dir: Path) -> Iterator[str]:
    if url := os.environ.get("PUSHSVC_TEST_REDIS_URL"):
        yield url
        return
    with EmbeddedValkey(data_dir / "valkey") as valkey:
        yield valkey.url


@pytest.fixture
def redis_url(_valkey_url: str) -> Iterator[str]:
    """A Redis server, empty."""
    with redis.Redis.from_url(_valkey_url) as client:
        client.flushall()
        yield _valkey_url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A database with nothing in it, gone after the test."""
    name = f"test_{uuid4().hex[:12]}"
    asyncio.run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    asyncio.run(_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def _migrated_database_url(postgres_url: str) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    asyncio.run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    asyncio.run(migrate(url))
    yield url
    asyncio.run(_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database_url(_migrated_database_url: str) -> str:
    """A database with the store's tables, empty, and nobody else in it.

    It is the same for every test, emptied: making one anew costs a hundred times as much.
    """
    asyncio.run(_execute(_migrated_database_url, EMPTY))
    return _migrated_database_url


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings of a whole service on the test's own engines."""
    return Settings.from_env({}, database_url=database_url, redis_url=redis_url, secret=SECRET)


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
