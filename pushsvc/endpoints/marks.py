"""The mark that an author puts on an endpoint: `service.respond_async(…)`, an entry of a route's middleware or a
decorator. It stands where session and login are known, asks who it is, and hands over to the layer outside of all."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import SettingsError
from .catalogue import Catalogue
from .layer import CALL, DIRECT, Call
from .options import EndpointOptions
from .replay import REPLAY

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_GATE = "pushsvc_gate"
_NOT_GATED = object()
_UNTOUCHED = ("HEAD", "OPTIONS")


class HandedOver(HTTPException):
    """Raised out of FastAPI's dependencies: the endpoint is not to run here. `response` stands for its answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code, "handed over")
        self.response = response


async def on_handed_over(_request: Request, error: Exception) -> Response:
    """The exception handler that an attached app has for it."""
    assert isinstance(error, HandedOver)
    return error.response


class Mark(Middleware):
    """`middleware=[mark]` of a Starlette route or mount; `@mark` on a function, under FastAPI's own decorator."""

    def __init__(self, catalogue: Catalogue, options: EndpointOptions, name: str | None) -> None:
        super().__init__(Marked, mark=self)
        self.catalogue = catalogue
        self.options = options
        self.name = name

    def __repr__(self) -> str:
        return f"<respond_async {self.name or ''}>"

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, marked. Raises SettingsError for what is no function, or streams for ever."""
        if not inspect.isroutine(endpoint):
            raise SettingsError(
                "respond_async decorates functions; for a class or an app, put it into middleware=[…] of the route"
            )
        if inspect.isasyncgenfunction(endpoint) or inspect.isgeneratorfunction(endpoint):
            raise SettingsError(f"{endpoint.__name__} streams its answer item by item: that can't be answered later")
        name = self.catalogue.enrol(self.name or endpoint.__name__, self.options, endpoint.__module__)

        @functools.wraps(endpoint)
        async def marked(*args: Any, **kwargs: Any) -> Any:
            if kwargs.pop(_GATE, _NOT_GATED) is _NOT_GATED:
                request = next((each for each in args if isinstance(each, Request)), None)
                if request is not None and (response := await _asked(request, name, self.options)) is not None:
                    return response
            if inspect.iscoroutinefunction(endpoint):
                return await endpoint(*args, **kwargs)
            return await run_in_threadpool(endpoint, *args, **kwargs)

        if "fastapi" in sys.modules:
            vars(marked)["__signature__"] = _gated(endpoint, name, self.options)
        return cast(Endpoint, marked)


def _gated(endpoint: Callable[..., Any], name: str, options: EndpointOptions) -> inspect.Signature:
    """The endpoint's signature with a first parameter that FastAPI fills from a dependency: it is solved after what
    the routers and the app demand, and before the endpoint's own dependencies. OpenAPI does not see it."""
    from fastapi import Depends

    async def gate(connection: HTTPConnection) -> None:
        if (response := await _asked(connection, name, options)) is not None:
            raise HandedOver(response)

    gate.__annotations__ = {"connection": HTTPConnection, "return": None}
    try:
        signature = inspect.signature(endpoint, eval_str=True)
    except NameError:
        # What only type checkers import: FastAPI deals with that.
        signature = inspect.signature(endpoint)
    first = inspect.Parameter(
        _GATE, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[None, Depends(gate)]
    )
    return signature.replace(parameters=[first, *signature.parameters.values()])


class Marked:
    """The mark where Starlette has put it: around a route's endpoint, or a mount's app."""

    def __init__(self, app: ASGIApp, mark: Mark) -> None:
        self.app = app
        self.mark = mark
        self.name: str | None = None
        mark.catalogue.placed(self)
        if mark.name is not None:
            self.enrol(mark.name, "")

    def enrol(self, name: str, path: str) -> None:
        if self.name is None:
            self.name = self.mark.catalogue.enrol(name, self.mark.options, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self.name is None:
                need_names(self.mark.catalogue)
                raise SettingsError("service.attach(app) was not called on the app of this respond_async()")
            response = await _asked(HTTPConnection(scope), self.name, self.mark.options)
            if response is not None:
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _asked(connection: HTTPConnection, name: str, options: EndpointOptions) -> Response | None:
    """What stands for the answer while the layer outside makes it; None: the endpoint is to run here and now."""
    scope = connection.scope
    if scope["type"] != "http" or scope["method"] in _UNTOUCHED or REPLAY in scope or DIRECT in scope:
        return None
    call = scope.get(CALL)
    if not isinstance(call, Call):
        raise SettingsError("an endpoint is marked with respond_async, but service.attach(app) was not called")
    return await call.decide(connection, name, options)


def need_names(catalogue: Catalogue) -> None:
    """Raises SettingsError where a mark is on no route."""
    if unnamed := [place for place in catalogue.places if place.name is None]:
        raise SettingsError(
            f"{len(unnamed)} respond_async() stand on no route of the attached app: put them on routes, or give name="
        )


def name_places(routes: Iterable[Any]) -> None:
    """Name each place where a mark stands after its route."""
    for route in routes:
        path = str(getattr(route, "path", ""))
        app = getattr(route, "app", None)
        while app is not None:
            if isinstance(app, Marked):
                app.enrol(str(getattr(route, "name", "") or path), path)
            if isinstance(route, Mount) and isinstance(inner := getattr(app, "routes", None), list):
                name_places(inner)
                break
            app = getattr(app, "app", None)
            if inspect.ismethod(app):
                # A router's own: what it routes to has been seen.
                break
