"""An endpoint that takes no time, directly and marked, in Starlette."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pushsvc import Service

service = Service()


async def nothing(request: Request) -> JSONResponse:
    return JSONResponse({"code": "JFK"})


app = Starlette(
    routes=[
        Route("/direct", nothing),
        Route("/later", nothing, name="later", middleware=[service.respond_async(wait=2)]),
    ]
)
service.attach(app)
