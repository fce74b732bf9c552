"""Errors as answers: problem objects (RFC 9457), and nothing of a stranger's exception but its class."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from .. import wire
from ..errors import PushsvcError, Unauthorized
from ..jobs.failures import Failure

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem_response(error: PushsvcError) -> Response:
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if error.temporary:
        headers["Retry-After"] = str(error.extra.get("retry_after", 1))
    return Response(wire.dump(error.problem()), error.status, headers, MEDIA_TYPE)


async def deny(websocket: WebSocket, error: PushsvcError) -> None:
    """Refuse a handshake, with the problem where the server can send one (an extension of ASGI), else with 403."""
    if "websocket.http.response" in (websocket.scope.get("extensions") or {}):
        await websocket.send_denial_response(problem_response(error))
    else:
        await websocket.close()


async def on_error(_request: Request, error: Exception) -> Response:
    """Starlette's exception handler for everything that a route of ours raises."""
    if isinstance(error, PushsvcError):
        return problem_response(error)
    if isinstance(error, HTTPException):
        body = {"type": "about:blank", "title": error.detail, "status": error.status_code}
        return Response(wire.dump(body), error.status_code, error.headers, MEDIA_TYPE)
    failure = Failure.of(error)
    logger.error("a request failed: %s\n%s", failure.said, failure.trace)
    return problem_response(PushsvcError(error_id=failure.problem.extra.get("error_id")))
