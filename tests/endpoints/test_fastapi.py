"""The decorator in FastAPI: what routers and the app demand is asked in the web too, the rest in the worker."""

from collections.abc import Iterator
from typing import Annotated

import fastapi
import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, Header, HTTPException, Request, UploadFile
from pydantic import BaseModel
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response

from pushsvc import Service, current_job
from pushsvc.errors import SettingsError

from .conftest import opened


class Order(BaseModel):
    item: str
    count: int


async def test_an_endpoint_keeps_its_dependencies_validation_and_response_model(service: Service) -> None:
    """Its own dependencies run in the worker only, and are closed there; those of its router in the web, too."""
    said: list[tuple[str, bool]] = []

    def note(what: str) -> None:
        said.append((what, bool(current_job())))

    async def auth(request: Request, x_key: Annotated[str, Header()]) -> None:
        note("auth")
        if x_key != "good":
            raise HTTPException(401, "who are you?")

    def connection() -> Iterator[str]:
        note("opened")
        yield "db"
        note("closed")

    app = FastAPI()
    router = APIRouter(prefix="/orders", dependencies=[Depends(auth)])

    @router.post("/{shop}", response_model=Order)
    @service.respond_async(wait=20)
    async def order(shop: str, order: Order, db: Annotated[str, Depends(connection)]) -> dict[str, object]:
        note("endpoint")
        return {"item": f"{order.item} of {shop} in {db}", "count": order.count, "secret": "kept"}

    app.include_router(router)
    app.add_middleware(SessionMiddleware, secret_key="for tests")
    service.attach(app)
    async with opened(service, app) as site, site.client(headers={"X-Key": "good"}) as http:
        answer = await http.post("/orders/jfk", json={"item": "tea", "count": 2})
        assert (answer.status_code, answer.json()) == (200, {"item": "tea of jfk in db", "count": 2})
        assert said == [("auth", False), ("auth", True), ("opened", True), ("endpoint", True), ("closed", True)]
        assert (await http.post("/orders/jfk", json={"item": "tea"})).status_code == 422
        jobs = await site.rows("SELECT name FROM pushsvc.jobs")
        refused = await http.post("/orders/jfk", json={"item": "tea", "count": 2}, headers={"X-Key": "bad"})
        assert refused.status_code == 401
        assert len(await site.rows("SELECT 1 FROM pushsvc.jobs")) == len(jobs) == 2
        document = (await http.get("/openapi.json")).json()["paths"]["/orders/{shop}"]["post"]
        assert [each["name"] for each in document["parameters"]] == ["shop", "x-key"]


async def test_forms_uploads_and_plain_functions(service: Service) -> None:
    app = FastAPI()

    @app.post("/upload")
    @service.respond_async(wait=20)
    def upload(name: Annotated[str, Form()], file: UploadFile) -> dict[str, object]:
        return {"name": name, "file": file.filename, "bytes": len(file.file.read())}

    app.add_middleware(SessionMiddleware, secret_key="for tests")
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.post("/upload", data={"name": "Zoë"}, files={"file": ("ünïcode.txt", b"x" * 2_000_000)})
        assert answer.json() == {"name": "Zoë", "file": "ünïcode.txt", "bytes": 2_000_000}


async def test_what_is_later_is_a_202_and_background_tasks_and_url_for_work(service: Service) -> None:
    app = FastAPI()

    @app.get("/where", name="where_it_is")
    @service.respond_async()
    async def where(request: Request, tasks: fastapi.BackgroundTasks) -> dict[str, str]:
        return {"url": str(request.url_for("where_it_is"))}

    app.add_middleware(SessionMiddleware, secret_key="for tests")
    service.attach(app)
    async with opened(service, app) as site, site.client() as http:
        answer = await http.get("/where", headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.json()["job"]) == (202, "where")
        await http.get(answer.headers["location"], headers={"Prefer": "wait=20"})
        result = await http.get(answer.json()["links"]["result"])
        assert result.json() == {"url": "http://shop.example/where"}


def test_a_generator_cannot_be_answered_later(service: Service) -> None:
    async def lines() -> object:
        yield "one"

    with pytest.raises(SettingsError, match="item by item"):
        service.respond_async()(lines)


def test_a_class_is_told_to_use_the_middleware_of_its_route(service: Service) -> None:
    with pytest.raises(SettingsError, match="middleware="):
        service.respond_async()(Response)


async def test_without_an_attached_app_an_endpoint_says_so(service: Service) -> None:
    app = FastAPI()

    @app.get("/")
    @service.respond_async()
    async def slow() -> str:
        return "never"

    from .conftest import Site

    async with Site(service, app).client() as http:
        assert (await http.get("/")).status_code == 500


async def test_two_endpoints_of_one_name_have_jobs_of_two_names(service: Service) -> None:
    def make() -> object:
        @service.respond_async()
        async def report() -> str:
            return "x"

        return report

    make(), make(), make()
    assert sorted(service._catalogue.options) == [
        "report",
        "report.tests.endpoints.test_fastapi",
        "report.tests.endpoints.test_fastapi.2",
    ]
