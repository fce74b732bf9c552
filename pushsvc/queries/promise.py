"""A promise: the answer to a query that may not be there yet."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from ..errors import QueryCancelled

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

Status = Literal["pending", "running", "complete", "failed", "cancelled"]

_SETTLED: frozenset[Status] = frozenset({"complete", "failed", "cancelled"})


class Work(Protocol):
    """What stands behind a promise and settles it."""

    def needed(self) -> None:
        """Somebody awaits the answer: see to it that the work gets done."""

    def abandoned(self) -> None:
        """The promise was cancelled: nobody wants the answer any more."""

    def answered(self, waited: float) -> None:
        """The first await came back after this many seconds."""


class Promise(Awaitable[T_co], Generic[T_co]):
    """An answer to come: awaitable any number of times, by any number of tasks; computed once.

    A failed promise raises its error at every `await`, and nowhere else: an error that nobody awaits makes
    no noise. Awaiting a cancelled one raises QueryCancelled. If a task is cancelled while it alone awaits the
    promise (by `asyncio.timeout`, a TaskGroup, the job's end), the promise is cancelled with it.

    Belongs to the event loop it was made in; made by `Database`, never directly.
    """

    __slots__ = ("_answer", "_awaiting", "_error", "_status", "_trace", "_waiters", "_work", "awaited")

    def __init__(self, work: Work) -> None:
        self._work = work
        self._status: Status = "pending"
        self._answer: Any = None
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._awaiting = 0
        self.awaited = False

    def __repr__(self) -> str:
        return f"<Promise {self._status}>"

    @property
    def status(self) -> Status:
        """`pending` until it runs, then `running`, in the end `complete`, `failed` or `cancelled`."""
        return self._status

    @property
    def settled(self) -> bool:
        """Whether the status is final."""
        return self._status in _SETTLED

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._wait().__await__()

    @overload
    def then(self, fn: Callable[[T_co], Awaitable[U]]) -> Promise[U]: ...

    @overload
    def then(self, fn: Callable[[T_co], U]) -> Promise[U]: ...

    def then(self, fn: Callable[[T_co], Any]) -> Promise[Any]:
        """A promise of what `fn`, a function or a coroutine function, makes of the answer.

        `fn` runs once, when the new promise is first awaited. An error in either is raised there.
        """
        return _Continuation(self, fn).promise

    def cancel(self, detail: str | None = None) -> bool:
        """Give the answer up; a query that runs is stopped in the server. False if it had settled before.

        Returns at once: the server's side is wound up in the background, and `Database.close` waits for it.
        """
        if self.settled:
            return False
        self._settle("cancelled", error=QueryCancelled(detail))
        self._work.abandoned()
        return True

    # What follows is for the work behind the promise, and does nothing once the promise is settled.

    def begin(self) -> None:
        """The work has started."""
        if not self.settled:
            self._status = "running"

    def resolve(self, answer: object) -> None:
        """The work has this answer."""
        self._settle("complete", answer=answer)

    def reject(self, error: BaseException) -> None:
        """The work ended with this error; with QueryCancelled, the promise counts as cancelled."""
        self._settle("cancelled" if isinstance(error, QueryCancelled) else "failed", error=error)

    def _settle(self, status: Status, *, answer: object = None, error: BaseException | None = None) -> None:
        if self.settled:
            return
        self._status, self._answer, self._error = status, answer, error
        self._trace = error.__traceback__ if error else None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> T_co:
        first, self.awaited = not self.awaited, True
        began = time.monotonic()
        if not self.settled:
            self._work.needed()
        while not self.settled:
            await self._settling()
        if first:
            self._work.answered(time.monotonic() - began)
        if self._error is not None:
            # The same error may be raised many times: each raise starts from the traceback it came with,
            # or every await would add its frames to those of the others.
            raise self._error.with_traceback(self._trace)
        return self._answer  # type: ignore[no-any-return]  # its T is the query's

    async def _settling(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        self._awaiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if self._awaiting == 1:
                self.cancel("the task that awaited it was cancelled")
            raise
        finally:
            self._awaiting -= 1
            self._waiters.discard(waiter)


class _Continuation:
    """The work of `Promise.then`: a function applied to another promise's answer, when needed."""

    def __init__(self, source: Promise[Any], fn: Callable[[Any], Any]) -> None:
        self.promise: Promise[Any] = Promise(self)
        self._source = source
        self._fn = fn
        self._task: asyncio.Task[None] | None = None

    def needed(self) -> None:
        if self._task is None:
            self.promise.begin()
            # A task of its own, so that of several tasks awaiting it one can be cancelled without the others.
            self._task = asyncio.get_running_loop().create_task(self._run())

    def abandoned(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def answered(self, waited: float) -> None:
        """Nothing to tell: the query it builds on tells how long it was waited for."""

    async def _run(self) -> None:
        try:
            answer = self._fn(await self._source)
            if inspect.isawaitable(answer):
                answer = await answer
        except asyncio.CancelledError:
            self.promise.reject(QueryCancelled("what was to be made of its answer was cancelled"))
        except Exception as error:
            self.promise.reject(error)
        else:
            self.promise.resolve(answer)
