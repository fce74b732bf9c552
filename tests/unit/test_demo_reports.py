"""The report's queries, run by the service's own executor over the real flights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pushsvc.demo.data import load_async
from pushsvc.demo.reports import Report
from pushsvc.queries import Database, DatabasePool

from .test_demo_data import Heard, database

__all__ = ["database"]


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    """A job's database that holds the flights."""
    await load_async(database, Heard().said.append, Heard().bar)
    pool = DatabasePool(database, own_connections=1)
    handle = Database(pool, owner="report")
    yield handle
    await handle.close()
    await pool.close()


async def run(report: Report, db: Database) -> dict[str, Any]:
    promises = {name: ask() for name, ask in report.asks(db).items()}
    return report.collect({name: await promise for name, promise in reversed(promises.items())})


async def test_the_charts_of_a_report_agree_with_its_numbers(db: Database) -> None:
    report = await run(Report("JFK", None), db)
    summary, series = report["summary"], report["series"]
    assert summary == {
        "flights": 111_279,
        "cancelled": 1_863,
        "mean_delay": 12.11,
        "longest_delay": 1_301,
        "miles": 139_543_450,
    }
    departed = summary["flights"] - summary["cancelled"]

    def total(name: str) -> int:
        return sum(row["flights"] for row in series[name])

    assert total("hours") == total("months") == total("carriers") == total("destinations") == summary["flights"]
    assert total("histogram") == departed
    assert 0.98 * departed < total("wind") <= total("rain") == total("visibility") <= departed
    assert series["worst"][0]["dep_delay"] == summary["longest_delay"]
    assert series["worst"][0]["flight"] == "HA51"
    assert [row["percentile"] for row in series["percentiles"]] == [10, 25, 50, 75, 90, 95, 99]
    assert {row["dest"] for row in series["destinations"] if row["lat"] is None} == {"SJU", "BQN", "STT", "PSE"}
    assert series["planes"]["seats"] == 13_808_027
    assert len(series["airports"]) > 500
    assert {query.mode for query in db.queries} == {"async", "foreground"}

    month = await run(Report("EWR", 7), db)
    assert month["summary"]["flights"] == 10_475
    assert len(month["series"]["months"]) == 12
