"""Events as an asynchronous iterator, over a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

from .errors import PushsvcError
from .feed import Feed
from .http import Http
from .session import Session
from .wire import Event, Item, Progress, Reset

AHEAD = 100
"""Items that are read ahead of whoever takes them; beyond that the server waits."""


class EventStream:
    """Every event of some channels after a cursor, once and in order, whatever happens to connections.

    A Reset stands where some are gone. Keep `cursor`, or an item's own, to go on from there another time.
    """

    def __init__(
        self,
        http: Http,
        channels: Sequence[str],
        cursor: str | None,
        ways: Sequence[str],
        device: str | None = None,
        closed: Callable[[EventStream], object] = lambda stream: None,
    ) -> None:
        """`closed` is called when it is. Raises ValueError on a cursor that is none."""
        self._http = http
        self._session = Session(channels, cursor, ways, device)
        self._feed = Feed(http, self._session, self)
        self._items: asyncio.Queue[Item] = asyncio.Queue(AHEAD)
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cursor = cursor
        self._device = device
        self._closed = closed

    @property
    def cursor(self) -> str | None:
        """Where whoever iterates stands: after the last item that was taken."""
        return self._cursor

    # Iterating

    async def __aenter__(self) -> EventStream:
        """Connected: what happens from now on is heard. Raises PushsvcError."""
        self._start()
        await self._either(self._connected.wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event | Reset:
        """Raises StopAsyncIteration when all channels were of jobs that have ended, PushsvcError when refused."""
        self._start()
        if self._items.empty():
            await self._either(self._ready())
        if self._items.empty():
            raise StopAsyncIteration
        item = self._items.get_nowait()
        self._cursor = item.cursor
        return item

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._closed(self)

    async def ack(self, cursor: str | None = None) -> None:
        """Remember for the device, for good, that it has everything up to the cursor: its present one, if none is
        said. Raises ValueError where there is nothing to remember or nobody, PushsvcError."""
        at = cursor or self._cursor
        if self._device is None or not at:
            raise ValueError("an ack needs a device, which events() was given, and a position: take an event first")
        if not await self._feed.ack(at):
            await self._http.call("POST", "/v1/ack", json={"cursor": at, "device": self._device})

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._feed.run())

    async def _ready(self) -> None:
        """There is an item; it stays where it is, so that nobody who is cancelled meanwhile takes it along."""
        while self._items.empty():
            self._more = asyncio.Event()
            await self._more.wait()

    async def _either(self, waiting: object) -> None:
        """Until it comes, or the feed has ended: raise what ended it, unless there are items left."""
        assert self._task is not None
        waiter = asyncio.ensure_future(waiting)  # type: ignore[call-overload]
        try:
            await asyncio.wait([waiter, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._task.done() and self._items.empty():
            self._task.result()

    # What the feed says

    _more: asyncio.Event | None = None

    async def hear(self, item: Item | Progress) -> None:
        if not isinstance(item, Progress):
            await self._items.put(item)
            if self._more is not None:
                self._more.set()

    def live(self) -> None:
        if not self._connected.is_set():
            self._cursor = self._session.cursor
            self._connected.set()

    def refused(self, channel: str, error: PushsvcError) -> None:
        raise AssertionError("no channel is added to these")
