"""The layer outside of all that an attached app has: it keeps each request as it came, and answers in the endpoint's
stead where a mark further in has decided so. What the app's middleware made of the stand-in's answer is dropped, but
for what says which other pages may read it: the middleware runs here and in the worker, and cookies come once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..domain import Principal
from ..errors import BudgetError, PushsvcError, QueueFull, SettingsError, TooLarge, Unavailable
from ..tasks import stop
from .answer import Answer
from .body import Body
from .office import Handled, NotTaken, Office
from .options import EndpointOptions
from .pages import Pages
from .preference import Preference
from .record import RecordedRequest, cookies_of
from .replay import REPLAY

logger = logging.getLogger(__name__)

CALL = "pushsvc.call"
"""In the scope: the layer's side of this request."""

DIRECT = "pushsvc.direct"
"""In the scope of a request that is run here after all, since the service can't take it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """To record the request as a job of this name, on behalf of this principal."""

    name: str
    options: EndpointOptions
    principal: Principal | None
    preference: Preference


class Call:
    """One request on its way through the app."""

    def __init__(self, layer: Layer, scope: Scope, body: Body, send: Send) -> None:
        self._layer = layer
        self._send = send
        self.scope = dict(scope)
        self.body = body
        self.decision: Decision | None = None
        self._within: Scope = self.scope
        self.allowed: list[tuple[bytes, bytes]] = []
        """Of the stand-in's answer: which other pages may read it, and what that varies by."""

    async def decide(self, connection: HTTPConnection, name: str, options: EndpointOptions) -> Response | None:
        """What stands for the answer; None where the endpoint is to run in the request."""
        layer = self._layer
        path = self.scope["path"].removeprefix(self.scope.get("root_path", ""))
        if path == layer.at or path.startswith(f"{layer.at}/"):
            return None
        try:
            office = await layer.office()
            principal = await office.logins.caller(connection)
            office.door.refuse_when_full()
        except (Unavailable, QueueFull) as error:
            return None if options.otherwise == "run" else layer.refusal(error)
        except (SettingsError, BudgetError) as error:
            logger.error("a request can't be taken: %s", error)
            return None if options.otherwise == "run" else layer.refusal(Unavailable("the service does not run here"))
        except PushsvcError as error:
            return layer.refusal(error)
        preference = Preference.of(connection.headers, options, office.settings.wait_limit, inline=office.inline)
        self.decision = Decision(name, options, principal, preference)
        self._within = connection.scope
        return Response(status_code=202)

    async def send(self, message: Message) -> None:
        """The app's own answer goes on; the stand-in's does not."""
        if self.decision is None:
            # It has its answer: nothing of it will be recorded any more.
            self.body.drop()
            await self._send(message)
        elif message["type"] == "http.response.start":
            self.allowed = [
                (bytes(key).lower(), bytes(value))
                for key, value in message.get("headers", ())
                if bytes(key).lower().startswith(b"access-control-") or bytes(key).lower() == b"vary"
            ]

    @property
    def connection(self) -> HTTPConnection:
        """The request for whoever makes a page of it: with session and user, and yet as it came."""
        came = {name: self.scope.get(name) for name in ("path", "root_path", "query_string")}
        return HTTPConnection({**self._within, **came})

    def has_body(self) -> bool:
        """Whether there is a body, or may be one: only HTTP/1 says so."""
        headers = dict(self.scope["headers"])
        length = headers.get(b"content-length")
        if self.body.size or b"transfer-encoding" in headers:
            return True
        if length is not None:
            return bool(length.strip(b"0 "))
        return not self.scope.get("http_version", "1.1").startswith("1") and self.scope["method"] != "GET"


class Layer:
    """`app` is the attached app's whole stack; `office` gives the parts of the running service, or raises why not.
    `limit` is the bytes that a recorded body may have."""

    def __init__(self, app: ASGIApp, office: Callable[[], Awaitable[Office]], pages: Pages, limit: int) -> None:
        self.app = app
        self.office = office
        self.at = pages.at
        self._pages = pages
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or REPLAY in scope:
            await self.app(scope, receive, send)
            return
        call = Call(self, scope, Body(receive, self._limit), send)
        scope[CALL] = call
        try:
            await self.app(scope, call.body.receive, call.send)
            if call.decision is not None:
                await self._answer(call, call.decision, send)
        finally:
            call.body.drop()

    async def _answer(self, call: Call, decision: Decision, send: Send) -> None:
        try:
            office = await self.office()
            handled = await self._handled(office, call, decision)
        except ClientDisconnect:
            return
        except NotTaken as refused:
            if refused.certain and decision.options.otherwise == "run":
                logger.warning("a request can't be taken, so its endpoint runs in the request: %s", refused.error)
                await self.app({**call.scope, DIRECT: True}, call.body.again(), send)
            else:
                await self._respond(self.refusal(refused.error), call, send)
            return
        except PushsvcError as error:
            await self._respond(self.refusal(error), call, send)
            return
        await self._deliver(office, call, decision, handled, send)

    async def _handled(self, office: Office, call: Call, decision: Decision) -> Handled:
        declared = dict(call.scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._limit:
            raise TooLarge(f"the body may have {self._limit} bytes")
        request = RecordedRequest.of(call.scope, call.has_body())
        return await office.take(request, call.body, decision.name, decision.options, decision.principal)

    async def _deliver(self, office: Office, call: Call, decision: Decision, handled: Handled, send: Send) -> None:
        preference = decision.preference
        over = await self._wait(office, call, decision, handled)
        if over is None:
            return
        more = [(b"vary", b"Prefer, Accept"), *call.allowed]
        if preference.applied is not None:
            more.append((b"preference-applied", preference.applied.encode()))
        if not over and not preference.patient:
            connection = call.connection
            if preference.reader == "navigation":
                response = await self._pages.later(connection, handled.job)
            else:
                response = await office.status(connection, handled.job, self.at, handled.cursor, handled.mark)
            await self._respond(response, call, send, more)
            return
        if not over:
            error = Unavailable("this server is being restarted: ask again, with the same Idempotency-Key if any")
            await self._respond(self.refusal(error), call, send, more)
            return
        present = None if handled.own else cookies_of(call.scope["headers"])
        answer = await office.answer(handled.job, present)
        if isinstance(answer, Answer):
            await answer.deliver(call.scope["headers"], send, more)
            return
        if isinstance(answer, PushsvcError):
            response = self.refusal(answer)
        elif preference.reader == "navigation":
            response = await self._pages.ended(call.connection, answer)
        else:
            response = office.failure(answer)
        await self._respond(response, call, send, more)

    async def _wait(self, office: Office, call: Call, decision: Decision, handled: Handled) -> bool | None:
        """Whether the job has finished in time; None when the client has gone away."""
        if handled.job.status.terminal:
            return True
        wait = None if decision.preference.patient else decision.preference.wait
        waiting = asyncio.create_task(office.finished(handled.job, wait))
        gone = asyncio.create_task(_gone(call.body))
        try:
            await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if decision.options.cancel_on_disconnect:
                await office.cancel(handled)
            return None
        finally:
            await stop(waiting, gone)

    def refusal(self, error: PushsvcError) -> Response:
        if isinstance(error, QueueFull):
            error = Unavailable("more is asked of the service than it can take", retry_after=5)
        return self._pages.problem(error)

    async def _respond(
        self, response: Response, call: Call, send: Send, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Send an answer of ours, which other pages may read as they may the endpoint's."""
        response.raw_headers += call.allowed if more is None else more
        await response(call.scope, call.body.receive, send)


async def _gone(body: Body) -> None:
    """Until the client has gone away."""
    while not body.gone:
        await body.receive()
