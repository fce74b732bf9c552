"""Where recorded requests are taken in and their answers are given out: what the layer calls, in the web process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.responses import Response

from .. import wire
from ..access import Logins
from ..domain import SERVICE_CALLBACK, Job, JobId, Principal, Submission, new_job_id
from ..errors import AlreadyFinished, BadRequest, Gone, NotFound, PushsvcError, Unavailable, UnknownJob
from ..hub import Hub
from ..jobs import PRIORITIES, Canceller, Registry, Submitter
from ..settings import Settings
from ..store import JobStore, RecordStore
from ..transports import until_ended
from .answer import Answer, cookies_for
from .body import Body
from .options import EndpointOptions
from .record import RecordedRequest
from .recording import Recorder
from .sealing import Seals

RETRY_AFTER = "1"
LOOK = 30.0
"""Seconds of waiting for one answer at a time, where it takes as long as it takes."""
GOING_LOOK = 0.1
"""Seconds between two looks at a job while this process is going away."""


class Views(Protocol):
    """What a job looks like."""

    def path(self, job: Job, prefix: str | None = None) -> str: ...
    async def view(
        self, job: Job, cursor: str | None = None, mark: str | None = None, prefix: str | None = None
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Handled:
    """The job that a request has become. `own`: it is this very request, and not one that is equal to it."""

    job: Job
    cursor: str | None
    mark: str | None
    own: bool


class NotTaken(Exception):
    """A request was not taken because of `error`. `certain`: nothing was stored that could still be run."""

    def __init__(self, error: PushsvcError, certain: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.certain = certain


@dataclass(frozen=True, slots=True)
class Office:
    """The parts of the web half that recorded requests need. `problem` makes an answer of an error."""

    logins: Logins
    door: Submitter
    records: RecordStore
    seals: Seals
    jobs: JobStore
    registry: Registry
    hub: Hub
    canceller: Canceller
    views: Views
    settings: Settings
    problem: Callable[[PushsvcError], Response]
    inline: bool = False
    """Whether the endpoints run in this process, so that nothing is answered later."""

    # Taking in

    async def take(
        self,
        request: RecordedRequest,
        body: Body,
        name: str,
        options: EndpointOptions,
        principal: Principal | None,
    ) -> Handled:
        """Record the request and make it a job, or join the job that it is the same as.

        Raises NotTaken, BadRequest, TooLarge, KeyReused, ClientDisconnect: there is no job then, but where NotTaken
        is in doubt.
        """
        if sum(header == b"idempotency-key" for header, _ in request.headers) > 1:
            raise BadRequest("there are several headers Idempotency-Key; send one")
        # Two of nobody's may be two people's, as their cookies tell: for them nothing is shared.
        known = principal is not None or not request.has_credentials
        shared = known and request.method == "GET" and not request.has_body
        tenant, owner = (principal.tenant, principal.subject) if principal is not None else ("default", None)
        try:
            if shared and options.cache_for and (job := await self._fresh(request, name, tenant, owner)) is not None:
                return Handled(job, None, None, own=False)
            job_id = new_job_id()
            recorder = Recorder(self.records, self.seals)
            sha256 = await recorder.record(job_id, tenant, request, body, keep=options.otherwise == "run")
        except Unavailable as error:
            raise NotTaken(error, certain=True) from error
        coalesce = shared and options.coalesce
        submission = self._submission(request, job_id, name, options, tenant, owner, sha256, coalesce)
        try:
            accepted = await self.door.accept(submission)
        except Unavailable as error:
            # Perhaps it is stored, and then it needs its record. To read twice does no harm.
            raise NotTaken(error, certain=request.safe) from error
        except PushsvcError as error:
            await recorder.drop(job_id)
            if error.temporary:
                raise NotTaken(error, certain=True) from error
            raise
        if accepted.job.id != job_id:
            await recorder.drop(job_id)
        return Handled(accepted.job, accepted.cursor, accepted.mark, own=accepted.job.id == job_id)

    async def _fresh(self, request: RecordedRequest, name: str, tenant: str, owner: str | None) -> Job | None:
        found = await self.records.fresh(tenant, owner, request.digest(self.seals, name, _EMPTY))
        return None if found is None else await self.jobs.get(tenant, found)

    def _submission(
        self,
        request: RecordedRequest,
        job: JobId,
        name: str,
        options: EndpointOptions,
        tenant: str,
        owner: str | None,
        sha256: bytes,
        coalesce: bool,
    ) -> Submission:
        key = next((value for header, value in request.headers if header == b"idempotency-key"), None)
        digest = request.digest(self.seals, name, sha256 if request.has_body else _EMPTY)
        if key is not None:
            # A key is the owner's; without one, of whoever sends the same credentials.
            credentials = [value for header, value in request.headers if header in (b"cookie", b"authorization")]
            whose = [] if owner is not None else credentials
            digest = self.seals.digest(b"keyed", name.encode(), *request.address, sha256)
            keyed = self.seals.digest(b"key", name.encode(), key, *whose)
        return Submission(
            id=job,
            tenant=tenant,
            owner=owner,
            name=name,
            params=wire.dump({"record": job}).decode(),
            timeout=options.timeout,
            retention=options.retention,
            max_attempts=1,
            queue=options.queue,
            priority=PRIORITIES[options.priority],
            callback_url=SERVICE_CALLBACK if self.settings.callback_url else None,
            key=None if key is None else keyed,
            digest=digest,
            coalesce=coalesce and key is None,
            mark=secrets.token_urlsafe(12) if coalesce and key is None else None,
        )

    # Waiting

    async def finished(self, job: Job, wait: float | None) -> bool:
        """True when the job has finished within `wait` seconds; None: whenever it does. False also when this process
        is going away."""
        loop = asyncio.get_running_loop()
        try:
            if wait is not None:
                return await until_ended(self.hub, job, wait)
            while True:
                began = loop.time()
                if await until_ended(self.hub, job, LOOK):
                    return True
                if loop.time() - began < LOOK / 2:
                    return await self._finished_in_the_end(job)
        except NotFound:
            return True

    async def _finished_in_the_end(self, job: Job) -> bool:
        """This process is going away, and nobody tells it anything more: look, for as long as it may take to go."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.drain
        while loop.time() < until:
            found = await self.jobs.get(job.tenant, job.id)
            if found is None or found.status.terminal:
                return True
            await asyncio.sleep(GOING_LOOK)
        return False

    async def cancel(self, handled: Handled) -> None:
        """For this request only, where others share its job."""
        try:
            await self.canceller.cancel(handled.job, handled.mark)
        except (AlreadyFinished, NotFound, Unavailable):
            pass

    # Giving out

    async def answer(self, job: Job, present: Mapping[str, str] | None) -> Answer | PushsvcError | Job:
        """The stored answer; `present` are the cookies of who fetches it later, None for the recorded request itself.
        Where there is none, the job, which says why; Gone if that is not there any more."""
        found, kept = await asyncio.gather(
            self.jobs.get_with_result(job.tenant, job.id), self.records.answer(job.tenant, job.id)
        )
        if found is None:
            return Gone()
        job, result = found
        if result is None or kept is None:
            return job
        cookies = [] if kept.cookies is None else self._cookies(job, kept.cookies, present)
        return Answer.decode(result, cookies)

    def _cookies(self, job: Job, sealed: bytes, present: Mapping[str, str] | None) -> list[bytes]:
        return cookies_for(self.seals.open(sealed, job.id, job.tenant, "cookies"), present)

    def recorded(self, job: Job) -> bool:
        """Whether the job is an endpoint's, by its name."""
        try:
            return self.registry.get(job.name).recorded
        except UnknownJob:
            return False

    async def status(
        self, connection: HTTPConnection, job: Job, at: str, cursor: str | None = None, mark: str | None = None
    ) -> Response:
        """What a program gets until the answer is there: the job."""
        prefix = self.prefix(connection, at)
        path = self.views.path(job, prefix)
        view = await self.views.view(job, cursor, mark, prefix)
        headers = {"Location": path, "Retry-After": RETRY_AFTER, "Cache-Control": "no-store"}
        return Response(view, 202, headers, "application/json")

    def prefix(self, connection: HTTPConnection, at: str) -> str:
        """Where this request finds the API."""
        root = str(connection.scope.get("root_path", "")).rstrip("/")
        known = self.settings.root_path
        if known and root != known and not root.startswith(f"{known}/"):
            root = known + root
        return root + at

    def failure(self, job: Job) -> Response:
        """Why there is no answer, as a problem."""
        problem = wire.problem_of(job.error) if job.error else Gone().problem()
        return Response(wire.dump(problem), problem["status"], media_type="application/problem+json")


_EMPTY = b""
