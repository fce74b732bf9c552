"""`POST /v1/jobs`: a thin caller of the door by which every job is accepted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..domain import check_name
from ..jobs import BatchRequest, JobRequest, Submitter
from ..settings import Settings
from ..transports import Waiter
from .callers import Callers, OwnJobs
from .reading import JSON, RETRY_AFTER, one_header, read_body, root
from .views import JobViews

INLINE_WAIT = 24 * 3600.0
"""Seconds that a submission waits at most for what runs in its own process."""


class Submit:
    """The handler that accepts jobs."""

    def __init__(
        self,
        callers: Callers,
        door: Submitter,
        own: OwnJobs,
        views: JobViews,
        waiter: Waiter,
        settings: Settings,
    ) -> None:
        self._callers = callers
        self._door = door
        self._own = own
        self._views = views
        self._waiter = waiter
        self._settings = settings

    def routes(self) -> list[Route]:
        return [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs/batch", self.batch, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        principal = self._callers.principal(request, "submit")
        body = await read_body(request, JobRequest, self._settings.body_limit)
        wait = wire.preferred_wait(request.headers.getlist("prefer"), self._settings.wait_limit)
        key = _idempotency_key(request)
        accepted = await self._door.submit(principal, body.job, body.params, key, body.options)
        job, mark = accepted.job, accepted.mark
        headers = {"Location": self._views.path(job, root(request))}
        if self._settings.inline and job.run_at <= datetime.now(UTC):
            # It runs here: whoever has submitted it gets it when it has ended.
            wait = INLINE_WAIT
        elif wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
        if wait is not None and await self._waiter.until_final(principal, job, wait):
            job = await self._own.again(job)
            return Response(await self._views.view(job, mark=mark, prefix=root(request)), 200, headers, JSON)
        view = await self._views.view(job, accepted.cursor, mark, root(request))
        return Response(view, 202, {**headers, "Retry-After": RETRY_AFTER}, JSON)

    async def batch(self, request: Request) -> Response:
        """All of them or none. Each looks as it does by itself, but for its place in the queue."""
        principal = self._callers.principal(request, "submit")
        body = await read_body(request, BatchRequest, self._settings.body_limit)
        accepted = await self._door.submit_all(principal, body.jobs, _idempotency_key(request))
        prefix = root(request)
        views = await asyncio.gather(
            *(self._views.view(each.job, each.cursor, each.mark, prefix, placed=False) for each in accepted)
        )
        return Response(b'{"jobs":[%b]}' % b",".join(views), 202, {"Retry-After": RETRY_AFTER}, JSON)


def _idempotency_key(request: Request) -> str | None:
    key = one_header(request, "Idempotency-Key")
    return None if key is None else check_name(key, "an Idempotency-Key", 255)
