"""The routes of the service as one Starlette router, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Lifespan

from ..errors import PushsvcError
from .acks import Acks
from .api import Api
from .asyncapi import asyncapi_route
from .events import Events
from .jobs import Jobs
from .me import Me
from .openapi import openapi_route
from .problems import on_error
from .tickets import Tickets
from .webhooks import Webhooks

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


def routes(api: Api) -> list[BaseRoute]:
    """Everything under `/v1`, and what describes it."""
    tickets = Tickets(api)
    return [
        *Jobs(api).routes(),
        *Events(api, tickets).routes(),
        *tickets.routes(),
        *Acks(api, api.desk.positions).routes(),
        *Webhooks(api).routes(),
        *Me(api).routes(),
        asyncapi_route(api.prefix),
        openapi_route(api.registry, api.prefix),
    ]


def application(api: Api, extra: Sequence[BaseRoute] = (), lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """A whole ASGI app: the API, `extra` routes, errors as problems, and what pages of other origins may do."""
    return _Application(
        allowed_origins=api.settings.allowed_origins,
        routes=[*routes(api), *extra],
        exception_handlers={PushsvcError: on_error, 404: on_error, 405: on_error, 500: on_error},
        lifespan=lifespan,
    )


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
