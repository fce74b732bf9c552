"""What a pooler in transaction mode costs: the same through PgBouncer and straight to the server.

    python -m benchmarks.pooler [--rounds 300]

Everything runs on one event loop (uvloop), on a PostgreSQL and a PgBouncer that it starts. In each round both ways
take turns, in either order; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click
import uvloop
from sqlalchemy import Integer, func, literal, literal_column, select

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.queries import Database, DatabasePool
from pushsvc.store import Postgres, migrate
from tests.pgbouncer import pgbouncer

WARM_UP = 20

Way = Callable[[int], Awaitable[object]]


async def ways(stack: AsyncExitStack, url: str) -> dict[str, Way]:
    """What is measured, by name, each with connections that are open already."""
    store = await stack.enter_async_context(Postgres(url, 4))
    pool = DatabasePool(url, executor_concurrency=4, own_connections=2, side_by_side=True)
    stack.push_async_callback(pool.close)
    db = await stack.enter_async_context(Database(pool, owner="benchmark", tags={"job": "benchmark"}))
    tenant = await stack.enter_async_context(Database(pool, owner="tenant", pg_settings={"app.tenant": "acme"}))

    def tiny(number: int, of: Database = db) -> Awaitable[object]:
        return of.async_pick(literal(number, Integer))

    async def transaction(number: int) -> None:
        async with db.transaction():
            for each in range(3):
                await tiny(3 * number + each)

    async def side_by_side(_: int) -> None:
        for each in [db.load_async(select(func.pg_sleep(0.02), literal_column(str(n)))) for n in range(4)]:
            await each

    return {
        "a statement of the service's own": lambda number: store.ask("SELECT $1, $2::int", number),
        "a tiny query of a job": tiny,
        "a tiny query with `pg_settings`": lambda number: tiny(number, tenant),
        "a text, after which the session is reset": lambda number: db.async_find_by_sql(f"SELECT {number}"),
        "a transaction of three tiny queries": transaction,
        "four queries of 20 ms side by side": side_by_side,
    }


async def took(way: Way, number: int) -> float:
    began = time.perf_counter()
    await way(number)
    return time.perf_counter() - began


async def measure(direct: str, pooled: str, rounds: int) -> list[tuple[str, float, float, float]]:
    """For each thing its name, both medians in ms, and the ratio."""
    await migrate(direct)
    rows = []
    async with AsyncExitStack() as stack:
        straight, through = await ways(stack, direct), await ways(stack, pooled)
        for name in straight:
            pairs = []
            for number in range(WARM_UP + rounds):
                times = {}
                for way in random.sample((straight, through), 2):
                    times[way is through] = await took(way[name], number)
                pairs.append((times[False], times[True]))
            firsts, seconds = zip(*pairs[WARM_UP:], strict=True)
            ratio = statistics.median(second / first for first, second in pairs[WARM_UP:])
            rows.append((name, 1000 * statistics.median(firsts), 1000 * statistics.median(seconds), ratio))
    return rows


@click.command()
@click.option("--rounds", default=300, show_default=True, type=click.IntRange(1))
def main(rounds: int) -> None:
    """Print the table of docs/operations.md."""
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-"))
    try:
        with EmbeddedPostgres(directory / "postgres") as postgres, pgbouncer(postgres.url, size=20) as pooler:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows = runner.run(measure(postgres.url, pooler.url(postgres.url), rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    click.echo("| | straight | through PgBouncer | ratio |\n|---|---|---|---|")
    for name, straight, through, ratio in rows:
        click.echo(f"| {name} | {straight:.2f} ms | {through:.2f} ms | {ratio:.1f} |")


if __name__ == "__main__":
    main()
