"""Code as users write it, for a strict type checker; see `test_queries_answers.py`."""

from __future__ import annotations

from typing import assert_type

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pushsvc import JobContext, Promise, Service
from pushsvc.settings import Settings


class Base(DeclarativeBase):
    pass


class Flight(Base):
    __tablename__ = "flights"

    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str]
    carrier: Mapped[str]
    delay: Mapped[int | None]


class AppSession(Session):
    pass


service = Service(settings=Settings(max_jobs=4, executor_concurrency=2), session_class=AppSession)


@service.job
async def counts(ctx: JobContext) -> dict[str, int]:
    return await ctx.db.async_count(select(Flight.origin).group_by(Flight.origin))


@service.job
async def number(ctx: JobContext) -> int:
    return await ctx.db.async_count(select(Flight.carrier).distinct())


@service.job
async def calculations(ctx: JobContext) -> None:
    db = ctx.db
    assert_type(await db.async_count(Flight), int)
    assert_type(await db.async_count(Flight.delay), int)
    assert_type(await db.async_count(select(Flight)), int)
    assert_type(await db.async_count(select(Flight), Flight.delay), int)
    total: int = await db.async_count(select(Flight.origin).where(Flight.delay > 3))
    asked: Promise[dict[str, int]] = db.async_count(select(Flight.origin).group_by(Flight.origin))
    by_origin = await db.async_count(select(Flight.origin).group_by(Flight.origin))
    busiest = max(by_origin, key=lambda origin: by_origin[origin])
    for origin, flights in by_origin.items():
        print(origin.lower(), flights + total, busiest, await asked)
    by_both: dict[tuple[str, str], int] = await db.async_count(
        select(Flight.origin, Flight.carrier).group_by(Flight.origin, Flight.carrier)
    )
    print(by_both["JFK", "AA"])
    assert_type(await db.async_sum(Flight.delay), int)
    assert_type(await db.async_sum(select(Flight), Flight.delay), int)
    assert_type(await db.async_sum(Flight, Flight.delay), int)
    assert_type(await db.async_maximum(select(Flight).limit(3), Flight.origin), str | None)
    assert_type(await db.async_average(select(Flight), Flight.delay), float | None)
    assert_type(await db.async_sum(select(Flight.origin, Flight.delay).group_by(Flight.origin)), dict[str, int])
    assert_type(await db.async_exists(select(Flight), Flight.delay), bool)
    assert_type(await db.async_pluck(select(Flight), Flight.id), list[int])
