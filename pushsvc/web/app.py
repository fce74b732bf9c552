"""The routes of the service as one Starlette router, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import Lifespan

from ..errors import PushsvcError
from .api import Api
from .events import Events
from .jobs import Jobs
from .problems import on_error

EXPOSED = ["Location", "Retry-After", "ETag", "Preference-Applied"]


def routes(api: Api) -> list[BaseRoute]:
    """Everything under `/v1`."""
    return [*Jobs(api).routes(), *Events(api).routes()]


def application(api: Api, extra: Sequence[BaseRoute] = (), lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """A whole ASGI app: the API, `extra` routes, and errors as problems."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(api.settings.allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "If-None-Match"],
        expose_headers=EXPOSED,
        max_age=600,
    )
    return Starlette(
        routes=[*routes(api), *extra],
        middleware=[cors] if api.settings.allowed_origins else [],
        exception_handlers={PushsvcError: on_error, 404: on_error, 405: on_error, 500: on_error},
        lifespan=lifespan,
    )
