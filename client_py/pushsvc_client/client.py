"""The client: submits jobs, follows them, and hears events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any
from uuid import uuid4

import httpx

from .errors import ConnectionFailed
from .handle import AsyncHandle
from .http import Http, Reply
from .results import Record, Results
from .retries import Retries
from .session import WAYS
from .stream import EventStream
from .submission import Page, Submission
from .tokens import Source, Tokens
from .wire import JobView, view_of

PREFER = "respond-async, wait=2"
_LOCATION = re.compile(r"/v1/jobs/([0-9A-Za-z]{1,64})/?(?:\?.*)?$")


class AsyncClient:
    """A client of one service, for one user, in one event loop.

    `url` is where the API is mounted: `https://example.org`, or with `/push` where it is attached there. `token` is
    one, or a function, async or not, that gives the present one: it is asked before one expires and when one is
    refused. Requests are repeated for `retry_for` seconds while the service is away or too busy.
    """

    def __init__(
        self,
        url: str,
        token: Source = None,
        *,
        headers: Mapping[str, str] | None = None,
        retry_for: float = 60.0,
        transports: Sequence[str] = WAYS,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """`headers` go with every request. `transports`: the ways to hear, the best one first. `http`: a client of
        your own, with proxies and certificates as you like them; it stays yours to close.

        Raises ValueError on a URL or a transport that is none.
        """
        if not transports or set(transports) - set(WAYS):
            raise ValueError(f"transports are some of {', '.join(WAYS)}")
        self._http = Http(url, Tokens(token), Retries(retry_for), headers or {}, http)
        self._ways = tuple(transports)
        self._results = Results(self._http, self._ways)
        self._streams: set[EventStream] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._http.base}>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections. Jobs go on."""
        for stream in list(self._streams):
            await stream.aclose()
        await self._results.close()
        await self._http.close()

    # Jobs

    async def submit(
        self,
        job: str | Submission,
        params: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        shared: bool = False,
        **options: Any,
    ) -> AsyncHandle:
        """Submit a job; when this returns, the service has it, and never loses it.

        The request is repeated while that may help, with the same `key`, so that there is one job. Give a `key` of
        your own where the whole program may be repeated. `shared`: join an equal job in flight, if its author lets
        them coalesce; then no key is sent, and what may have arrived is not repeated. `options` are those of
        `Submission`.

        Raises InvalidParams, UnknownJob, QueueFull, KeyReused and the like: nothing is stored then. After
        ConnectionFailed it may have been: submit it again with the key that its note names.
        """
        if shared and key is not None:
            raise ValueError("a job with a key of its own is not shared: give one of key and shared")
        asked = job if isinstance(job, Submission) else Submission(job, params or {}, **options)
        key = None if shared else key or uuid4().hex
        with self._results.submitting():
            reply = await self._post("/v1/jobs", asked.body(), key)
            if not reply.whole:
                return self._found(reply, key)
            return self._accepted(view_of(reply.json()), key)

    async def batch(self, jobs: Iterable[Submission], *, key: str | None = None) -> list[AsyncHandle]:
        """Submit several jobs, up to 500: all of them are accepted, or none. Handles come in the order of the jobs.

        Raises what `submit` raises; `error.problem["index"]` says whose fault it was.
        """
        key = key or uuid4().hex
        body = {"jobs": [each.body() for each in jobs]}
        with self._results.submitting():
            views = (await self._post("/v1/jobs/batch", body, key)).json()["jobs"]
            return [self._accepted(view_of(view), key) for view in views]

    async def run(
        self,
        job: str | Submission,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Submit a job and wait for its result. Raises what `submit` and `result` raise."""
        handle = await self.submit(job, params, **options)
        return await handle.result(timeout)

    def job(self, id: str) -> AsyncHandle:
        """A job that was submitted before, here or elsewhere. Nothing is asked yet."""
        return self._handle(self._results.known(id), {})

    async def jobs(
        self, *, status: str | None = None, job: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page:
        """Jobs of one's own, the newest first."""
        query = {"status": status, "job": job, "limit": limit, "after": after}
        given = {name: value for name, value in query.items() if value is not None}
        body = (await self._http.call("GET", "/v1/jobs", params=given)).json()
        return Page(tuple(view_of(view) for view in body["jobs"]), body.get("next"))

    async def _post(self, link: str, body: Any, key: str | None) -> Reply:
        headers = {"Idempotency-Key": key} if key else None
        try:
            return await self._http.call("POST", link, json=body, headers=headers, repeat=key is not None)
        except ConnectionFailed as error:
            if key is not None:
                error.add_note(
                    f"it may have been accepted; submit it again with key={key!r} to be sure, and have one"
                )
            raise

    def _accepted(self, view: JobView, key: str | None) -> AsyncHandle:
        return self._handle(self._results.submitted(view), view.links, key)

    def _found(self, reply: Reply, key: str | None = None) -> AsyncHandle:
        """The job that a 202 leads to by its header alone."""
        id = _job_at(reply.response)
        if id is None:
            raise ConnectionFailed("a 202 broke off, and it does not say which job it is about")
        return self._handle(self._results.known(id), {}, key)

    def _handle(self, record: Record, links: Mapping[str, str], key: str | None = None) -> AsyncHandle:
        return AsyncHandle(self._http, self._results, record, self.events, links, key)

    # Endpoints that may answer later

    async def request(
        self,
        method: str,
        url: str,
        *,
        prefer: str = PREFER,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_accepted: Callable[[AsyncHandle], object] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """An endpoint's answer, also where it answers later: a `202` is followed to the final response.

        `url` is absolute, or a path on the service's host. `content` is what httpx takes: `json`, `data`, `files`,
        `params`, `content`. `on_accepted` is told of the job as soon as there is one. A request that changes
        something is repeated after it may have arrived only if you give it a `key`.

        Raises JobError when the job did not succeed, TimeoutError after `timeout` seconds: the job goes on.
        """
        target = self._http.url(url)
        given = {"Prefer": prefer} | ({"Idempotency-Key": key} if key else {}) | dict(headers or {})
        repeat = True if key else None
        reply = await self._http.send(method, target, headers=given, repeat=repeat, wait=60.0, **content)
        if reply.response.status_code != 202 or _job_at(reply.response) is None:
            return reply.response
        handle = self._found(reply, key)
        if on_accepted is not None:
            on_accepted(handle)
        return await handle.response(timeout)

    # Events

    def events(
        self, channels: Sequence[str] | None = None, cursor: str | None = None, *, device: str | None = None
    ) -> EventStream:
        """The events of these channels, or of one's own inbox, from a cursor on: `start`, `now`, or one that was
        kept. Without one, from where `device` has acknowledged, else from now on.

            async with client.events() as events:
                async for event in events: ...
        """
        stream = EventStream(self._http, list(channels or ()), cursor, self._ways, device, self._streams.discard)
        self._streams.add(stream)
        return stream


def _job_at(response: httpx.Response) -> str | None:
    """The id of the job whose status URL the answer names."""
    found = _LOCATION.search(response.headers.get("location", ""))
    return found[1] if found else None
