"""The shop in FastAPI. `pushsvc dev examples.shop.fastapi_shop:service`"""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response

from pushsvc import Service

from . import catalogue

templates = Jinja2Templates(Path(__file__).parent / "templates")
service = Service(principal=lambda request: request.session.get("user"))
router = APIRouter()


def current_user(request: Request) -> str:
    user = request.session.get("user")
    if not isinstance(user, str):
        raise HTTPException(401, "log in first")
    return user


User = Annotated[str, Depends(current_user)]


@router.get("/", response_class=HTMLResponse)
async def home(request: Request) -> Response:
    return templates.TemplateResponse(request, "home.html", {"user": request.session.get("user")})


@router.post("/login")
async def login(request: Request, user: Annotated[str, Form()]) -> Response:
    request.session["user"] = user
    return RedirectResponse("/", 303)


@router.get("/reports/{code}", response_class=HTMLResponse)
@service.respond_async(wait=1)
async def report(request: Request, user: User, code: str, over: int = 0) -> Response:
    found = await catalogue.report_on(user, code, over)
    return templates.TemplateResponse(request, "report.html", {"report": found})


@router.get("/api/flights/{code}")
@service.respond_async(wait=1)
async def flights(user: User, code: str, over: int = 0) -> catalogue.Report:
    return await catalogue.report_on(user, code, over)


@router.post("/orders", response_class=HTMLResponse)
@service.respond_async(wait=1)
async def buy(request: Request, user: User, item: Annotated[str, Form()], picture: UploadFile) -> Response:
    receipt = await catalogue.order(user, item, picture.filename or "", len(await picture.read()))
    return templates.TemplateResponse(request, "receipt.html", {"receipt": receipt})


app = FastAPI()
app.include_router(router)
app.add_middleware(SessionMiddleware, secret_key="of this example only")
service.attach(app, at="/push")
