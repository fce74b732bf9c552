"""A process that dies under a query leaves nothing running in the server."""

from __future__ import annotations

import asyncio
import sys

from .queries_support import Server, until

pytest_plugins = ["tests.unit.queries_postgres"]

PROGRAM = """
import asyncio, sys
from sqlalchemy import func, select
from pushsvc.queries import Database, DatabasePool

async def main():
    async with Database(DatabasePool(sys.argv[1]), owner="job", tags={"job": "doomed"}) as db:
        await db.load_async(select(func.pg_sleep(600)))

asyncio.run(main())
"""


async def test_the_queries_of_a_killed_process_end_in_the_server(postgres_url: str, server: Server) -> None:
    async def running() -> list[int]:
        rows = await server.fetch(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1", "/*job='doomed'*/%"
        )
        return [row["pid"] for row in rows]

    async def started() -> bool:
        return len(await running()) == 1

    async def ended() -> bool:
        return not await running()

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, postgres_url)
    try:
        await until(started)
    finally:
        process.kill()
        await process.wait()
    await until(ended)
