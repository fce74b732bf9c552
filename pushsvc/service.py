"""`Service`: what an app author holds."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

from pydantic import SecretStr
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from .access import DEFAULT_SCOPES, Login
from .domain import (
    DEFAULT_QUEUE,
    Channel,
    Position,
    Revocation,
    check_channel,
    check_name,
    check_queue,
    check_subject,
    check_tenant,
)
from .endpoints import Catalogue, EndpointOptions, Mark, Otherwise, Render
from .errors import BadRequest, SettingsError
from .hosting import Attachment, Host, ServiceApp
from .jobs import (
    CallOptions,
    Holds,
    JobContext,
    JobOptions,
    Jobs,
    Offers,
    Options,
    Priority,
    Registry,
    Submit,
    Terms,
    check_priority,
    current_job,
    options_of,
    seconds,
    spec_of,
)
from .lifetime import Lifespan, Lifetime
from .ops import Doctor, Examination
from .parts import Parts
from .queries import Database, check_session_class
from .settings import LONGEST_VALUE, Settings
from .transports import REVOCATIONS, revocation_data
from .workplace import Workplace

REVOCATIONS_KEPT = 400 * 86400.0
"""Seconds; a token that lives longer than this is no token but a password."""

T = TypeVar("T")


class Service(Offers):
    """Jobs, and everything that accepts, runs and delivers them.

    `settings` defaults to the environment's `PUSHSVC_*`. `databases` names the databases that jobs query,
    as URLs, each with a bound of its own; by default there is `primary`, at `PUSHSVC_DATABASE_URL`. `callback_url`
    is where the last event of every job is POSTed that does not name a URL of its own; by default
    `PUSHSVC_CALLBACK_URL`. `session_class` is the app's own `sqlalchemy.orm.Session`: queries are run as that class
    runs them, and its listeners hear of each. `lifespan` is an async context manager's function, which is entered
    once in each process, web and worker, while the service runs there: what it yields is `ctx.state` of a job, and
    `service.state` elsewhere. Raises SettingsError for a class that chooses databases itself.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        databases: Mapping[str, str] | None = None,
        callback_url: str | None = None,
        session_class: type[Session] = Session,
        principal: Login | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        self.settings = Settings.from_env() if settings is None else settings
        if callback_url is not None:
            check_name(callback_url, "callback_url", LONGEST_VALUE, SettingsError)
            self.settings = self.settings.model_copy(update={"callback_url": SecretStr(callback_url)})
        self.jobs = Registry()
        self._databases = {
            check_name(name, "a database's name", error=SettingsError): SecretStr(
                check_name(url, f"the URL of database {name}", LONGEST_VALUE, SettingsError)
            )
            for name, url in (databases or {}).items()
        }
        self._session_class = check_session_class(session_class)
        self._handles = itertools.count(1)
        self.lifetime = Lifetime(lifespan, self)
        self._workplace = Workplace(self.settings, self._assembled, self.lifetime, lambda: self._attached)
        self._host = Host(self._own_parts, self.close, self._workplace.work_inline, self.lifetime)
        self._asgi: ServiceApp | None = None
        self._login = principal
        self._catalogue = Catalogue(self.jobs, self._workplace.replay)
        self._attached: Attachment | None = None
        self._parts: Parts | None = None

    def __repr__(self) -> str:
        return f"<Service {len(self.jobs)} jobs>"

    # What an author writes

    def _offer(self, function: Callable[..., Any], terms: Terms) -> None:
        self.jobs.add(spec_of(function, terms, self.settings.retention))

    def include(self, jobs: Jobs, *, prefix: str = "") -> None:
        """Offer the jobs of a module of yours, each under its name with the `prefix` before it; also those that it
        comes to have later. Raises SettingsError when a name is taken."""
        jobs.include_in(lambda function, terms: self._offer(function, terms.named(prefix)))

    def asgi(self, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
        """A whole ASGI app: the API, and `routes` of your own beside it. Put together when first called."""
        self._asgi = ServiceApp(self._host, routes, self.settings.root_path)
        return self._asgi

    def attach(self, app: Starlette, at: str = "/push", *, waiting_page: Render | None = None) -> None:
        """Join an existing Starlette or FastAPI app: its login and middleware stand before the API, which is mounted
        at `at` before all routes; the service runs as long as the app's lifespan does, which stays the app's own.

        `waiting_page` makes the page that browsers show while an endpoint takes longer, of a request and a
        `WaitingPage`: HTML, or a whole response.

        Once for each service, before the app's first request. Raises SettingsError when `at` is no path, and when
        it is too late.
        """
        if self._attached is not None:
            raise SettingsError("service.attach was called already: a service has one app")
        limit = self.settings.record_limit
        self._attached = Attachment(app, at, self._host, self.asgi(), self._catalogue, limit, waiting_page)

    def respond_async(
        self,
        *,
        wait: float | str = 2.0,
        name: str | None = None,
        timeout: float | str = 300.0,
        retention: float | str | None = None,
        coalesce: bool = False,
        cache_for: float | str | None = None,
        only_if_asked: bool = False,
        otherwise: Otherwise = "refuse",
        cancel_on_disconnect: bool = False,
        repeat: bool = False,
        queue: str = DEFAULT_QUEUE,
        priority: Priority = "normal",
    ) -> Mark:
        """Let an endpoint of the attached app answer later: an entry of `middleware=[…]` of a Starlette route or
        mount, or a decorator on the endpoint's function, under FastAPI's own.

        What is done within `wait` (or the client's `Prefer: wait=N`) goes back as it is; what takes longer becomes
        `202` and a job of this `name`, by default the route's. The request is run in a worker, through the whole app,
        for `timeout` at most, and its answer is kept for `retention`. A method that may change something is not run
        again when a worker dies, unless `repeat`. Equal `GET`s in flight are one with `coalesce`; for `cache_for` a
        fresh answer is given again. With `only_if_asked` nobody gets a `202` who did not ask with `Prefer`. When the
        service can't take a request, `otherwise="run"` runs it where it came. With `cancel_on_disconnect` a client
        that goes away cancels it. `queue` and `priority` are as a job's.

        Durations are seconds, or text like `"60s"`. Raises SettingsError for what is none of these.
        """
        kept = self.settings.retention if retention is None else retention
        if otherwise not in ("refuse", "run"):
            raise SettingsError("respond_async: otherwise is 'refuse' or 'run'")
        check_priority("respond_async: priority", priority, SettingsError)
        options = EndpointOptions(
            wait=0.0 if wait == 0 else seconds("respond_async: wait", wait),
            timeout=seconds("respond_async: timeout", timeout),
            retention=seconds("respond_async: retention", kept),
            coalesce=coalesce,
            cache_for=0.0 if cache_for is None else seconds("respond_async: cache_for", cache_for),
            only_if_asked=only_if_asked,
            otherwise=otherwise,
            cancel_on_disconnect=cancel_on_disconnect,
            repeat=repeat,
            queue=check_queue(queue, SettingsError),
            priority=priority,
        )
        return Mark(self._catalogue, options, name)

    def running(self) -> AbstractAsyncContextManager[None]:
        """`async with service.running():` in the lifespan of an app that mounts `service.asgi()` by itself.

        Nested and repeated it is one: the service runs until the last block ends. In a worker it does nothing.
        Raises SettingsError, BudgetError, Unavailable when the service can't start.
        """
        return self._host.running()

    def token(
        self,
        sub: str,
        *,
        tenant: str = "default",
        channels: Iterable[str] = (),
        scope: Iterable[str] = DEFAULT_SCOPES,
        ttl: float = 3600.0,
    ) -> str:
        """A bearer token for `sub`, valid for `ttl` seconds."""
        return self.parts.tokens.mint(sub, tenant=tenant, channels=channels, scope=scope, ttl=ttl)

    @property
    def submit(self) -> Submit:
        """`await service.submit(airport_report, origin="JFK")`: submit a job from Python, wherever it is: in an
        endpoint, a script, a thread.

        What follows the function are the job's own parameters, as its signature has them, without the JobContext; a
        type checker knows them. Whatever else is to be said of the job, `options` says. Where the job has no
        parameter of that name it may stand here, too (`session=db`), but no type checker knows it. The answer is a
        `Handle`: `id`, `status()`, `result()`, `cancel()`, `progress()`. A job can be named by its name, too.

        Raises UnknownJob, InvalidParams, BadRequest, QueueFull: nothing is stored then; Unavailable when PostgreSQL
        is away.
        """
        return Submit(self.jobs, self._at_home, CallOptions())

    def options(self, **said: Unpack[JobOptions]) -> Options:
        """`await service.options(owner="alice", key="r-7").submit(airport_report, origin="JFK")`.

        `owner` hears of the job in their inbox; without one it is nobody's in particular. A `key` stands for one job
        of its owner, for a week at least. `session` or `connection` is whatever holds a transaction of your own in
        the service's database: a Session or a Connection of SQLAlchemy's, async or not, or a connection of asyncpg's.
        The job exists if, and only if, that is committed, and starts then. Raises BadRequest.
        """
        return Options(Submit(self.jobs, self._at_home, options_of(CallOptions(), said)))

    async def _at_home(self, work: Callable[[Parts], Awaitable[T]]) -> T:
        return await self.parts.at_home(work)

    async def publish(
        self,
        channel: str,
        type: str,
        data: Any,
        *,
        tenant: str = "default",
        retention: float | str | None = None,
        key: str | None = None,
    ) -> Position:
        """Publish an event of your own to a `group:` or a `user:` channel: `type` says what happened, `data` is
        anything that a job may return. Returns the event's position, once it is committed: whoever listens hears
        it, whoever is away finds it.

        It is kept for `retention` (seconds, or text like `"24h"`; by default PUSHSVC_RETENTION). As long, publishing
        again with the same `key` changes nothing, whatever the data: for those who must publish once and may die
        in between. Raises BadRequest and TooLarge, when nothing has been published; Unavailable when PostgreSQL is
        away: whether it has then, only the `key` can tell.
        """
        kept = self.settings.retention if retention is None else seconds("retention", retention, BadRequest)
        where = Channel(check_tenant(tenant), check_channel(channel))
        if key is not None:
            check_name(key, "a key", 255)
        return await self.parts.publications.publish(where, type, data, kept, key)

    async def revoke(self, sub: str | None = None, *, tenant: str = "default", token: str | None = None) -> None:
        """Make all tokens of `sub` void that were issued until now, or just the one `token`.

        Every node refuses them from then on, and ends the connections that were opened with them. Raises
        BadRequest, and Unavailable when PostgreSQL is away.
        """
        now = datetime.now(UTC)
        if (sub is None) == (token is None):
            raise BadRequest("revoke a subject's tokens, or one token")
        if token is not None:
            principal = self.parts.tokens.verify(token)
            if principal.token_id is None:
                raise BadRequest("the token has no jti by which it could be told from others: revoke its subject's")
            revocation = Revocation(principal.tenant, principal.subject, now, principal.token_id)
        else:
            revocation = Revocation(check_tenant(tenant), check_subject(sub), now)
        await self.parts.publications.publish(REVOCATIONS, "revoked", revocation_data(revocation), REVOCATIONS_KEPT)

    def queries(
        self, name: str | None = None, *, database: str = "primary", pg_settings: Mapping[str, Any] | None = None
    ) -> Database:
        """`async with service.queries() as db:` what a job has as `ctx.db`, in an endpoint or anywhere else.

        The same methods, within the same bound: the executor of this process and one connection of its own.
        At the block's end, what was not awaited is cancelled. `name`, by default that of the calling
        function, goes into the SQL comment (`/*endpoint='…'*/`); while a job runs, its name and id do. `pg_settings`
        are settings of PostgreSQL's, `role` included, that hold for all that is asked in the block. Raises
        SettingsError when there is no such database, and for what can't be a setting.
        """
        name = sys._getframe(1).f_code.co_name if name is None else check_name(name, "the name of queries")
        pool = self.parts.databases.get(database)
        if pool is None:
            raise SettingsError(f"there is no database named {database!r}; see Service(databases={{…}})")
        job = current_job()
        tags = {"job": job.name, "job_id": job.id} if isinstance(job, JobContext) else {"endpoint": name}
        owner = f"{name} {next(self._handles)}"
        return Database(pool, owner=owner, tags=tags, pg_settings=pg_settings)

    @property
    def state(self) -> Any:
        """What `lifespan` has yielded in this process. Raises SettingsError before the service runs in it."""
        return self.lifetime.state

    async def close(self) -> None:
        """Close all connections of this process. An app made by `asgi` does so by itself."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            if not parts.over:
                await parts.close()

    # What a process runs

    @property
    def app(self) -> ASGIApp:
        """The app that the service is attached to; else the one that `asgi` made, or a plain one."""
        if self._attached is not None:
            return self._attached.app
        return self._asgi or self.asgi()

    @property
    def parts(self) -> Parts:
        """The parts of this process, put together at first use. Raises SettingsError when a URL is missing."""
        return self._workplace.parts or self._own_parts()

    def _own_parts(self) -> Parts:
        """Those of the web half, or of whoever calls without one."""
        if self._parts is not None and self._parts.over:
            # A script with several `asyncio.run`: nothing of the one before can be used any more.
            self._parts = None
        if self._parts is None:
            self._parts = self._assembled(self.settings.endpoint_connections)
        return self._parts

    def _assembled(
        self, own_connections: int, *, hurried: bool = True, store_connections: int | None = None
    ) -> Parts:
        prefix = self.settings.root_path + (self._attached.at if self._attached is not None else "")
        changes = {} if store_connections is None else {"store_connections": store_connections}
        return Parts(
            self.settings.model_copy(update=changes),
            self.jobs,
            self._databases,
            own_connections,
            prefix=prefix,
            hurried=hurried,
            session_class=self._session_class,
            login=self._login,
        )

    @property
    def idle(self) -> bool:
        """Whether it has nothing to run: no job, and no endpoint that may answer later."""
        return not len(self.jobs) and not self._catalogue.places

    async def check(self, *, web: bool = True) -> None:
        """Raises SettingsError if the service can't start as it is set, BudgetError if the database could not bear
        it; makes the schema where there is none. A worker can do without the secret if it has those of webhooks."""
        self._need_settings(web=web)
        parts = self._assembled(self.settings.endpoint_connections)
        try:
            _ = parts.queue, parts.publisher, parts.callback_url, parts.signing_secrets, web and parts.tokens
            await parts.check()
        finally:
            await parts.close()

    def _need_settings(self, *, web: bool) -> None:
        signs = web or not self.settings.webhook_secrets
        if self.settings.inline:
            self.settings.need_all("database_url", "secret")
        else:
            self.settings.need_all("database_url", "redis_url", *(("secret",) if signs else ()))

    def need_workers(self) -> None:
        """Raises SettingsError where workers have nothing to do."""
        if self.settings.inline:
            raise SettingsError(
                "PUSHSVC_BACKEND is inline: the processes that serve run the jobs, and need no worker"
            )

    async def examine(self) -> Examination:
        """What `pushsvc doctor` looks at. Raises nothing because something is broken: that is what it finds."""
        urls = {name: url.get_secret_value() for name, url in self._databases.items()}
        return await Doctor(self.settings, self.jobs, urls).examine()

    async def work(
        self,
        until: asyncio.Event,
        *,
        holds: Holds | None = None,
        kept: bool = False,
        end: Callable[[], None] | None = None,
    ) -> None:
        """Be a worker until the event is set, then finish or hand back what runs.

        While a job blocks the event loop, a thread keeps the leases; with `kept`, somebody else does, who reads the
        `holds`. `end` is called, in the thread, when a job blocks the loop for longer than it may take: it has to end
        the process. Without it, its jobs go to other workers then. Raises Unavailable when jobs that were stopped and
        run on have taken all places: the process is to be started again.
        """
        self.need_workers()
        self._need_settings(web=False)
        holds = Holds.of_this_process(self.settings.max_jobs) if holds is None else holds
        await self._workplace.work(until, holds, kept=kept, end=end)

    async def keep(self, holds: Holds, end: Callable[[], None] | None, *, end_first: bool = False) -> None:
        """Keep the leases of a worker while its event loop is blocked, until cancelled; `end` its process when that
        takes too long. In an event loop of its own, with connections of its own; `end_first`: from outside."""
        await self._workplace.keep(holds, end, end_first=end_first)

    async def drain(self) -> None:
        """Send this web process' connections elsewhere, before it stops: in waves, over half of PUSHSVC_DRAIN at
        the most."""
        await self._host.drain()

    def drains_by_itself(self) -> None:
        """Whoever serves this process' app calls `drain` at its end: no signal need begin it."""
        self._host.heeds_signals = False
