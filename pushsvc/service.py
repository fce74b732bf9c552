"""`Service`: what an app author holds, and the one place where the parts are put together."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, overload

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import DEFAULT_SCOPES, Slots, Tokens
from .bus import Publisher, Queue, RedisClient, connect
from .errors import SettingsError
from .hub import Hub
from .jobs import Announcer, Canceller, JobSpec, Registry, Submitter, Sweeper, Worker, params_model
from .ops import Doctor, Examination, Health, ProbedRegistry, check_budget
from .queries import Database, DatabasePool
from .settings import Settings, parse_duration
from .store import EventStore, JobStore, Postgres, check_schema
from .tasks import stop
from .transports import Desk, Gate
from .web import Api, application

Function = TypeVar("Function", bound=Callable[..., object])


class Service:
    """Jobs, and everything that accepts, runs and delivers them.

    `settings` defaults to the environment's `PUSHSVC_*`. `databases` names the databases that jobs query,
    as URLs, each with a bound of its own; by default there is `primary`, at `PUSHSVC_DATABASE_URL`.
    """

    def __init__(self, *, settings: Settings | None = None, databases: Mapping[str, str] | None = None) -> None:
        self.settings = Settings.from_env() if settings is None else settings
        self.jobs = Registry()
        self._databases = {name: SecretStr(url) for name, url in (databases or {}).items()}
        self._app: _WhenFirstCalled | None = None
        self._parts: _Parts | None = None
        self._handles = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Service {len(self.jobs)} jobs>"

    # What an author writes

    @overload
    def job(self, function: Function, /) -> Function: ...

    @overload
    def job(
        self,
        *,
        name: str | None = None,
        timeout: float | str = 300.0,
        retention: float | str | None = None,
        max_attempts: int = 1,
        coalesce: bool = False,
    ) -> Callable[[Function], Function]: ...

    def job(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        timeout: float | str = 300.0,
        retention: float | str | None = None,
        max_attempts: int = 1,
        coalesce: bool = False,
    ) -> Any:
        """Make a function a job: `async def`, or `def`, which runs in a thread.

        `timeout` and `retention` are seconds, or text like `"24h"`. `max_attempts` is how often the job is
        tried when it raises; a worker's death does not count as one. With `coalesce`, equal submissions of
        one owner are one job while it is in flight. The function itself stays as it is. Raises SettingsError
        when its signature can't be filled from JSON by name.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            job = str(name or getattr(function, "__name__", ""))
            params, context = params_model(job, function)
            if max_attempts < 1:
                raise SettingsError(f"job {job}: max_attempts is at least 1")
            self.jobs.add(
                JobSpec(
                    name=job,
                    function=function,
                    timeout=_seconds(job, timeout),
                    retention=_seconds(job, self.settings.retention if retention is None else retention),
                    max_attempts=max_attempts,
                    coalesce=coalesce,
                    params=params,
                    context=context,
                )
            )
            return function

        return register if function is None else register(function)

    def asgi(self, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
        """A whole ASGI app: the API, and `routes` of your own beside it. Put together when first called."""
        self._app = _WhenFirstCalled(lambda: self._application(routes))
        return self._app

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

    def queries(self, name: str | None = None, *, database: str = "primary") -> Database:
        """`async with service.queries() as db:` what a job has as `ctx.db`, in an endpoint or anywhere else.

        The same methods, within the same bound: the executor of this process and one connection of its own.
        At the block's end, what was not awaited is cancelled. `name`, by default that of the calling
        function, goes into the SQL comment (`/*endpoint='…'*/`). Raises SettingsError when there is no such
        database.
        """
        name = sys._getframe(1).f_code.co_name if name is None else name
        pool = self.parts.databases.get(database)
        if pool is None:
            raise SettingsError(f"there is no database named {database!r}; see Service(databases={{…}})")
        return pool.database(owner=f"{name} {next(self._handles)}", tags={"endpoint": name})

    async def close(self) -> None:
        """Close all connections of this process. An app made by `asgi` does so by itself."""
        if self._parts is not None:
            parts, self._parts = self._parts, None
            await parts.close()

    # What a process runs

    @property
    def app(self) -> ASGIApp:
        """The app that `asgi` made, or a plain one."""
        return self._app or self.asgi()

    @property
    def parts(self) -> _Parts:
        """The parts of this process, put together at first use. Raises SettingsError when a URL is missing."""
        if self._parts is None:
            self._parts = self._assembled(self.settings.endpoint_connections)
        return self._parts

    def _assembled(self, own_connections: int) -> _Parts:
        return _Parts(self.settings, self.jobs, self._databases, own_connections)

    async def check(self, *, web: bool = True) -> None:
        """Raises SettingsError if the service can't start as it is set, BudgetError if the database could not bear
        it; makes the schema where there is none. Only a `web` process needs the secret."""
        parts = self._assembled(self.settings.endpoint_connections)
        try:
            _ = parts.redis, web and parts.tokens
            await parts.check()
        finally:
            await parts.close()

    async def examine(self) -> Examination:
        """What `pushsvc doctor` looks at. Raises nothing because something is broken: that is what it finds."""
        urls = {name: url.get_secret_value() for name, url in self._databases.items()}
        return await Doctor(self.settings, self.jobs, urls).examine()

    async def work(self, until: asyncio.Event) -> None:
        """Be a worker until the event is set, then finish or hand back what runs."""
        self._parts = parts = self._assembled(self.settings.max_jobs)
        await parts.check()
        worker = parts.worker()
        sweeping = asyncio.create_task(parts.sweeper.run(), name="sweeper")
        running = asyncio.create_task(worker.run(), name="worker")
        stopping = asyncio.create_task(until.wait())
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            worker.stop()
            await running
        finally:
            await stop(sweeping, stopping, running)
            await parts.close()
            self._parts = None

    def drain(self) -> None:
        """Send this web process' connections elsewhere, before it stops."""
        if self._parts is not None:
            self._parts.hub.drain()

    def _application(self, routes: Sequence[BaseRoute]) -> Starlette:
        parts = self.parts

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            await parts.check()
            parts.hub.start()
            try:
                yield
            finally:
                parts.hub.drain()
                await parts.close()

        return application(parts.api, [*Health(parts.postgres, parts.redis).routes(), *routes], lifespan)


class _Parts:
    """The composition root: each part once, made when first asked for, so that a process has what it needs."""

    def __init__(
        self, settings: Settings, jobs: Registry, databases: Mapping[str, SecretStr], own_connections: int
    ) -> None:
        self.settings = settings
        self.jobs = jobs
        self.url = settings.need("database_url")
        self._urls = databases or {"primary": SecretStr(self.url)}
        self.databases = {
            name: DatabasePool(
                url.get_secret_value(),
                name=name,
                executor_concurrency=settings.executor_concurrency,
                own_connections=own_connections,
            )
            for name, url in self._urls.items()
        }
        self.postgres = Postgres(self.url, settings.store_connections)
        self._clients: list[RedisClient] = []
        self._hub: Hub | None = None

    async def check(self) -> None:
        """Before anything is accepted: the schema is right, and the connections fit. Closes all if not."""
        urls = {name: url.get_secret_value() for name, url in self._urls.items()}
        try:
            await check_schema(self.postgres, self.url)
            await check_budget(self.settings, self.postgres, self.url, urls)
        except BaseException:
            await self.close()
            raise

    def _client(self, url: str, *, blocking: bool = False) -> RedisClient:
        client = connect(url, connections=2 if blocking else 16, blocking=blocking)
        self._clients.append(client)
        return client

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.settings.need("secret"))

    @cached_property
    def redis(self) -> RedisClient:
        return self._client(self.settings.need("redis_url"))

    @cached_property
    def queue(self) -> Queue:
        blocking = self._client(self.settings.need("redis_url"), blocking=True)
        return Queue(self.redis, blocking, self.settings.queue)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(self._client(self.settings.bus) if self.settings.bus_url else self.redis)

    @cached_property
    def store(self) -> JobStore:
        return JobStore(self.postgres)

    @cached_property
    def events(self) -> EventStore:
        return EventStore(self.postgres)

    @cached_property
    def announcer(self) -> Announcer:
        return Announcer(self.publisher, self.queue)

    @cached_property
    def sweeper(self) -> Sweeper:
        return Sweeper(self.postgres, self.store, self.queue, self.announcer, self.settings)

    @cached_property
    def hub(self) -> Hub:
        self._hub = Hub(
            self.events,
            self.settings.bus,
            top_check=self.settings.top_check,
            last_progress=self.publisher.last_progress,
        )
        return self._hub

    def worker(self) -> Worker:
        return Worker(
            registry=ProbedRegistry(self.jobs),
            store=self.store,
            queue=self.queue,
            publisher=self.publisher,
            announcer=self.announcer,
            databases=self.databases,
            settings=self.settings,
        )

    @cached_property
    def api(self) -> Api:
        gate = Gate(self.store, self.settings.channel_limit)
        slots = Slots("connections", self.settings.connection_limit)
        return Api(
            settings=self.settings,
            registry=self.jobs,
            tokens=self.tokens,
            jobs=self.store,
            events=self.events,
            publisher=self.publisher,
            submitter=Submitter(self.jobs, self.store, self.queue, self.settings),
            canceller=Canceller(self.store, self.publisher, self.announcer),
            hub=self.hub,
            gate=gate,
            desk=Desk(self.hub, gate, self.tokens, self.settings, slots),
        )

    async def close(self) -> None:
        """Close every connection that was opened."""
        if self._hub is not None:
            await self._hub.stop()
        for database in self.databases.values():
            await database.close()
        await self.postgres.close()
        for client in self._clients:
            with suppress(Exception):
                await client.aclose(close_connection_pool=True)


@dataclass(slots=True)
class _WhenFirstCalled:
    """An ASGI app that is put together at its first call, so that a module can be imported without settings."""

    build: Callable[[], ASGIApp]
    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            self.app = self.build()
        await self.app(scope, receive, send)


def _seconds(job: str, value: float | str) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise SettingsError(f"job {job}: {error}") from None
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise SettingsError(f"job {job}: a duration is more than 0")
    return float(seconds)
