"""One attempt: an HTTP POST to an address that was checked, and as much of the answer as the log keeps.

httpcore does the HTTP: it follows no redirect, knows no proxy and no cookie, decompresses nothing, and lets us make
the connection. Each attempt has one of its own, closed after it: none is held open to an address checked long ago.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import cast

import certifi
import httpcore

from ..access import Target, Targets, parse_target
from ..errors import causes

logger = logging.getLogger(__name__)

KEPT = 2048
"""Bytes of an answer that are read, and kept for the log."""
READ = 2.0
"""Seconds for those bytes, once the status is known."""
CONNECT = 5.0
"""Seconds for one address; a name may have several."""

Resolver = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt: the receiver's status and the beginning of its answer, or what went wrong."""

    status: int | None
    error: str | None = None
    body: str | None = None
    retry_after: float | None = None
    """Seconds that the receiver asks to be left alone."""

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends to what `targets` allows, up to `places` at once, each within `timeout` seconds in all."""

    def __init__(
        self,
        targets: Targets,
        *,
        timeout: float,
        places: int,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._targets = targets
        self._timeout = timeout
        self._tls = tls or _tls()
        # Not the loop's own threads, nor libuv's four: a name server that never answers would stop all who resolve.
        self._threads = ThreadPoolExecutor(places, thread_name_prefix="webhook:resolve")
        self._resolve = resolve or self._look_up

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to one POST; nothing is raised for whatever may go wrong on the way."""
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self._post(limit, parse_target(url), headers, body)
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(None, f"no answer within {self._timeout:g} s")
        except httpcore.NetworkError as error:
            return Answer(None, _reason(error))
        except httpcore.ProtocolError:
            return Answer(None, "no whole answer in HTTP came")
        except Exception as error:
            # A mistake of ours is a failed attempt too, or it would be repeated for ever. Its text may hold the URL.
            logger.error("a webhook could not be sent: %s", type(error).__name__)
            return Answer(None, f"could not be sent: {type(error).__name__}")

    async def _post(self, limit: asyncio.Timeout, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            addresses = await self._resolve(target.host)
        except (OSError, UnicodeError):
            return Answer(None, "the name does not resolve")
        allowed = self._targets.allowed(target, addresses)
        if not allowed:
            # Which address it was is nothing that the URL's author must learn.
            return Answer(None, "refused: not a public address by https, nor allowed")
        connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port),
            ssl_context=self._tls,
            network_backend=_Pinned(allowed),
        )
        request = httpcore.Request(
            "POST",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.path.encode(),
            ),
            headers=_headers(target.authority, headers, len(body)),
            content=body,
            extensions={"timeout": {"connect": CONNECT}},
        )
        try:
            response = await connection.handle_async_request(request)
            # The status decides: what becomes of the rest changes nothing.
            limit.reschedule(asyncio.get_running_loop().time() + 2 * READ)
            return Answer(response.status, None, await _beginning(response), _retry_after(response))
        finally:
            await connection.aclose()

    async def _look_up(self, host: str) -> Sequence[str]:
        """The addresses of a name, in the order in which to try them (RFC 6724)."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        return [str(address[4][0]) for address in found]


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to these addresses, whatever the host is called now; TLS still asks for the host's certificate."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = self._addresses
        for address in others:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)


def _headers(authority: str, headers: Mapping[str, str], length: int) -> list[tuple[bytes, bytes]]:
    every = {"Host": authority, **headers, "Content-Length": str(length), "Connection": "close"}
    return [(name.encode(), value.encode()) for name, value in every.items()]


async def _beginning(response: httpcore.Response) -> str:
    """As much of the answer as is kept, as text that PostgreSQL can hold."""
    data = bytearray()
    with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        # A generator, though not by its annotation: closed here rather than by the garbage collector.
        chunks = cast(AsyncGenerator[bytes, None], response.aiter_stream())
        async with asyncio.timeout(READ), aclosing(chunks):
            async for chunk in chunks:
                data += chunk
                if len(data) >= KEPT:
                    break
    return bytes(data[:KEPT]).decode(errors="replace").replace("\x00", "\ufffd")


def _retry_after(response: httpcore.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date; heeded when the receiver is overloaded."""
    if response.status not in (429, 503):
        return None
    text = next((value.decode("latin-1") for name, value in response.headers if name.lower() == b"retry-after"), "")
    if text.strip().isdecimal():
        return float(text.strip()[:12])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time())


def _reason(error: BaseException) -> str:
    """What went wrong on the network, in words that name no address."""
    for cause in causes(error, contexts=True):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return os.strerror(cause.errno).lower()
    return "the connection was lost" if isinstance(error, httpcore.ReadError) else "can't be connected to"


def _tls() -> ssl.SSLContext:
    """Certificates are checked against the system's authorities (`SSL_CERT_FILE` names others) and certifi's: a
    slim image has none of its own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
