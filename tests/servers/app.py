"""A Starlette app with a service attached, as the servers of docs/operations.md run it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pushsvc import Service


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


service = Service()
app = Starlette(routes=[Route("/", home)])
service.attach(app, at="/push")


@service.job
async def echo(value: str) -> str:
    return value
