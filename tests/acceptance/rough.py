"""A service whose jobs do to their worker what no job should."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any

from pushsvc import JobContext, Service

from .app import _directory, _note_execution

service = Service()


class OwnError(BaseException):
    """What no `except Exception` catches."""


class Exiting(Exception):
    def __str__(self) -> str:
        sys.exit(3)


@service.job
async def gated(ctx: JobContext, gate: str) -> str:
    """Notes that it was executed, then waits until the file named `gate` is there."""
    _note_execution(ctx)
    path = _directory() / gate
    while not path.exists():  # noqa: ASYNC110  another process makes it
        await asyncio.sleep(0.01)
    return gate


@service.job(timeout=60)
async def blocking(ctx: JobContext, seconds: float) -> float:
    """Blocks the event loop."""
    _note_execution(ctx)
    time.sleep(seconds)  # noqa: ASYNC251  what it is about
    return seconds


@service.job(timeout=1)
async def blocking_for_long(ctx: JobContext, seconds: float) -> None:
    """Blocks the event loop for longer than it may take."""
    _note_execution(ctx)
    time.sleep(seconds)  # noqa: ASYNC251  what it is about


@service.job(timeout=1)
async def blocking_in_a_child(ctx: JobContext, seconds: float) -> None:
    """Not itself: a task that it has begun."""
    _note_execution(ctx)

    async def child() -> None:
        time.sleep(seconds)  # noqa: ASYNC251  what it is about

    await asyncio.create_task(child())


@service.job(timeout=60)
async def holding_everything(ctx: JobContext, length: int) -> bool:
    """Keeps even threads from running: the expression backtracks in C, which holds the GIL."""
    _note_execution(ctx)
    return re.fullmatch(r"(a|aa)+b", "a" * length) is not None


@service.job
async def raising(ctx: JobContext, what: str) -> None:
    _note_execution(ctx)
    raise {"own": OwnError("of its own"), "str": Exiting(), "exit": SystemExit(3), "stop": StopIteration(7)}[what]


@service.job
async def exiting_in_a_child(ctx: JobContext, awaited: bool) -> str:
    _note_execution(ctx)

    async def child() -> None:
        sys.exit(3)

    task = asyncio.create_task(child())
    if awaited:
        await task
    await asyncio.sleep(0.05)
    return "after all"


@service.job
async def exiting_in_then(ctx: JobContext) -> Any:
    _note_execution(ctx)
    return await ctx.db.async_count_by_sql("SELECT 1").then(lambda _: sys.exit(3))


@service.job
def stopping(ctx: JobContext) -> None:
    """A plain function that raises what no generator may."""
    _note_execution(ctx)
    next(iter(()))


@service.job(timeout=0.3)
def stuck(ctx: JobContext, gate: str) -> None:
    """A plain function that does not end, until `gate` is there; then it tries to go on."""
    run_until(ctx, gate)


@service.job(timeout=60)
def stuck_for_long(ctx: JobContext, gate: str) -> None:
    """The same, with more time."""
    run_until(ctx, gate)


def run_until(ctx: JobContext, gate: str) -> None:
    _note_execution(ctx)
    while not (_directory() / gate).exists():
        time.sleep(0.01)
    tried = []
    for attempt in (lambda: ctx.db, lambda: ctx.progress(0.5)):
        try:
            attempt()
            tried.append("it went on")
        except Exception as error:
            tried.append(f"{type(error).__name__}: {error}")
    (_directory() / f"{ctx.id}.tried").write_text("\n".join(tried))


@service.job(timeout=0.3)
async def deaf(ctx: JobContext, gate: str) -> None:
    """Swallows every cancel, until `gate` is there."""
    await hear_nothing(ctx, gate)


@service.job(timeout=60)
async def deaf_for_long(ctx: JobContext, gate: str) -> None:
    """The same, with more time."""
    await hear_nothing(ctx, gate)


async def hear_nothing(ctx: JobContext, gate: str) -> None:
    _note_execution(ctx)
    while not (_directory() / gate).exists():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            pass


@service.job
async def quick(ctx: JobContext) -> int:
    _note_execution(ctx)
    return ctx.attempt
