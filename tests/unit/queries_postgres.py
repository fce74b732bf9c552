"""Fixtures of the tests of `pushsvc.queries`. The server comes from conftest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from pushsvc.queries import Database, DatabasePool

from .queries_support import CREW_TABLES, TABLES, Server, until


@pytest_asyncio.fixture
async def server(postgres_url: str) -> AsyncIterator[Server]:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SET application_name = 'tests'")
    try:
        yield Server(connection)
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def pool(postgres_url: str, server: Server) -> AsyncIterator[DatabasePool]:
    """A pool of the default size. After the test none of its connections may be left in the server."""
    made = DatabasePool(postgres_url)
    try:
        yield made
    finally:
        await made.close()
    assert (made.active, made.waiting) == (0, 0)

    async def gone() -> bool:
        return await server.connections() == 0

    await until(gone)


@pytest_asyncio.fixture
async def db(pool: DatabasePool) -> AsyncIterator[Database]:
    handle = Database(pool, owner="job-1", tags={"job": "report", "job_id": "job-1"})
    try:
        yield handle
    finally:
        await handle.close(reason="the test is over")


@pytest_asyncio.fixture
async def flights(server: Server) -> None:
    """The tables of `Airport` and `Flight`, with five flights."""
    await server.connection.execute(TABLES)


@pytest_asyncio.fixture
async def crew(flights: None, server: Server) -> None:
    """All tables."""
    await server.connection.execute(CREW_TABLES)
