"""How the jobs of a client go on: one feed for all of them, and whoever waits for one is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from .errors import PushsvcError
from .feed import Feed
from .http import Http
from .session import Session
from .wire import Event, Item, JobView, Position, Progress, Reset, format_cursor, parse_cursor, view_of

WAIT = 25
"""Seconds that a request for one job waits at the server, where no push brings its end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: `succeeded`, `failed`, `cancelled` or `expired`. Not `inline`: its result is to be fetched."""

    status: str
    data: Any = None
    inline: bool = False
    error: Mapping[str, Any] | None = None

    @classmethod
    def of_event(cls, event: Event) -> Outcome:
        return cls(event.type.removeprefix("job."), event.data, event.ref is None, event.error)

    @classmethod
    def of_view(cls, view: JobView) -> Outcome:
        return cls(view.status, error=view.error)


class Record:
    """What is known of one job, for all handles of it."""

    def __init__(self, job: str, own: Mapping[str, Position] | None = None) -> None:
        """`own`: it was submitted here, when the inbox stood there."""
        self.id = job
        self.own = dict(own or {})
        self.outcome: Outcome | None = None
        self.progress: Progress | None = None
        self.covered = False
        """Whether the feed brings its end, if it has not ended."""
        self.alone = False
        """Whether the feed can't."""
        self._bell = asyncio.Event()

    def finish(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome = outcome
        self.ring()

    def ring(self) -> None:
        """Something has changed: whoever waits looks again."""
        self._bell.set()
        self._bell = asyncio.Event()

    def change(self) -> Coroutine[Any, Any, Any]:
        """To be awaited: the next change from this call on, whenever the waiting begins."""
        return self._bell.wait()


class Results:
    """The listener of a client's own feed. It connects when somebody first waits for a job."""

    def __init__(self, http: Http, ways: Sequence[str]) -> None:
        self._http = http
        self._ways = ways
        self._records: WeakValueDictionary[str, Record] = WeakValueDictionary()
        self._early: dict[str, Event] = {}
        self._submitting = 0
        self._feed: Feed | None = None
        self._task: asyncio.Task[None] | None = None
        self._live = asyncio.Event()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Jobs that become known

    @contextlib.contextmanager
    def submitting(self) -> Iterator[None]:
        """A job's end may be pushed before the answer to its submission has been read."""
        self._submitting += 1
        try:
            yield
        finally:
            self._submitting -= 1
            if not self._submitting:
                self._early.clear()

    def submitted(self, view: JobView) -> Record:
        """The record of a job that has been accepted just now."""
        cursor = _positions(view.cursor)
        own = {name: at for name, at in cursor.items() if name.startswith("user:")}
        record = self._records.get(view.id)
        if record is None:
            self._records[view.id] = record = Record(view.id, own)
            session = self._feed.session if self._task and self._feed else None
            record.covered = session is not None and any(session.position(name) for name in own)
        if view.finished:
            record.finish(Outcome.of_view(view))
        elif view.id in self._early:
            record.finish(Outcome.of_event(self._early[view.id]))
        return record

    def known(self, job: str) -> Record:
        """The record of a job of which only the id is known."""
        record = self._records.get(job)
        if record is None:
            self._records[job] = record = Record(job)
        return record

    # Waiting

    async def change(self, record: Record) -> None:
        """Return when more is known of the job, or might be. Raises PushsvcError when that can't be had."""
        if record.alone or not self._http.tokens.given:
            await self._look(record, wait=WAIT)
        elif record.covered and self._task is not None:
            await self._first(record.change())
        else:
            self._start()
            if not record.covered:
                await self._first(self._live.wait())
                await self._cover(record)

    async def ended(self, record: Record) -> Outcome:
        """How it ended, once it has."""
        while record.outcome is None:
            await self.change(record)
        return record.outcome

    async def _first(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Until it comes; or raise what ended the feed."""
        waiter, task = asyncio.ensure_future(waiting), self._task
        assert task is not None
        try:
            await asyncio.wait([waiter, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if task.done() and not task.cancelled():
            task.result()

    async def _cover(self, record: Record) -> None:
        """From now on the feed brings its end, unless it has ended already. The feed was live before we look."""
        record.covered = True
        view = await self._look(record)
        if record.outcome is None and not record.own and self._feed is not None:
            await self._feed.add(f"job:{record.id}", {f"job:{record.id}": Position("1", view.version)})

    async def _look(self, record: Record, wait: int = 0) -> JobView:
        """Ask the server how the job is."""
        params = {"wait": wait} if wait else None
        try:
            reply = await self._http.call("GET", f"/v1/jobs/{record.id}", params=params, wait=wait)
        except BaseException:
            record.covered = False
            raise
        view = view_of(reply.json())
        if view.finished:
            record.finish(Outcome.of_view(view))
        elif view.progress is not None and view.progress != record.progress:
            record.progress = view.progress
            record.ring()
        return view

    async def follow(self, record: Record) -> None:
        """Its progress is wanted, too: between two polls some of it is lost, unless its own channel is attached."""
        if record.alone or not self._http.tokens.given:
            return
        self._start()
        channel = f"job:{record.id}"
        if (
            self._feed is not None
            and self._feed.session.way == "longpoll"
            and channel not in self._feed.session.extra
        ):
            await self._feed.add(channel, {channel: Position("1", 0)})

    # The feed

    def _start(self) -> None:
        """Connect, unless that is done: from where on the end of each job that was submitted here is heard."""
        if self._task is not None:
            return
        first: dict[str, Position] = {}
        waiting = [record for record in self._records.values() if record.outcome is None]
        for record in waiting:
            for name, at in record.own.items():
                if name not in first or (at.epoch == first[name].epoch and at.offset < first[name].offset):
                    first[name] = at
        for record in waiting:
            record.covered = any(first[name].epoch == at.epoch for name, at in record.own.items())
        session = Session(cursor=format_cursor(first) or None, ways=self._ways)
        self._live.clear()
        self._feed = Feed(self._http, session, self)
        self._task = asyncio.create_task(self._feed.run())
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """Refused for good; whoever waits next tries again."""
        self._task = self._feed = None
        if not task.cancelled():
            task.exception()
        self._uncover()

    def _uncover(self) -> None:
        for record in list(self._records.values()):
            if record.outcome is None:
                record.covered = False
                record.ring()

    def live(self) -> None:
        self._live.set()

    async def hear(self, item: Item | Progress) -> None:
        if isinstance(item, Reset):
            # What is gone may have been the end of any of them.
            self._uncover()
        elif isinstance(item, Progress):
            if (record := self._records.get(item.job)) is not None:
                record.progress = item
                record.ring()
        elif item.final and item.job is not None:
            if self._submitting:
                self._early[item.job] = item
            if (record := self._records.get(item.job)) is not None:
                record.finish(Outcome.of_event(item))

    def refused(self, channel: str, error: PushsvcError) -> None:
        """One connection does not hear this many, or the job is gone: ask for it alone."""
        if (record := self._records.get(channel.removeprefix("job:"))) is not None:
            record.alone = True
            record.ring()


def _positions(cursor: str) -> dict[str, Position]:
    try:
        return parse_cursor(cursor)
    except ValueError:
        return {}
