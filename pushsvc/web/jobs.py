"""`/v1/jobs`: submit, look, fetch the result, cancel, list."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .. import wire
from ..domain import (
    JOB_EPOCH,
    Channel,
    Job,
    JobStatus,
    Position,
    Principal,
    format_cursor,
    inbox,
    is_job_id,
    job_channel,
    timestamp,
)
from ..errors import BadRequest, Gone, JobError
from ..jobs import JobRequest
from ..transports import until_final
from .api import Api, prefer_wait, query_number, read_body
from .problems import MEDIA_TYPE

JSON = "application/json"
RETRY_AFTER = "1"
INBOXES_REMEMBERED = 100_000


class Jobs:
    """The handlers of `/v1/jobs`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._opened: set[Channel] = set()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs", self.list, methods=["GET"]),
            Route("/v1/jobs/{id}", self.status, methods=["GET"]),
            Route("/v1/jobs/{id}/result", self.result, methods=["GET"]),
            Route("/v1/jobs/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        api = self._api
        principal = api.principal(request, "submit")
        body = await read_body(request, JobRequest, api.settings.body_limit)
        wait = prefer_wait(request, api.settings.wait_limit)
        await self._open_inbox(principal)
        accepted = await api.submitter.submit(principal, body, _idempotency_key(request))
        job = accepted.job
        applied: dict[str, str] = {}
        if wait is not None:
            applied = {"Preference-Applied": f"wait={wait:g}"}
            if await until_final(api.hub, job, wait):
                job = await api.jobs.get(job.tenant, job.id) or job
                return Response(await self._view(job), 200, {"Location": self._path(job), **applied}, JSON)
        positions = _own_position(job)
        if accepted.inbox is not None:
            positions.append((inbox(principal.subject), accepted.inbox))
        cursor = format_cursor(positions)
        headers = {"Location": self._path(job), "Retry-After": RETRY_AFTER, **applied}
        return Response(await self._view(job, cursor), 202, headers, JSON)

    async def status(self, request: Request) -> Response:
        api = self._api
        job = await api.own_job(request)
        wait = prefer_wait(request, api.settings.wait_limit)
        if "wait" in request.query_params:
            wait = query_number(request, "wait", 0, 0, api.settings.wait_limit)
        if wait and not job.status.terminal and await until_final(api.hub, job, wait):
            job = await api.jobs.get(job.tenant, job.id) or job
        if job.status.terminal and _wants_html(request):
            return RedirectResponse(f"{self._path(job)}/result", 303)
        body = await self._view(job)
        etag = f'"{job.version}-{zlib.crc32(body):08x}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if not job.status.terminal:
            headers["Retry-After"] = RETRY_AFTER
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, 200, headers, JSON)

    async def result(self, request: Request) -> Response:
        api = self._api
        job = await api.own_job(request)
        if not job.status.terminal:
            headers = {"Location": self._path(job), "Retry-After": RETRY_AFTER}
            return Response(await self._view(job), 202, headers, JSON)
        if job.status is JobStatus.SUCCEEDED:
            found = await api.jobs.get_with_result(job.tenant, job.id)
            if found is None:
                raise Gone
            return Response(found[1] or b"null", 200, {"Cache-Control": "private, no-cache"}, JSON)
        problem = wire.load(job.error) if job.error else JobError().problem()
        return Response(wire.dump(problem), int(problem.get("status", 500)), media_type=MEDIA_TYPE)

    async def cancel(self, request: Request) -> Response:
        job = await self._api.canceller.cancel(await self._api.own_job(request, "submit"))
        return Response(await self._view(job), 202, {"Location": self._path(job)}, JSON)

    async def list(self, request: Request) -> Response:
        api = self._api
        principal = api.principal(request, "read")
        query = request.query_params
        status, after = query.get("status"), query.get("after")
        if status is not None and status not in set(JobStatus):
            raise BadRequest(f"status is one of {', '.join(JobStatus)}")
        if after is not None and not is_job_id(after):
            raise BadRequest("after is a job's id")
        limit = int(query_number(request, "limit", 50, 1, 500))
        jobs = await api.jobs.of_owner(
            principal.tenant, principal.subject, status, query.get("job"), after, limit + 1
        )
        shown = jobs[:limit]
        views = await asyncio.gather(*(self._view(job) for job in shown))
        following = b',"next":%b' % wire.dump(shown[-1].id if len(jobs) > limit else None)
        return Response(b'{"jobs":[%b]%b}' % (b",".join(views), following), 200, media_type=JSON)

    # What a job looks like

    def _path(self, job: Job) -> str:
        return f"{self._api.prefix}/v1/jobs/{job.id}"

    def _links(self, job: Job) -> Mapping[str, str]:
        path = self._path(job)
        channel = job_channel(job.id)
        return {
            "self": path,
            "result": f"{path}/result",
            "cancel": f"{path}/cancel",
            "events": f"{self._api.prefix}/v1/events?channels={channel}",
        }

    async def _view(self, job: Job, cursor: str | None = None) -> bytes:
        progress, position = None, None
        if job.attempt and not job.status.terminal:
            progress = await self._api.publisher.last_progress(job.id)
        if job.status is JobStatus.QUEUED:
            position = await self._api.jobs.queue_position(job)
        view: dict[str, Any] = {
            "id": job.id,
            "job": job.name,
            "status": job.status.value,
            "version": job.version,
            "attempt": job.attempt,
            "progress": wire.load(progress) if progress else None,
            "queue_position": position,
            "created_at": timestamp(job.created_at),
            "started_at": timestamp(job.started_at) if job.started_at else None,
            "finished_at": timestamp(job.finished_at) if job.finished_at else None,
            "expires_at": timestamp(job.expires_at) if job.expires_at else None,
            "error": wire.load(job.error) if job.error else None,
            "links": self._links(job),
            "cursor": cursor or format_cursor(_own_position(job)),
        }
        return wire.dump(view)

    async def _open_inbox(self, principal: Principal) -> None:
        """Make sure that the submitter's inbox has a position, once a process."""
        channel = Channel(principal.tenant, inbox(principal.subject))
        if channel not in self._opened:
            await self._api.events.states([channel])
            if len(self._opened) >= INBOXES_REMEMBERED:
                self._opened.clear()
            self._opened.add(channel)


def _own_position(job: Job) -> list[tuple[str, Position]]:
    return [(job_channel(job.id), Position(JOB_EPOCH, job.version))]


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise BadRequest("an Idempotency-Key has 1 to 255 characters")
    return key


def _wants_html(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and JSON not in accepted
