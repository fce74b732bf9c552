"""An app whose endpoints may answer later, for the tests of `pushFetch`."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pushsvc import Service

service = Service()


async def report(request: Request) -> Response:
    await asyncio.sleep(0.3)
    body = {"of": request.query_params.get("of"), "sent": (await request.body()).decode()}
    return JSONResponse(body, 201, headers={"X-Report": "7"})


async def picture(request: Request) -> Response:
    await asyncio.sleep(0.3)
    return Response(b"\xff\xd8\xff", media_type="image/jpeg")


async def large(request: Request) -> Response:
    await asyncio.sleep(0.3)
    return Response("x" * 200_000, media_type="text/plain")


async def basket(request: Request) -> Response:
    await asyncio.sleep(0.3)
    response = JSONResponse({"things": 3})
    response.set_cookie("basket", "3")
    return response


async def broken(request: Request) -> Response:
    raise ValueError("out of paper")


ENDPOINTS = {"/report": report, "/picture": picture, "/large": large, "/basket": basket, "/broken": broken}
app = Starlette(
    routes=[
        Route(path, endpoint, methods=["GET", "POST"], middleware=[service.respond_async(wait=0.01)])
        for path, endpoint in ENDPOINTS.items()
    ]
)
service.attach(app, at="/push")
