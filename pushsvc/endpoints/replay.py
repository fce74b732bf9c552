"""Replaying a recorded request through the whole app, in a worker: middleware, session, dependencies and all."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message

from ..domain import Json
from ..errors import JobFailed, WorkerLost
from ..jobs import Answered, JobContext
from ..store import Entered, RecordStore
from ..tasks import Background
from .answer import Answer, bound_cookies
from .options import EndpointOptions
from .record import RecordedRequest
from .recording import place
from .sealing import Seals

logger = logging.getLogger(__name__)

REPLAY = "pushsvc.replay"
"""In the scope of a replay. No client can put anything there."""


class Replayer:
    """Runs recorded requests. `state` is that of the app's lifespan; `limit` is the bytes that an answer may have."""

    def __init__(
        self, app: ASGIApp, state: Mapping[str, Any], records: RecordStore, seals: Seals, limit: int
    ) -> None:
        self._app = app
        self._state = state
        self._records = records
        self._seals = seals
        self._limit = limit
        self._rest = Background()

    async def replay(self, job: JobContext, options: EndpointOptions) -> Json:
        """The answer, as it is kept. Raises Answered where there is one though the job has failed; else JobFailed,
        WorkerLost, or what the app raised."""
        who = secrets.token_hex(8)
        entered = await self._records.enter(job.id, who)
        if entered is None:
            raise JobFailed("the recorded request is gone")
        request = RecordedRequest.load(self._seals.open(entered.head, job.id, entered.tenant, "head"))
        if entered.before is not None and not (request.safe or options.repeat):
            raise WorkerLost(f"its worker ended while the endpoint ran; a {request.method} is not run twice")
        answer, error = await self._run(job, request, entered, options.timeout)
        await self._keep(job, who, request, answer, options)
        if error is not None:
            raise Answered(error, answer.encode())
        return Json(answer.encode())

    async def _run(
        self, job: JobContext, request: RecordedRequest, entered: Entered, timeout: float
    ) -> tuple[Answer, BaseException | None]:
        exchange = _Exchange(job.id, entered, self._records, self._seals, self._limit)
        scope = {**request.scope(self._state), REPLAY: job}
        started = time.monotonic()
        call = asyncio.create_task(self._called(scope, exchange), name=f"replay:{job.id}")
        first: list[asyncio.Future[Any]] = [call, exchange.complete]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            exchange.disconnect()
            call.cancel()
            await asyncio.wait([call])
            raise
        error = call.exception() if call.done() and not call.cancelled() else None
        if not exchange.complete.done():
            exchange.disconnect()
            raise error or JobFailed("the app ended without an answer")
        failed = exchange.complete.exception()
        if not call.done():
            left = max(0.0, timeout - (time.monotonic() - started)) if failed is None else 0.0
            self._rest.start("what an endpoint does after its answer", _ended(call, exchange, left))
        if failed is not None:
            raise failed
        return exchange.complete.result(), error

    async def _called(self, scope: dict[str, Any], exchange: _Exchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except (SystemExit, KeyboardInterrupt) as error:
            # They would end the worker, and all its other jobs.
            raise JobFailed(f"the endpoint raised {type(error).__name__}") from error

    async def _keep(
        self, job: JobContext, who: str, request: RecordedRequest, answer: Answer, options: EndpointOptions
    ) -> None:
        cookies = None
        if answer.cookies:
            bound = bound_cookies(answer.cookies, request.cookies)
            cookies = self._seals.seal(bound, job.id, job.tenant, "cookies")
        fresh = options.cache_for if answer.reusable else 0.0
        if cookies is not None or fresh:
            await self._records.keep(job.id, who, cookies, fresh)

    async def close(self, within: float) -> None:
        """Wait so many seconds for what endpoints still do after their answers; then end it."""
        if self._rest:
            await self._rest.finish(within)
        await self._rest.stop()


async def _ended(call: asyncio.Task[None], exchange: _Exchange, within: float) -> None:
    """What an endpoint does after its answer ends by itself, in time, or is ended."""
    try:
        done, _ = await asyncio.wait([call], timeout=within)
        if done:
            call.result()
        else:
            logger.warning("what an endpoint did after its answer took longer than its timeout, and is ended")
    finally:
        if not call.done():
            exchange.disconnect()
            call.cancel()
            await asyncio.wait([call])


class _Exchange:
    """The server's side of one replayed request."""

    def __init__(self, job: str, entered: Entered, records: RecordStore, seals: Seals, limit: int) -> None:
        self._job = job
        self._entered = entered
        self._records = records
        self._seals = seals
        self._limit = limit
        self._next = 0
        self._gone = asyncio.Event()
        self._start: Message | None = None
        self._body = bytearray()
        self.complete: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def disconnect(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        """The body; then nothing until the job is cancelled, which is when a client would have gone: streaming
        responses end when they hear of one who has."""
        if self._next < max(self._entered.pieces, 1) and not self._gone.is_set():
            data = await self._piece(self._next) if self._entered.pieces else b""
            self._next += 1
            return {"type": "http.request", "body": data, "more_body": self._next < self._entered.pieces}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _piece(self, number: int) -> bytes:
        sealed = self._entered.first if number == 0 else await self._records.piece(self._job, number)
        if sealed is None:
            raise JobFailed("the recorded request is gone")
        last = number + 1 == self._entered.pieces
        return self._seals.open(sealed, *place(self._job, self._entered.tenant, number, last))

    async def send(self, message: Message) -> None:
        if self.complete.done():
            return
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if len(self._body) > self._limit:
                self._fail(JobFailed(f"the answer has more bytes than PUSHSVC_RESULT_LIMIT, {self._limit}"))
            elif not message.get("more_body", False):
                self._finish(self._start)

    def _finish(self, start: Message) -> None:
        try:
            answer = Answer.of(start["status"], start.get("headers", ()), bytes(self._body))
        except ValueError as error:
            self._fail(JobFailed(str(error)))
        else:
            self.complete.set_result(answer)

    def _fail(self, error: JobFailed) -> None:
        """It has no answer, and the app need not go on."""
        self.complete.set_exception(error)
        self._body.clear()
        self._gone.set()
