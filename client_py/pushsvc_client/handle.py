"""A job as its submitter holds it. Letting go of it does not cancel the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import httpx

from .errors import AlreadyFinished, job_error_of
from .http import Http
from .results import Outcome, Record, Results
from .stream import EventStream
from .wire import JobView, Progress, view_of


class AsyncHandle:
    """One job. `id` and `key` are all that is needed to find it again, by `client.job(id)` in another process."""

    def __init__(
        self,
        http: Http,
        results: Results,
        record: Record,
        events: Callable[[list[str], str], EventStream],
        links: Mapping[str, str],
        key: str | None = None,
    ) -> None:
        self._key = key
        self._http = http
        self._results = results
        self._record = record
        self._links = links
        self._events = events

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def key(self) -> str | None:
        """The Idempotency-Key that it was submitted with here."""
        return self._key

    def _link(self, name: str, path: str) -> str:
        return self._links.get(name) or f"/v1/jobs/{self.id}{path}"

    async def status(self) -> JobView:
        """The job as the server has it now. Raises NotFound."""
        reply = await self._http.call("GET", self._link("self", ""))
        view = view_of(reply.json())
        if view.finished:
            self._record.finish(Outcome.of_view(view))
        return view

    async def result(self, timeout: float | None = None) -> Any:
        """What the job gave, once it has ended.

        Raises JobError when it did not succeed, TimeoutError after `timeout` seconds: the job goes on all the same.
        """
        async with asyncio.timeout(timeout):
            outcome = await self._ended()
            if outcome.inline:
                return outcome.data
            return (await self._http.call("GET", self._link("result", "/result"))).json()

    async def response(self, timeout: float | None = None) -> httpx.Response:
        """Of an endpoint that answered later, its answer, with the endpoint's own status, headers and body.

        Raises JobError where there was none, TimeoutError.
        """
        async with asyncio.timeout(timeout):
            await self._ended()
            reply = await self._http.send("GET", self._http.url(self._link("result", "/result")))
            return reply.response

    async def _ended(self) -> Outcome:
        outcome = await self._results.ended(self._record)
        if outcome.status != "succeeded":
            raise job_error_of(outcome.error, outcome.status)
        return outcome

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """How far it is, each time that is told, until it has ended. The latest wins: who is slow skips some."""
        record, told = self._record, None
        while True:
            await self._results.follow(record)
            # Nothing is awaited between the look and the waiting, or a change might fall in between.
            if record.progress is not None and record.progress is not told:
                told = record.progress
                yield told
            elif record.outcome is not None:
                return
            else:
                await self._results.change(record)

    def events(self) -> EventStream:
        """Each change of the job that is still to come, until its last."""
        return self._events([f"job:{self.id}"], f"job:{self.id}@1.0")

    async def cancel(self, *, children: bool = False) -> JobView:
        """Cancel it, with what it has submitted itself if `children` says so; of a job that several submissions
        share, for this submission only.

        Raises AlreadyFinished when it had ended.
        """
        link = self._link("cancel", "/cancel")
        if children:
            link += ("&" if "?" in link else "?") + "children=true"
        try:
            reply = await self._http.call("POST", link)
        except AlreadyFinished:
            # It may have been this very request that ended it, and the answer that was lost.
            view = await self.status()
            if view.status != "cancelled":
                raise
            return view
        return view_of(reply.json())
