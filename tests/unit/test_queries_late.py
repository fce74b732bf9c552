"""After the end of a job, a transaction or an event loop: answers stay, all else is refused in a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import literal, select, text

from pushsvc.errors import QueryCancelled, QueryError
from pushsvc.queries import Database, DatabasePool, Promise

from .queries_support import Airport, Flight, Server, behind

pytest_plugins = ["tests.unit.queries_postgres"]

ONE = select(literal(1))

ASKING: dict[str, Callable[[Database], Any]] = {
    "load_async": lambda db: db.load_async(ONE),
    "of entities": lambda db: db.load_async(Airport, preload=[Airport.flights]),
    "of what can't match": lambda db: db.load_async(select(Airport).where(Airport.code.in_([]))),
    "async_count": lambda db: db.async_count(Airport),
    "async_sum": lambda db: db.async_sum(Flight.id),
    "async_pluck": lambda db: db.async_pluck(Flight.id),
    "async_find": lambda db: db.async_find(Airport, "JFK"),
    "async_find_by_sql": lambda db: db.async_find_by_sql("SELECT 1"),
    "async_json": lambda db: db.async_json(Airport),
    "transaction": lambda db: db.transaction(),
    "preload_async": lambda db: db.preload_async([Airport(code="JFK")], Airport.flights),
}


@pytest.mark.parametrize("asking", ASKING)
async def test_after_the_end_of_its_job_a_handle_refuses_every_question(asking: str, pool: DatabasePool) -> None:
    db = Database(pool, owner="job")
    await db.close()
    with pytest.raises(QueryError, match="after the end of the job"):
        ASKING[asking](db)
    with pytest.raises(QueryError, match="after the end of the job"):
        await asyncio.to_thread(ASKING[asking], db)
    assert pool.active == 0


async def test_promises_awaited_after_the_end_of_their_job_have_their_answer_or_say_that_it_has_ended(
    pool: DatabasePool, server: Server, flights: None
) -> None:
    async with server.gate(1):
        db = Database(pool, owner="job")
        done, preloaded = db.load_async(ONE), db.load_async(Airport, preload=[Airport.flights])
        await done
        await preloaded
        running, waiting = db.load_async(behind(1)), [db.load_async(behind(1)) for _ in range(30)][-1]
        late, followed = done.then(lambda rows: rows[0] + 1), running.then(len)
        related = db.load_async(select(Airport).where(Airport.code == "JFK"), preload=[Airport.flights])
        await db.close(reason="the job has ended")
    assert await done == [1]
    assert await late == 2
    assert len(await preloaded) == 3
    for promise in (running, waiting, followed):
        with pytest.raises(QueryCancelled, match="the job has ended"):
            await promise
    if related.status != "complete":
        with pytest.raises(QueryCancelled):
            await related


async def test_a_transaction_is_for_one_block_and_says_so(db: Database, pool: DatabasePool) -> None:
    transaction = db.transaction()
    with pytest.raises(QueryError, match="has not begun"):
        await transaction.execute(ONE)
    with pytest.raises(QueryError, match="has not begun"):
        await transaction.run_sync(lambda session: None)
    async with transaction:
        assert await db.load_async(ONE) == [1]
    with pytest.raises(QueryError, match="one block"):
        await transaction.__aenter__()
    with pytest.raises(QueryError, match="outside it, none"):
        await transaction.execute(ONE)
    assert pool.active == 0


async def test_a_transaction_left_open_ends_with_its_job(pool: DatabasePool, server: Server, flights: None) -> None:
    db = Database(pool, owner="job")
    transaction = await db.transaction().__aenter__()
    await transaction.execute(text("INSERT INTO queries_airports VALUES ('XXX')"))
    await db.close()
    with pytest.raises(QueryError, match=r"rolled back|outside it, none"):
        await transaction.execute(ONE)
    assert await server.fetch("SELECT FROM queries_airports WHERE code = 'XXX'") == []
    assert await server.fetch("SELECT FROM pg_stat_activity WHERE state LIKE 'idle in%'") == []
    assert pool.active == 0


def test_a_handle_and_its_promises_belong_to_their_event_loop(postgres_url: str) -> None:
    pool = DatabasePool(postgres_url)
    kept: list[Any] = []

    async def first() -> None:
        db = Database(pool, owner="job")
        answered = db.load_async(ONE)
        await answered
        kept.extend([db, answered, Promise(_Nothing())])
        await pool.connections.close()

    async def second() -> None:
        db, answered, open_ = kept
        with pytest.raises(QueryError, match="after the end of the job"):
            db.load_async(ONE)
        assert await answered == [1]
        with pytest.raises(QueryError, match="in the event loop in which it was made"):
            await open_

    asyncio.run(first())
    db, answered, open_ = kept
    with pytest.raises(QueryError, match="after the end of the job"):
        db.load_async(ONE)
    assert answered.value() == [1]
    with pytest.raises(QueryError, match="is over, and it has no answer"):
        open_.value()
    asyncio.run(second())


class _Nothing:
    def needed(self, promise: Promise[Any]) -> None: ...

    def abandoned(self, promise: Promise[Any]) -> None: ...

    def answered(self, promise: Promise[Any], waited: float) -> None: ...
