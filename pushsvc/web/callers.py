"""Who asks, and which jobs are theirs."""

from __future__ import annotations

from starlette.requests import Request

from ..access import Admission, bearer, need_scope, owns
from ..domain import NOBODY, Job, Principal, is_job_id
from ..errors import NotFound, Unauthorized
from ..store import JobStore

LOGIN = "pushsvc.login"
"""In the scope of a request to the API: who is logged in, by the app's own word."""


class Callers:
    """Knows who asks, by a token of ours or else by the app's own login."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def principal(self, request: Request, scope: str) -> Principal:
        """Who asks, by the Authorization header. Raises Unauthorized, Forbidden, RateLimited."""
        principal = self._caller(request)
        if principal is None:
            raise unknown()
        need_scope(principal, scope)
        self._admission.count(principal)
        return principal

    def _caller(self, request: Request) -> Principal | None:
        """By a token of ours, or else by the app's own login, which has been asked already."""
        login: Principal | None = request.scope.get(LOGIN)
        token = bearer(request.headers.get("authorization"))
        if token is None:
            return login
        try:
            return self._admission.tokens.verify(token)
        except Unauthorized:
            if login is None:
                raise
            return login

    def reader(self, request: Request, scope: str = "read") -> Principal:
        """Who asks for a job; nobody in particular may, too. Raises Unauthorized, Forbidden, RateLimited."""
        return NOBODY if self._caller(request) is None else self.principal(request, scope)


class OwnJobs:
    """Finds the jobs of those who ask."""

    def __init__(self, callers: Callers, jobs: JobStore) -> None:
        self._callers = callers
        self._jobs = jobs

    async def asked_for(self, request: Request, scope: str = "read") -> Job:
        """The job of the path's id. Raises NotFound when it is foreign or unknown: which, is not said."""
        return await self.of(self._callers.reader(request, scope), request)

    async def of(self, principal: Principal, request: Request) -> Job:
        """The same, of whoever has been asked already."""
        key = request.path_params["id"]
        job = await self._jobs.get(principal.tenant, key) if is_job_id(key) else None
        if job is None or not owns(principal, job):
            # What nobody in particular has submitted is for whoever has its id; all else, for who says who it is.
            raise unknown() if principal is NOBODY else NotFound()
        return job

    async def again(self, job: Job) -> Job:
        """The job as it is now; as it was, if it has gone."""
        return await self._jobs.get(job.tenant, job.id) or job


def unknown() -> Unauthorized:
    """Nobody has said who it is."""
    return Unauthorized("send `Authorization: Bearer <token>`; `pushsvc token --sub NAME` makes one")
