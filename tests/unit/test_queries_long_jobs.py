"""A job that asks all day long: what it has done with is not kept."""

from __future__ import annotations

import gc
import weakref

import pytest

from pushsvc import JobContext
from pushsvc.domain import Progress
from pushsvc.queries import Database, DatabasePool
from pushsvc.queries.database import KEPT_RECORDS, SWEPT_AT

from .queries_support import Flight

pytest_plugins = ["tests.unit.queries_postgres"]
pytestmark = pytest.mark.usefixtures("flights")


async def test_answers_are_kept_by_whoever_awaited_them_and_nobody_else(db: Database) -> None:
    row = weakref.ref((await db.load_async(Flight))[0])
    for number in range(2 * SWEPT_AT):
        await db.async_count(Flight, where=Flight.id > number)
    gc.collect()
    assert row() is None
    assert len(db.queries) == 2 * SWEPT_AT + 1


async def test_what_was_never_awaited_is_remembered_however_long_the_job(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db.async_count(Flight)
    for number in range(2 * SWEPT_AT):
        await db.async_count(Flight, where=Flight.id > number)
    await db.close()
    assert caplog.text.count("was never awaited") == 1


async def test_progress_shows_the_latest_queries_only(pool: DatabasePool) -> None:
    async def tell(progress: Progress) -> None: ...

    context = JobContext(
        id="job", name="all_day", attempt=1, tenant="default", user=None, tell=tell,
        open_database=lambda name, observer: Database(pool, owner="job", observer=observer),
    )  # fmt: skip
    for number in range(KEPT_RECORDS + 1):
        context.db.async_count(Flight, where=Flight.id.in_([]) if number else Flight.id > 0)
    assert len(context.queries) == 1
    for number in range(150):
        await context.db.async_count(Flight, where=Flight.id > number)
    assert len(context.queries) == 100
    await context.close()


async def test_a_place_is_free_by_the_time_its_answer_comes(pool: DatabasePool, db: Database) -> None:
    for number in range(20):
        for promise in [db.async_count(Flight, where=Flight.id > 10 * number + place) for place in range(4)]:
            await promise
    assert {record.mode for record in db.queries} == {"async"}
