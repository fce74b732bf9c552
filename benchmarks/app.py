"""The jobs that are measured."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Select, func, literal, select

from pushsvc import JobContext, Service

service = Service()


@service.job
async def nothing() -> None:
    """No work at all: what remains is what the service costs."""


@service.job
async def brief() -> None:
    """20 ms."""
    await asyncio.sleep(0.02)


def sleeping(seconds: float, number: int) -> Select[Any]:
    return select(func.pg_sleep(seconds), literal(number))


@service.job
async def parallel(ctx: JobContext, seconds: float = 1.0, count: int = 3) -> int:
    """Queries in parallel style."""
    promises = [ctx.db.load_async(sleeping(seconds, number)) for number in range(count)]
    return len(await asyncio.gather(*promises))


@service.job
async def sequential(ctx: JobContext, seconds: float = 1.0, count: int = 3) -> int:
    """The same queries, one after another."""
    return len([await ctx.db.load_async(sleeping(seconds, number)) for number in range(count)])
