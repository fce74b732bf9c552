"""Who is asking in an app that has a login of its own; and from where: credentials that a browser sends by itself, a
cookie above all, count only in requests of the app's own pages, or of pages that it allows."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from starlette.requests import HTTPConnection

from ..domain import Principal, check_subject
from ..errors import Forbidden, SettingsError, Unauthorized
from .origins import allowed_origin
from .tokens import Tokens, bearer, check_principal

Who = str | Principal | None
Login = Callable[[HTTPConnection], Who | Awaitable[Who]]
"""The author's: whose request it is. A name, a whole Principal, or None for nobody."""

_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


class Logins:
    """Asks the author's `login`, if there is one, for whoever sends no token of ours.

    What it says holds for `lasts` seconds: a connection that lives longer ends then, and comes back.
    """

    def __init__(self, login: Login | None, tokens: Tokens, allowed_origins: Sequence[str], lasts: float) -> None:
        self._login = login
        self._tokens = tokens
        # `*` is for pages that carry tokens: with cookies it would be everybody's door.
        self._allowed = [origin for origin in allowed_origins if origin != "*"]
        self._lasts = lasts

    async def caller(self, connection: HTTPConnection) -> Principal | None:
        """Who sends a request of the app's: by a token of ours, or else by the app's login. None: nobody.

        Raises Forbidden when the login came along with a request of somebody else's page.
        """
        token = bearer(connection.headers.get("authorization"))
        if token is not None:
            try:
                return self._tokens.verify(token)
            except Unauthorized:
                # Not one of ours: perhaps it is the app's own.
                pass
        return await self.login(connection)

    async def login(self, connection: HTTPConnection) -> Principal | None:
        """Who is logged in, by the author's word. Raises Forbidden as `caller` does."""
        if self._login is None:
            return None
        said = self._login(connection)
        who = await said if inspect.isawaitable(said) else said
        if who is None:
            return None
        self._need_own_page(connection)
        now = datetime.now(UTC)
        until = now + timedelta(seconds=self._lasts)
        if isinstance(who, Principal):
            check_principal(who)
            return replace(who, issued_at=who.issued_at or now, expires_at=who.expires_at or until, login=True)
        if not isinstance(who, str):
            raise SettingsError(
                f"Service(principal=…) gives a name, a Principal or None, and not {type(who).__name__}; "
                "a number is a name as str(number)"
            )
        return Principal(check_subject(who), issued_at=now, expires_at=until, login=True)

    def _need_own_page(self, connection: HTTPConnection) -> None:
        """Raises Forbidden for what another site's page, or a sibling's, has sent with this user's cookie."""
        if connection.scope["type"] == "http" and connection.scope["method"] in _SAFE:
            return
        headers = connection.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None and site in (None, "same-origin", "none"):
            return
        if origin is None or not allowed_origin(origin, headers.get("host"), self._allowed):
            raise Forbidden("this page's origin is neither the app's nor in PUSHSVC_ALLOWED_ORIGINS")
