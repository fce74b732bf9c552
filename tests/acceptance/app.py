"""The service that the acceptance tests run: jobs that can be watched, held back and counted from outside.

What a job does to the world it notes in files under ACCEPTANCE_DIR, which stay when engines go down.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from sqlalchemy import Text, cast, func, literal, select

from pushsvc import JobContext, Service

service = Service()


def _directory() -> Path:
    return Path(os.environ["ACCEPTANCE_DIR"])


def _note_execution(ctx: JobContext) -> None:
    """One line for each time a job's function is entered; appending one line is atomic."""
    with (_directory() / "executions").open("a") as file:
        file.write(f"{ctx.id} {ctx.attempt}\n")


@service.job
async def echo(value: Any = None) -> Any:
    """Answers with what it was given."""
    return value


@service.job
def shout(text: str) -> str:
    """A plain function: it runs in a thread."""
    return text.upper()


@service.job
async def failing(message: str) -> None:
    raise ValueError(message)


@service.job
async def big(size: int) -> str:
    return "x" * size


@service.job
async def counting(ctx: JobContext) -> int:
    """Notes that it was executed."""
    _note_execution(ctx)
    return ctx.attempt


@service.job
async def gated(ctx: JobContext, gate: str) -> str:
    """Notes that it was executed, then waits until the file named `gate` is there."""
    _note_execution(ctx)
    path = _directory() / gate
    while not path.exists():  # noqa: ASYNC110  another process makes it
        await asyncio.sleep(0.01)
    return gate


@service.job(max_attempts=5)
async def nap(ctx: JobContext, seconds: float = 1.0, times: int = 3, gate: int = 0) -> dict[str, Any]:
    """Sleeps in PostgreSQL, side by side; each query first waits while the advisory lock `gate` is held."""
    _note_execution(ctx)
    passed = cast(func.pg_advisory_xact_lock_shared(gate), Text) == ""
    naps = [
        ctx.db.load_async(select(func.pg_sleep(seconds), literal(number)).where(passed)) for number in range(times)
    ]
    slept = [rows[0][1] for rows in [await nap for nap in naps]]
    return {"slept": slept, "queries": ctx.queries}
