"""The routes of the service as one Starlette router, and what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access import Logins
from ..endpoints import assets
from ..errors import PushsvcError, Unavailable
from ..jobs import Registry
from .asyncapi import asyncapi_route
from .callers import LOGIN
from .openapi import openapi_route
from .problems import on_error, problem_response
from .reading import root

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
ACCEPTED = [
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
]
EXPOSED = ["Date", "ETag", "Location", "Preference-Applied", "Retry-After", "WWW-Authenticate"]


class Group(Protocol):
    """Routes that need the same few parts."""

    def routes(self) -> Sequence[BaseRoute]: ...


def routes(groups: Iterable[Group], registry: Registry) -> list[BaseRoute]:
    """Everything under `/v1`, and what describes it."""
    return [
        *(route for group in groups for route in group.routes()),
        *assets(),
        asyncapi_route(),
        openapi_route(registry),
    ]


def application(
    ours: Sequence[BaseRoute], logins: Logins, allowed_origins: Sequence[str], extra: Sequence[BaseRoute] = ()
) -> Starlette:
    """A whole ASGI app: `ours`, the author's `extra` routes, errors as problems, and what pages of other origins may
    do. What goes wrong in an author's route is answered as in any Starlette app: it is not ours."""
    for route in ours:
        if isinstance(route, Route):
            route.app = _Ours(route.app, logins)
    handler = on_error if not extra else _on_api_error
    return _Application(
        allowed_origins=allowed_origins,
        routes=[*ours, *extra],
        exception_handlers={PushsvcError: on_error, 404: handler, 405: handler},
    )


async def _on_api_error(request: Request, error: Exception) -> Response:
    """The answer to a path that is no route's, or a method that none takes: a problem only under `/v1`."""
    if request.scope["path"].removeprefix(root(request)).startswith("/v1/"):
        return await on_error(request, error)
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, error.headers)


ENDING = "graceful shutdown"
"""What uvicorn says to the requests that it cancels when it has waited for them long enough."""


class _Ours:
    """A route of ours: an error that nobody expected is answered, and logged, as ours."""

    def __init__(self, app: ASGIApp, logins: Logins) -> None:
        self._app = app
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            scope[LOGIN] = await self._logins.login(HTTPConnection(scope))
            await self._app(scope, receive, sending)
        except Exception as error:
            if started:
                raise
            response = await on_error(Request(scope, receive), error)
            await response(scope, receive, send)
        except asyncio.CancelledError as error:
            # Left to the server, it would be a 500, which looks like a fault and is not asked again.
            task = asyncio.current_task()
            if started or task is None or not any(ENDING in str(each) for each in error.args):
                raise
            task.uncancel()
            response = problem_response(Unavailable("the server was told to end before there was an answer"))
            await response(scope, receive, send)


class _Application(Starlette):
    """Starlette with CORS (the Fetch standard, section 3.3) outside of all else, closed unless origins are named.

    Among its middleware, the 500 that stands for an error of ours would go out without the headers by which a
    page may read it.
    """

    def __init__(self, *, allowed_origins: Sequence[str], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # Starlette says each type
        self._allowed_origins = allowed_origins

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        if not self._allowed_origins:
            return stack
        return CORSMiddleware(
            stack,
            allow_origins=self._allowed_origins,
            allow_methods=METHODS,
            allow_headers=ACCEPTED,
            expose_headers=EXPOSED,
            max_age=600,
        )
