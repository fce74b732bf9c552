"""The composition root: the one place where the parts of a process are put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

from pydantic import SecretStr
from sqlalchemy.orm import Session
from starlette.routing import BaseRoute

from .access import Admission, Connection, Login, Logins, Rate, Revocations, Slots, Targets, Tokens
from .bus import BusClient, LocalBus, LocalQueue, Publisher, Queue, RedisClient, Scope, connect, connect_bus
from .domain import JobId
from .endpoints import Office, Seals
from .errors import BadRequest, SettingsError
from .hub import Hub
from .jobs import (
    Announcer,
    CallOptions,
    Canceller,
    Committed,
    Follower,
    Holds,
    JobContext,
    Keeper,
    Limited,
    Parent,
    Publications,
    Registry,
    Submitter,
    Sweeper,
    Ticker,
    Worker,
)
from .jobs import Submit as SubmitJob
from .ops import Health, ProbedRegistry, check_budget
from .queries import DatabasePool
from .settings import Settings
from .store import (
    UNHURRIED,
    Beats,
    Ear,
    EventStore,
    JobStore,
    PositionStore,
    Postgres,
    RecordStore,
    Retention,
    TicketStore,
    TickStore,
    WebhookStore,
    Within,
    check_schema,
)
from .transports import Cursors, Desk, Gate, RevocationListener, Streams, Waiter
from .web import (
    Acks,
    Callers,
    Cancels,
    Events,
    Group,
    Jobs,
    JobViews,
    Me,
    OwnJobs,
    Results,
    Sockets,
    Submit,
    Tickets,
    Webhooks,
    problem_response,
    routes,
)
from .webhooks import SigningSecrets
from .webhooks.courier import Courier
from .webhooks.sender import Sender

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Parts:
    """Each part once, made when first asked for, so that a process has what it needs."""

    def __init__(
        self,
        settings: Settings,
        jobs: Registry,
        databases: Mapping[str, SecretStr],
        own_connections: int,
        *,
        prefix: str = "",
        login: Login | None = None,
        hurried: bool = True,
        session_class: type[Session] = Session,
    ) -> None:
        """`prefix` is where the API is found from outside: it stands in the links that are encoded once for all.
        `hurried` says that somebody waits for what is asked of the store, as over HTTP."""
        self.settings = settings
        self.prefix = prefix
        self._login = login
        self.jobs = jobs
        self.url = settings.need("database_url")
        self._urls = databases or {"primary": SecretStr(self.url)}
        self.databases = {
            name: DatabasePool(
                url.get_secret_value(),
                name=name,
                executor_concurrency=settings.executor_concurrency,
                own_connections=own_connections,
                session_class=session_class,
                pooler=settings.pooler,
                side_by_side=settings.pooler_connections is not None,
            )
            for name, url in self._urls.items()
        }
        self.postgres = Postgres(
            self.url,
            settings.store_connections,
            settings.deployment,
            within=None if hurried else UNHURRIED,
            pooler=settings.pooler,
        )
        self.scope = Scope(settings.deployment, self.postgres.identity)
        self._clients: list[BusClient] = []
        self._local = LocalBus(alone=settings.web_processes <= 1) if settings.inline else None
        self._publisher: Publisher | None = None
        self._hub: Hub | None = None
        self._courier: Courier | None = None
        self._follower: Follower | None = None
        self.targets = Targets(settings.webhook_allow)

    async def check(self) -> None:
        """Before anything is accepted: the schema is right, and the connections fit. Closes all if not."""
        urls = {name: url.get_secret_value() for name, url in self._urls.items()}
        try:
            await check_schema(self.postgres, self.url, self.settings.pooler)
            logger.info("deployment %r is %s in Redis", self.settings.deployment, self.scope.id)
            await check_budget(self.settings, self.postgres, self.url, urls)
        except BaseException:
            await self.close()
            raise

    def _client(self, url: str, *, blocking: bool = False) -> RedisClient:
        client = connect(url, connections=2 if blocking else 16, blocking=blocking)
        self._clients.append(client)
        return client

    @cached_property
    def revocations(self) -> Revocations:
        return Revocations()

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.settings.need("secret"), self.revocations)

    @cached_property
    def redis(self) -> RedisClient:
        return self._client(self.settings.need("redis_url"))

    @property
    def _bus(self) -> str | LocalBus:
        return self.settings.bus if self._local is None else self._local

    @cached_property
    def queue(self) -> Queue:
        if self._local is not None:
            return LocalQueue()
        blocking = self._client(self.settings.need("redis_url"), blocking=True)
        return Queue(self.redis, blocking, self.scope, self.settings.queue)

    @cached_property
    def publisher(self) -> Publisher:
        if self._local is not None:
            self._publisher = Publisher(self._local, self.scope)
            return self._publisher
        bus: BusClient = self.redis
        if self.settings.bus_url:
            bus = connect_bus(self.settings.bus)
            self._clients.append(bus)
        self._publisher = Publisher(bus, self.scope)
        return self._publisher

    @cached_property
    def store(self) -> JobStore:
        return JobStore(self.postgres, self.callback_url)

    @cached_property
    def callback_url(self) -> str | None:
        """The service's own. Raises SettingsError if no webhook could be sent there."""
        url = self.settings.callback_url
        try:
            return None if url is None else self.targets.check(url.get_secret_value())
        except BadRequest as error:
            raise SettingsError(f"PUSHSVC_CALLBACK_URL: {error}") from None

    @cached_property
    def signing_secrets(self) -> SigningSecrets:
        given = [secret.get_secret_value() for secret in self.settings.webhook_secrets]
        return SigningSecrets(given, self.settings.secret.get_secret_value() if self.settings.secret else None)

    @cached_property
    def webhooks(self) -> WebhookStore:
        return WebhookStore(self.postgres, self.settings.webhook_period, self.prefix)

    @cached_property
    def courier(self) -> Courier:
        settings = self.settings
        sender = Sender(self.targets, timeout=settings.webhook_timeout, places=settings.webhook_concurrency)
        self._courier = Courier(self.webhooks, sender, self.signing_secrets, settings)
        return self._courier

    def _webhook_due(self) -> None:
        """In a worker; what a web process makes due, the workers find at their next look."""
        if self._courier is not None:
            self._courier.wake()

    @cached_property
    def events(self) -> EventStore:
        return EventStore(self.postgres, self.prefix)

    @cached_property
    def publications(self) -> Publications:
        return Publications(self.events, self.publisher, self.settings.inline_limit)

    @cached_property
    def announcer(self) -> Announcer:
        return Announcer(self.publisher, self.queue, self.prefix, called=self._webhook_due)

    @cached_property
    def sweeper(self) -> Sweeper:
        retention = Retention(self.postgres)
        return Sweeper(self.postgres, self.store, retention, self.queue, self.announcer, self.settings, self.limited)

    @cached_property
    def limited(self) -> Limited:
        return Limited(self.jobs, self.store, self.queue)

    @cached_property
    def hub(self) -> Hub:
        self._hub = Hub(
            self.events,
            self._bus,
            self.scope,
            top_check=self.settings.top_check,
            last_progress=self.publisher.last_progress,
        )
        return self._hub

    @cached_property
    def beats(self) -> Beats:
        return Beats(self.postgres, self.settings.deployment, self.settings.lease)

    @cached_property
    def health(self) -> Health:
        if self._local is not None:
            return Health(self.beats)
        return Health(self.beats, self.queue, self.publisher if self.settings.bus_url else None)

    def worker(self, holds: Holds, state: Callable[[], Any]) -> Worker:
        return Worker(
            registry=ProbedRegistry(self.jobs),
            store=self.store,
            queue=self.queue,
            publisher=self.publisher,
            announcer=self.announcer,
            databases=self.databases,
            settings=self.settings,
            holds=holds,
            bus=self._bus,
            limited=self.limited,
            submit=self.child_of,
            state=state,
        )

    def keeper(self, holds: Holds, end: Callable[[], None] | None, *, end_first: bool) -> Keeper:
        """For parts that are made for it alone: it has an event loop of its own."""
        return Keeper(
            holds, self.store, self.queue, self.announcer, self.beats, self.settings, end, end_first=end_first
        )

    @cached_property
    def records(self) -> RecordStore:
        return RecordStore(self.postgres)

    @cached_property
    def seals(self) -> Seals:
        before = [secret.get_secret_value() for secret in self.settings.previous_secrets]
        return Seals([self.settings.need("secret"), *before])

    @cached_property
    def logins(self) -> Logins:
        return Logins(self._login, self.tokens, self.settings.allowed_origins, self.settings.login_check)

    @cached_property
    def office(self) -> Office:
        return Office(
            logins=self.logins,
            door=self.submitter,
            records=self.records,
            seals=self.seals,
            jobs=self.store,
            registry=self.jobs,
            hub=self.hub,
            canceller=self.canceller,
            views=self.views,
            settings=self.settings,
            problem=problem_response,
            inline=self.settings.inline,
        )

    @cached_property
    def views(self) -> JobViews:
        return JobViews(self.queue, self.publisher, self.prefix, self.settings.tenant_weights)

    @cached_property
    def submitter(self) -> Submitter:
        return Submitter(self.jobs, self.store, self.within, self.events, self.queue, self.settings)

    @cached_property
    def within(self) -> Within:
        return Within(self.postgres)

    @cached_property
    def committed(self) -> Committed:
        return Committed(self.within, Ear(self.url, self.settings.deployment, self.settings.pooler), self.queue)

    @cached_property
    def ticker(self) -> Ticker:
        return Ticker(self.jobs, TickStore(self.postgres, self.store), self.submitter)

    @cached_property
    def follower(self) -> Follower:
        self._follower = Follower(self.store, self.publisher, self._bus)
        return self._follower

    @property
    def over(self) -> bool:
        """Whether the event loop that its connections belong to has been closed."""
        return self.postgres.loop is not None and self.postgres.loop.is_closed()

    def settle(self) -> asyncio.AbstractEventLoop:
        """From now on its event loop is this one, if it has none yet; which it is."""
        if self.postgres.loop is None:
            self.postgres.loop = asyncio.get_running_loop()
        return self.postgres.loop

    async def at_home(self, work: Callable[[Parts], Awaitable[T]]) -> T:
        """Do this in the event loop that the connections belong to, from whatever thread: a job that is a plain `def`
        has none of its own, and one that it makes is another."""
        home = self.settle()
        if home is asyncio.get_running_loop():
            return await work(self)

        async def there() -> T:
            return await work(self)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), home))

    def child_of(self, job: JobContext, options: CallOptions) -> SubmitJob:
        """What submits for a job that runs."""
        return SubmitJob(self.jobs, self.at_home, options, Parent(JobId(job.id), job.submitted))

    @cached_property
    def canceller(self) -> Canceller:
        return Canceller(self.store, self.publisher, self.announcer)

    @cached_property
    def connections(self) -> Slots[Connection]:
        return Slots(self.settings.connection_limit)

    @cached_property
    def revocation_listener(self) -> RevocationListener:
        return RevocationListener(self.revocations, self.connections)

    @cached_property
    def admission(self) -> Admission:
        return Admission(self.tokens, self.connections, Rate(self.settings.rate_limit))

    @cached_property
    def web(self) -> list[BaseRoute]:
        """The routes of the API; each group of them with the parts that it needs."""
        settings, hub, views = self.settings, self.hub, self.views
        gate = Gate(self.store, settings.channel_limit)
        cursors = Cursors(PositionStore(self.postgres, settings.device_limit), settings.cursor_limit)
        desk = Desk(hub, gate, self.admission, cursors, self.submitter, views, settings, self.prefix)
        streams = Streams(hub, self.admission, settings, self.prefix)
        waiter = Waiter(hub, self.admission)
        callers = Callers(self.admission)
        own = OwnJobs(callers, self.store)
        tickets = Tickets(callers, self.tokens, TicketStore(self.postgres))
        groups: list[Group] = [
            Submit(callers, self.submitter, own, views, waiter, settings),
            Jobs(callers, own, self.store, views, waiter, settings.wait_limit),
            Results(own, self.store, views, self.office, self.jobs),
            Cancels(own, views, self.canceller),
            Events(callers, tickets, gate, cursors, streams, self.events),
            Sockets(desk, tickets, self.logins),
            tickets,
            Acks(callers, cursors, settings.body_limit),
            Webhooks(callers, self.webhooks, self.signing_secrets, settings.body_limit),
            Me(callers),
        ]
        return routes(groups, self.jobs)

    async def close(self) -> None:
        """Close every connection that was opened."""
        if self._hub is not None:
            await self._hub.stop()
        if self._follower is not None:
            await self._follower.stop()
        if self._publisher is not None:
            self._publisher.close()
        for database in self.databases.values():
            await database.close()
        await self.postgres.close()
        for client in self._clients:
            with suppress(Exception):
                await client.aclose(close_connection_pool=True)
