"""The service that the client's tests run: jobs that answer, fail, wait, and publish."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pushsvc import JobContext, Service

service = Service()


@service.job
async def echo(value: Any = None) -> Any:
    """Answers with what it was given."""
    return value


@service.job(max_attempts=1)
async def failing(message: str = "no") -> None:
    raise ValueError(message)


@service.job
async def big(size: int) -> str:
    return "x" * size


@service.job
async def stepping(ctx: JobContext, steps: int = 3, pause: float = 0.2) -> int:
    """Tells its progress, step by step."""
    for step in range(steps):
        await asyncio.sleep(pause)
        await ctx.progress((step + 1) / steps, f"step {step + 1}")
    return steps


@service.job(timeout=60)
async def gated(gate: str) -> str:
    """Waits until the file named `gate` is there."""
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  another process makes it
        await asyncio.sleep(0.02)
    return gate


@service.job(timeout=60)
async def burst(channel: str, count: int, each: float = 0.0, start: int = 0) -> int:
    """Publishes numbers, one after another."""
    for number in range(start, start + count):
        await service.publish(channel, "n", number)
        if each:
            await asyncio.sleep(each)
    return count


@dataclass
class Report:
    origin: str
    flights: int


@service.job
async def airport_report(origin: Literal["EWR", "JFK", "LGA"], month: int = 1) -> Report:
    """A job whose parameters and result have types."""
    return Report(origin, month)


@service.job
async def tick() -> None:
    """Takes nothing and gives nothing."""
