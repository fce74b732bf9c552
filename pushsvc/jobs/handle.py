"""What a submission from Python gives: the job's id, its progress, its result, its cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from .. import wire
from ..domain import Job, JobId, JobStatus, Progress
from ..errors import JobError, JobFailed
from .cancel import Canceller
from .current import waiting
from .following import Follower
from .submission import Submitter

Result = TypeVar("Result", covariant=True)
T = TypeVar("T")


class Office(Protocol):
    """The parts of a process that submissions from Python need."""

    @property
    def submitter(self) -> Submitter: ...
    @property
    def follower(self) -> Follower: ...
    @property
    def canceller(self) -> Canceller: ...


class AtHome(Protocol):
    """Does something with the parts, in the event loop where they are at home, and waits for it."""

    async def __call__(self, work: Callable[[Office], Awaitable[T]]) -> T: ...


class Handle(Generic[Result]):
    """A job that was submitted, from wherever it is asked."""

    def __init__(
        self, id: JobId, name: str, tenant: str, at_home: AtHome, read: Callable[[bytes | None], Any]
    ) -> None:
        self.id = id
        self.name = name
        self.tenant = tenant
        self._at_home = at_home
        self._read = read

    def __repr__(self) -> str:
        return f"<Handle {self.name} {self.id}>"

    async def status(self) -> JobStatus:
        """As it is now. Raises NotFound when it is past its retention, or its transaction is still open."""
        return (await self._at_home(lambda office: office.follower.job(self.tenant, self.id))).status

    async def result(self, timeout: float | None = None) -> Result:
        """What the job returned, as its signature says it. Waits for it, for `timeout` seconds at most.

        Raises the job's own error: JobFailed, JobTimedOut, JobCancelled, JobExpired, WorkerLost, or a JobError with
        the code, status and detail that its author gave. TimeoutError when it takes longer; the job goes on. A job
        that waits here gives its place to another meanwhile; TransactionOpen when it does so within a transaction
        of its own.
        """

        async def ended(office: Office) -> tuple[Job, bytes | None]:
            async with asyncio.timeout(timeout):
                job = await office.follower.job(self.tenant, self.id)
                if job.status.terminal:
                    return await office.follower.ended(self.tenant, self.id)
                async with waiting():
                    return await office.follower.ended(self.tenant, self.id)

        job, result = await self._at_home(ended)
        if job.status is not JobStatus.SUCCEEDED:
            raise error_of(job)
        value: Result = self._read(result)
        return value

    async def cancel(self, *, children: bool = False) -> JobStatus:
        """Ask that it be cancelled, with `children` whatever it has submitted, too; its status then.

        Raises AlreadyFinished, NotFound.
        """

        async def cancelled(office: Office) -> Job:
            job = await office.follower.job(self.tenant, self.id)
            return await office.canceller.cancel(job, children=children)

        return (await self._at_home(cancelled)).status

    async def progress(self) -> AsyncGenerator[Progress]:
        """`async for progress in handle.progress():` what it says of itself, until it ends."""
        heard: asyncio.Queue[Progress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def follow(office: Office) -> None:
            async with aclosing(office.follower.progress(self.tenant, self.id)) as said:
                async for each in said:
                    loop.call_soon_threadsafe(heard.put_nowait, each)

        following = asyncio.ensure_future(self._at_home(follow))
        following.add_done_callback(lambda _: heard.put_nowait(None))
        try:
            while (each := await heard.get()) is not None:
                yield each
            await following
        finally:
            following.cancel()

    def __aiter__(self) -> AsyncGenerator[Progress]:
        return self.progress()


def error_of(job: Job) -> JobError:
    """The error that a job has ended with, as it is raised: of its own class where that is known here by its code, be
    it one of ours or an author's."""
    problem = wire.problem_of(job.error or "null")
    detail = problem.pop("detail", None)
    kinds: list[type[JobError]] = [JobFailed, *_kinds(JobError)]
    kind = next((each for each in kinds if each.code == problem["code"]), JobError)
    if kind.code == problem["code"]:
        problem = {name: value for name, value in problem.items() if name not in ("code", "type", "title")}
    # Without its own constructor, which may want other arguments.
    error = kind.__new__(kind)
    JobError.__init__(error, detail, **problem)
    return error


def _kinds(of: type[JobError]) -> Iterator[type[JobError]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)
