"""A cancel request that PostgreSQL loses: it came before the backend had read the query it was meant for."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pushsvc.queries import Database, DatabasePool

from .queries_support import Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]


def is_here(pid: int) -> bool:
    """Whether the process is on this machine, and can be looked at."""
    return Path(f"/proc/{pid}/status").exists()


def pending_signals(pid: int) -> int:
    """The signals that wait for a process, as bits; those sent to the process, not to one thread of it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("ShdPnd:")), 16)


async def test_a_cancel_that_the_server_has_lost_is_sent_again(postgres_url: str, server: Server) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    db = Database(pool, owner="job")
    [backend] = await db.async_find_by_sql("SELECT pg_backend_pid()")
    if not is_here(backend):
        pytest.skip("PostgreSQL's processes are not on this machine")
    other = Database(pool, owner="other")
    # By the third time it is prepared, so that it goes to the server in one piece.
    for _ in range(4):
        assert await other.load_async(behind(1)) == [1]
    async with server.gate(1):
        os.kill(backend, signal.SIGSTOP)
        try:
            promise = other.load_async(behind(1))
            await until(lambda: promise.status == "running")
            for _ in range(10):
                await asyncio.sleep(0)  # asyncpg writes within the first steps of the task
            promise.cancel()
            await until(lambda: pending_signals(backend) >> (signal.SIGINT - 1) & 1)
        finally:
            # Now the signal finds an idle backend, which ignores it, and then reads the query.
            os.kill(backend, signal.SIGCONT)
        await server.until_running(1)
        await other.close(reason="cancelled")
        assert await server.running() == []
    assert await db.async_find_by_sql("SELECT pg_backend_pid()") == [backend]
    await db.close()
    await pool.close()
