"""A job's queries run side by side: ask for all of them, then await the answers."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pushsvc import JobContext, Service

from .conftest import Run


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flights"

    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str]
    delay: Mapped[int]


@pytest.fixture
async def flights(database_url: str) -> None:
    """Three from JFK and one from EWR."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE flights (id int PRIMARY KEY, origin text NOT NULL, delay int NOT NULL)")
    await connection.execute("INSERT INTO flights VALUES (1,'JFK',5), (2,'JFK',10), (3,'JFK',30), (4,'EWR',99)")
    await connection.close()


@pytest.mark.usefixtures("flights")
async def test_queries_start_when_they_are_asked_for_not_when_they_are_awaited(service: Service, run: Run) -> None:
    """Each method of `ctx.db` gives a promise at once; `await` only waits for what has not come yet."""

    @service.job
    async def report(ctx: JobContext, origin: str) -> dict[str, object]:
        here = Flight.origin == origin
        count = ctx.db.async_count(Flight, where=here)
        total = ctx.db.async_sum(Flight.delay, where=here)
        least = ctx.db.async_minimum(Flight.delay, where=here)
        mean = ctx.db.async_average(Flight.delay, where=here)
        worst = ctx.db.load_async(select(Flight).where(here).order_by(Flight.delay.desc()).limit(1))
        assert len(ctx.queries) == 5, "all five are scheduled, and none has been awaited"
        return {
            "count": await count,
            "total": await total,
            "least": await least,
            "mean": await mean,
            "worst": await worst,  # whole entities, as JSON objects
        }

    async with run(service) as running, running.listening() as next_frame:
        await running.submit("report", origin="JFK")
        while (frame := await next_frame())["op"] == "progress":
            assert len(frame["queries"]) <= 5, "on the way it is told how far each of them is"
        assert frame["event"]["data"] == {
            "count": 3,
            "total": 45,
            "least": 5,
            "mean": 15.0,
            "worst": [{"id": 3, "origin": "JFK", "delay": 30}],
        }


@pytest.mark.usefixtures("flights")
async def test_no_rows_are_an_answer_too(service: Service, run: Run) -> None:
    """Nothing counts 0 and sums to 0; it has no least and no mean."""

    @service.job
    async def report(ctx: JobContext, origin: str) -> list[float | None]:
        here = Flight.origin == origin
        return [
            await ctx.db.async_count(Flight, where=here),
            await ctx.db.async_sum(Flight.delay, where=here),
            await ctx.db.async_minimum(Flight.delay, where=here),
            await ctx.db.async_average(Flight.delay, where=here),
        ]

    async with run(service) as running:
        job = await running.submit("report", origin="LGA")
        await running.alice.get(job["links"]["self"], params={"wait": 25})
        assert (await running.alice.get(job["links"]["result"])).json() == [0, 0, None, None]
