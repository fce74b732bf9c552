"""What a running job holds in its hand: its database, its progress, who asked for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Unpack

from ..domain import Progress
from ..errors import JobError, SettingsError, TransactionOpen
from ..tasks import tolerated
from ..text import legible
from .options import CHILD_OPTIONS, CallOptions, ChildOptions, options_of

if TYPE_CHECKING:
    from ..queries import Database, QueryRecord
    from .submit import Options, Submit

PROGRESS_EVERY = 0.1
"""Seconds between two progress messages of one job at the least; in between, the latest wins."""

SHOWN_QUERIES = 100
"""How many queries a progress message shows, the latest."""

MESSAGE = 2048
"""Bytes of a progress message."""

Tell = Callable[[Progress], Awaitable[None]]


PgSettingsFor = Mapping[str, Any] | Callable[["JobContext"], Mapping[str, Any] | None] | None
"""Settings of PostgreSQL's for the queries of a job, or what gives them for one run of it."""


class JobContext:
    """Given to a job as its first parameter.

    A job that is a plain `def` runs in a thread: there, `promise.value()` stands for `await promise`, and
    `progress` takes effect without being awaited.
    """

    def __init__(
        self,
        *,
        id: str,
        name: str,
        attempt: int,
        tenant: str,
        user: str | None,
        open_database: Callable[[str, Callable[[QueryRecord], None]], Database],
        tell: Tell,
        pg_settings: PgSettingsFor = None,
        parent: str | None = None,
        state: Any = None,
        submit: Callable[[JobContext, CallOptions], Submit] | None = None,
        lend: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self.id = id
        self.name = name
        self.attempt = attempt
        self.tenant = tenant
        self.user = user
        """The subject that submitted the job; None if that was nobody in particular."""
        self.parent = parent
        """The id of the job that has submitted this one; None if none has."""
        self.state: Any = state
        """What the service's `lifespan` has yielded in this process."""
        self._submit = submit
        self._lend = lend
        self._submitted: Counter[str] = Counter()
        self._waits = 0
        self._place = AsyncExitStack()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._open_database = open_database
        self._pg_settings = pg_settings
        self._databases: dict[str, Database] = {}
        self._tell = tell
        self._started = time.monotonic()
        self._value = 0.0
        self._message = ""
        self._told_at = 0.0
        self._teller: asyncio.Task[None] | None = None
        self._untold = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<JobContext {self.name} {self.id} attempt {self.attempt}>"

    @property
    def db(self) -> Database:
        """The database named `primary`."""
        return self.database("primary")

    def database(self, name: str) -> Database:
        """One of `Service(databases={…})`.

        Raises SettingsError on a name that is not there, JobError when the job has ended, as in a thread that runs on
        after its job was stopped.
        """
        self._refuse_when_ended("its databases")
        if threading.get_ident() != self._thread:
            return asyncio.run_coroutine_threadsafe(self._database(name), self._loop).result()
        if name not in self._databases:
            try:
                self._databases[name] = self._open_database(name, self._query_changed)
            except KeyError:
                raise SettingsError(f"there is no database named {name!r}; see Service(databases={{…}})") from None
        return self._databases[name]

    @property
    def queries(self) -> list[dict[str, Any]]:
        """The job's last hundred queries, in the order in which they were scheduled; times in ms since its start."""
        records = [record for database in self._databases.values() for record in database.queries]
        records.sort(key=lambda record: record.scheduled)
        return [record.as_json(self._started) for record in records[-SHOWN_QUERIES:]]

    @property
    def submit(self) -> Submit:
        """`await ctx.submit(job, …)`: submit a child of this job. When this one is retried, the same call gives the
        same child again. See `Service.submit`."""
        return self._submitting(CallOptions(tenant=self.tenant, owner=self.user))

    def options(self, **said: Unpack[ChildOptions]) -> Options:
        """`await ctx.options(key="k").submit(job, …)`; see `Service.options`. A child is its parent's owner's, unless
        another is said."""
        from .submit import Options

        base = CallOptions(tenant=self.tenant, owner=self.user)
        return Options(self._submitting(options_of(base, said, CHILD_OPTIONS)))

    def submitted(self, what: str) -> int:
        """How often this attempt has submitted the same before."""
        self._submitted[what] += 1
        return self._submitted[what] - 1

    def _submitting(self, options: CallOptions) -> Submit:
        if self._submit is None:
            raise SettingsError(f"{self.name} runs where nothing can be submitted, as in a test")
        return self._submit(self, options)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """In this block the job waits for another, and its place is another's. Raises TransactionOpen: within a
        transaction it holds a connection that the other may need."""
        if any(database.in_transaction for database in self._databases.values()):
            raise TransactionOpen("end the transaction before you wait for another job: that may need its connection")
        self._waits += 1
        try:
            if self._waits == 1:
                self._place = AsyncExitStack()
                await self._place.enter_async_context(self._lend())
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                await self._place.aclose()

    def progress(self, value: float, message: str = "") -> Awaitable[None]:
        """Say how far the job is, from 0 to 1. Throttled, volatile, never logged: call it as often as you like.

        It takes effect at once; awaiting what it gives lets other tasks run. A message is cut at 2 KiB. Raises
        ValueError when `value` is not within 0 and 1, JobError when the job has ended.
        """
        self._refuse_when_ended("its progress")
        if not 0 <= value <= 1:
            raise ValueError(f"progress goes from 0 to 1, not to {value}")
        self._value, self._message = float(value), legible(str(message), MESSAGE)
        if threading.get_ident() == self._thread:
            self._schedule()
        else:
            self._loop.call_soon_threadsafe(self._schedule)
        return Breath()

    def pg_settings(self) -> Mapping[str, Any] | None:
        """The settings of PostgreSQL's that hold for its queries, found out when it first uses a database.

        Raises SettingsError, and whatever the function raises that gives them.
        """
        given = self._pg_settings
        if callable(given):
            self._pg_settings = _refuse_recursion
            given = given(self)
            if given is not None and not isinstance(given, Mapping):
                raise SettingsError(f"pg_settings of {self.name} gives a mapping, not {type(given).__name__}")
        self._pg_settings = given
        return given

    def _refuse_when_ended(self, what: str) -> None:
        if self._closed:
            raise JobError(f"job {self.name} {self.id} has ended: {what} can't be used any more")

    async def _database(self, name: str) -> Database:
        return self.database(name)

    def _query_changed(self, _record: QueryRecord) -> None:
        self._schedule()

    def _schedule(self) -> None:
        self._untold = True
        if not self._closed and (self._teller is None or self._teller.done()):
            self._teller = asyncio.create_task(self._tell_soon())

    async def _tell_soon(self) -> None:
        """Tell at once, or when the last telling is `PROGRESS_EVERY` ago; what came meanwhile is in it, and what
        comes while it is being told is told after that."""
        with tolerated("telling progress"):
            while self._untold:
                await asyncio.sleep(max(0.0, self._told_at + PROGRESS_EVERY - time.monotonic()))
                self._told_at = time.monotonic()
                self._untold = False
                queries: tuple[Mapping[str, Any], ...] = tuple(self.queries)
                await self._tell(Progress(self.id, self._value, self._message, queries))

    async def close(self) -> None:
        """At the job's end: no query of it runs on, no progress comes after its result."""
        self._closed = True
        if self._teller is not None:
            self._teller.cancel()
        for database in self._databases.values():
            await database.close()


def _refuse_recursion(context: JobContext) -> None:
    raise SettingsError(f"pg_settings of {context.name} can't ask the database: they are for that")


class Breath(Awaitable[None]):
    """Lets other tasks run when awaited, and says nothing when it is not."""

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(0).__await__()
