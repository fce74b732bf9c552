"""`/v1/webhooks`: what was sent and what came of it, replay, disabled endpoints, the secret to verify with."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..access import parse_target
from ..domain import Principal, is_job_id, timestamp
from ..errors import BadRequest, Forbidden, Gone, NotFound
from ..store import WebhookStore
from ..store.webhooks import WEBHOOK_STATUSES, AttemptLog, Viewer, Webhook
from ..webhooks import SigningSecrets
from .callers import Callers
from .reading import JSON, query_number, read_body, root

_ID = re.compile(r"evt_[0-9A-Z]{26}_[0-9]{1,9}")
_UNSEEN = {"Cache-Control": "no-store"}


class EndpointRequest(BaseModel, extra="forbid"):
    """The body of `POST /v1/webhooks/endpoints/enable`."""

    url: str


class Webhooks:
    """The handlers of `/v1/webhooks`."""

    def __init__(self, callers: Callers, store: WebhookStore, secrets: SigningSecrets, body_limit: int) -> None:
        self._callers = callers
        self._store = store
        self._secrets = secrets
        self._body_limit = body_limit

    def routes(self) -> list[Route]:
        return [
            Route("/v1/webhooks", self.list, methods=["GET"]),
            Route("/v1/webhooks/secret", self.secret, methods=["GET"]),
            Route("/v1/webhooks/endpoints", self.endpoints, methods=["GET"]),
            Route("/v1/webhooks/endpoints/enable", self.enable, methods=["POST"]),
            Route("/v1/webhooks/{id}", self.show, methods=["GET"]),
            Route("/v1/webhooks/{id}/replay", self.replay, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        principal = self._callers.principal(request, "read")
        query = request.query_params
        status, job, after = query.get("status"), query.get("job"), query.get("after")
        if status is not None and status not in WEBHOOK_STATUSES:
            raise BadRequest(f"status is one of {', '.join(WEBHOOK_STATUSES)}")
        if job is not None and not is_job_id(job):
            raise BadRequest("job is a job's id")
        if after is not None and not _ID.fullmatch(after):
            raise BadRequest("after is a webhook's id")
        limit = int(query_number(request, "limit", 50, 1, 500))
        found = await self._store.seen(Viewer.of(principal), status=status, job=job, after=after, limit=limit + 1)
        shown = found[:limit]
        body = {
            "webhooks": [self._view(webhook, principal, root(request)) for webhook in shown],
            "next": shown[-1].id if len(found) > limit else None,
        }
        return Response(wire.dump(body), 200, _UNSEEN, JSON)

    async def show(self, request: Request) -> Response:
        principal = self._callers.principal(request, "read")
        webhook = await self._webhook(request, principal)
        log = [_attempt(attempt) for attempt in await self._store.attempts(webhook.id)]
        return Response(wire.dump(self._view(webhook, principal, root(request)) | {"log": log}), 200, _UNSEEN, JSON)

    async def replay(self, request: Request) -> Response:
        principal = self._callers.principal(request, "submit")
        webhook = await self._webhook(request, principal)
        if not await self._store.replay(webhook.id):
            raise Gone("its job is past its retention")
        again = await self._webhook(request, principal)
        return Response(
            wire.dump(self._view(again, principal, root(request))),
            202,
            {"Location": _path(again, root(request))},
            JSON,
        )

    async def endpoints(self, request: Request) -> Response:
        principal = self._callers.principal(request, "read")
        own = await self._store.disabled(principal.tenant, principal.subject)
        service = await self._store.disabled("", "") if "admin" in principal.scopes else []
        found = [{"url": url, "disabled_at": timestamp(at), "own": True} for url, at in own] + [
            {"url": parse_target(url).origin, "disabled_at": timestamp(at), "own": False} for url, at in service
        ]
        return Response(wire.dump({"endpoints": found}), 200, _UNSEEN, JSON)

    async def enable(self, request: Request) -> Response:
        principal = self._callers.principal(request, "submit")
        url = str(parse_target((await read_body(request, EndpointRequest, self._body_limit)).url))
        resumed = await self._store.enable(principal.tenant, principal.subject, url)
        if resumed is None and "admin" in principal.scopes:
            resumed = await self._enable_service(url)
        if resumed is None:
            raise NotFound("no such endpoint is disabled")
        return Response(wire.dump({"resumed": resumed}), 200, media_type=JSON)

    async def _enable_service(self, url: str) -> int | None:
        """The operator's URL is not shown in full, so its origin names it too."""
        for disabled, _ in await self._store.disabled("", ""):
            if url in (disabled, f"{parse_target(disabled).origin}/"):
                return await self._store.enable("", "", disabled)
        return None

    async def secret(self, request: Request) -> Response:
        """What verifies the webhooks of the principal's own callback URLs."""
        principal = self._callers.principal(request, "submit")
        secrets = self._secrets
        if secrets.shared:
            raise Forbidden("all receivers of this service share their secrets: ask whoever runs it")
        body = {"secrets": secrets.shown(principal.tenant, principal.subject)}
        return Response(wire.dump(body), 200, _UNSEEN, JSON)

    # What they see

    async def _webhook(self, request: Request, principal: Principal) -> Webhook:
        """The webhook of the path's id. Raises NotFound when it is foreign or unknown: which, is not said."""
        key = request.path_params["id"]
        webhook = await self._store.get(Viewer.of(principal), key) if _ID.fullmatch(key) else None
        if webhook is None:
            raise NotFound
        return webhook

    def _view(self, webhook: Webhook, principal: Principal, prefix: str) -> dict[str, Any]:
        path = _path(webhook, prefix)
        # Whoever has not given the URL gets none of its secrets.
        given = webhook.own and webhook.owner in (principal.subject, None)
        return {
            "id": webhook.id,
            "job": webhook.job,
            "status": webhook.status,
            "url": webhook.url if given else parse_target(webhook.url).origin,
            "attempts": webhook.attempts,
            "created_at": timestamp(webhook.created_at),
            "next_attempt_at": timestamp(webhook.due_at) if webhook.status == "pending" else None,
            "settled_at": timestamp(webhook.settled_at) if webhook.settled_at else None,
            "last_attempt": _attempt(webhook.last) if webhook.last else None,
            "links": {
                "self": path,
                "replay": f"{path}/replay",
                "job": f"{prefix}/v1/jobs/{webhook.job}",
            },
        }


def _path(webhook: Webhook, prefix: str) -> str:
    return f"{prefix}/v1/webhooks/{webhook.id}"


def _attempt(attempt: AttemptLog) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": timestamp(attempt.at),
        "duration_ms": round(attempt.duration * 1000, 1),
        "status": attempt.code,
        "error": attempt.error,
        "answer": attempt.answer,
    }
