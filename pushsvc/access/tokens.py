"""Who is asking: bearer tokens (JWT, RFC 7519, signed with HS256) and what they claim."""

from __future__ import annotations

import difflib
import logging
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import jwt

from ..domain import Principal, check_channel, check_name, check_subject, check_tenant
from ..errors import BadRequest, Forbidden, SettingsError, Unauthorized
from .channels import is_group
from .revocations import Revocations

logger = logging.getLogger(__name__)

DEFAULT_SCOPES = frozenset({"submit", "read"})
SCOPES = ("submit", "read", "submit:any", "admin")
"""What pushsvc itself asks for."""
REMEMBERED = 10_000
LEEWAY = 5
"""Seconds that two machines' clocks may differ."""

LONGEST = 10 * 365 * 86400.0
"""Seconds that a token may be valid for, when it is minted."""

TOKEN = 16 * 1024
"""Characters of a token."""
NAMES = 1000
"""Channels, or scopes, that a token may name."""


class Tokens:
    """Signs and checks tokens with the service's secret.

    Raises SettingsError for one of less than 32 characters (RFC 7518, 3.2): it could be guessed from a token.
    """

    def __init__(self, secret: str, revocations: Revocations | None = None) -> None:
        if len(secret) < 32:
            raise SettingsError(
                "PUSHSVC_SECRET is shorter than 32 characters: it could be guessed from a token; "
                "`openssl rand -base64 32` makes a good one"
            )
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
        """A token for `sub`, valid for `ttl` seconds, that may hear the groups in `channels` beside its own inbox.

        Raises BadRequest on what `verify` would refuse, and on channels that a token can't open.
        """
        check_subject(sub)
        check_tenant(tenant)
        scopes = sorted({_check_scope(part) for part in scope})
        named = [_check_group(name) for name in channels]
        if max(len(scopes), len(named)) > NAMES:
            raise BadRequest(f"a token names at most {NAMES} channels and as many scopes")
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST:
            raise BadRequest(f"a token is valid for more than 0 and at most {LONGEST:.0f} seconds")
        # To the millisecond, so that one issued right after a revocation is told from those before it.
        now = round(time.time(), 3)
        claims: dict[str, Any] = {"sub": sub, "tenant": tenant, "iat": now, "exp": int(now) + max(1, int(ttl))}
        claims["jti"] = secrets.token_hex(8)
        claims["scope"] = " ".join(scopes)
        if named:
            claims["channels"] = named
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        if len(token) > TOKEN:
            raise BadRequest(f"the token has more than {TOKEN} characters: name fewer channels")
        return token

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
        if len(token) > TOKEN:
            raise Unauthorized(f"a token has at most {TOKEN} characters")
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], leeway=LEEWAY, options={"require": ["sub", "exp"]}
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"the token lacks the claim {error.claim}") from None
        except Exception as error:
            # Whatever the parser stumbles over (a claim of a wrong type, one nested too deep) is the token's fault.
            logger.debug("a token was not understood: %s", type(error).__name__)
            raise Unauthorized("the token is not valid") from None
        return principal_of(claims)


def principal_of(claims: dict[str, Any]) -> Principal:
    """The claims as a Principal. Raises Unauthorized when one is of the wrong shape."""
    try:
        subject = check_subject(claims["sub"])
        tenant = check_tenant(claims.get("tenant", "default"))
        # What else another issuer may have named opens nothing, so it is not what the holder may hear.
        channels = frozenset(filter(is_group, map(check_channel, _list(claims.get("channels")))))
        token_id = claims.get("jti")
        if token_id is not None:
            check_name(token_id, "a token's id")
        scope = claims.get("scope")
        scopes = DEFAULT_SCOPES if scope is None else _scopes(scope)
    except BadRequest as error:
        raise Unauthorized(f"a claim (sub, tenant, channels, scope, jti) is malformed: {error}") from None
    try:
        expires_at = datetime.fromtimestamp(float(claims["exp"]), UTC)
        issued_at = datetime.fromtimestamp(float(claims["iat"]), UTC) if "iat" in claims else None
    except (TypeError, ValueError, OverflowError, OSError):
        raise Unauthorized("the claim exp or iat is malformed") from None
    return Principal(subject, tenant, channels, scopes, expires_at, issued_at, token_id)


def check_principal(principal: Principal) -> None:
    """What a token's claims are checked for, of one that somebody else has made. Raises BadRequest."""
    check_subject(principal.subject)
    check_tenant(principal.tenant)
    for name in _list(list(principal.channels)):
        check_channel(name)
    for scope in _list(list(principal.scopes)):
        check_name(scope, "a scope", 100)
    if principal.token_id is not None:
        check_name(principal.token_id, "a token's id")


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > NAMES:
        raise BadRequest(f"channels are a list of at most {NAMES}")
    return value


def _check_group(name: object) -> str:
    """Raises BadRequest. An inbox is its subject's, and a job its owner's: no token opens them to others."""
    if not is_group(check_channel(name)):
        raise BadRequest(f"a token names group:<name> only, not {name}: inboxes and jobs are heard by their owners")
    return str(name)


def _check_scope(name: object) -> str:
    """Raises BadRequest. No space: it stands between two scopes (RFC 6749, section 3.3)."""
    if not {" ", ","}.isdisjoint(check_name(name, "a scope", 100)):
        raise BadRequest("a scope is one word")
    return str(name)


def _scopes(scope: Any) -> frozenset[str]:
    """RFC 8693 writes scopes as one string with spaces; lists and commas are understood too."""
    parts = scope.replace(",", " ").split() if isinstance(scope, str) else _list(scope)
    return frozenset(check_name(part, "a scope", 100) for part in parts)


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer …` header (RFC 6750); None if there is none of that kind."""
    kind, _, token = (header or "").strip().partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def known_scope(scope: str) -> str:
    """The scope, if it is one of `SCOPES`. Raises SettingsError, with the nearest of them."""
    if scope not in SCOPES:
        near = difflib.get_close_matches(scope, SCOPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCOPES)}"
        raise SettingsError(f"{scope!r:.60} is not a scope; {hint}")
    return scope


def need_scope(principal: Principal, scope: str) -> None:
    """Raises Forbidden, naming the scope that lacks."""
    if scope not in principal.scopes and "admin" not in principal.scopes:
        raise Forbidden(f"the token lacks the scope {scope}")
