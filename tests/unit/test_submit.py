"""Submitting from Python: parameters and results as the signature has them, errors as the job raised them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import asyncpg
import pytest
from pydantic import Field

from pushsvc import JobContext, JobError, Service, Settings, current_job
from pushsvc.domain import JobStatus
from pushsvc.errors import (
    AlreadyFinished,
    BadRequest,
    InvalidParams,
    JobCancelled,
    JobFailed,
    KeyReused,
    NotFound,
    ResultMismatch,
    SettingsError,
    TransactionOpen,
    UnknownJob,
)
from pushsvc.testing import run_job

from ..contract.kit import soon, until


@dataclass
class Report:
    origin: str
    day: date
    price: Decimal


class NoFlights(JobError):
    """There are no flights."""

    code = "no_flights_asked_for"
    status = 409


@asynccontextmanager
async def working(service: Service) -> AsyncIterator[None]:
    stop = asyncio.Event()
    work = asyncio.create_task(service.work(stop))
    try:
        yield
    finally:
        stop.set()
        await work
        await service.close()


@pytest.fixture
def service(settings: Settings) -> Service:
    return Service(settings=settings)


async def test_a_job_is_called_as_its_function_is_and_gives_what_that_says(service: Service) -> None:
    @service.job
    async def report(ctx: JobContext, origin: str, day: date, price: Decimal = Decimal(1)) -> Report:
        assert ctx.user == "alice"
        return Report(origin, day, price)

    async with working(service):
        to = service.options(owner="alice")
        handle = await to.submit(report, "JFK", day=date(2026, 11, 22), price=Decimal("19.90"))
        assert await soon(handle.result()) == Report("JFK", date(2026, 11, 22), Decimal("19.90"))
        assert await handle.status() is JobStatus.SUCCEEDED
        assert (await soon((await to.submit(report, "JFK", date(2026, 1, 1))).result())).price == 1


async def test_a_parameter_goes_by_the_name_that_it_has_in_json(service: Service) -> None:
    @service.job
    async def send(to: Annotated[str, Field(alias="from")]) -> str:
        return to

    async with working(service):
        assert await soon((await service.submit(send, "me")).result()) == "me"
        assert await soon((await service.submit("send", to="me")).result()) == "me"


async def test_the_jobs_own_error_is_raised(service: Service) -> None:
    @service.job
    async def report(how: str) -> None:
        if how == "own":
            raise NoFlights("none in May", month=5)
        if how == "said":
            raise JobError("none", code="none_at_all", status=404)
        raise ValueError("secret")

    async with working(service):
        with pytest.raises(NoFlights, match="none in May") as own:
            await soon((await service.submit(report, "own")).result())
        assert own.value.problem()["month"] == 5
        with pytest.raises(JobError) as said:
            await soon((await service.submit(report, "said")).result())
        assert (said.value.problem()["code"], said.value.problem()["status"]) == ("none_at_all", 404)
        with pytest.raises(JobFailed):
            await soon((await service.submit(report, "else")).result())


async def test_what_can_not_be_is_refused_and_nothing_is_stored(service: Service) -> None:
    @service.job
    async def report(origin: str) -> str:
        return origin

    async def foreign() -> None: ...

    submit: Any = service.submit
    calls: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception]]] = [
        ((report,), {}, InvalidParams),
        ((report, "JFK", 2), {}, InvalidParams),
        ((report,), {"origin": "JFK", "ownr": "me"}, InvalidParams),
        ((report,), {"origin": "JFK", "owner": ""}, BadRequest),
        ((report,), {"origin": object()}, InvalidParams),
        ((foreign,), {}, UnknownJob),
        (("nothing",), {}, UnknownJob),
    ]
    for args, kwargs, error in calls:
        with pytest.raises(error):
            await submit(*args, **kwargs)
    wrong: list[dict[str, Any]] = [
        {"run_at": datetime(2030, 1, 1)},
        {"priority": "urgent"},
        {"owner": ""},
        {"tenant": "a:b"},
        {"key": "\n"},
        {"session": object(), "connection": object()},
    ]
    for options in wrong:
        with pytest.raises(BadRequest):
            service.options(**options)
    with pytest.raises(BadRequest, match="deadline"):
        await service.options(deadline=datetime.now(UTC) - timedelta(1)).submit(report, "JFK")
    assert await service.parts.store.queued(10) == 0
    await service.close()


async def test_a_result_that_is_not_what_the_signature_says_is_an_error(service: Service) -> None:
    @service.job
    async def wrong() -> int:
        return "much"  # type: ignore[return-value]

    async with working(service):
        with pytest.raises(ResultMismatch):
            await soon((await service.submit(wrong)).result())


async def test_a_key_is_one_job_of_its_owner(service: Service) -> None:
    @service.job
    async def report(origin: str) -> str:
        return origin

    mine = service.options(owner="alice", key="k")
    first = await mine.submit(report, "JFK")
    assert (await mine.submit(report, "JFK")).id == first.id
    assert (await service.options(owner="bob", key="k").submit(report, "JFK")).id != first.id
    with pytest.raises(KeyReused):
        await mine.submit(report, "LGA")
    await service.close()


async def test_an_option_may_stand_beside_the_parameters_where_the_job_has_none_of_its_name(service: Service) -> None:
    @service.job
    async def report(origin: str) -> str:
        return origin

    @service.job
    async def lock(key: str) -> str:
        return key

    submit: Any = service.submit
    first = await submit(report, origin="JFK", owner="alice", key="k")
    assert (await service.options(owner="alice", key="k").submit(report, "JFK")).id == first.id
    more: Any = service.options(owner="alice").submit
    assert (await more(report, "JFK", key="k")).id == first.id
    async with working(service):
        assert await soon((await submit(lock, key="front door")).result()) == "front door"


async def test_who_waits_has_an_end_and_the_job_goes_on(service: Service) -> None:
    go_on = asyncio.Event()

    @service.job
    async def slow() -> int:
        await go_on.wait()
        return 7

    async with working(service):
        handle = await service.submit(slow)
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)
        go_on.set()
        assert await soon(handle.result()) == 7


async def test_a_cancel_ends_the_job_and_who_waits_is_told(service: Service) -> None:
    @service.job
    async def slow() -> None:
        await asyncio.Event().wait()

    async with working(service):
        handle = await service.submit(slow)
        waiting = asyncio.create_task(handle.result())
        await until(lambda: _is(handle, JobStatus.RUNNING))
        await handle.cancel()
        with pytest.raises(JobCancelled):
            await soon(waiting)
        with pytest.raises(AlreadyFinished):
            await handle.cancel()


async def _is(handle: Any, status: JobStatus) -> bool:
    return await handle.status() is status


async def test_progress_is_heard_until_the_end(service: Service) -> None:
    step = asyncio.Semaphore(0)

    @service.job
    async def slow(ctx: JobContext) -> None:
        for n in range(3):
            await step.acquire()
            await ctx.progress(n / 4, f"step {n}")
        await step.acquire()

    async with working(service):
        handle = await service.submit(slow)
        heard = []
        step.release()

        async def listen() -> None:
            async for progress in handle:
                heard.append(progress.message)
                step.release()

        await soon(listen())
        assert heard == ["step 0", "step 1", "step 2"]
        step.release()


async def test_a_purged_job_is_not_found(service: Service) -> None:
    @service.job
    async def report() -> None: ...

    handle = await service.submit(report)
    await service.parts.postgres.fetch("DELETE FROM pushsvc.jobs")
    with pytest.raises(NotFound):
        await handle.status()
    with pytest.raises(NotFound):
        await soon(handle.result())
    await service.close()


def test_a_script_may_run_several_event_loops(service: Service) -> None:
    @service.job
    async def report(origin: str) -> str:
        return origin

    async def submitted() -> str:
        return (await service.submit(report, "JFK")).id

    async def looked(job: str) -> bool:
        found = await service.parts.store.get("default", job)
        await service.close()
        return found is not None

    first = asyncio.run(submitted())
    second = asyncio.run(submitted())
    assert first != second
    assert asyncio.run(looked(first))


# Jobs that submit jobs


async def test_a_job_submits_children_which_know_it(service: Service) -> None:
    @service.job
    async def child(ctx: JobContext) -> str | None:
        assert current_job() is ctx
        return ctx.parent

    @service.job
    async def parent(ctx: JobContext) -> tuple[str, str | None]:
        return ctx.id, await (await ctx.submit(child)).result()

    async with working(service):
        handle = await service.options(owner="alice").submit(parent)
        assert await soon(handle.result()) == (handle.id, handle.id)
        rows = await service.parts.postgres.fetch("SELECT owner FROM pushsvc.jobs")
        assert {row["owner"] for row in rows} == {"alice"}


async def test_a_parent_that_is_retried_has_the_same_children(service: Service) -> None:
    @service.job
    async def child(n: int) -> int:
        return n

    seen: list[list[str]] = []

    @service.job(max_attempts=2)
    async def parent(ctx: JobContext) -> None:
        later = datetime.now(UTC) + timedelta(milliseconds=1)
        handles = await asyncio.gather(*(ctx.options(run_at=later).submit(child, n) for n in (1, 2, 2)))
        seen.append([handle.id for handle in handles])
        if len(seen) == 1:
            raise ValueError

    async with working(service):
        await soon((await service.submit(parent)).result())
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_parents_on_all_places_do_not_keep_out_their_children(settings: Settings, kind: str) -> None:
    service = Service(settings=settings.model_copy(update={"max_jobs": 2}))

    @service.job
    async def child(n: int) -> int:
        return n

    @service.job
    async def parent(ctx: JobContext, depth: int) -> int:
        if not depth:
            return await (await ctx.submit(child, 1)).result()
        handles = [await ctx.options(key=f"{ctx.id} {n}").submit(parent, depth - 1) for n in range(2)]
        return sum(await asyncio.gather(*(handle.result() for handle in handles)))

    @service.job
    def plain(ctx: JobContext, depth: int) -> int:
        if not depth:
            return asyncio.run(_value(ctx.submit(child, 1)))
        return 2 * asyncio.run(_value(ctx.submit(plain, depth - 1)))

    async with working(service):
        top = parent if kind == "async" else plain
        handles = await asyncio.gather(*(service.submit(top, 3) for _ in range(3)))
        assert [await soon(handle.result()) for handle in handles] == [8, 8, 8]


async def _value(submitting: Any) -> int:
    return int(await (await submitting).result())


async def test_no_more_jobs_run_at_once_than_there_are_places(settings: Settings) -> None:
    service = Service(settings=settings.model_copy(update={"max_jobs": 2}))
    running, most = 0, 0

    def enter(by: int) -> None:
        nonlocal running, most
        running += by
        most = max(most, running)

    @service.job
    async def child() -> None:
        enter(1)
        await asyncio.sleep(0.01)
        enter(-1)

    @service.job
    async def parent(ctx: JobContext) -> None:
        enter(1)
        handle = await ctx.submit(child)
        enter(-1)
        await handle.result()
        enter(1)
        await asyncio.sleep(0.01)
        enter(-1)

    async with working(service):
        handles = await asyncio.gather(*(service.submit(parent) for _ in range(8)))
        await soon(asyncio.gather(*(handle.result() for handle in handles)))
    assert most == 2


async def test_nobody_waits_for_a_job_within_a_transaction(service: Service) -> None:
    @service.job
    async def child() -> None: ...

    @service.job
    async def parent(ctx: JobContext) -> str:
        async with ctx.db.transaction():
            handle = await ctx.options(run_at=datetime.now(UTC) + timedelta(hours=1)).submit(child)
            try:
                await handle.result()
            except TransactionOpen as error:
                return str(error)
        return ""

    async with working(service):
        assert "end the transaction" in await soon((await service.submit(parent)).result())


async def test_a_cancel_reaches_children_if_asked(service: Service) -> None:
    handles: dict[tuple[str, int], Any] = {}

    @service.job
    async def child(ctx: JobContext, name: str, depth: int) -> None:
        if depth:
            handles[name, depth - 1] = await ctx.submit(child, name, depth - 1)
        await asyncio.Event().wait()

    async with working(service):
        alone, whole = await service.submit(child, "alone", 1), await service.submit(child, "whole", 2)
        await until(lambda: len(handles) == 3)
        await alone.cancel()
        await whole.cancel(children=True)
        for handle in (alone, whole, handles["whole", 1], handles["whole", 0]):
            with pytest.raises(JobCancelled):
                await soon(handle.result())
        assert not (await handles["alone", 0].status()).terminal
        await handles["alone", 0].cancel()


async def test_a_job_that_runs_in_a_test_says_that_it_has_nobody_to_submit_to(service: Service) -> None:
    @service.job
    async def child() -> None: ...

    @service.job
    async def parent(ctx: JobContext) -> None:
        await ctx.submit(child)

    with pytest.raises(SettingsError, match="nothing can be submitted"):
        await run_job(service, "parent")
    await service.close()


async def test_submitting_from_python_needs_no_redis_when_all_is_in_one_process(settings: Settings) -> None:
    """PUSHSVC_BACKEND=inline: handles, children and transactions go by the bus of the process."""
    inline = Settings.model_validate(settings.model_dump() | {"backend": "inline", "redis_url": None})
    service = Service(settings=inline)

    @service.job
    async def child(ctx: JobContext, n: int) -> int:
        await ctx.progress(0.5, "half")
        return n

    @service.job
    async def parent(ctx: JobContext) -> int:
        return await (await ctx.submit(child, 3)).result()

    async with service.running():
        assert await soon((await service.submit(parent)).result()) == 3
        connection = await asyncpg.connect(settings.need("database_url"))
        async with connection.transaction():
            handle = await service.options(session=connection).submit(child, 4)
        assert await soon(handle.result()) == 4
        await connection.close()
