"""FastAPI's endpoints, answered directly and through a worker: the decorator changes nothing of how they run."""

from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import Annotated, Any

import httpx
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBasicCredentials, OAuth2PasswordBearer
from pydantic import BaseModel, Field

from pushsvc import Service
from pushsvc.settings import Settings

from .conftest import opened
from .test_differential import seen

Decorate = Callable[[Any], Any]


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)
    tags: list[str] = []


class Kind(StrEnum):
    one = "one"
    two = "two"


class Filters(BaseModel):
    model_config = {"extra": "forbid"}
    limit: int = 10
    order: Kind = Kind.one


def app_of(mark: Decorate) -> FastAPI:  # noqa: C901  one endpoint after another
    app, router = FastAPI(), APIRouter(prefix="/r", tags=["r"])

    async def database() -> AsyncIterator[str]:
        yield "db"

    def paging(skip: int = 0, limit: int = 5) -> dict[str, int]:
        return {"skip": skip, "limit": limit}

    class Numbered:
        def __init__(self, number: int = 7) -> None:
            self.number = number

    @router.get("/params/{kind}/{item_id}")
    @mark
    async def params(
        kind: Kind,
        item_id: Annotated[int, Path(ge=1)],
        q: Annotated[list[str] | None, Query()] = None,
        x_token: Annotated[str | None, Header()] = None,
        session: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, Any]:
        return {"kind": kind, "id": item_id, "q": q, "token": x_token, "session": session}

    @router.post("/items", status_code=201, response_model=Item, response_model_exclude_unset=True)
    @mark
    async def items(item: Item, importance: Annotated[int, Body()]) -> Item:
        return item

    @router.get("/filters")
    @mark
    def filters(filters: Annotated[Filters, Query()]) -> Filters:
        return filters

    @router.get("/depends")
    @mark
    async def depends(
        db: Annotated[str, Depends(database)],
        page: Annotated[dict[str, int], Depends(paging)],
        numbered: Annotated[Numbered, Depends()],
    ) -> list[Any]:
        return [db, page, numbered.number]

    @router.get("/response")
    @mark
    async def response(response: Response, tasks: BackgroundTasks) -> dict[str, int]:
        response.headers["X-Set"] = "by the parameter"
        response.set_cookie("a", "1")
        response.status_code = 202
        tasks.add_task(print, "after")
        return {"ok": 1}

    @router.get("/request/{name:path}", name="asked")
    @mark
    async def asked(request: Request, name: str) -> list[str]:
        return [str(request.url), name, str(request.url_for("asked", name="x")), request.scope["path_params"]["name"]]

    @router.get("/raises")
    @mark
    async def raises() -> None:
        raise HTTPException(418, {"why": ["tea"]}, {"X-Tea": "yes"})

    @router.get("/breaks")
    @mark
    def breaks() -> None:
        raise LookupError("nobody handles it")

    @router.get("/nothing", status_code=204)
    @mark
    async def nothing() -> None:
        return None

    @router.get("/redirect", response_class=RedirectResponse)
    @mark
    async def redirect() -> str:
        return "/elsewhere"

    @router.get("/text", response_class=PlainTextResponse)
    @mark
    def text() -> str:
        return "plain"

    @router.get("/stream")
    @mark
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for number in range(3):
                yield f"{number}\n"

        return StreamingResponse(lines(), media_type="text/plain")

    @router.post("/form")
    @mark
    async def form(a: Annotated[str, Form()], b: Annotated[int, Form()] = 2) -> list[Any]:
        return [a, b]

    @router.post("/files")
    @mark
    async def files(one: Annotated[bytes, File()], many: list[UploadFile]) -> list[Any]:
        return [len(one), *((each.filename, each.size) for each in many)]

    @router.get("/basic")
    @mark
    async def basic(who: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
        return who.username

    @router.get("/key")
    @mark
    async def key(key: Annotated[str, Security(APIKeyHeader(name="X-Key"))]) -> str:
        return key

    @router.get("/oauth")
    @mark
    async def oauth(token: Annotated[str, Depends(OAuth2PasswordBearer("token"))]) -> str:
        return token

    @router.get("/wrong", response_model=Item)
    @mark
    async def wrong() -> dict[str, int]:
        return {"price": -1}

    app.include_router(router, prefix="/api")
    return app


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/params/one/5?q=a&q=b", {"headers": {"X-Token": "t", "Cookie": "session=s"}}),
    ("GET", "/params/three/0", {}),
    ("POST", "/items", {"json": {"item": {"name": "tea", "price": 2.5}, "importance": 1}}),
    ("POST", "/items", {"json": {"item": {"name": "tea", "price": 0}}}),
    ("POST", "/items", {"content": b"{broken", "headers": {"Content-Type": "application/json"}}),
    ("GET", "/filters?limit=3&order=two", {}),
    ("GET", "/filters?odd=1", {}),
    ("GET", "/depends?skip=2&number=9", {}),
    ("GET", "/response", {}),
    ("GET", "/request/a/b%20c?x=1", {}),
    ("GET", "/raises", {}),
    ("GET", "/breaks", {}),
    ("GET", "/nothing", {}),
    ("GET", "/redirect", {}),
    ("GET", "/text", {}),
    ("GET", "/stream", {}),
    ("POST", "/form", {"data": {"a": "ü"}}),
    ("POST", "/form", {"data": {"b": "x"}}),
    ("POST", "/files", {"files": [("one", b"1" * 10), ("many", ("a.txt", b"a")), ("many", ("b.txt", b"bb"))]}),
    ("GET", "/basic", {"headers": {"Authorization": "Basic YW5uOng="}}),
    ("GET", "/basic", {}),
    ("GET", "/key", {"headers": {"X-Key": "k"}}),
    ("GET", "/key", {}),
    ("GET", "/oauth", {"headers": {"Authorization": "Bearer not-one-of-ours"}}),
    ("GET", "/oauth", {}),
    ("GET", "/wrong", {}),
    ("PUT", "/text", {}),
]


async def test_fastapis_endpoints_answer_as_ever_through_a_worker(settings: Settings) -> None:
    service = Service(settings=settings)
    direct, later = app_of(lambda endpoint: endpoint), app_of(service.respond_async(wait=30))
    service.attach(later)
    different: dict[str, Any] = {}
    transport = httpx.ASGITransport(direct, raise_app_exceptions=False)
    async with opened(service, later) as site, site.client() as through:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as directly:
            for method, path, request in REQUESTS:
                # Not with the cookies of the one before.
                directly.cookies.clear()
                through.cookies.clear()
                expected = seen(await directly.request(method, f"/api/r{path}", **request))
                found = seen(await through.request(method, f"/api/r{path}", **request))
                if found != expected:
                    different[f"{method} {path}"] = [
                        (k, expected[k], found[k]) for k in found if found[k] != expected[k]
                    ]
        jobs = await site.rows("SELECT 1 FROM pushsvc.jobs")
    assert different == {}
    # A body that can't be parsed is refused where it came, as is a method that no route takes.
    assert len(jobs) == len(REQUESTS) - 2


async def test_the_decorator_is_not_in_the_openapi_document(settings: Settings) -> None:
    service = Service(settings=settings)
    assert app_of(service.respond_async()).openapi() == app_of(lambda endpoint: endpoint).openapi()
