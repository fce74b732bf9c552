"""What parallel queries gain, and what they cost: promises beside asyncpg and SQLAlchemy without them.

    python -m benchmarks.queries [--rounds 60]

Everything runs in one process on one event loop (uvloop), on a PostgreSQL that it starts. Within each round the
variants take turns, each time in another order, so that whatever else the machine does falls on all of them; a
ratio is the median of the rounds' ratios. All variants of a table have to give the same answers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import click
import uvloop
from pydantic_core import to_json
from sqlalchemy import Select, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.jobs.results import encode
from pushsvc.queries import Database, DatabasePool, Promise

TINY = 20
"""How many tiny queries a job has."""

CONNECTIONS = 4
"""For everybody: asyncpg's pool, plain connections, and a job, of which the executor has all but its own one."""

ROWS = 1000
FLIGHTS = """
CREATE TABLE flights (id int PRIMARY KEY, origin text, carrier text, dep_delay int, air_time float8);
INSERT INTO flights SELECT n, 'JFK', 'AA' || n % 16, nullif(n % 90, 7), n * 0.25 FROM generate_series(1, 1000) n
"""

Variant = Callable[[int], Awaitable[Any]]
"""What is measured: given the round's number, does it and gives the answer."""


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flights"

    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str]
    carrier: Mapped[str]
    dep_delay: Mapped[int | None]
    air_time: Mapped[float]


COLUMNS = (Flight.id, Flight.origin, Flight.carrier, Flight.dep_delay, Flight.air_time)


# Measuring -------------------------------------------------------------------------------------------


class Times:
    """Seconds of each variant in each round: on the clock, and of this process' CPU."""

    def __init__(self, clock: Sequence[Mapping[str, float]], cpu: Sequence[Mapping[str, float]]) -> None:
        self._clock = clock
        self._cpu = cpu

    def milliseconds(self, name: str) -> float:
        return statistics.median(times[name] for times in self._clock) * 1000

    def ratio(self, name: str, to: str) -> float:
        return statistics.median(times[name] / times[to] for times in self._clock)

    def cpu_ratio(self, name: str, to: str) -> float:
        return statistics.median(times[name] / times[to] for times in self._cpu)


async def alternate(variants: Mapping[str, Variant], rounds: int, *, warm: int = 5) -> Times:
    """Run them in turns, and compare their answers."""
    clock: list[dict[str, float]] = []
    cpu: list[dict[str, float]] = []
    for number in range(-warm, rounds):
        answers: dict[str, Any] = {}
        clock.append({})
        cpu.append({})
        for name in random.sample(list(variants), len(variants)):
            gc.collect(0)
            began, cpu_began = time.perf_counter(), time.process_time()
            answers[name] = await variants[name](number)
            clock[-1][name] = time.perf_counter() - began
            cpu[-1][name] = time.process_time() - cpu_began
        first, *others = variants
        for name in others:
            if comparable(answers[name]) != comparable(answers[first]):
                raise SystemExit(f"{name} and {first} do not answer the same, and so can't be compared")
    return Times(clock[warm:], cpu[warm:])


def comparable(answer: Any) -> Any:
    return json.loads(answer) if isinstance(answer, bytes) else answer


class Bench:
    """What the variants run on, all of it open and warm."""

    def __init__(
        self,
        raw: asyncpg.Pool[Any],
        plain: Sequence[asyncpg.Connection[Any]],
        pool: DatabasePool,
        session: Callable[[], AsyncSession],
    ) -> None:
        self.raw = raw
        self.plain = plain
        self.pool = pool
        self.session = session

    def job(self, number: int, *, comment: bool = True) -> Database:
        """What a job holds: each has an id of its own."""
        tags = {"job": "bench", "job_id": f"job-{number}"} if comment else {}
        return Database(self.pool, owner=f"job-{number}", tags=tags)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Bench]:
    raw = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    plain = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    pool = DatabasePool(url, executor_concurrency=CONNECTIONS - 1, own_connections=1)
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        await plain[0].execute(FLIGHTS)
        await plain[0].execute("VACUUM ANALYZE flights")
        yield Bench(raw, plain, pool, lambda: AsyncSession(engine))
    finally:
        await engine.dispose()
        await pool.close()
        for connection in plain:
            await connection.close()
        await raw.close()


@contextmanager
def postgres() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-bench-"))
    try:
        with EmbeddedPostgres(directory / "postgres") as engine:
            assert engine.url is not None
            yield engine.url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# Three slow queries ----------------------------------------------------------------------------------


async def slow(bench: Bench) -> str:
    """Three times `pg_sleep(1)`, beside one of them alone."""

    def sleeping(each: int) -> Select[str]:
        return select(func.concat(func.pg_sleep(1), each, type_=String))

    async def alone(number: int) -> str:
        return str(await bench.plain[0].fetchval("SELECT concat(pg_sleep(1), 0)"))

    async def parallel(number: int) -> str | None:
        async with bench.job(number) as db:
            answers = await asyncio.gather(*(db.async_pick(sleeping(each)) for each in range(3)))
        return answers[0]

    async def in_turn(number: int) -> str | None:
        async with bench.job(number) as db:
            answers = [await db.async_pick(sleeping(each)) for each in range(3)]
        return answers[0]

    variants: dict[str, Variant] = {"alone": alone, "parallel": parallel, "in turn": in_turn}
    await warm_up(bench)
    times = await alternate(variants, 3, warm=0)
    rows = [["one of them alone, by asyncpg", f"{times.milliseconds('alone') / 1000:.3f} s", ""]]
    for name, shown in (("parallel", "**three in parallel**"), ("in turn", "three awaited one after another")):
        rows.append([shown, f"{times.milliseconds(name) / 1000:.3f} s", f"{times.ratio(name, 'alone'):.3f} ×"])
    return table(["`pg_sleep(1)`", "time", "to one alone"], rows)


async def warm_up(bench: Bench) -> None:
    """Open all of the pool's connections, and have the shape of each statement known."""
    async with bench.job(-1) as db:
        await asyncio.gather(*(db.load_async(select(func.pg_sleep(0.05))) for _ in range(CONNECTIONS)))


# Tiny queries ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiny:
    """One kind of query: by a promise, its answer's value, and by the driver."""

    ask: Callable[[Database, int], Promise[Any]]
    value: Callable[[Any], Any]
    sql: str


def only(rows: list[Any]) -> Any:
    return rows[0]


def as_is(value: Any) -> Any:
    return value


TEXT = "SELECT carrier FROM flights WHERE id = :id"
KINDS = {
    "load of a column": Tiny(
        lambda db, n: db.load_async(select(Flight.carrier).where(Flight.id == n)),
        only,
        "SELECT carrier FROM flights WHERE id = $1",
    ),
    "count": Tiny(
        lambda db, n: db.async_count(Flight, where=Flight.id == n),
        as_is,
        "SELECT count(*) FROM flights WHERE id = $1",
    ),
    "pick": Tiny(
        lambda db, n: db.async_pick(Flight.carrier, where=Flight.id == n),
        as_is,
        "SELECT carrier FROM flights WHERE id = $1 LIMIT 1",
    ),
    "find_by_sql": Tiny(
        lambda db, n: db.async_find_by_sql(TEXT, id=n), only, "SELECT carrier FROM flights WHERE id = $1"
    ),
}
COMPARED = (
    ("asyncpg's pool of 4, both with a comment", "promises, comment", "pool, comment"),
    ("asyncpg's pool of 4, neither with a comment", "promises", "pool"),
    ("asyncpg's pool of 4, a comment on ours only", "promises, comment", "pool"),
    ("4 connections without a pool, both with a comment", "promises, comment", "plain, comment"),
    ("4 connections without a pool, neither with a comment", "promises", "plain"),
)


def tiny_variants(bench: Bench, kind: Tiny) -> dict[str, Variant]:
    def sql(number: int, comment: bool) -> str:
        return f"/*job='bench',job_id='job-{number}'*/ {kind.sql}" if comment else kind.sql

    async def promises(number: int, comment: bool) -> list[Any]:
        async with bench.job(number, comment=comment) as db:
            asked = [kind.ask(db, each + 1) for each in range(TINY)]
            return [kind.value(await promise) for promise in asked]

    async def pool(number: int, comment: bool) -> list[Any]:
        text = sql(number, comment)
        return await asyncio.gather(*(bench.raw.fetchval(text, each + 1) for each in range(TINY)))

    async def plain(number: int, comment: bool) -> list[Any]:
        text = sql(number, comment)

        async def some(first: int) -> list[Any]:
            connection = bench.plain[first]
            return [await connection.fetchval(text, each + 1) for each in range(first, TINY, CONNECTIONS)]

        parts = await asyncio.gather(*map(some, range(CONNECTIONS)))
        return [parts[each % CONNECTIONS][each // CONNECTIONS] for each in range(TINY)]

    ways = {"promises": promises, "pool": pool, "plain": plain}
    return {
        f"{name}{', comment' if comment else ''}": partial(way, comment=comment)
        for name, way in ways.items()
        for comment in (False, True)
    }


async def tiny(bench: Bench, rounds: int) -> str:
    """Twenty tiny queries of one job, beside the same ones by asyncpg alone."""
    times = {name: await alternate(tiny_variants(bench, kind), rounds) for name, kind in KINDS.items()}
    rows = [["by promises", *(f"{each.milliseconds('promises, comment'):.1f} ms" for each in times.values())]]
    for shown, ours, theirs in COMPARED:
        rows.append([f"to {shown}", *(f"{each.ratio(ours, theirs):.2f} ×" for each in times.values())])
    return table([f"{TINY} tiny queries of one job", *KINDS], rows)


# When not to -----------------------------------------------------------------------------------------


async def overhead(bench: Bench, rounds: int) -> str:
    """The same tiny queries, asked for all at once, one after another, and without any of this."""

    def statement(each: int) -> Select[str]:
        return select(Flight.carrier).where(Flight.id == each + 1)

    async def together(number: int) -> list[str | None]:
        async with bench.job(number) as db:
            asked = [db.async_pick(statement(each)) for each in range(TINY)]
            return [await promise for promise in asked]

    async def in_turn(number: int) -> list[str | None]:
        async with bench.job(number) as db:
            return [await db.async_pick(statement(each)) for each in range(TINY)]

    async def session(number: int) -> list[str | None]:
        async with bench.session() as session:
            return [await session.scalar(statement(each)) for each in range(TINY)]

    async def driver(number: int) -> list[str | None]:
        sql = "SELECT carrier FROM flights WHERE id = $1"
        return [await bench.plain[0].fetchval(sql, each + 1) for each in range(TINY)]

    names = {
        "promises, asked for all at once": together,
        "promises, each awaited before the next": in_turn,
        "SQLAlchemy's AsyncSession": session,
        "one asyncpg connection": driver,
    }
    times = await alternate(names, rounds)
    return table(["a tiny query", "each", "to AsyncSession", "its CPU"], beside(times, names, list(names)[2], TINY))


# Large answers ---------------------------------------------------------------------------------------


async def large(bench: Bench, rounds: int) -> str:
    """A thousand rows to the bytes of a result."""
    limit = 10_000_000
    sql = "SELECT id, origin, carrier, dep_delay, air_time FROM flights ORDER BY id"

    async def entities(number: int) -> bytes:
        async with bench.job(number) as db:
            return encode(await db.load_async(select(Flight).order_by(Flight.id)), limit)

    async def rows(number: int) -> bytes:
        async with bench.job(number) as db:
            return encode(await db.load_async(select(*COLUMNS).order_by(Flight.id)), limit)

    async def written(number: int) -> bytes:
        async with bench.job(number) as db:
            return encode(await db.async_json(select(*COLUMNS).order_by(Flight.id)), limit)

    async def driver(number: int) -> bytes:
        return to_json([dict(record) for record in await bench.plain[0].fetch(sql)], inf_nan_mode="null")

    names = {
        "entities, by `load_async(select(Flight))`": entities,
        "rows, by `load_async(select(Flight.id, …))`": rows,
        "**`async_json`**": written,
        "asyncpg's `fetch`, and pydantic's `to_json`": driver,
    }
    times = await alternate(names, rounds)
    head = [f"{ROWS} rows × {len(COLUMNS)} columns to JSON", "time", "to asyncpg", "its CPU"]
    return table(head, beside(times, names, list(names)[-1], 1))


# The whole -------------------------------------------------------------------------------------------


def beside(times: Times, names: Iterable[str], base: str, each: int) -> list[list[str]]:
    """A row for each: the time of one of `each`, and what it and the client's CPU are to those of `base`."""
    return [
        [
            name,
            f"{times.milliseconds(name) / each:.2f} ms",
            f"{times.ratio(name, base):.2f} ×",
            f"{times.cpu_ratio(name, base):.2f} ×",
        ]
        for name in names
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]).replace(
        " --- ", "---"
    )


async def measure(url: str, rounds: int) -> None:
    async with opened(url) as bench:
        click.echo(f"{await slow(bench)}\n")
        for part in (tiny, overhead, large):
            click.echo(f"{await part(bench, rounds)}\n")


@click.command()
@click.option("--rounds", default=60, show_default=True)
def main(rounds: int) -> None:
    """Print the tables."""
    with postgres() as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        gc.collect()
        gc.freeze()  # as the commands do once the author's module is imported
        runner.run(measure(url, rounds))


if __name__ == "__main__":
    main()
