"""Five hundred cancels at random moments, in every way there is, leave the server and the pool as they were."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
import uvloop
from sqlalchemy import Float, Select, func, literal, select

from pushsvc.errors import QueryCancelled
from pushsvc.queries import Database, DatabasePool

from .queries_support import TABLES, Flight, Server, behind, until

SEED = 1912
ROUNDS, EACH, WITNESSES = 10, 50, 20
"""New pools, cancels in each, and queries that run beside them and are not cancelled."""

POOL = "cancels"
GATE = 9


class Chance(random.Random):
    """When and what: at once, while connecting, queued or running, and about when the answer comes."""

    crowd = 0.0
    """Seconds within which all begin: none means that most find the queue full, and many that most run at once."""

    async def arrival(self) -> None:
        await asyncio.sleep(self.uniform(0, self.crowd))

    def endless(self) -> Any:
        """A query that ends when it is cancelled, and not before."""
        self.milliseconds = 5
        return behind(GATE) if self.random() < 0.7 else select(Flight).where(behind(GATE).exists())

    def statement(self, number: int) -> tuple[Any, int]:
        """A query of some milliseconds, and its answer: by the driver, or by the ORM."""
        self.milliseconds = self.choice((0, 1, 3, 6))
        slept = func.length(func.concat(func.pg_sleep(literal(self.milliseconds / 1000, Float)), "x"))
        if self.random() < 0.3:
            return select(Flight.id, Flight).where(Flight.id == 1, slept == 1), 1
        return select(literal(number), slept), number

    def delay(self) -> float:
        """Seconds."""
        return max(0.0, self.choice((self.uniform(0, 5), self.milliseconds + self.gauss(0.5, 0.7))) / 1000)

    async def moment(self) -> None:
        if self.random() < 0.6:
            for _ in range(self.choice((0, 0, 1, 2, 3, 5, 8, 13, 21, 34))):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.delay())


async def by_promise(db: Database, statement: Select[Any], chance: Chance) -> None:
    promise = db.load_async(statement)
    await chance.moment()
    promise.cancel()
    with suppress(QueryCancelled):
        await promise


async def by_task(db: Database, statement: Select[Any], chance: Chance, times: int = 1) -> None:
    async def job() -> None:
        await db.load_async(statement)

    await stop(asyncio.ensure_future(job()), chance, times)


async def by_task_twice(db: Database, statement: Select[Any], chance: Chance) -> None:
    await by_task(db, statement, chance, times=2)


async def by_timeout(db: Database, statement: Select[Any], chance: Chance) -> None:
    promise = db.load_async(statement)
    with suppress(TimeoutError):
        async with asyncio.timeout(chance.delay()):
            await promise


async def by_close(db: Database, statement: Select[Any], chance: Chance) -> None:
    db.load_async(statement)
    await chance.moment()
    await db.close(reason="cancelled")


async def in_transaction(db: Database, statement: Select[Any], chance: Chance) -> None:
    async def job() -> None:
        async with db.transaction("snapshot" if chance.random() < 0.3 else "foreground"):
            await db.load_async(statement)

    await stop(asyncio.ensure_future(job()), chance, times=2)


async def stop(task: asyncio.Future[None], chance: Chance, times: int) -> None:
    await chance.moment()
    for _ in range(times):
        task.cancel()
        for _ in range(chance.choice((0, 1, 2, 5))):
            await asyncio.sleep(0)
    with suppress(asyncio.CancelledError):
        await task


WAYS: tuple[Callable[[Database, Select[Any], Chance], Awaitable[None]], ...] = (
    by_promise,
    by_task,
    by_task_twice,
    by_timeout,
    by_close,
    in_transaction,
)


async def victim(number: int, pool: DatabasePool, chance: Chance) -> str:
    """One cancel; says what became of the query."""
    await chance.arrival()
    db = Database(pool, owner=f"victim-{number % 12}")
    statement = chance.endless() if chance.random() < 0.4 else chance.statement(number)[0]
    await chance.choice(WAYS)(db, statement, chance)
    await db.close(reason="cancelled")
    started = [record.status for record in db.queries if record.started is not None]
    return started[0] if started else "never started"


async def witness(number: int, pool: DatabasePool, chance: Chance) -> str:
    """A query that nobody cancels is answered, whatever happened on its connection before."""
    await chance.arrival()
    statement, answer = chance.statement(number)
    async with Database(pool, owner=f"witness-{number}") as db:
        [row] = await db.load_async(statement)
        assert row[0] == answer
    return "witness"


async def too_late(pool: DatabasePool) -> str:
    """A cancel after the answer: how busy the machine is does not decide that there is one."""
    db = Database(pool, owner="too late")
    promise = db.load_async(select(literal(1)))
    await promise
    promise.cancel()
    await db.close(reason="cancelled")
    return str(db.queries[0].status)


async def one_round(pool: DatabasePool, server: Server, chance: Chance) -> Counter[str]:
    """The cancels, and what has to hold after them."""
    everybody = [victim(number, pool, chance) for number in range(EACH)]
    everybody += [witness(number, pool, chance) for number in range(WITNESSES)]
    fates = Counter(await asyncio.gather(*everybody, too_late(pool)))
    assert (pool.active, pool.waiting, pool.foreground.waiting) == (0, 0, 0)
    states = await server.fetch("SELECT state FROM pg_stat_activity WHERE application_name = $1", f"pushsvc {POOL}")
    assert [row["state"] for row in states] == ["idle"] * pool.connections.idle, "a backend is still busy, or lost"
    async with Database(pool, owner="after") as db:
        promises = [db.load_async(select(literal(n))) for n in range(2 * pool.size)]
        assert [await promise for promise in promises] == [[n] for n in range(2 * pool.size)]
    return fates


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[list[set[int]]]:
    """Which backends the server has for the pool, again and again."""
    connection = await asyncpg.connect(url)
    seen: list[set[int]] = []

    async def watch() -> None:
        while True:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE application_name = $1", f"pushsvc {POOL}"
            )
            seen.append({row["pid"] for row in rows})
            await asyncio.sleep(0.001)

    watching = asyncio.ensure_future(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await connection.close()


async def five_hundred(url: str) -> None:
    chance = Chance(SEED)
    fates: Counter[str] = Counter()
    connection = await asyncpg.connect(url)
    server = Server(connection)
    await connection.execute(TABLES)

    async def nobody() -> bool:
        return await server.connections() == 0

    for number in range(ROUNDS):
        chance.crowd = number * 0.05
        pool = DatabasePool(url, name=POOL, executor_concurrency=3, own_connections=3)
        async with watched(url) as seen, server.gate(GATE), asyncio.timeout(20):
            fates += await one_round(pool, server, chance)
        assert max(map(len, seen)) <= pool.size
        assert 0 < len(set.union(*seen)) <= pool.size, "a cancel has cost a connection"
        await pool.close()
        await until(nobody)
    await connection.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert sum(fates.values()) == ROUNDS * (EACH + WITNESSES + 1)
    # Whatever the machine does, some came before their query started, some in its midst, some too late.
    assert min(fates["never started"], fates["cancelled"], fates["complete"]) > 0, fates


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_five_hundred_cancels_at_random_moments_leave_nothing_behind(postgres_url: str, loop: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(five_hundred(postgres_url))
