"""The shop in Starlette. `pushsvc dev examples.shop.starlette_shop:service`"""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates

from pushsvc import Service

from . import catalogue

templates = Jinja2Templates(Path(__file__).parent / "templates")
service = Service(principal=lambda request: request.session.get("user"))


def current_user(request: Request) -> str:
    user = request.session.get("user")
    if not isinstance(user, str):
        raise HTTPException(401, "log in first")
    return user


async def home(request: Request) -> Response:
    return templates.TemplateResponse(request, "home.html", {"user": request.session.get("user")})


async def login(request: Request) -> Response:
    async with request.form() as form:
        request.session["user"] = str(form["user"])
    return RedirectResponse("/", 303)


async def report(request: Request) -> Response:
    over = int(request.query_params.get("over", 0))
    found = await catalogue.report_on(current_user(request), request.path_params["code"], over)
    return templates.TemplateResponse(request, "report.html", {"report": found})


async def flights(request: Request) -> Response:
    over = int(request.query_params.get("over", 0))
    found = await catalogue.report_on(current_user(request), request.path_params["code"], over)
    return JSONResponse(catalogue.as_json(found))


async def buy(request: Request) -> Response:
    user = current_user(request)
    async with request.form() as form:
        picture = form["picture"]
        assert not isinstance(picture, str)
        receipt = await catalogue.order(user, str(form["item"]), picture.filename or "", len(await picture.read()))
    return templates.TemplateResponse(request, "receipt.html", {"receipt": receipt})


app = Starlette(
    routes=[
        Route("/", home),
        Route("/login", login, methods=["POST"]),
        Route("/reports/{code}", report, middleware=[service.respond_async(wait=1)]),
        Route("/api/flights/{code}", flights, middleware=[service.respond_async(wait=1)]),
        Route("/orders", buy, methods=["POST"], middleware=[service.respond_async(wait=1)]),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key="of this example only")],
)
service.attach(app, at="/push")
