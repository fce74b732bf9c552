"""`/v1/jobs`: submit, look, fetch the result, cancel, list."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .. import wire
from ..domain import JobStatus, check_name, is_job_id
from ..endpoints import Answer, Given, cookies_of
from ..errors import BadRequest, Gone
from ..jobs import JobRequest
from ..transports import until_final
from .api import JSON, Api, one_header, query_number, read_body, root
from .problems import MEDIA_TYPE

RETRY_AFTER = "1"


class Jobs:
    """The handlers of `/v1/jobs`."""

    def __init__(self, api: Api) -> None:
        self._api = api

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
        wait = wire.preferred_wait(request.headers.getlist("prefer"), api.settings.wait_limit)
        submitted = await api.submissions.submit(principal, body, _idempotency_key(request))
        job, mark = submitted.job, submitted.mark
        headers = {"Location": api.views.path(job, root(request))}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
            if await until_final(api.desk, principal, job, wait):
                job = await api.jobs.get(job.tenant, job.id) or job
                return Response(await api.views.view(job, mark=mark, prefix=root(request)), 200, headers, JSON)
        view = await api.views.view(job, submitted.cursor, mark, root(request))
        return Response(view, 202, {**headers, "Retry-After": RETRY_AFTER}, JSON)

    async def status(self, request: Request) -> Response:
        api = self._api
        principal = api.reader(request)
        job = await api.job_of(principal, request)
        wait = wire.preferred_wait(request.headers.getlist("prefer"), api.settings.wait_limit)
        if "wait" in request.query_params:
            wait = query_number(request, "wait", 0, 0, api.settings.wait_limit)
        if wait and not job.status.terminal and await until_final(api.desk, principal, job, wait):
            job = await api.jobs.get(job.tenant, job.id) or job
        if job.status.terminal and _wants_html(request):
            return RedirectResponse(f"{api.views.path(job, root(request))}/result", 303)
        body = await api.views.view(job, prefix=root(request))
        etag = f'"{job.version}-{zlib.crc32(body):08x}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if not job.status.terminal:
            headers["Retry-After"] = RETRY_AFTER
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, 200, headers, JSON)

    async def result(self, request: Request) -> ASGIApp:
        api = self._api
        job = await api.own_job(request)
        if not job.status.terminal:
            headers = {"Location": api.views.path(job, root(request)), "Retry-After": RETRY_AFTER}
            return Response(await api.views.view(job, prefix=root(request)), 202, headers, JSON)
        stored = await api.office.answer(job, cookies_of(request.scope["headers"])) if api.recorded(job) else None
        if isinstance(stored, Answer):
            return Given(stored)
        if job.status is JobStatus.SUCCEEDED:
            found = await api.jobs.get_with_result(job.tenant, job.id)
            if found is None:
                raise Gone
            return Response(found[1] or b"null", 200, {"Cache-Control": "private, no-cache"}, JSON)
        problem = wire.problem_of(job.error or "null")
        return Response(wire.dump(problem), problem["status"], media_type=MEDIA_TYPE)

    async def cancel(self, request: Request) -> Response:
        api = self._api
        mark = request.query_params.get("mark")
        if mark is not None:
            check_name(mark, "a mark", 100)
        job = await api.canceller.cancel(await api.own_job(request, "submit"), mark)
        return Response(
            await api.views.view(job, prefix=root(request)),
            202,
            {"Location": api.views.path(job, root(request))},
            JSON,
        )

    async def list(self, request: Request) -> Response:
        api = self._api
        principal = api.principal(request, "read")
        query = request.query_params
        status, after = query.get("status"), query.get("after")
        if status is not None and status not in set(JobStatus):
            raise BadRequest(f"status is one of {', '.join(JobStatus)}")
        if after is not None and not is_job_id(after):
            raise BadRequest("after is a job's id")
        name = query.get("job")
        if name is not None:
            check_name(name, "job", 100)
        limit = int(query_number(request, "limit", 50, 1, 500))
        jobs = await api.jobs.of_owner(principal.tenant, principal.subject, status, name, after, limit + 1)
        shown = jobs[:limit]
        views = await asyncio.gather(*(api.views.view(job, prefix=root(request)) for job in shown))
        following = b',"next":%b' % wire.dump(shown[-1].id if len(jobs) > limit else None)
        return Response(b'{"jobs":[%b]%b}' % (b",".join(views), following), 200, media_type=JSON)


def _idempotency_key(request: Request) -> str | None:
    key = one_header(request, "Idempotency-Key")
    return None if key is None else check_name(key, "an Idempotency-Key", 255)


def _wants_html(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and JSON not in accepted
