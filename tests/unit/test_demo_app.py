"""The demo's jobs, called as the functions they are, and the page's routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from pushsvc import JobContext
from pushsvc.demo import app as demo
from pushsvc.demo.data import load_async
from pushsvc.domain import Progress
from pushsvc.errors import InvalidParams
from pushsvc.queries import Database, DatabasePool

from .test_demo_data import Heard, database

__all__ = ["database"]


@pytest.fixture
async def ctx(database: str) -> AsyncIterator[JobContext]:
    """A running job's context, its database empty."""
    pool = DatabasePool(database, own_connections=1)
    told: list[Progress] = []

    async def tell(progress: Progress) -> None:
        told.append(progress)

    context = JobContext(
        id="01J0000000000000000000000",
        name="job",
        attempt=1,
        tenant="default",
        user="guest",
        open_database=lambda _name, observer: Database(pool, owner="job", observer=observer),
        tell=tell,
    )
    yield context
    await context.close()
    await pool.close()


async def test_a_report_tells_how_its_queries_ran(ctx: JobContext, database: str) -> None:
    await load_async(database, Heard().said.append, Heard().bar)
    report = await demo.airport_report(ctx, "LGA", 2)
    assert (report["origin"], report["month"], report["measured"]) == ("LGA", 2, False)
    assert len(report["queries"]) == len(report["series"]) + len(report["summary"]) == 18
    assert {query["status"] for query in report["queries"]} == {"complete"}
    assert report["sequential_ms"] > report["parallel_ms"] > 0

    compared = await demo.airport_report(ctx, "LGA", 2, compare=True)
    assert compared["measured"]
    assert compared["series"] == report["series"]
    again = compared["queries"][-18:]
    ends = [query["finished"] for query in again]
    assert all(query["scheduled"] >= end for query, end in zip(again[1:], ends[:-1], strict=True))


async def test_naps_are_taken_side_by_side(ctx: JobContext) -> None:
    nap: dict[str, Any] = await demo.nap(ctx, seconds=0.3, count=3)
    assert len(nap["queries"]) == 3
    assert nap["parallel_ms"] < 800


async def test_echo_gives_back_its_value_and_fail_raises(ctx: JobContext) -> None:
    assert await demo.echo(ctx, "hello") == "hello"
    with pytest.raises(RuntimeError, match="always fails"):
        await demo.fail(ctx)


@pytest.mark.parametrize(
    ("job", "params"),
    [
        ("airport_report", {"origin": "BOS"}),
        ("airport_report", {"origin": "JFK", "month": 13}),
        ("nap", {"seconds": 11}),
        ("nap", {"count": 0}),
        ("echo", {"other": 1}),
    ],
)
def test_parameters_out_of_range_are_refused(job: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        demo.service.jobs.get(job).validate(params)


async def test_the_page_and_its_files_are_served_under_a_strict_policy() -> None:
    app = Starlette(routes=[Route("/", demo.page), Mount("/assets", demo.Assets(directory=demo.PAGE))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://demo.test") as client:
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        script = await client.get("/assets/app.js")
        assert script.status_code == 200
        assert script.headers["cache-control"] == "no-cache"
        unchanged = await client.get("/assets/app.js", headers={"If-None-Match": script.headers["etag"]})
        assert unchanged.status_code == 304
        assert (await client.get("/assets/../app.py")).status_code == 404
