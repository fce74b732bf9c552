"""How the web half of a service lives in a process, whoever serves: started by a lifespan, by `running()` or by
the first request; drained at the signal that ends the process.

A server that runs no lifespan, or an app that forgot to join its own, gets a service all the same; and where it
can't start, every request is told so in words, `/readyz` too, and the log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType, ModuleType
from typing import Any, cast

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from .endpoints import (
    Catalogue,
    HandedOver,
    JobRoute,
    Layer,
    Office,
    Pages,
    Render,
    in_a_worker,
    name_places,
    need_names,
    on_handed_over,
)
from .errors import BudgetError, PushsvcError, SettingsError, Unavailable
from .lifetime import Lifetime
from .parts import Parts
from .tasks import contained
from .transports import REVOCATIONS
from .web import application, deny, problem_response

logger = logging.getLogger(__name__)

TRY_AGAIN = 1.0
"""Seconds between two tries to start at a request, after one that failed."""

ANSWERED_WITHIN = 4.0
"""Seconds that a request waits for the start that it began; the start itself goes on."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Host:
    """The web half in this process. `parts` gives the parts of the process, `close` ends them.

    It is running from the first of its users on (lifespans, `running()` blocks, requests) until the last one
    leaves; requests never do.
    """

    def __init__(
        self,
        parts: Callable[[], Parts],
        close: Callable[[], Awaitable[None]],
        work: Callable[[Parts, asyncio.Event], Awaitable[None]],
        lifetime: Lifetime,
    ) -> None:
        self._lifetime = lifetime
        self._alive = False
        """Whether the author's lifespan has been entered for this."""
        self._assembled = parts
        self._work = work
        self._until = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._close = close
        self._parts: Parts | None = None
        self._users = 0
        self._starting: asyncio.Task[None] | None = None
        self._failed: PushsvcError | None = None
        self._failed_at = 0.0
        self._signals = _AtSignal()
        self.heeds_signals = True
        """Whether the drain begins at SIGTERM and SIGINT; a server that calls `drain` itself needs no such thing."""

    @property
    def parts(self) -> Parts | None:
        """The parts of the running web half."""
        return self._parts

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run at least for this block. Raises SettingsError, BudgetError, Unavailable when it can't start."""
        if in_a_worker():
            yield
            return
        await self._start_once()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                await self.stop()

    async def ensure(self) -> Parts:
        """The parts, started if they are not. Raises SettingsError, BudgetError, Unavailable; for a moment after a
        try that failed, without another one."""
        if self._parts is None and self._failed is not None and time.monotonic() - self._failed_at < TRY_AGAIN:
            raise self._failed
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                await self._start_once()
        except TimeoutError:
            raise Unavailable(
                "the service is still starting in this process: what it needs does not answer"
            ) from None
        assert self._parts is not None
        return self._parts

    async def _start_once(self) -> None:
        """Start, once for all who come meanwhile."""
        if self._parts is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start(), name="pushsvc:start")
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        try:
            parts = self._assembled()
            parts.settle()
            _ = parts.web
            await parts.check()
            await self._lifetime.begin()
            self._alive = True
            parts.hub.start()
            await parts.hub.attach(parts.revocation_listener, REVOCATIONS, "start")
        except PushsvcError as error:
            self._failed, self._failed_at = error, time.monotonic()
            logger.error("pushsvc does not run in this process: %s", error)
            await self._end_life()
            await self._close()
            raise
        self._parts, self._failed = parts, None
        if parts.settings.inline:
            self._until = asyncio.Event()
            self._working = asyncio.create_task(contained("working inline", self._work(parts, self._until)))
        if self.heeds_signals:
            self._signals.watch(asyncio.get_running_loop(), self.drain)

    async def drain(self) -> None:
        """Send this process' connections elsewhere: in waves, over half of PUSHSVC_DRAIN at the most."""
        if self._parts is not None:
            await self._parts.hub.drain(self._parts.settings.drain / 2)

    async def stop(self) -> None:
        """Drain, and close every connection."""
        self._signals.forget()
        await self.drain()
        if self._working is not None:
            self._until.set()
            await self._working
            self._working = None
        await self._end_life()
        self._parts = None
        await self._close()

    async def _end_life(self) -> None:
        if self._alive:
            self._alive = False
            await self._lifetime.end()


class ServiceApp:
    """The ASGI app of a service: the API, and `routes` beside it. It is put together when the service starts."""

    def __init__(self, host: Host, routes: Sequence[BaseRoute], root_path: str) -> None:
        self._host = host
        self._routes = routes
        self._root_path = root_path
        self._built: tuple[Parts, ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Starlette(lifespan=lambda _app: self._host.running())(scope, receive, send)
            return
        try:
            parts = self._host.parts or await self._host.ensure()
        except PushsvcError as error:
            await _refusal(scope, receive, send, error)
            return
        await self._app(parts)(self._rooted(scope), receive, send)

    def _app(self, parts: Parts) -> ASGIApp:
        if self._built is None or self._built[0] is not parts:
            self._built = parts, self._together(parts)
        return self._built[1]

    def _together(self, parts: Parts) -> ASGIApp:
        ours = [*parts.web, *parts.health.routes()]
        return application(ours, parts.logins, parts.settings.allowed_origins, self._routes)

    def _rooted(self, scope: Scope) -> Scope:
        """The scope as links need it: behind a proxy that strips a prefix which the server does not know of."""
        prefix, root_path = self._root_path, scope.get("root_path", "")
        if not prefix or root_path == prefix or root_path.startswith(f"{prefix}/"):
            return scope
        return {**scope, "root_path": prefix + root_path, "path": prefix + scope["path"]}


class Attachment:
    """A Starlette or FastAPI app that the service has joined."""

    def __init__(
        self,
        app: Starlette,
        at: str,
        host: Host,
        api: ASGIApp,
        catalogue: Catalogue,
        record_limit: int,
        render: Render | None,
    ) -> None:
        if not re.fullmatch(r"(/[^/?#\s{}]+)+", at):
            raise SettingsError(f"attach: at={at!r} is not a path such as /push")
        if not isinstance(app, Starlette):
            raise SettingsError(
                "attach takes a Starlette or FastAPI app; in any other, mount service.asgi() and hold "
                "`async with service.running():` in its lifespan"
            )
        if app.middleware_stack is not None:
            raise SettingsError("attach: the app has been called already; attach where it is made")
        self.app = app
        self.at = at
        self._host = host
        self._lifespan = app.router.lifespan_context
        self._pages = Pages(self._office, problem_response, at, render)
        app.router.routes[:0] = [JobRoute(self._pages), Mount(at, api, name="pushsvc")]
        app.router.lifespan_context = self._joined
        app.add_exception_handler(HandedOver, on_handed_over)
        self.state: dict[str, Any] = {}
        """What the app's lifespan gives to each request, once it has begun."""
        self._catalogue = catalogue
        self._limit = record_limit
        self._stack = app.build_middleware_stack
        vars(app)["build_middleware_stack"] = self._with_layer

    @property
    def marked(self) -> bool:
        """Whether an endpoint of the app may answer later."""
        return bool(self._catalogue.options)

    def _with_layer(self) -> ASGIApp:
        """The app's stack with our layer outside of all, once every route is there."""
        stack = self._stack()
        name_places(self.app.routes)
        if not self._catalogue.places and not self._catalogue.options:
            return stack
        return Layer(stack, self._office, self._pages, self._limit)

    async def _office(self) -> Office:
        return (await self._host.ensure()).office

    @asynccontextmanager
    async def _joined(self, app: Any) -> AsyncIterator[Any]:
        """The service runs around the app's own lifespan. Without PostgreSQL the app starts all the same: its other
        pages may need none, and the service starts at its first request."""
        need_names(self._catalogue)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._host.running())
            except Unavailable as error:
                logger.warning("the app starts without pushsvc, which starts at its first request: %s", error)
            state = await stack.enter_async_context(self._lifespan(app))
            self.state.update(state or {})
            yield state


def outermost(app: ASGIApp, module: ModuleType) -> ASGIApp:
    """What of the module's apps leads to `app` by the longest way: middleware that an author has put around it, or
    an app that mounts it. `app` itself, if none does."""
    found = [(_way(value, app), name == "app", value) for name, value in vars(module).items()]
    leading = [(way, named, value) for way, named, value in found if way]
    return cast(ASGIApp, max(leading, key=lambda each: each[:2])[2]) if leading else app


def _way(value: Any, app: ASGIApp, most: int = 20) -> int | None:
    """How many steps lead from the one to the other: what a middleware calls (`.app`), what an app routes to."""
    if value is app:
        return 0
    if not most or isinstance(value, type | ModuleType) or not callable(value):
        return None
    inner = [] if isinstance(value, Starlette) else [getattr(value, "app", None)]
    routes = getattr(value, "routes", None)
    inner += [route.app for route in routes if isinstance(route, Mount)] if isinstance(routes, list) else []
    ways = [way for each in inner if each is not None and (way := _way(each, app, most - 1)) is not None]
    return 1 + max(ways) if ways else None


async def _refusal(scope: Scope, receive: Receive, send: Send, error: PushsvcError) -> None:
    """503, in words; what exactly is wrong with the settings is for the log, not for strangers."""
    if isinstance(error, SettingsError | BudgetError):
        error = Unavailable("the service does not run in this process: its log says why", retry_after=5)
    if scope["type"] == "websocket":
        await deny(WebSocket(scope, receive, send), error)
        return
    response: Response = problem_response(error)
    if scope["path"].endswith("/readyz"):
        body = {"status": "unavailable", "service": error.detail or error.title()}
        response = JSONResponse(body, 503, headers={"Cache-Control": "no-store"})
    elif scope["path"].endswith("/healthz"):
        response = JSONResponse({"status": "ok"})
    await response(scope, receive, send)


class _AtSignal:
    """Begins something when the process is told to end, before whoever handled that signal so far does.

    Servers run the end of a lifespan only after the last connection; and a stream does not end before it is told.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._begun: set[asyncio.Task[None]] = set()

    def watch(self, loop: asyncio.AbstractEventLoop, begin: Callable[[], Awaitable[None]]) -> None:
        """From now on; in the main thread, which alone hears signals. Elsewhere it does nothing."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return

        def start() -> None:
            work = contained("sending connections elsewhere", begin())
            self._begun.add(task := loop.create_task(work, name="pushsvc:drain"))
            task.add_done_callback(self._begun.discard)

        def heard(number: int, frame: FrameType | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(start)
            before = self._before.get(signal.Signals(number), signal.SIG_DFL)
            if callable(before):
                before(number, frame)
            elif before == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        self._heard = heard
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not None:  # None is a handler that is not Python's: it could not be called
                self._before[number] = before
                signal.signal(number, heard)

    def forget(self) -> None:
        """Put back who handled them, unless somebody has come after."""
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                if signal.getsignal(number) is self._heard:
                    signal.signal(number, before)
        self._before = {}
