"""What the routes are made of: the parts they call, and how a request is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from .. import wire
from ..access import Tokens, bearer, need_scope, owns
from ..bus import Publisher
from ..domain import Job, Principal, is_job_id
from ..errors import BadRequest, NotFound, TooLarge, Unauthorized
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
    prefix: str = ""

    def principal(self, request: Request, scope: str) -> Principal:
        """Who asks, by the Authorization header. Raises Unauthorized, Forbidden, RateLimited."""
        token = bearer(request.headers.get("authorization"))
        if token is None:
            raise Unauthorized("send `Authorization: Bearer <token>`; `pushsvc token --sub NAME` makes one")
        principal = self.tokens.verify(token)
        need_scope(principal, scope)
        self.desk.rate.count(principal.holder)
        return principal

    async def own_job(self, request: Request, scope: str = "read") -> Job:
        """The job of the path's id. Raises NotFound when it is foreign or unknown: which, is not said."""
        principal = self.principal(request, scope)
        key = request.path_params["id"]
        job = await self.jobs.get(principal.tenant, key) if is_job_id(key) else None
        if job is None or not owns(principal, job):
            raise NotFound
        return job


async def read_body(request: Request, model: type[Model], limit: int) -> Model:
    """The JSON body as `model`. Raises TooLarge, BadRequest; nothing of the body is in the message."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
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
        return model.model_validate(wire.load(bytes(data)))
    except ValidationError as error:
        found = [
            {"field": ".".join(str(part) for part in each["loc"]), "message": each["msg"]}
            for each in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise BadRequest("the body is not as it should be", errors=found) from None
    except ValueError:
        raise BadRequest("the body is not JSON") from None


_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def prefer_wait(request: Request, most: float) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), cut to `most`; None where it is not asked for."""
    match = _PREFER_WAIT.search(request.headers.get("prefer", ""))
    return min(float(match[1]), most) if match else None


def query_number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """A number of the query string, cut to `most`. Raises BadRequest when it is none, or below `least`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"{name} is a number") from None
    if not value >= least:
        raise BadRequest(f"{name} is at least {least:g}")
    return min(value, most)
