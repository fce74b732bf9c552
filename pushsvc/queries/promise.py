"""A promise: the answer to a query that may not be there yet."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol, TypeVar, overload

from ..errors import QueryCancelled, QueryError

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

Status = Literal["pending", "running", "complete", "failed", "cancelled"]

_SETTLED: frozenset[Status] = frozenset({"complete", "failed", "cancelled"})


class Work(Protocol):
    """What stands behind promises and settles them."""

    def needed(self, promise: Promise[Any]) -> None:
        """Somebody awaits the answer: see to it that the work gets done."""

    def abandoned(self, promise: Promise[Any]) -> None:
        """The promise was cancelled: nobody wants its answer any more."""

    def answered(self, promise: Promise[Any], waited: float) -> None:
        """The first await came back after this many seconds."""


class _Done:
    """The work of a promise that was made settled: there is none."""

    def needed(self, promise: Promise[Any]) -> None: ...

    def abandoned(self, promise: Promise[Any]) -> None: ...

    def answered(self, promise: Promise[Any], waited: float) -> None: ...


_DONE = _Done()


class Promise(Awaitable[T_co], Generic[T_co]):
    """An answer to come: awaitable any number of times, by any number of tasks; computed once.

    A failed promise raises its error at every `await`, and nowhere else: an error that nobody awaits makes
    no noise. Awaiting a cancelled one raises QueryCancelled. If a task is cancelled while it alone awaits the
    promise (by `asyncio.timeout`, a TaskGroup, the job's end), the promise is cancelled with it.

    Belongs to the event loop it was made in; made by `Database`, never directly. A job that is a plain `def`
    runs in a thread, where nothing can be awaited: there, `value()`. A promise itself is no answer: `if promise:`,
    comparing it, its length and the like raise TypeError.
    """

    __slots__ = (
        "_answer", "_awaiting", "_error", "_loop", "_status", "_trace", "_waiters", "_watchers", "_work", "awaited",
    )  # fmt: skip

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._work = work
        self._loop = loop or asyncio.get_running_loop()
        self._watchers: list[Callable[[Promise[Any]], None]] = []
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

    @classmethod
    def of(cls, answer: U) -> Promise[U]:
        """A promise that is complete from the start."""
        promise: Promise[U] = Promise(_DONE)
        promise.resolve(answer)
        return promise

    @classmethod
    def failed(cls, error: Exception) -> Promise[Any]:
        """A promise that has failed from the start."""
        promise: Promise[Any] = Promise(_DONE)
        promise.reject(error)
        return promise

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._wait().__await__()

    # Forgetting the `await` is to be an error, and never an answer.

    def __bool__(self) -> NoReturn:
        raise _forgotten("is neither true nor false")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Promise):
            return self is other
        raise _forgotten(f"can't be compared with {type(other).__name__}")

    __hash__ = object.__hash__

    if not TYPE_CHECKING:  # type checkers refuse these by themselves

        def __len__(self) -> NoReturn:
            raise _forgotten("has no length")

        def __iter__(self) -> NoReturn:
            raise _forgotten("can't be iterated over")

        def __getitem__(self, key: object) -> NoReturn:
            raise _forgotten("has no items")

        def __contains__(self, item: object) -> NoReturn:
            raise _forgotten("contains nothing")

        def __lt__(self, other: object) -> NoReturn:
            raise _forgotten(f"can't be compared with {type(other).__name__}")

        __le__ = __gt__ = __ge__ = __lt__

    def value(self, timeout: float | None = None) -> T_co:
        """The answer, for a job that runs in a thread: blocks until it is there, at most `timeout` seconds.

        Raises what an `await` would, TimeoutError, and QueryError where blocking would stop the event loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._loop.is_closed():
                return self._outcome()
            return asyncio.run_coroutine_threadsafe(self._wait(), self._loop).result(timeout)
        raise QueryError("value() blocks, and would stop the event loop here: await the promise instead")

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
        if self._in_another_thread():
            return asyncio.run_coroutine_threadsafe(self._cancelled(detail), self._loop).result()
        self._settle("cancelled", error=QueryCancelled(detail))
        self._work.abandoned(self)
        return True

    def watch(self, watcher: Callable[[Promise[Any]], None]) -> None:
        """Call this once when the promise is settled; now, if it is."""
        if self.settled:
            watcher(self)
        else:
            self._watchers.append(watcher)

    def need(self) -> None:
        """What the first step of an `await` does: somebody waits, so a query that has not started is taken."""
        if not self.settled:
            self._work.needed(self)

    def tell(self, waited: float) -> None:
        """Somebody waited this many seconds for what it is a part of."""
        self._work.answered(self, waited)

    @property
    def answer(self) -> Any:
        """The answer, once it is complete; None until then."""
        return self._answer

    @property
    def error(self) -> BaseException | None:
        """Why it has no answer, once that is known."""
        return self._error

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
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher(self)

    def _in_another_thread(self) -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._loop.is_running()
        return False

    async def _cancelled(self, detail: str | None) -> bool:
        return self.cancel(detail)

    async def _wait(self) -> T_co:
        first, self.awaited = not self.awaited, True
        began = time.monotonic()
        if not self.settled and asyncio.get_running_loop() is not self._loop:
            raise QueryError("a promise is awaited in the event loop in which it was made")
        self.need()
        while not self.settled:
            await self._settling()
        if first:
            self._work.answered(self, time.monotonic() - began)
        return self._outcome()

    def _outcome(self) -> T_co:
        if not self.settled:
            raise QueryError("the event loop in which the promise was made is over, and it has no answer")
        if self._error is not None:
            # The same error may be raised many times: each raise starts from the traceback it came with,
            # or every await would add its frames to those of the others.
            raise self._error.with_traceback(self._trace)
        return self._answer  # type: ignore[no-any-return]  # its T is the query's

    async def _settling(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
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


def _forgotten(what: str) -> TypeError:
    return TypeError(f"a promise {what}: its answer may be; await it first (in a job that is a plain def: value())")


class _Continuation:
    """The work of `Promise.then`: a function applied to another promise's answer, when needed."""

    def __init__(self, source: Promise[Any], fn: Callable[[Any], Any]) -> None:
        self.promise: Promise[Any] = Promise(self, source._loop)
        self._source = source
        self._fn = fn
        self._task: asyncio.Task[None] | None = None

    def needed(self, promise: Promise[Any]) -> None:
        if self._task is None:
            self.promise.begin()
            # A task of its own, so that of several tasks awaiting it one can be cancelled without the others.
            self._task = asyncio.get_running_loop().create_task(self._run())

    def abandoned(self, promise: Promise[Any]) -> None:
        if self._task is not None:
            self._task.cancel()

    def answered(self, promise: Promise[Any], waited: float) -> None:
        """Nothing to tell: the query it builds on tells how long it was waited for."""

    async def _run(self) -> None:
        try:
            answer = self._fn(await self._source)
            if inspect.isawaitable(answer):
                answer = await answer
        except asyncio.CancelledError:
            self.promise.reject(QueryCancelled("what was to be made of its answer was cancelled"))
        except GeneratorExit:
            raise
        except BaseException as error:
            # SystemExit, too: a task that ends with it ends the event loop, and nobody would learn of it by awaiting.
            self.promise.reject(error)
        else:
            self.promise.resolve(answer)
