"""What a browser shows until an endpoint has answered, and where it then finds the answer: under the endpoint's own
URL, with the job's id added, so that relative links, reload and bookmarks hold and nothing is ever sent twice."""

from __future__ import annotations

import html
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal
from urllib.parse import parse_qs, quote

from starlette.datastructures import URLPath
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import wire
from ..access import owns
from ..domain import NOBODY, Job, is_job_id
from ..errors import Gone, NotFound, PushsvcError
from .answer import Answer, Given
from .office import Office
from .preference import reader_of
from .record import JOB_PARAMETER, cookies_of, target_of, without_job

_DIRECTORY = Path(__file__).parent / "page"
_TEMPLATE = Template((_DIRECTORY / "waiting.html").read_text())
_CSS, _JS = ((_DIRECTORY / name).read_bytes() for name in ("waiting.css", "waiting.js"))


@dataclass(frozen=True, slots=True)
class WaitingPage:
    """What a page of the author's own is made of. All links are as the browser finds them.

    `state` is `waiting`; `ended`, if there will be no answer, and `reason` says why; `missing`, if this user has no
    such job. `page` is where the answer is going to be; `again` asks for the endpoint anew. `status` and
    `events` are the job's in the API, for a script of the author's; `script` and `style` are ours, which need
    `<body data-page data-status data-events>`, and work under `Content-Security-Policy: default-src 'self'`.
    """

    state: Literal["waiting", "ended", "missing"]
    job: str
    name: str
    page: str
    again: str
    status: str
    events: str
    script: str
    style: str
    reason: str = ""

    def html(
        self,
        title: str | None = None,
        text: str | None = None,
        again: str = "Ask again",
    ) -> str:
        """The page as we show it, with these texts, or ours."""
        titles = {"waiting": "Working on it …", "ended": "There is no answer", "missing": "There is nothing here"}
        texts = {
            "waiting": "This page goes on by itself when the answer is there.",
            "ended": self.reason,
            "missing": "It was somebody else's, or it is not kept any more.",
        }
        waits = self.state == "waiting"
        refresh = f'<noscript><meta http-equiv="refresh" content="2; url={_escaped(self.page)}"></noscript>'
        script = f'<script src="{_escaped(self.script)}" defer></script>'
        data = {"page": self.page, "status": self.status, "events": self.events}
        return _TEMPLATE.substitute(
            title=_escaped(titles[self.state] if title is None else title),
            text=_escaped(texts[self.state] if text is None else text),
            style=_escaped(self.style),
            head=f"{refresh}\n{script}" if waits else "",
            data="".join(f' data-{name}="{_escaped(value)}"' for name, value in data.items()) if waits else "",
            bar='<progress max="1"></progress>' if waits else "",
            link="" if waits else f'<p><a href="{_escaped(self.again)}">{_escaped(again)}</a></p>',
        )


Page = str | Response
Render = Callable[[Request, WaitingPage], Page | Awaitable[Page]]
"""The author's own page: HTML or a whole response, of which the status is ours."""
Problem = Callable[[PushsvcError], Response]


class Pages:
    """The pages of an app, and the answers of its jobs under their URLs. `at` is where the API is mounted."""

    def __init__(
        self, office: Callable[[], Awaitable[Office]], problem: Problem, at: str, render: Render | None
    ) -> None:
        self._office = office
        self.problem = problem
        self.at = at
        self._render = render

    # While it takes

    async def later(self, connection: HTTPConnection, job: Job) -> Response:
        """A GET gets the page that waits; a form's POST is sent to it, so that a reload never posts again."""
        if connection.scope["method"] != "GET":
            headers = {"Location": here(connection.scope, job.id), "Cache-Control": "no-store"}
            return Response(status_code=303, headers=headers)
        return await self._shown(await self._office(), connection, 202, "waiting", job)

    async def ended(self, connection: HTTPConnection, job: Job) -> Response:
        """There will be no answer, and why."""
        problem = wire.problem_of(job.error) if job.error else Gone().problem()
        reason = str(problem.get("detail") or problem["title"])
        return await self._shown(await self._office(), connection, problem["status"], "ended", job, reason)

    async def _shown(
        self,
        office: Office,
        connection: HTTPConnection,
        status: int,
        state: Literal["waiting", "ended", "missing"],
        job: Job | None,
        reason: str = "",
    ) -> Response:
        prefix = office.prefix(connection, self.at)
        path = "" if job is None else office.views.path(job, prefix)
        page = WaitingPage(
            state=state,
            job="" if job is None else job.id,
            name="" if job is None else job.name,
            page=here(connection.scope, "" if job is None else job.id),
            again=here(connection.scope),
            status=path,
            events="" if job is None else f"{prefix}/v1/events/stream?channels=job:{job.id}&cursor=start",
            script=f"{prefix}/v1/waiting.js",
            style=f"{prefix}/v1/waiting.css",
            reason=reason,
        )
        made = page.html() if self._render is None else self._render(Request(connection.scope), page)
        shown = await made if inspect.isawaitable(made) else made
        response = HTMLResponse(shown) if isinstance(shown, str) else shown
        response.status_code = status
        response.headers["Cache-Control"] = "no-store"
        if state == "waiting":
            response.headers["Retry-After"] = "1"
        return response

    # Where the answer is found

    async def answer(self, request: Request) -> ASGIApp:
        """What there is of the job that the URL names, if it is the caller's, and this endpoint's."""
        office = await self._office()
        navigates = reader_of(request.headers) == "navigation"
        job = await self._job(office, request)
        if job is None:
            if not navigates:
                return self.problem(NotFound())
            return await self._shown(office, request, 404, "missing", None)
        if not job.status.terminal:
            if navigates:
                return await self._shown(office, request, 202, "waiting", job)
            return await office.status(request, job, self.at)
        stored = await office.answer(job, cookies_of(request.scope["headers"]))
        if isinstance(stored, Answer):
            return Given(stored)
        if isinstance(stored, PushsvcError):
            return self.problem(stored)
        return await self.ended(request, job) if navigates else office.failure(job)

    async def _job(self, office: Office, request: Request) -> Job | None:
        """The job that the URL names; None if it is unknown, another's, or another URL's."""
        named = request.query_params.getlist(JOB_PARAMETER)
        if len(named) != 1 or not is_job_id(named[0]):
            return None
        principal = await office.logins.caller(request) or NOBODY
        job = await office.jobs.get(principal.tenant, named[0])
        if job is None or not owns(principal, job):
            return None
        kept = await office.records.answer(principal.tenant, job.id)
        if kept is None:
            # One that was ended before it was begun has left nothing else.
            return job if job.status.terminal and office.recorded(job) and job.result_bytes is None else None
        scope = request.scope
        target = target_of(scope.get("root_path", ""), scope["path"], scope.get("query_string", b""))
        return job if office.seals.matches(kept.target, *target) else None


class JobRoute(BaseRoute):
    """Stands before all routes of the app, and inside its middleware: it answers every URL that names a job, and
    never starts one, whatever methods the route of that path takes."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return Match.NONE, {}
        query = scope.get("query_string", b"")
        if JOB_PARAMETER.encode() not in query or JOB_PARAMETER not in parse_qs(query.decode("latin-1")):
            return Match.NONE, {}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        own = path == self._pages.at or path.startswith(f"{self._pages.at}/")
        return (Match.NONE, {}) if own else (Match.FULL, {"endpoint": self._pages.answer, "path_params": {}})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._pages.answer(request)
        except PushsvcError as error:
            response = self._pages.problem(error)
        await response(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)


def assets() -> list[Route]:
    """The script and the style of our page."""

    def serving(path: str, body: bytes, kind: str) -> Route:
        async def serve(_request: Request) -> Response:
            return Response(body, headers={"Cache-Control": "public, max-age=3600"}, media_type=kind)

        return Route(path, serve, methods=["GET"])

    return [
        serving("/v1/waiting.js", _JS, "text/javascript"),
        serving("/v1/waiting.css", _CSS, "text/css"),
    ]


def here(scope: Scope, job: str = "") -> str:
    """The request's own URL, of this job or none; relative, so that it holds whatever a proxy makes of the path."""
    last = quote(scope["path"].rpartition("/")[2], safe="!$&'()*+,;=:@~-._")
    query = without_job(scope.get("query_string", b"")).decode("latin-1")
    if job:
        query = f"{query}&{JOB_PARAMETER}={job}" if query else f"{JOB_PARAMETER}={job}"
    return f"./{last}?{query}" if query else f"./{last}"


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
