"""`POST /demo/session`: a bearer token for whoever looks at the demo's page."""

from __future__ import annotations

import secrets
from typing import Annotated, Protocol

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..access.origins import allowed_origin
from ..errors import BadRequest, Forbidden
from ..web.reading import read_body

TTL = 3600
BODY_LIMIT = 1024
SCOPE = ("submit", "read")
GROUP = "group:flights"
"""What visitors run, for all of them."""


class Visitor(BaseModel):
    """What the page sends. The id is as good as a password to that guest's inbox: long, and never in a URL."""

    visitor: Annotated[str, Field(pattern=r"^[a-z0-9]{16,64}$")] | None = None


class Minter(Protocol):
    """What the session needs of a `Service`."""

    def token(self, sub: str, *, channels: tuple[str, ...], scope: tuple[str, ...], ttl: float) -> str:
        """A signed token for `sub`, who may hear `channels`."""
        ...


class Sessions:
    """Tokens for the demo's visitors. A visitor is a guest, known by the random id that the browser keeps."""

    def __init__(self, minter: Minter) -> None:
        self._minter = minter

    async def create(self, request: Request) -> Response:
        """The endpoint: answer with `{"token", "user", "expires_in"}`.

        Raises BadRequest, TooLarge, and Forbidden to the pages of other sites.
        """
        # JSON makes the browser of another site's page ask first, and CORS is closed; this closes it twice.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise BadRequest("the body must be application/json")
        if not allowed_origin(request.headers.get("origin"), request.headers.get("host"), ()):
            raise Forbidden("the origin is not this host")
        body = await read_body(request, Visitor, BODY_LIMIT)
        user = f"guest-{body.visitor or secrets.token_hex(16)}"
        token = self._minter.token(user, channels=(GROUP,), scope=SCOPE, ttl=TTL)
        return JSONResponse({"token": token, "user": user, "expires_in": TTL}, headers={"Cache-Control": "no-store"})
