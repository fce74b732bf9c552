"""A service in an existing app: mounted, attached, started by whoever comes first, and drained at the signal."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

import fastapi
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from pushsvc import Service, hosting
from pushsvc.endpoints import in_worker
from pushsvc.errors import SettingsError
from pushsvc.hosting import _AtSignal, outermost
from pushsvc.settings import Settings
from pushsvc.tasks import stop

from ..acceptance.clients import until
from ..contract.kit import soon


@asynccontextmanager
async def lifespan_of(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """The app's lifespan, as a server runs it; what is given is the state."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    task = asyncio.ensure_future(app(scope, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    answer = await heard.get()
    assert answer["type"] == "lifespan.startup.complete", answer
    try:
        yield state
    finally:
        await told.put({"type": "lifespan.shutdown"})
        assert (await heard.get())["type"] == "lifespan.shutdown.complete"
        await task


def client(app: ASGIApp, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, **options)
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


def service_with_a_job(settings: Settings) -> Service:
    service = Service(settings=settings)

    @service.job
    async def echo(value: str) -> str:
        return value

    return service


def asking(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.token('alice')}"}


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


async def broken(request: Request) -> PlainTextResponse:
    raise LookupError("the author's own")


def starlette(service: Service) -> ASGIApp:
    app = Starlette(routes=[Route("/", home)])
    service.attach(app, at="/push")
    return app


def fast(service: Service) -> ASGIApp:
    app = fastapi.FastAPI()
    service.attach(app, at="/push")
    router = fastapi.APIRouter()

    @router.get("/")
    async def home() -> str:
        return "home"

    app.include_router(router)
    return app


@pytest.mark.parametrize("make", [starlette, fast])
async def test_an_attached_service_runs_as_long_as_the_apps_lifespan(
    settings: Settings, make: Callable[[Service], ASGIApp]
) -> None:
    service = service_with_a_job(settings)
    app = make(service)
    async with client(app) as http:
        async with lifespan_of(app):
            assert service._host.parts is not None
            assert (await http.get("/push/readyz")).json()["status"] == "ok"
            answer = await http.post(
                "/push/v1/jobs", json={"job": "echo", "params": {"value": "x"}}, headers=asking(service)
            )
            assert answer.status_code == 202
            assert answer.headers["location"].startswith("/push/v1/jobs/")
            assert all(link.startswith("/push/v1/") for link in answer.json()["links"].values())
            assert "home" in (await http.get("/")).text
        assert service._host.parts is None


async def test_the_apps_own_lifespan_stays_its_own_and_its_state_too(settings: Settings) -> None:
    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, str]]:
        yield {"engine": "on"}

    service = Service(settings=settings)
    app = Starlette(lifespan=own)
    service.attach(app)
    async with lifespan_of(app) as state:
        assert state == {"engine": "on"}


async def test_a_worker_runs_the_apps_lifespan_and_not_the_web_half(settings: Settings) -> None:
    entered = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, str]]:
        entered.append("begun")
        yield {"engine": "on"}
        entered.append("ended")

    service = Service(settings=settings)
    app = Starlette(lifespan=own)
    service.attach(app)
    async with in_worker(app) as state:
        assert state == {"engine": "on"}
        assert service._host.parts is None
    assert entered == ["begun", "ended"]


async def test_a_worker_does_not_run_for_an_app_that_does_not_start(settings: Settings) -> None:
    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        if app is not None:
            raise LookupError("no engine")
        yield

    service = Service(settings=settings)
    service.attach(Starlette(lifespan=own))
    with pytest.raises(SettingsError, match="no engine"):
        await service.work(asyncio.Event())


async def test_a_mounted_api_whose_service_nobody_started_starts_at_its_first_request(settings: Settings) -> None:
    """Under a plain mount the lifespan never ran: results were never pushed, and revoked tokens passed."""
    service = service_with_a_job(settings)
    app = Starlette(routes=[Mount("/push", service.asgi())])
    token = asking(service)
    async with client(app) as http:
        answers = await asyncio.gather(
            *(
                http.post("/push/v1/jobs", json={"job": "echo", "params": {"value": "x"}}, headers=token)
                for _ in range(5)
            )
        )
        assert [answer.status_code for answer in answers] == [202] * 5
        await service.revoke("alice")

        async def refused() -> bool:
            return (await http.get("/push/v1/me", headers=token)).status_code in (401, 404) and (
                await http.get("/push/v1/jobs", headers=token)
            ).status_code == 401

        await until(refused, "the revoked token is refused")
    await service.close()


async def test_an_empty_database_gets_its_tables_at_the_first_request(
    empty_database_url: str, redis_url: str, settings: Settings
) -> None:
    mine = settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    service = service_with_a_job(mine)
    async with client(Starlette(routes=[Mount("/push", service.asgi())])) as http:
        assert (await http.get("/push/v1/jobs", headers=asking(service))).status_code == 200
    await service.close()


async def test_a_service_that_cannot_start_says_so_everywhere(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(settings=settings.model_copy(update={"redis_url": None}))
    async with client(Starlette(routes=[Route("/", home), Mount("/push", service.asgi())])) as http:
        answer = await http.get("/push/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "its log says why" in answer.json()["detail"]
        ready = await http.get("/push/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert (await http.get("/")).text == "home"
    assert "PUSHSVC_REDIS_URL is not set" in caplog.text


async def test_a_request_that_finds_the_service_starting_is_answered_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers, as when PostgreSQL is frozen, the start goes on without it."""
    monkeypatch.setattr(hosting, "ANSWERED_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none?sslmode=disable"
        service = Service(settings=settings.model_copy(update={"database_url": SecretStr(url)}))
        async with client(Starlette(routes=[Mount("/push", service.asgi())])) as http:
            answer = await soon(http.get("/push/v1/jobs"))
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "still starting" in answer.json()["detail"]
            ready = await soon(http.get("/push/readyz"))
            assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert service._host._starting is not None
    await stop(service._host._starting)
    await service.close()


async def test_running_is_one_however_often_it_is_entered(settings: Settings) -> None:
    service = Service(settings=settings)
    async with service.running():
        async with service.running():
            first = service._host.parts
        assert service._host.parts is first is not None
    assert service._host.parts is None
    async with service.running():
        assert service._host.parts not in (None, first)


async def test_an_app_starts_without_postgresql_and_its_service_once_it_is_there(settings: Settings) -> None:
    """Its other pages may need none."""
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:9/none")})
    service = Service(settings=away)
    app = Starlette(routes=[Route("/", home)])
    service.attach(app)
    service._host._assembled = _unavailable
    async with client(app) as http, lifespan_of(app):
        assert (await http.get("/")).text == "home"
        assert (await http.get("/push/v1/jobs")).status_code == 503
        service._host._assembled = service._own_parts
        service.settings = settings
        service._host._failed_at = 0.0
        assert (await http.get("/push/readyz")).json()["status"] == "ok"


def _unavailable() -> Any:
    from pushsvc.errors import Unavailable

    raise Unavailable("PostgreSQL can't be reached right now")


@pytest.mark.parametrize(
    ("at", "why"), [("push", "not a path"), ("/", "not a path"), ("/push/", "not a path"), ("", "not a path")]
)
def test_a_place_to_attach_at_is_a_path(settings: Settings, at: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Service(settings=settings).attach(Starlette(), at=at)


async def test_it_is_too_late_to_attach_to_an_app_that_was_called(settings: Settings) -> None:
    app = Starlette(routes=[Route("/", home)])
    async with client(app) as http:
        await http.get("/")
    with pytest.raises(SettingsError, match="attach where it is made"):
        Service(settings=settings).attach(app)


def test_what_is_no_starlette_app_is_told_what_to_do(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"service.running"):
        Service(settings=settings).attach(home)  # type: ignore[arg-type]  # on purpose


def test_a_service_has_one_app(settings: Settings) -> None:
    service = Service(settings=settings)
    service.attach(Starlette())
    with pytest.raises(SettingsError, match="one app"):
        service.attach(Starlette())


# Links


@pytest.mark.parametrize(
    ("root_path", "setting", "base"),
    [
        ("", "", "/push"),
        ("/app", "", "/app/push"),
        ("/app", "/app", "/app/push"),
        ("", "/app", "/app/push"),
        ("/application", "/app", "/app/application/push"),
    ],
)
async def test_links_hold_behind_a_proxy_that_strips_a_prefix(
    settings: Settings, root_path: str, setting: str, base: str
) -> None:
    service = service_with_a_job(settings.model_copy(update={"root_path": setting}))
    app = starlette(service)
    async with client(app, root_path=root_path) as http, lifespan_of(app):
        path = f"{root_path}/push/v1/jobs"
        answer = await http.post(path, json={"job": "echo", "params": {"value": "x"}}, headers=asking(service))
        assert answer.status_code == 202, answer.text
        assert answer.json()["links"]["self"].startswith(f"{base}/v1/jobs/")
        assert answer.headers["location"] == answer.json()["links"]["self"]
        about = await http.get(f"{root_path}/push/asyncapi.json")
        assert about.json()["channels"]["socket"]["address"] == f"{base}/v1/ws"


def test_what_is_encoded_once_has_one_prefix(settings: Settings) -> None:
    service = Service(settings=settings.model_copy(update={"root_path": "/app"}))
    service.attach(Starlette(), at="/push")
    assert service.parts.prefix == "/app/push"
    assert service.parts.events._prefix == service.parts.webhooks._prefix == "/app/push"


@pytest.mark.parametrize("path", ["app", "/app/", "/a b", "/app?x"])
def test_a_root_path_is_one(path: str) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_ROOT_PATH"):
        Settings.from_env({"PUSHSVC_ROOT_PATH": path})


# Errors


async def test_an_error_in_an_authors_route_is_not_called_ours(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(settings=settings)
    app = service.asgi([Route("/broken", broken)])
    async with client(app, raise_app_exceptions=False) as http:
        answer = await http.get("/broken")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert (await http.get("/nowhere")).text == "Not Found"
        assert (await http.get("/v1/nowhere")).headers["content-type"] == "application/problem+json"
    assert "a request failed" not in caplog.text
    await service.close()


async def test_an_error_in_a_route_of_ours_is_called_ours(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(settings=settings)
    async with client(service.asgi(), raise_app_exceptions=False) as http:
        await http.get("/healthz")
        parts = service._host.parts
        assert parts is not None
        parts.store.of_owner = _fails  # type: ignore[assignment, method-assign]  # to make it go wrong
        answer = await http.get("/v1/jobs", headers=asking(service))
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "a request failed" in caplog.text
    await service.close()


async def _fails(*args: Any) -> Any:
    raise LookupError("ours")


# What `pushsvc serve` runs


def module_with(**names: Any) -> ModuleType:
    module = ModuleType("theirs")
    vars(module).update(names)
    return module


def test_serve_runs_the_middleware_that_an_author_put_around(settings: Settings) -> None:
    service = Service(settings=settings)
    wrapped = GZipMiddleware(service.asgi())
    twice = GZipMiddleware(wrapped)
    module = module_with(service=service, wrapped=wrapped, twice=twice, func=func, other=GZipMiddleware(home))  # type: ignore[arg-type]  # never called
    assert outermost(service.app, module) is twice


def test_serve_runs_the_app_that_mounts_the_api(settings: Settings) -> None:
    service = Service(settings=settings)
    site = Starlette(routes=[Mount("/push", service.asgi(), middleware=[Middleware(GZipMiddleware)])])
    assert outermost(service.app, module_with(service=service, site=site)) is site


def test_serve_runs_the_app_that_the_service_is_attached_to(settings: Settings) -> None:
    service = Service(settings=settings)
    app = Starlette()
    service.attach(app)
    assert service.app is app
    assert outermost(service.app, module_with(service=service)) is app


# The signal


async def test_a_signal_begins_the_drain_and_reaches_who_handled_it_before() -> None:
    begun, heard = asyncio.Event(), []

    async def begin() -> None:
        begun.set()

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    watch = _AtSignal()
    try:
        watch.watch(asyncio.get_running_loop(), begin)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(begun.wait(), 10)
        assert heard == [signal.SIGTERM]
        watch.forget()
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def begin() -> None: ...

    def elsewhere() -> None:
        _AtSignal().watch(loop, begin)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(elsewhere)
    assert signal.getsignal(signal.SIGTERM) is before


async def test_two_users_leave_in_any_order(settings: Settings) -> None:
    service = Service(settings=settings)
    async with AsyncExitStack() as first:
        await first.enter_async_context(service.running())
        async with service.running():
            await first.aclose()
            assert service._host.parts is not None
    assert service._host.parts is None
