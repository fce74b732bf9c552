"""What happens to an endpoint when its worker dies, stops, or can't read the record; and what sweeps up behind it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pushsvc import Service
from pushsvc.domain import new_job_id
from pushsvc.endpoints import Seals
from pushsvc.endpoints.sealing import Sealed
from pushsvc.settings import Settings
from pushsvc.store import Record

from ..acceptance.clients import until
from .conftest import Site, opened


class Endpoint:
    """Waits while it is closed, and says how often it was entered."""

    def __init__(self) -> None:
        self.entered = 0
        self.open = asyncio.Event()
        self.after: BackgroundTask | None = None

    async def __call__(self, request: Request) -> Response:
        self.entered += 1
        await self.open.wait()
        return PlainTextResponse("done", background=self.after)

    async def was_entered(self) -> bool:
        return self.entered > 0


def app_of(service: Service, endpoint: Endpoint, **options: Any) -> Starlette:
    async def slow(request: Request) -> Response:
        return await endpoint(request)

    mark = service.respond_async(**options)
    app = Starlette(routes=[Route("/slow", slow, methods=["GET", "POST"], middleware=[mark])])
    service.attach(app)
    return app


def quick(settings: Settings, **changes: Any) -> Service:
    """A service whose workers are missed soon."""
    return Service(settings=settings.model_copy(update={"lease": 0.6, "sweep": 0.1, "drain": 0.3} | changes))


async def die(worker: asyncio.Task[None]) -> None:
    """As `kill -9` does: nothing of it goes on, and it tells nobody."""
    running = [task for task in asyncio.all_tasks() if task.get_name().startswith(("attempt:", "job:", "replay:"))]
    for task in [*running, worker]:
        task.cancel()
    await asyncio.wait([*running, worker])


async def end_of(site: Site) -> Any:
    async def ended() -> Any:
        rows = await site.rows("SELECT * FROM pushsvc.jobs WHERE finished_at IS NOT NULL")
        return rows[0] if rows else None

    return await until(ended, "the job has finished")


@pytest.mark.parametrize(
    ("method", "repeat", "status"),
    [("GET", False, "succeeded"), ("POST", False, "failed"), ("POST", True, "succeeded")],
)
async def test_what_only_reads_is_run_again_when_its_worker_dies(
    settings: Settings, method: str, repeat: bool, status: str
) -> None:
    service, endpoint = quick(settings), Endpoint()
    app = app_of(service, endpoint, repeat=repeat)
    async with opened(service, app, worker=False) as site, site.client() as http:
        dying = asyncio.create_task(service.work(asyncio.Event()))
        await http.request(method, "/slow", headers={"Prefer": "respond-async"})
        await until(endpoint.was_entered, "the endpoint runs")
        await die(dying)
        endpoint.open.set()
        stop = asyncio.Event()
        working = asyncio.create_task(service.work(stop))
        job = await end_of(site)
        assert job["status"] == status
        assert endpoint.entered == (2 if status == "succeeded" else 1)
        if status == "failed":
            assert '"worker_lost"' in job["error"]
        stop.set()
        await working


async def test_a_worker_that_stops_does_not_run_a_post_twice(settings: Settings) -> None:
    """Its time to drain is over, so the job is handed back; the next worker sees that it was begun."""
    service, endpoint = quick(settings), Endpoint()
    async with opened(service, app_of(service, endpoint), worker=False) as site, site.client() as http:
        stop = asyncio.Event()
        stopping = asyncio.create_task(service.work(stop))
        await http.post("/slow", headers={"Prefer": "respond-async"})
        await until(endpoint.was_entered, "the endpoint runs")
        stop.set()
        await stopping
        again = asyncio.Event()
        working = asyncio.create_task(service.work(again))
        job = await end_of(site)
        assert (job["status"], endpoint.entered) == ("failed", 1)
        again.set()
        await working


async def test_a_worker_that_stops_waits_for_what_endpoints_still_do(settings: Settings) -> None:
    service, endpoint, finished = quick(settings, drain=20), Endpoint(), asyncio.Event()
    told = asyncio.Event()

    async def after() -> None:
        await told.wait()
        finished.set()

    endpoint.after = BackgroundTask(after)
    endpoint.open.set()
    async with opened(service, app_of(service, endpoint, wait=20), worker=False) as site, site.client() as http:
        stop = asyncio.Event()
        working = asyncio.create_task(service.work(stop))
        assert (await http.get("/slow")).text == "done"
        stop.set()
        asyncio.get_running_loop().call_later(0.3, told.set)
        await working
        assert finished.is_set()


async def test_a_request_that_waits_is_answered_when_its_server_stops(settings: Settings) -> None:
    service, endpoint = quick(settings), Endpoint()
    async with opened(service, app_of(service, endpoint, wait=50)) as site, site.client() as http:
        asking = asyncio.create_task(http.get("/slow"))
        await until(endpoint.was_entered, "the endpoint runs")
        await service.drain()
        assert (await asking).status_code == 202
        endpoint.open.set()


# Seals


async def test_a_record_whose_secret_was_rotated_away_says_so(settings: Settings, caplog: Any) -> None:
    service, endpoint = Service(settings=settings), Endpoint()
    endpoint.open.set()
    async with opened(service, app_of(service, endpoint), worker=False) as site, site.client() as http:
        await http.get("/slow", headers={"Prefer": "respond-async"})
        service.settings = settings.model_copy(update={"secret": SecretStr("another secret for tests, 32 chars")})
        stop = asyncio.Event()
        working = asyncio.create_task(service.work(stop))
        job = await end_of(site)
        assert (job["status"], endpoint.entered) == ("failed", 0)
        assert "PUSHSVC_PREVIOUS_SECRETS" in job["error"]
        stop.set()
        await working


async def test_a_record_of_a_previous_secret_is_still_read(settings: Settings) -> None:
    service, endpoint = Service(settings=settings), Endpoint()
    endpoint.open.set()
    async with opened(service, app_of(service, endpoint), worker=False) as site, site.client() as http:
        await http.post("/slow", content=b"x" * 600_000, headers={"Prefer": "respond-async"})
        update = {
            "secret": SecretStr("another secret for tests, 32 chars"),
            "previous_secrets": (settings.secret,),
        }
        service.settings = settings.model_copy(update=update)
        stop = asyncio.Event()
        working = asyncio.create_task(service.work(stop))
        assert (await end_of(site))["status"] == "succeeded"
        stop.set()
        await working


@pytest.mark.parametrize("how", ["swapped", "changed", "cut", "another's"])
async def test_a_forged_record_is_not_run(settings: Settings, how: str) -> None:
    """Who can write the tables and has no secret can make nobody's request of his own."""
    service, endpoint = Service(settings=settings), Endpoint()
    endpoint.open.set()
    async with opened(service, app_of(service, endpoint), worker=False) as site, site.client() as http:
        views = [
            (await http.post("/slow", content=b"x" * 600_000, headers={"Prefer": "respond-async"})).json()
            for _ in range(2)
        ]
        first, second = (view["id"] for view in views)
        if how == "swapped":
            await site.rows("UPDATE pushsvc.record_pieces SET number = 9 WHERE job = $1 AND number = 0", first)
            await site.rows("UPDATE pushsvc.record_pieces SET number = 0 WHERE job = $1 AND number = 1", first)
            await site.rows("UPDATE pushsvc.record_pieces SET number = 1 WHERE job = $1 AND number = 9", first)
        elif how == "changed":
            await site.rows("UPDATE pushsvc.records SET head = set_byte(head, 40, 255 - get_byte(head, 40))")
        elif how == "cut":
            await site.rows("UPDATE pushsvc.records SET pieces = 1")
        else:
            await site.rows(
                "UPDATE pushsvc.records r SET head = o.head FROM pushsvc.records o WHERE r.job = $1 AND o.job = $2",
                first,
                second,
            )
        await site.rows("DELETE FROM pushsvc.jobs WHERE id = $1", second)

        stop = asyncio.Event()
        working = asyncio.create_task(service.work(stop))
        job = await end_of(site)
        read = how in ("swapped", "cut")  # the endpoint does not read its body
        assert job["status"] == ("succeeded" if read else "failed")
        stop.set()
        await working


def test_seals_bind_what_they_seal_to_its_place() -> None:
    seals = Seals(["one secret"])
    sealed = seals.seal(b"data", "job", "tenant", "body", "0", "last")
    assert seals.open(sealed, "job", "tenant", "body", "0", "last") == b"data"
    assert b"data" not in sealed
    for place in (("job", "tenant", "body", "0", "more"), ("job2", "tenant", "body", "0", "last"), ("job",)):
        with pytest.raises(Sealed, match="belongs elsewhere"):
            seals.open(sealed, *place)
    with pytest.raises(Sealed, match="another secret"):
        Seals(["another"]).open(sealed, "job", "tenant", "body", "0", "last")
    assert Seals(["another", "one secret"]).open(sealed, "job", "tenant", "body", "0", "last") == b"data"
    for cut in (b"", sealed[:5], sealed[:-1]):
        with pytest.raises(Sealed):
            seals.open(cut, "job", "tenant", "body", "0", "last")


def test_digests_tell_nothing_without_the_secret_and_survive_its_rotation() -> None:
    before, after = Seals(["one"]), Seals(["two", "one"])
    digest = before.digest(b"a", b"bc")
    assert digest != before.digest(b"ab", b"c")
    assert after.digest(b"a", b"bc") != digest
    assert after.matches(digest, b"a", b"bc")
    assert not after.matches(digest, b"ab", b"c")


# What is left behind


async def test_records_whose_job_never_came_are_swept(settings: Settings) -> None:
    service = quick(settings)
    async with opened(service, app_of(service, Endpoint()), worker=False) as site:
        parts = service.parts
        orphan, coming = new_job_id(), new_job_id()
        for job in (orphan, coming):
            await parts.records.put(Record(job, "default", "t", b"head", None))
            await parts.records.add(job, 0, b"piece")
        await site.rows("UPDATE pushsvc.records SET touched_at = now() - interval '2 hours' WHERE job = $1", orphan)
        await parts.sweeper.sweep()
        assert [row["job"] for row in await site.rows("SELECT job FROM pushsvc.record_pieces")] == [coming]


async def test_what_is_kept_of_an_answer_goes_with_its_job(settings: Settings) -> None:
    service, endpoint = quick(settings), Endpoint()
    endpoint.open.set()
    async with opened(service, app_of(service, endpoint, wait=20)) as site, site.client() as http:
        await http.get("/slow")
        assert await site.rows("SELECT 1 FROM pushsvc.answers")
        await site.rows("DELETE FROM pushsvc.jobs")
        assert await site.rows("SELECT 1 FROM pushsvc.answers") == []


# Limits, and what is told


async def test_an_answer_that_never_ends_is_ended_by_its_timeout(settings: Settings) -> None:
    async def endless(request: Request) -> Response:
        async def lines() -> Any:
            while True:
                yield "again\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(lines())

    service = Service(settings=settings)
    mark = service.respond_async(wait=20, timeout=0.3)
    app = Starlette(routes=[Route("/slow", endless, middleware=[mark])])
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.get("/slow")
        assert (answer.status_code, answer.json()["code"]) == (504, "job_timed_out")


async def test_an_answer_over_the_limit_fails_in_words(settings: Settings) -> None:
    async def large(request: Request) -> Response:
        return PlainTextResponse("x" * 2000)

    service = Service(settings=settings.model_copy(update={"result_limit": 1000}))
    app = Starlette(routes=[Route("/slow", large, middleware=[service.respond_async(wait=20)])])
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.get("/slow")
        assert answer.status_code == 500
        assert "PUSHSVC_RESULT_LIMIT" in answer.json()["detail"]


async def test_an_answer_cannot_break_out_of_its_headers(settings: Settings) -> None:
    async def splitting(request: Request) -> Response:
        response = PlainTextResponse("x")
        response.raw_headers.append((b"x-a", b"b\r\nset-cookie: a=b"))
        return response

    service = Service(settings=settings)
    app = Starlette(routes=[Route("/slow", splitting, middleware=[service.respond_async(wait=20)])])
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.get("/slow")
        assert (answer.status_code, "set-cookie" in answer.headers) == (500, False)


async def test_queries_of_an_endpoint_lead_back_to_its_job(settings: Settings) -> None:
    async def asking(request: Request) -> Response:
        async with service.queries() as db:
            rows = await db.async_find_by_sql("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        return PlainTextResponse(str(rows))

    service = Service(settings=settings)
    app = Starlette(routes=[Route("/slow", asking, name="asks", middleware=[service.respond_async(wait=20)])])
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        assert "job=\\'asks\\',job_id=" in (await http.get("/slow")).text.replace('"', "").replace("'", "\\'")


async def test_the_log_says_nothing_that_a_request_said(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def failing(request: Request) -> Response:
        await request.body()
        raise LookupError("of no interest")

    service = Service(settings=settings)
    app = Starlette(routes=[Route("/slow", failing, methods=["POST"], middleware=[service.respond_async(wait=20)])])
    service.attach(app)
    secrets = {"Cookie": "session=whispered", "Authorization": "Bearer unspoken", "X-Key": "told-nobody"}
    async with opened(service, app) as site, site.client(headers=secrets) as http:
        await http.post("/slow?card=numbered", content=b"quite-secret")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("pushsvc"))
    assert "of no interest" in ours
    for word in ("whispered", "unspoken", "told-nobody", "numbered", "quite-secret"):
        assert word not in ours
