"""`service.submit` and `ctx.submit`: a job's function and its parameters, typed by the function's own signature."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from .. import wire
from ..domain import JobId, Submission
from .calls import options_among, params_of, result_of
from .context import JobContext
from .handle import AtHome, Handle, Office
from .options import OPTIONS, CallOptions, options_of
from .registry import JobSpec, Registry

P = ParamSpec("P")
R = TypeVar("R")
Submitted = Coroutine[Any, Any, Handle[R]]


@dataclass(frozen=True, slots=True)
class Parent:
    """The job that submits. `count` says how often it has submitted this very thing before, in this attempt."""

    id: JobId
    count: Callable[[str], int]


class Submit:
    """Submits jobs from Python. See `Service.submit`."""

    def __init__(
        self, registry: Registry, at_home: AtHome, options: CallOptions, parent: Parent | None = None
    ) -> None:
        self._registry = registry
        self._at_home = at_home
        self._options = options
        self._parent = parent

    def __repr__(self) -> str:
        return "<submit>"

    @overload
    def __call__(
        self, job: Callable[Concatenate[JobContext, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Submitted[R]: ...
    @overload
    def __call__(
        self, job: Callable[Concatenate[JobContext, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Submitted[R]: ...
    @overload
    def __call__(self, job: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Submitted[R]: ...
    @overload
    def __call__(self, job: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Submitted[R]: ...
    @overload
    def __call__(self, job: str, /, *args: Any, **kwargs: Any) -> Submitted[Any]: ...

    async def __call__(self, job: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """See `Service.submit`."""
        spec = self._registry.get(job) if isinstance(job, str) else self._registry.of(job)
        beside = options_among(spec, kwargs, OPTIONS)
        params = params_of(spec, args, {name: value for name, value in kwargs.items() if name not in beside})
        given = options_of(self._options, beside) if beside else self._options

        async def accepted(office: Office) -> Submission:
            return office.submitter.check(given.tenant, given.owner, spec.name, params, given.key, given.submit)

        submission = await self._at_home(accepted)
        if self._parent is not None:
            submission = _child(submission, self._parent, spec, given.key)
        if given.transaction is None:
            job_id = await self._at_home(partial(_accept, submission))
        else:
            job_id = await self._within(given.transaction, replace(submission, coalesce=False, mark=None))
        return Handle(JobId(job_id), spec.name, submission.tenant, self._at_home, partial(result_of, spec))

    async def _within(self, transaction: Any, submission: Submission) -> str:
        """Where the caller is, as the transaction is the caller's."""

        async def prepare(office: Office) -> Callable[[Any, Submission], Awaitable[str]]:
            return await office.submitter.within(submission)

        insert = await self._at_home(prepare)
        return await insert(transaction, submission)


class Options:
    """`service.options(owner="alice").submit(…)`: what holds for the jobs submitted by it."""

    def __init__(self, submit: Submit) -> None:
        self.submit = submit


async def _accept(submission: Submission, office: Office) -> str:
    return (await office.submitter.accept(submission)).job.id


def _child(submission: Submission, parent: Parent, spec: JobSpec, key: str | None) -> Submission:
    """A parent that is retried submits the same again, and gets the same child: by a key made of what it asks for,
    which nobody else can have, as no key from outside has such a character."""
    submission = replace(submission, parent=parent.id)
    if key is not None:
        return submission
    asked = wire.dump([spec.name, submission.params]).decode()
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return replace(
        submission,
        key=f"child\x1f{parent.id}\x1f{digest[:32]}\x1f{parent.count(digest)}",
        digest=digest,
        coalesce=False,
        mark=None,
    )
