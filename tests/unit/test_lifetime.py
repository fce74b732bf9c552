"""`Service(lifespan=…)`: entered once a process, left after the last who needs it, its state wherever code runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pushsvc import JobContext, Service, Settings
from pushsvc.errors import SettingsError
from pushsvc.testing import rolled_back, run_job

from ..contract.kit import soon
from .test_hosting import lifespan_of
from .test_submit import working


class Shared:
    """What a lifespan opens, and what became of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.tasks: set[Any] = set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[dict[str, int]]:
        self.log.append("open")
        self.tasks.add(asyncio.current_task())
        yield {"answer": 42}
        self.tasks.add(asyncio.current_task())
        self.log.append("close")


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def service(settings: Settings, shared: Shared) -> Service:
    service = Service(settings=settings, lifespan=shared.lifespan)

    @service.job
    async def answer(ctx: JobContext) -> int:
        return int(ctx.state["answer"])

    return service


async def test_a_job_has_what_the_lifespan_yielded(service: Service, shared: Shared) -> None:
    async with working(service):
        handles = await asyncio.gather(*(service.submit("answer") for _ in range(3)))
        assert [await soon(handle.result()) for handle in handles] == [42] * 3
        assert shared.log == ["open"]
    assert shared.log == ["open", "close"]
    assert len(shared.tasks) == 1


async def test_an_app_that_serves_has_it_too_and_a_worker_in_the_same_process_shares_it(
    service: Service, shared: Shared
) -> None:
    async def show(_request: Request) -> JSONResponse:
        async with service.queries() as db:
            assert db is not None
            return JSONResponse(service.state)

    app = Starlette(routes=[Route("/state", show)])
    service.attach(app)
    transport = httpx.ASGITransport(app)
    stop = asyncio.Event()
    async with lifespan_of(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/state")).json() == {"answer": 42}
        work = asyncio.create_task(service.work(stop))
        assert await soon((await service.submit("answer")).result()) == 42
        stop.set()
        await work
        assert shared.log == ["open"]
    assert shared.log == ["open", "close"]


async def test_tests_enter_it_too(service: Service, shared: Shared) -> None:
    assert (await run_job(service, "answer")).result == 42
    async with rolled_back(service):
        assert (await run_job(service, "answer")).result == 42
        assert service.state == {"answer": 42}
    assert shared.log == ["open", "close"] * 2
    await service.close()


async def test_its_state_is_asked_for_in_vain_where_the_service_does_not_run(service: Service) -> None:
    with pytest.raises(SettingsError, match="when the service runs"):
        _ = service.state


async def test_without_a_lifespan_there_is_no_state(settings: Settings) -> None:
    assert Service(settings=settings).state is None


async def test_one_that_fails_keeps_the_process_from_starting_and_says_why(settings: Settings) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[int]:
        yield int("no model")

    service = Service(settings=settings, lifespan=broken)
    with pytest.raises(SettingsError, match="no model"):
        await service.work(asyncio.Event())
    with pytest.raises(SettingsError, match="no model"):
        async with service.running():
            pass


async def test_one_that_fails_at_its_end_is_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("late")

    async with working(Service(settings=settings, lifespan=broken)):
        pass
    assert "the lifespan failed at its end" in caplog.text


async def test_it_may_be_a_plain_generator_and_may_take_the_service(settings: Settings) -> None:
    async def lifespan(service: Service) -> AsyncIterator[Service]:
        yield service

    service = Service(settings=settings, lifespan=lifespan)
    async with service.lifetime.held() as state:
        assert state is service


@pytest.mark.parametrize("wrong", [3, lambda: 3, lambda one, two: None])
async def test_what_is_no_lifespan_is_refused(settings: Settings, wrong: Any) -> None:
    with pytest.raises(SettingsError, match="lifespan"):
        async with Service(settings=settings, lifespan=wrong).lifetime.held():
            pass
