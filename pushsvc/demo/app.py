"""The demo's service: four jobs and a page that shows them at work."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import func, literal, select
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pushsvc import JobContext, Service

from .reports import Ask, Report
from .session import GROUP, Sessions

PAGE = Path(__file__).parent / "page"
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

Origin = Literal["EWR", "JFK", "LGA"]
Month = Annotated[int, Field(ge=1, le=12)]
Seconds = Annotated[float, Field(ge=0, le=10)]
Count = Annotated[int, Field(ge=1, le=20)]

service = Service()


class Assets(StaticFiles):
    """The page's files, asked for anew each time, so that those of two versions never meet."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, with its ETag: unchanged, it costs a `304`."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


@service.job(timeout=60)
async def airport_report(
    ctx: JobContext,
    origin: Origin = "JFK",
    month: Month | None = None,
    compare: bool = False,
    share: bool = False,
) -> dict[str, Any]:
    """Delays, cancellations, carriers, destinations and weather of one airport, in a month or the year.

    With `compare` the same queries run once more, one after another, to measure what parallel saved.
    With `share` the other visitors hear that it runs, and what came of it.
    """
    asked = {"job": ctx.id, "guest": _nickname(ctx.user), "origin": origin, "month": month}
    if share:
        await _tell(ctx, "report.started", asked)
    started = time.perf_counter()
    report = Report(origin, month)
    asks = report.asks(ctx.db)
    promises = {name: ask() for name, ask in asks.items()}  # all of them start now

    # Awaited from the end: what the executor has not come to yet runs meanwhile on the job's own connection.
    answers: dict[str, Any] = {}
    for name, promise in reversed(promises.items()):
        answers[name] = await promise
        done = sum(promise.status == "complete" for promise in promises.values())
        await ctx.progress(done / len(asks), f"{done} of {len(asks)}: {name.replace('_', ' ')}")

    parallel_ms = _since(started)
    # Unless it is measured, only the queries' times added up: beside others each takes longer than alone.
    busy_ms = round(sum(query["finished"] - query["started"] for query in ctx.queries), 1)
    sequential_ms = await _one_after_another(ctx, asks) if compare else busy_ms
    found = report.collect(answers)
    if share:
        summary = found["summary"]
        numbers = {"flights": summary["flights"], "mean_delay": summary["mean_delay"]}
        await _tell(ctx, "report.ready", {**asked, **numbers})
    return {
        **found,
        "queries": ctx.queries,
        "parallel_ms": parallel_ms,
        "sequential_ms": sequential_ms,
        "measured": compare,
    }


async def _tell(ctx: JobContext, kind: str, data: dict[str, Any]) -> None:
    # By its key it is told once, however often the job is tried.
    await service.publish(GROUP, kind, data, retention="1h", key=f"{ctx.id}.{kind}")


def _nickname(user: str | None) -> str:
    # A visitor's id is as good as a password: the others get nothing that leads back to it.
    return hashlib.sha256((user or "").encode()).hexdigest()[:4]


async def _one_after_another(ctx: JobContext, asks: dict[str, Ask]) -> float:
    await ctx.progress(1, "again, one after another")
    started = time.perf_counter()
    for ask in asks.values():
        await ask()
    return _since(started)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


@service.job(timeout=60)
async def nap(ctx: JobContext, seconds: Seconds = 1, count: Count = 3) -> dict[str, Any]:
    """Queries that only sleep, side by side: three of one second take one second."""
    started = time.perf_counter()
    # Each differs by a literal: the same query asked twice at once would run only once.
    naps = [ctx.db.load_async(select(func.pg_sleep(seconds), literal(number))) for number in range(count)]
    for done, promise in enumerate(naps, start=1):
        await promise
        await ctx.progress(done / count, f"{done} of {count} woke up")
    return {"seconds": seconds, "count": count, "queries": ctx.queries, "parallel_ms": _since(started)}


@service.job(timeout=10)
async def echo(ctx: JobContext, value: str = "") -> str:
    """Nothing but its own parameter: what a job costs by itself."""
    return value


@service.job(timeout=10, max_attempts=1)
async def fail(ctx: JobContext) -> None:
    """A job that raises, to show how failures arrive."""
    await ctx.progress(0.5, "about to fail")
    raise RuntimeError("this job always fails, so that you can see how a failure looks")


async def page(request: Request) -> FileResponse:
    """The demo's page. Everything it needs comes from this host, and its policy says so."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return FileResponse(PAGE / "index.html", headers=headers)


app = service.asgi(
    routes=[
        Route("/", page),
        Mount("/assets", Assets(directory=PAGE)),
        Route("/demo/session", Sessions(service).create, methods=["POST"]),
    ]
)
