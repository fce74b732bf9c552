"""Requests: with a token, repeated while that may help, and their refusals as errors."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx

from .errors import ConnectionFailed, PushsvcError, error_of
from .retries import TEMPORARY, Retries, retry_after
from .tokens import Tokens

TIMEOUT = httpx.Timeout(30.0, connect=10.0, pool=None)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and how often it was asked for. `whole` is False where the connection broke within its body."""

    response: httpx.Response
    tries: int
    whole: bool = True

    def json(self) -> Any:
        """Raises ConnectionFailed where something in between answered with what is not JSON."""
        try:
            return json.loads(self.response.content)
        except ValueError:
            raise ConnectionFailed(f"{self.response.url.path} was answered with something that is not JSON") from None


class Http:
    """The one owner of the connections for requests to a service, which is mounted at `base`."""

    def __init__(
        self,
        base: str,
        tokens: Tokens,
        retries: Retries,
        headers: Mapping[str, str],
        client: httpx.AsyncClient | None,
    ) -> None:
        """Raises ValueError where `base` is not an http URL."""
        self.base = base.rstrip("/")
        self._origin = _origin(httpx.URL(self.base))
        self.tokens = tokens
        self.headers = dict(headers)
        self._retries = retries
        self._own = client is None
        self.client = client or httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)

    async def close(self) -> None:
        if self._own:
            await self.client.aclose()

    def url(self, link: str) -> str:
        """A path of the API, or a link that the server gave."""
        return self.base + link if link.startswith("/v1/") else urljoin(self.base + "/", link)

    def headers_for(self, url: str, token: str | None) -> dict[str, str]:
        """The token is shown to the service's own origin, and to nobody else."""
        if _origin(httpx.URL(url)) != self._origin:
            return {}
        return self.headers | ({"Authorization": f"Bearer {token}"} if token else {})

    async def call(
        self,
        method: str,
        link: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        repeat: bool = True,
    ) -> Reply:
        """An answer that is no refusal. `wait` seconds are to be borne beyond the usual. Raises PushsvcError."""
        reply = await self.send(
            method, self.url(link), headers=headers, repeat=repeat, wait=wait, json=json, params=params
        )
        if reply.response.status_code >= 400:
            raise refusal(reply.response)
        return reply

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        repeat: bool | None = None,
        wait: float = 0.0,
        **content: Any,
    ) -> Reply:
        """An answer, whatever it is. `repeat`: the request does no harm when it arrives twice, as reading does none;
        others are repeated where they were not taken. Raises ConnectionFailed."""
        harmless = method.upper() in _SAFE if repeat is None else repeat
        started, tries, refused = time.monotonic(), 0, False
        while True:
            token = await self.tokens.current()
            tries += 1
            reply, failure, asked = None, None, None
            try:
                given = self.headers_for(url, token) | dict(headers or {})
                reply = await self._once(method, url, given, wait, content, tries)
            except httpx.TransportError as error:
                failure = error
                again = harmless or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if reply.response.status_code == 401 and not refused and await self.tokens.renew(token):
                    refused = True
                    continue
                again = _passes(reply.response, harmless)
                asked = retry_after(reply.response.headers, time.time())
            pause = self._retries.wait(tries, time.monotonic() - started, asked, random.random()) if again else None
            if pause is None and reply is not None:
                return reply
            if pause is None:
                raise ConnectionFailed(f"{type(failure).__name__} at {httpx.URL(url).host}: {failure}") from failure
            await asyncio.sleep(pause)

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], wait: float, content: Mapping[str, Any], tries: int
    ) -> Reply:
        timeout = httpx.Timeout(30.0 + wait, connect=10.0, pool=None)
        request = self.client.build_request(method, url, headers=headers, timeout=timeout, **content)
        response = await self.client.send(request, stream=True)
        try:
            await response.aread()
        except httpx.TransportError:
            # Its status line says all that counts: there is a job, and where.
            if response.status_code != 202 or "location" not in response.headers:
                raise
            return Reply(response, tries, whole=False)
        finally:
            await response.aclose()
        return Reply(response, tries)


def refusal(response: httpx.Response) -> PushsvcError:
    """The error that an answer is whose body was read."""
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    return error_of(problem, response.status_code, retry_after(response.headers, time.time()))


def _passes(response: httpx.Response, harmless: bool) -> bool:
    """Whether the same request may succeed later. What a gateway gave up may have arrived."""
    status = response.status_code
    if status not in TEMPORARY or (status in (502, 504) and not harmless):
        return False
    return status != 429 or refusal(response).temporary


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{str(url)[:80]!r} is not a URL such as https://example.org")
    return url.scheme, url.host, url.port
