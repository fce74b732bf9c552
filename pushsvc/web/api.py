"""What the routes are made of: the parts they call, and how a request is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from .. import wire
from ..access import Tokens, bearer, need_scope, owns
from ..bus import Publisher
from ..domain import NOBODY, Job, Principal, is_job_id
from ..endpoints import Office
from ..errors import BadRequest, NotFound, TooLarge, Unauthorized, UnknownJob
from ..hub import Hub
from ..jobs import Canceller, Registry
from ..settings import Settings
from ..store import EventStore, JobStore, TicketStore, WebhookStore
from ..transports import Desk, Gate
from ..webhooks import SigningSecrets
from .submissions import Submissions
from .views import JobViews

Model = TypeVar("Model", bound=BaseModel)

JSON = "application/json"

LOGIN = "pushsvc.login"
"""In the scope of a request to the API: who is logged in, by the app's own word."""


@dataclass(frozen=True, slots=True)
class Api:
    """Everything the HTTP surface calls. `prefix` is where it is mounted."""

    settings: Settings
    registry: Registry
    tokens: Tokens
    jobs: JobStore
    events: EventStore
    webhooks: WebhookStore
    signing_secrets: SigningSecrets
    tickets: TicketStore
    publisher: Publisher
    submissions: Submissions
    views: JobViews
    canceller: Canceller
    hub: Hub
    gate: Gate
    desk: Desk
    office: Office
    prefix: str = ""

    def principal(self, request: Request, scope: str) -> Principal:
        """Who asks, by the Authorization header. Raises Unauthorized, Forbidden, RateLimited."""
        principal = self._caller(request)
        if principal is None:
            raise self._unknown()
        need_scope(principal, scope)
        self.desk.rate.count(principal.holder)
        return principal

    def _caller(self, request: Request) -> Principal | None:
        """By a token of ours, or else by the app's own login, which has been asked already."""
        login: Principal | None = request.scope.get(LOGIN)
        token = bearer(request.headers.get("authorization"))
        if token is None:
            return login
        try:
            return self.tokens.verify(token)
        except Unauthorized:
            if login is None:
                raise
            return login

    def recorded(self, job: Job) -> bool:
        """Whether the job may be a recorded request: its name is an endpoint's, or nothing's any more."""
        try:
            return self.registry.get(job.name).recorded
        except UnknownJob:
            return True

    def reader(self, request: Request, scope: str = "read") -> Principal:
        """Who asks for a job; nobody in particular may, too. Raises Unauthorized, Forbidden, RateLimited."""
        return NOBODY if self._caller(request) is None else self.principal(request, scope)

    async def own_job(self, request: Request, scope: str = "read") -> Job:
        """The job of the path's id. Raises NotFound when it is foreign or unknown: which, is not said."""
        return await self.job_of(self.reader(request, scope), request)

    async def job_of(self, principal: Principal, request: Request) -> Job:
        """The same, of whoever has been asked already."""
        key = request.path_params["id"]
        job = await self.jobs.get(principal.tenant, key) if is_job_id(key) else None
        if job is None or not owns(principal, job):
            # What nobody in particular has submitted is for whoever has its id; all else, for who says who it is.
            raise self._unknown() if principal is NOBODY else NotFound()
        return job

    def _unknown(self) -> Unauthorized:
        return Unauthorized("send `Authorization: Bearer <token>`; `pushsvc token --sub NAME` makes one")


def root(request: HTTPConnection) -> str:
    """Where this request found the API: what stands before `/v1` in a link that its sender can follow."""
    return str(request.scope.get("root_path", "")).rstrip("/")


async def read_body(request: Request, model: type[Model], limit: int) -> Model:
    """The JSON body as `model`. Raises TooLarge, BadRequest; nothing of the body is in the message."""
    declared = request.headers.get("content-length", "")
    if _DIGITS.fullmatch(declared) and int(declared) > limit:
        raise TooLarge(f"the body may have {limit} bytes")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise TooLarge(f"the body may have {limit} bytes")
    except ClientDisconnect:
        # Nobody reads the answer; but it is the client that went away, and no error of ours.
        raise BadRequest("the request ended before its body did") from None
    try:
        return model.model_validate(wire.read(bytes(data)))
    except ValidationError as error:
        raise BadRequest("the body is not as it should be", errors=wire.mistakes(error)) from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON as it should be: {error}") from None


_DIGITS = re.compile("[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def one_header(request: Request, name: str) -> str | None:
    """A header that may be there once. Raises BadRequest on two of it: which of them counts, nobody can know."""
    found = request.headers.getlist(name)
    if len(found) > 1:
        raise BadRequest(f"there are {len(found)} headers {name}; send one")
    return found[0] if found else None


def query_number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """A number of the query string, cut to `most`. Raises BadRequest when it is none, or below `least`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name} is a number, at least {least:g}")
    value = float(text)
    if value < least:
        raise BadRequest(f"{name} is at least {least:g}")
    return min(value, most)
