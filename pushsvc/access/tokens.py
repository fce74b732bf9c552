"""Who is asking: bearer tokens (JWT, RFC 7519, signed with HS256) and what they claim."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import jwt

from ..domain import Principal, check_channel
from ..errors import BadRequest, Forbidden, SettingsError, Unauthorized
from .revocations import Revocations

logger = logging.getLogger(__name__)

DEFAULT_SCOPES = frozenset({"submit", "read"})
_TENANT = re.compile(r"[^:\x00-\x1f\x7f]{1,100}")
REMEMBERED = 10_000
LEEWAY = 5
"""Seconds that two machines' clocks may differ."""


class Tokens:
    """Signs and checks tokens with the service's secret.

    Raises SettingsError for one of less than 8 characters; one of less than 32, as RFC 7518 asks for, is
    warned of.
    """

    def __init__(self, secret: str, revocations: Revocations | None = None) -> None:
        if len(secret) < 8:
            raise SettingsError(
                "PUSHSVC_SECRET is shorter than 8 characters; `openssl rand -base64 32` makes a good one"
            )
        if len(secret) < 32:
            logger.warning("PUSHSVC_SECRET is shorter than 32 characters: it could be guessed from a token")
        self._secret = secret
        self._revocations = revocations or Revocations()
        self._verified: dict[str, Principal] = {}

    def __repr__(self) -> str:
        return "<Tokens HS256>"

    def mint(
        self,
        sub: str,
        *,
        tenant: str = "default",
        channels: Iterable[str] = (),
        scope: Iterable[str] = DEFAULT_SCOPES,
        ttl: float = 3600.0,
    ) -> str:
        """A token for `sub`, valid for `ttl` seconds. Raises BadRequest on what `verify` would refuse."""
        check_channel(f"user:{sub}")
        _check_tenant(tenant)
        # To the millisecond, so that one issued right after a revocation is told from those before it.
        now = round(time.time(), 3)
        claims: dict[str, Any] = {"sub": sub, "tenant": tenant, "iat": now, "exp": int(now) + max(1, int(ttl))}
        claims["jti"] = secrets.token_hex(8)
        claims["scope"] = " ".join(sorted(scope))
        if named := [check_channel(name) for name in channels]:
            claims["channels"] = named
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def verify(self, token: str) -> Principal:
        """Whose token it is. Raises Unauthorized on anything but a whole, signed, unexpired, unrevoked one.

        A token that was good is remembered until it expires: checking a signature costs as much as a query.
        """
        principal = self._verified.get(token)
        if principal is None or principal.expires_at is None or principal.expires_at <= datetime.now(UTC):
            principal = self._check(token)
            if len(self._verified) >= REMEMBERED:
                self._verified.clear()
            self._verified[token] = principal
        self.need_valid(principal)
        return principal

    def need_valid(self, principal: Principal) -> None:
        """Raises Unauthorized if the principal's token has been revoked."""
        if self._revocations.covers(principal):
            raise Unauthorized("the token has been revoked")

    def _check(self, token: str) -> Principal:
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], leeway=LEEWAY, options={"require": ["sub", "exp"]}
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"the token lacks the claim {error.claim}") from None
        except (jwt.InvalidTokenError, ValueError, OverflowError):
            raise Unauthorized("the token is not valid") from None
        return principal_of(claims)


def principal_of(claims: dict[str, Any]) -> Principal:
    """The claims as a Principal. Raises Unauthorized when one is of the wrong shape."""
    subject, tenant = claims["sub"], claims.get("tenant", "default")
    try:
        _check_tenant(tenant)
        check_channel(f"user:{subject}")
        channels = frozenset(check_channel(name) for name in claims.get("channels") or ())
    except (BadRequest, TypeError):
        raise Unauthorized("the claim sub, tenant or channels is malformed") from None
    try:
        expires_at = datetime.fromtimestamp(float(claims["exp"]), UTC)
        issued_at = datetime.fromtimestamp(float(claims["iat"]), UTC) if "iat" in claims else None
    except (TypeError, ValueError, OverflowError, OSError):
        raise Unauthorized("the claim exp or iat is malformed") from None
    token_id = claims.get("jti")
    if token_id is not None and not isinstance(token_id, str):
        raise Unauthorized("the claim jti is malformed")
    scope = claims.get("scope")
    scopes = DEFAULT_SCOPES if scope is None else _scopes(scope)
    return Principal(subject, tenant, channels, scopes, expires_at, issued_at, token_id)


def _check_tenant(tenant: object) -> None:
    """Raises BadRequest. No colon: on Redis it stands between the tenant and the channel."""
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise BadRequest("a tenant is a short name without a colon")


def _scopes(scope: Any) -> frozenset[str]:
    """RFC 8693 writes scopes as one string with spaces; lists and commas are understood too."""
    if isinstance(scope, str):
        return frozenset(scope.replace(",", " ").split())
    if isinstance(scope, list) and all(isinstance(part, str) for part in scope):
        return frozenset(scope)
    raise Unauthorized("the claim scope is malformed")


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer …` header (RFC 6750); None if there is none of that kind."""
    kind, _, token = (header or "").strip().partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def need_scope(principal: Principal, scope: str) -> None:
    """Raises Forbidden, naming the scope that lacks."""
    if scope not in principal.scopes and "admin" not in principal.scopes:
        raise Forbidden(f"the token lacks the scope {scope}")
