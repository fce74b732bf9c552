"""Periodic jobs: when they are due, and that each tick comes once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from pydantic import AfterValidator

from pushsvc import JobContext, Service, Settings
from pushsvc.errors import SettingsError
from pushsvc.jobs.schedule import MOST_MISSED, Schedule
from pushsvc.jobs.ticker import Ticker
from pushsvc.store import Postgres, Retention, TickState, TickStore

from ..contract.kit import soon, until

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def ticks(schedule: Schedule, since: datetime, until: datetime) -> list[str]:
    """All of them, as a clock in Berlin has them."""
    found = replace(schedule, missed="all").due(since, until)
    return [tick.astimezone(BERLIN).strftime("%d %H:%M") for tick in found]


NIGHTLY = Schedule(cron="30 2 * * *", tz="Europe/Berlin")


def test_in_the_hour_that_is_skipped_a_tick_comes_right_after_and_once() -> None:
    assert ticks(NIGHTLY, at("2026-03-28T12:00"), at("2026-03-30T12:00")) == ["29 03:00", "30 02:30"]


def test_in_the_hour_that_is_repeated_a_tick_comes_once() -> None:
    assert ticks(NIGHTLY, at("2026-10-24T12:00"), at("2026-10-26T12:00")) == ["25 02:30", "26 02:30"]


def test_what_comes_every_hour_comes_every_hour_of_such_days() -> None:
    hourly = Schedule(cron="0 * * * *", tz="Europe/Berlin")
    assert len(ticks(hourly, at("2026-03-29T00:00"), at("2026-03-30T00:00"))) == 23
    assert len(ticks(hourly, at("2026-10-25T00:00"), at("2026-10-26T00:00"))) == 25


def test_every_so_often_is_counted_alike_by_everybody() -> None:
    since = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    assert Schedule(every=300.0, missed="all").due(since, since + timedelta(minutes=11)) == [
        datetime(2026, 1, 1, 0, 5, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 10, tzinfo=UTC),
    ]


@pytest.mark.parametrize(("missed", "hours"), [("one", [5]), ("all", [3, 4, 5]), ("none", [])])
def test_of_what_was_missed_as_much_as_was_said_is_made_up_for(missed: Any, hours: list[int]) -> None:
    hourly = Schedule(cron="0 * * * *", missed=missed)
    since, now = datetime(2026, 1, 1, 2, 30, tzinfo=UTC), datetime(2026, 1, 1, 5, 30, tzinfo=UTC)
    assert [tick.hour for tick in hourly.due(since, now)] == hours
    assert [tick.hour for tick in hourly.due(since, now - timedelta(minutes=29, seconds=30))][-1:] == [5]


def test_far_too_many_are_made_up_for_bit_by_bit() -> None:
    often = Schedule(every=1.0, missed="all")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert len(often.due(since, since + timedelta(days=30))) == MOST_MISSED


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cron": "0 25 * * *"}, "'0 25 * * *' is no cron expression"),
        ({"cron": "daily"}, "is no cron expression"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "0 3 * * *", "tz": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"cron": "0 3 * * *", "every": "5m"}, "cron= or every=, not both"),
        ({"tz": "Europe/Berlin"}, "tz says where cron= is meant"),
        ({"every": 0}, "every is from 1 second to a year"),
        ({"every": "often"}, "a duration is a number"),
        ({"every": 60, "missed": "some"}, "missed is 'one', 'none' or 'all'"),
        ({"every": 60, "owner": ""}, "owner"),
    ],
)
def test_what_can_not_be_is_refused_where_it_stands(settings: Settings, given: dict[str, Any], says: str) -> None:
    service = Service(settings=settings)
    with pytest.raises(SettingsError, match=re.escape(says)):

        @service.job(**given)
        def wrong() -> None: ...


def test_a_job_that_needs_to_be_told_something_is_not_periodic(settings: Settings) -> None:
    service = Service(settings=settings)
    with pytest.raises(SettingsError, match="nobody gives month"):

        @service.job(every=60)
        def wrong(month: int) -> None: ...


# On real engines


def app(settings: Settings, **given: Any) -> Service:
    service = Service(settings=settings)

    @service.job(**given)
    async def nightly(ctx: JobContext, ms: int = 0) -> str | None:
        await asyncio.sleep(ms / 1000)
        return ctx.user

    return service


class Clock(TickStore):
    """PostgreSQL's clock, moved."""

    def __init__(self, service: Service) -> None:
        self.postgres: Postgres = service.parts.postgres
        super().__init__(self.postgres, service.parts.store)
        self.by = timedelta(0)

    async def states(self, schedules: Any) -> list[TickState]:
        return [replace(state, now=state.now + self.by) for state in await super().states(schedules)]


def ticker(service: Service) -> tuple[Ticker, Clock]:
    clock = Clock(service)
    return Ticker(service.jobs, clock, service.parts.submitter), clock


@asynccontextmanager
async def tickers(settings: Settings, count: int, **given: Any) -> AsyncIterator[list[tuple[Ticker, Clock]]]:
    """As many workers' as that."""
    services = [app(settings, **given) for _ in range(count)]
    try:
        yield [ticker(service) for service in services]
    finally:
        for service in services:
            await service.close()


async def jobs(database_url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch("SELECT * FROM pushsvc.jobs ORDER BY id"))
    finally:
        await connection.close()


async def test_each_tick_comes_once_over_all_workers(settings: Settings, database_url: str) -> None:
    async with tickers(settings, 3, every=3600, overlap=True) as all_of_them:
        await soon(asyncio.gather(*(each.tick() for each, _ in all_of_them)))
        assert await jobs(database_url) == [], "what is new begins now"
        for hour in range(1, 6):
            for _, clock in all_of_them:
                clock.by = timedelta(hours=hour)
            pauses = await soon(asyncio.gather(*(each.tick() for each, _ in all_of_them for _ in range(2))))
            assert all(0 < pause <= 30 for pause in pauses)
        found = await jobs(database_url)
    assert len(found) == 5
    assert {(job["name"], job["owner"], job["tenant"]) for job in found} == {("nightly", "service", "default")}


async def test_while_one_runs_the_next_is_skipped(settings: Settings, database_url: str) -> None:
    async with tickers(settings, 1, every=3600) as ((each, clock),):
        await each.tick()
        for hour in (1, 2, 3):
            clock.by = timedelta(hours=hour)
            await each.tick()
        (first,) = await jobs(database_url)
        assert first["name"] == "nightly"
        await ended(database_url)
        await each.tick()
        assert len(await jobs(database_url)) == 1, "it is not made up for"
        clock.by = timedelta(hours=4)
        await each.tick()
        assert len(await jobs(database_url)) == 2


async def ended(database_url: str) -> None:
    """Whatever runs has ended."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "UPDATE pushsvc.jobs SET status = 'cancelled', finished_at = now() WHERE status = 'queued'"
    )
    await connection.close()


async def test_all_that_was_missed_comes_one_after_another(settings: Settings, database_url: str) -> None:
    async with tickers(settings, 2, every=3600, missed="all") as both:
        await both[0][0].tick()
        for _, clock in both:
            clock.by = timedelta(hours=4)
        for count in (1, 2, 3, 4, 4):
            for _ in range(2):
                await soon(asyncio.gather(*(each.tick() for each, _ in both)))
                assert len(await jobs(database_url)) == count, "while it runs, no other does"
            await ended(database_url)


async def test_what_is_wrong_with_one_keeps_no_other_from_its_time(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(settings=settings)

    @service.job(every=3600)
    async def wrong(month: Annotated[int, AfterValidator(refused)] = 1) -> None: ...

    @service.job(every=3600)
    async def right() -> None: ...

    try:
        each, clock = ticker(service)
        await each.tick()
        clock.by = timedelta(hours=1)
        monkeypatch.setattr("tests.unit.test_jobs_schedule.CLOSED", ["not today"])
        await each.tick()
        assert [job["name"] for job in await jobs(database_url)] == ["right"]
    finally:
        await service.close()


CLOSED: list[str] = []


def refused(month: int) -> int:
    if CLOSED:
        raise ValueError(CLOSED[0])
    return month


async def test_another_expression_begins_anew(settings: Settings, database_url: str) -> None:
    async with tickers(settings, 1, every=3600) as ((each, clock),):
        await each.tick()
        clock.by = timedelta(days=3)
    async with tickers(settings, 1, every=1800) as ((each, clock),):
        clock.by = timedelta(days=3)
        await each.tick()
        assert await jobs(database_url) == []
        clock.by = timedelta(days=3, hours=1)
        await each.tick()
        assert len(await jobs(database_url)) == 1


async def test_a_worker_runs_what_is_due_and_its_owner_sees_it(settings: Settings, database_url: str) -> None:
    service = app(settings, every=1, owner="ops")
    stop = asyncio.Event()
    work = asyncio.create_task(service.work(stop))
    try:

        async def twice() -> bool:
            done = [job["result"] for job in await jobs(database_url) if job["status"] == "succeeded"]
            return done[:2] == ['"ops"', '"ops"']

        await until(twice)
    finally:
        stop.set()
        await soon(work)
        await service.close()


async def test_old_ticks_are_forgotten_but_for_the_last(settings: Settings, database_url: str) -> None:
    async with tickers(settings, 1, every=3600) as ((each, clock),):
        await each.tick()
        clock.by = timedelta(hours=1)
        await each.tick()
        connection = await asyncpg.connect(database_url)
        await connection.execute("UPDATE pushsvc.ticks SET at = at - interval '7 days'")
        kept = Retention(clock.postgres)
        assert (await kept.forget_ticks(10), await kept.forget_ticks(10)) == (1, 0)
        assert await connection.fetchval("SELECT count(*) FROM pushsvc.ticks") == 1
        await connection.close()
