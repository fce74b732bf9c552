"""`/v1/jobs`: look, fetch the result, cancel, list."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .. import wire
from ..domain import Job, JobStatus, Principal, check_name, is_job_id
from ..endpoints import AS_KEPT, Answer, Given, Office, cookies_of
from ..errors import BadRequest, Gone, UnknownJob
from ..jobs import Canceller, Registry
from ..store import JobStore
from ..transports import Waiter
from .callers import Callers, OwnJobs
from .problems import MEDIA_TYPE
from .reading import JSON, RETRY_AFTER, query_number, root
from .views import JobViews

MOST_IDS = 500


class Jobs:
    """The handlers of jobs that are there already. `longest` is for how many seconds one may wait for a job's end."""

    def __init__(
        self, callers: Callers, own: OwnJobs, jobs: JobStore, views: JobViews, waiter: Waiter, longest: float
    ) -> None:
        self._callers = callers
        self._own = own
        self._jobs = jobs
        self._views = views
        self._waiter = waiter
        self._longest = longest

    def routes(self) -> list[Route]:
        return [
            Route("/v1/jobs", self.list, methods=["GET"]),
            Route("/v1/jobs/{id}", self.status, methods=["GET"]),
        ]

    async def status(self, request: Request) -> Response:
        principal = self._callers.reader(request)
        job = await self._own.of(principal, request)
        wait = wire.preferred_wait(request.headers.getlist("prefer"), self._longest)
        if "wait" in request.query_params:
            wait = query_number(request, "wait", 0, 0, self._longest)
        if wait and not job.status.terminal and await self._waiter.until_final(principal, job, wait):
            job = await self._own.again(job)
        if job.status.terminal and _wants_html(request):
            return RedirectResponse(f"{self._views.path(job, root(request))}/result", 303)
        body = await self._views.view(job, prefix=root(request))
        etag = f'"{job.version}-{zlib.crc32(body):08x}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if not job.status.terminal:
            headers["Retry-After"] = RETRY_AFTER
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, 200, headers, JSON)

    async def list(self, request: Request) -> Response:
        principal = self._callers.principal(request, "read")
        query = request.query_params
        if "ids" in query:
            return await self._chosen(request, principal, query["ids"].split(","))
        status, after = query.get("status"), query.get("after")
        if status is not None and status not in set(JobStatus):
            raise BadRequest(f"status is one of {', '.join(JobStatus)}")
        if after is not None and not is_job_id(after):
            raise BadRequest("after is a job's id")
        name = query.get("job")
        if name is not None:
            check_name(name, "job", 100)
        limit = int(query_number(request, "limit", 50, 1, 500))
        jobs = await self._jobs.of_owner(principal.tenant, principal.subject, status, name, after, limit + 1)
        shown = jobs[:limit]
        views = await asyncio.gather(*(self._views.view(job, prefix=root(request)) for job in shown))
        following = b',"next":%b' % wire.dump(shown[-1].id if len(jobs) > limit else None)
        return Response(b'{"jobs":[%b]%b}' % (b",".join(views), following), 200, media_type=JSON)

    async def _chosen(self, request: Request, principal: Principal, ids: Sequence[str]) -> Response:
        """The own ones among these, newest first: all at once."""
        if len(request.query_params) > 1:
            raise BadRequest("ids stands by itself")
        if len(ids) > MOST_IDS or not all(map(is_job_id, ids)):
            raise BadRequest(f"ids are the ids of up to {MOST_IDS} jobs, with commas between them")
        jobs = await self._jobs.of_ids(principal.tenant, principal.subject, ids)
        views = await asyncio.gather(*(self._views.view(job, prefix=root(request), placed=False) for job in jobs))
        return Response(b'{"jobs":[%b],"next":null}' % b",".join(views), 200, media_type=JSON)


class Results:
    """The handler of a job's result, which may be the answer of a recorded request."""

    def __init__(self, own: OwnJobs, jobs: JobStore, views: JobViews, office: Office, registry: Registry) -> None:
        self._own = own
        self._jobs = jobs
        self._views = views
        self._office = office
        self._registry = registry

    def routes(self) -> list[Route]:
        return [Route("/v1/jobs/{id}/result", self.result, methods=["GET"])]

    async def result(self, request: Request) -> ASGIApp:
        job = await self._own.asked_for(request)
        if not job.status.terminal:
            headers = {"Location": self._views.path(job, root(request)), "Retry-After": RETRY_AFTER}
            return Response(await self._views.view(job, prefix=root(request)), 202, headers, JSON)
        as_kept = AS_KEPT in request.headers.get("accept", "")
        if self._recorded(job) and not as_kept:
            stored = await self._office.answer(job, cookies_of(request.scope["headers"]))
            if isinstance(stored, Answer):
                return Given(stored)
        if job.status is JobStatus.SUCCEEDED:
            found = await self._jobs.get_with_result(job.tenant, job.id)
            if found is None:
                raise Gone
            return Response(found[1] or b"null", 200, {"Cache-Control": "private, no-cache"}, JSON)
        problem = wire.problem_of(job.error or "null")
        return Response(wire.dump(problem), problem["status"], media_type=MEDIA_TYPE)

    def _recorded(self, job: Job) -> bool:
        """Whether the job may be a recorded request: its name is an endpoint's, or nothing's any more."""
        try:
            return self._registry.get(job.name).recorded
        except UnknownJob:
            return True


class Cancels:
    """The handler that cancels a job."""

    def __init__(self, own: OwnJobs, views: JobViews, canceller: Canceller) -> None:
        self._own = own
        self._views = views
        self._canceller = canceller

    def routes(self) -> list[Route]:
        return [Route("/v1/jobs/{id}/cancel", self.cancel, methods=["POST"])]

    async def cancel(self, request: Request) -> Response:
        mark = request.query_params.get("mark")
        if mark is not None:
            check_name(mark, "a mark", 100)
        children = request.query_params.get("children", "false")
        if children not in ("true", "false"):
            raise BadRequest("children is true or false")
        own = await self._own.asked_for(request, "submit")
        job = await self._canceller.cancel(own, mark, children=children == "true")
        return Response(
            await self._views.view(job, prefix=root(request)),
            202,
            {"Location": self._views.path(job, root(request))},
            JSON,
        )


def _wants_html(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and JSON not in accepted
