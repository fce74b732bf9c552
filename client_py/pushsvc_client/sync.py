"""The same client for code that does not know asyncio: its event loop runs in a thread of its own.

Nothing is written twice: each method here waits for the one of the same name in `client.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from .client import PREFER, AsyncClient
from .handle import AsyncHandle
from .session import WAYS
from .stream import EventStream
from .submission import Page, Submission
from .tokens import Source
from .wire import Event, JobView, Progress, Reset

T = TypeVar("T")


class Portal:
    """An event loop in a daemon thread, and the way into it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pushsvc-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Its value, or what it raises. Whoever is interrupted meanwhile, by Ctrl+C, cancels it."""
        if not self.alive:
            work.close()
            raise RuntimeError("the client is closed")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "called from the client's own thread, such as its token function: use AsyncClient there"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self.alive:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _each(portal: Portal, items: AsyncIterator[T]) -> Iterator[T]:
    while True:
        try:
            item = portal.call(_next(items))
        except StopAsyncIteration:
            return
        yield item


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _made(make: Callable[[], T]) -> T:
    """What is made within the loop that it belongs to."""
    return make()


class Handle:
    """One job. Letting go of it does not cancel the job."""

    def __init__(self, portal: Portal, handle: AsyncHandle) -> None:
        self._portal = portal
        self._handle = handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def id(self) -> str:
        return self._handle.id

    @property
    def key(self) -> str | None:
        return self._handle.key

    def status(self) -> JobView:
        """The job as the server has it now. Raises NotFound."""
        return self._portal.call(self._handle.status())

    def result(self, timeout: float | None = None) -> Any:
        """What the job gave, once it has ended. Raises JobError, TimeoutError: the job goes on all the same."""
        return self._portal.call(self._handle.result(timeout))

    def response(self, timeout: float | None = None) -> httpx.Response:
        """Of an endpoint that answered later, its answer. Raises JobError, TimeoutError."""
        return self._portal.call(self._handle.response(timeout))

    def progress(self) -> Iterator[Progress]:
        """How far it is, each time that is told, until it has ended."""
        return _each(self._portal, self._handle.progress())

    def events(self) -> Events:
        """Each change of the job that is still to come, until its last."""
        return Events(self._portal, self._portal.call(_made(self._handle.events)))

    def cancel(self, *, children: bool = False) -> JobView:
        """Cancel it, for this submission. Raises AlreadyFinished."""
        return self._portal.call(self._handle.cancel(children=children))


class Events:
    """Every event of some channels after a cursor, once and in order; iterate, and close it or use `with`."""

    def __init__(self, portal: Portal, stream: EventStream) -> None:
        self._portal = portal
        self._stream = stream

    @property
    def cursor(self) -> str | None:
        """Where whoever iterates stands."""
        return self._stream.cursor

    def __enter__(self) -> Events:
        """Connected: what happens from now on is heard."""
        self._portal.call(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event | Reset]:
        return _each(self._portal, self._stream)

    def ack(self, cursor: str | None = None) -> None:
        """Remember for the device that it has everything up to the cursor, its present one by default."""
        self._portal.call(self._stream.ack(cursor))

    def close(self) -> None:
        self._portal.call(self._stream.aclose())


class Client:
    """A client of one service, for one user; any thread may use it. Arguments are those of AsyncClient.

    After a fork make another one in the child: threads and connections stay with the parent.
    """

    def __init__(
        self,
        url: str,
        token: Source = None,
        *,
        headers: Mapping[str, str] | None = None,
        retry_for: float = 60.0,
        transports: Sequence[str] = WAYS,
    ) -> None:
        self._portal = Portal()
        try:
            self._client = self._portal.call(
                _made(
                    lambda: AsyncClient(url, token, headers=headers, retry_for=retry_for, transports=transports),
                )
            )
        except BaseException:
            self._portal.close()
            raise

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections. Jobs go on."""
        if self._portal.alive:
            self._portal.call(self._client.close())
            self._portal.close()

    def submit(
        self,
        job: str | Submission,
        params: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        shared: bool = False,
        **options: Any,
    ) -> Handle:
        """Submit a job; when this returns, the service has it, and never loses it. See AsyncClient.submit."""
        work = self._client.submit(job, params, key=key, shared=shared, **options)
        return Handle(self._portal, self._portal.call(work))

    def batch(self, jobs: Iterable[Submission], *, key: str | None = None) -> list[Handle]:
        """Submit several jobs: all of them are accepted, or none."""
        return [Handle(self._portal, each) for each in self._portal.call(self._client.batch(jobs, key=key))]

    def run(
        self,
        job: str | Submission,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Submit a job and wait for its result."""
        return self._portal.call(self._client.run(job, params, timeout=timeout, **options))

    def job(self, id: str) -> Handle:
        """A job that was submitted before, here or elsewhere."""
        return Handle(self._portal, self._portal.call(_made(lambda: self._client.job(id))))

    def jobs(
        self, *, status: str | None = None, job: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page:
        """Jobs of one's own, the newest first."""
        return self._portal.call(self._client.jobs(status=status, job=job, limit=limit, after=after))

    def request(
        self,
        method: str,
        url: str,
        *,
        prefer: str = PREFER,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_accepted: Callable[[Handle], object] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """An endpoint's answer, also where it answers later. See AsyncClient.request. `on_accepted` is called in the
        client's own thread: it may keep the handle, and not ask it."""
        told = None if on_accepted is None else lambda handle: on_accepted(Handle(self._portal, handle))
        options: dict[str, Any] = {"prefer": prefer, "key": key, "headers": headers, "timeout": timeout}
        return self._portal.call(self._client.request(method, url, on_accepted=told, **options, **content))

    def events(
        self, channels: Sequence[str] | None = None, cursor: str | None = None, *, device: str | None = None
    ) -> Events:
        """The events of these channels, or of one's own inbox, from a cursor on. See AsyncClient.events."""
        stream = self._portal.call(_made(lambda: self._client.events(channels, cursor, device=device)))
        return Events(self._portal, stream)
