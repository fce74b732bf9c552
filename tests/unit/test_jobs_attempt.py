"""One attempt: whatever a job does, it ends in exactly one way, and within its limits."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from pushsvc import Service, wire
from pushsvc.domain import Claim, JobStatus, Outcome, Progress
from pushsvc.errors import InvalidParams, JobExpired, NotFound, QueryBroken, SettingsError, Unavailable
from pushsvc.jobs import JobContext
from pushsvc.jobs import context as context_module
from pushsvc.jobs.attempt import MAX_BROKEN, Attempt, Limits, Stop
from pushsvc.jobs.limits import backoff
from pushsvc.jobs.threads import Threads
from pushsvc.settings import Settings
from pushsvc.store import Requeue

from ..contract.kit import soon, until
from .test_wire import a_job


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


class Bench:
    """Attempts at one function, and what they told of their progress."""

    def __init__(self, threads: Threads, *, show_errors: bool = False) -> None:
        self.threads = threads
        self.show_errors = show_errors
        self.progress: list[Progress] = []
        self.service = Service(settings=Settings.from_env({}))

    def attempt(self, function: Callable[..., Any], params: str = "{}", **claim: Any) -> Attempt:
        self.service.job(name="report")(function)
        values: dict[str, Any] = {"timeout": 30.0, "failures": 0, "max_attempts": 1, "deadline": None} | claim
        job = a_job(status="running", name=values.pop("name", "report"))
        made = Claim(job=job, params=params, channels=(), **values)
        limits = Limits(1000, 100, show_errors=self.show_errors)
        return Attempt(made, self.service.jobs, limits, self._context, self.threads)

    def _context(self, claim: Claim) -> JobContext:
        async def tell(progress: Progress) -> None:
            self.progress.append(progress)

        def nowhere(name: str, _observer: Any) -> Any:
            raise KeyError(name)

        job = claim.job
        return JobContext(
            id=job.id,
            name=job.name,
            attempt=job.attempt,
            tenant=job.tenant,
            user=job.owner,
            open_database=nowhere,
            tell=tell,
        )


@pytest.fixture
def bench(threads: Threads) -> Bench:
    return Bench(threads)


def code(ending: Any) -> tuple[JobStatus, str]:
    assert isinstance(ending, Outcome)
    assert ending.error is not None
    return ending.status, json.loads(ending.error)["code"]


async def test_what_a_job_returns_is_its_result(bench: Bench) -> None:
    async def job(a: int, ctx: JobContext, b: int = 2) -> list[Any]:
        return [a, b, ctx.name, ctx.user, ctx.attempt, repr(ctx)]

    ending, data = await bench.attempt(job, '{"a":1}').run()
    assert isinstance(ending, Outcome)
    assert ending.status is JobStatus.SUCCEEDED
    assert ending.result == data
    assert data is not None
    assert json.loads(data)[:5] == [1, 2, "report", "me", 1]


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context(bench: Bench) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("v", default="-")
    variable.set("seen")

    def job() -> list[Any]:
        return [threading.current_thread() is threading.main_thread(), variable.get()]

    _, data = await bench.attempt(job).run()
    assert data == b'[false,"seen"]'


@pytest.mark.parametrize(
    ("raised", "detail"),
    [
        (ValueError("it broke"), "ValueError: it broke"),
        (NotFound("no such flight"), "no such flight"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("\ud800 of a file's name"), "of a file's name"),
        (ValueError("\x00"), "ValueError: "),
        (TimeoutError(), "TimeoutError"),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two"),
        (asyncio.CancelledError(), "cancelled itself"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("kind", ["async", "thread"])
def test_whatever_a_job_raises_fails_it_and_nothing_else(
    threads: Threads, raised: BaseException, detail: str, kind: str
) -> None:
    """Not under the test's own loop, which some of these would end."""

    async def asynchronous() -> None:
        raise raised

    def synchronous() -> None:
        raise raised

    async def run() -> Any:
        attempt = Bench(threads, show_errors=True).attempt(asynchronous if kind == "async" else synchronous)
        return (await soon(attempt.run()))[0]

    try:
        ending = asyncio.run(run())
    except BaseException as error:
        pytest.fail(f"{type(error).__name__} came through to the worker")
    assert isinstance(ending, Outcome)
    assert ending.status is JobStatus.FAILED
    assert ending.error is not None
    assert detail in json.loads(ending.error)["detail"]


async def test_an_error_whose_text_can_not_be_made_still_fails_the_job(bench: Bench) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def job() -> None:
        raise Mute

    ending, _ = await bench.attempt(job).run()
    assert code(ending) == (JobStatus.FAILED, "job_failed")


async def test_a_result_that_is_no_json_or_too_large_fails_the_job(bench: Bench) -> None:
    async def huge() -> str:
        return "x" * 2000

    ending, _ = await bench.attempt(huge).run()
    assert code(ending) == (JobStatus.FAILED, "job_failed")
    ending, _ = await Bench(bench.threads).attempt(lambda: object()).run()
    assert code(ending) == (JobStatus.FAILED, "job_failed")


async def test_with_tries_left_a_failure_is_put_back_with_its_reason(bench: Bench) -> None:
    async def job() -> None:
        raise ValueError("it broke")

    ending, _ = await bench.attempt(job, max_attempts=3, failures=1).run()
    assert isinstance(ending, Requeue)
    assert ending.why == "failed"
    assert 1.0 <= ending.delay <= 2.0
    assert json.loads(ending.error or "")["error"] == "ValueError"
    ending, _ = await Bench(bench.threads).attempt(job, max_attempts=3, failures=2).run()
    assert code(ending) == (JobStatus.FAILED, "job_failed")


WAITED = '{"code":"unavailable","waits":%d}'


@pytest.mark.parametrize(
    ("error", "waits", "again"),
    [
        (Unavailable(), 0, True),
        (Unavailable(), 500, True),
        (QueryBroken(), MAX_BROKEN - 1, True),
        (QueryBroken(), MAX_BROKEN, False),
        (DBAPIError("s", None, asyncpg.TooManyConnectionsError()), 500, True),
        (DBAPIError("s", None, asyncpg.ReadOnlySQLTransactionError()), 500, True),
        (DBAPIError("s", None, asyncpg.QueryCanceledError()), 0, False),
        (DBAPIError("s", None, asyncpg.DeadlockDetectedError()), 0, False),
        (ConnectionError("of somebody else's"), 0, False),
    ],
)
async def test_what_can_not_reach_its_database_waits_without_a_try_used_up(
    bench: Bench, error: Exception, waits: int, again: bool
) -> None:
    """Unless its author's own settings, or its own queries, are why."""
    if isinstance(error, DBAPIError):
        error.__cause__ = error.orig

    async def job() -> None:
        raise error

    attempt = bench.attempt(job)
    attempt.claim = replace(attempt.claim, job=replace(attempt.claim.job, error=WAITED % waits))
    ending, _ = await attempt.run()
    if not again:
        assert code(ending)[0] is JobStatus.FAILED
        return
    assert isinstance(ending, Requeue)
    assert ending.why == "handed back"
    assert 0 < ending.delay <= 60
    assert json.loads(ending.error or "")["waits"] == waits + 1


def test_tries_are_further_and_further_apart_within_a_bound() -> None:
    for tries in range(1, 3000, 7):
        assert 0 < backoff(tries) <= 60
    assert 0.5 <= backoff(1) <= 1
    assert 2 <= backoff(3) <= 4


async def test_a_job_this_worker_does_not_know_is_handed_back(bench: Bench) -> None:
    ending, _ = await bench.attempt(lambda: None, name="of a newer version").run()
    assert isinstance(ending, Requeue)
    assert ending.why == "handed back"


async def test_parameters_that_no_longer_fit_fail_the_job(bench: Bench) -> None:
    async def job(a: int) -> None: ...

    ending, _ = await bench.attempt(job, '{"b":1}').run()
    assert code(ending) == (JobStatus.FAILED, InvalidParams.code)


# Limits


async def test_a_job_that_takes_too_long_is_stopped_and_fails(bench: Bench) -> None:
    cleaned = asyncio.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    ending, _ = await soon(bench.attempt(job, timeout=0.02).run())
    assert code(ending) == (JobStatus.FAILED, "job_timed_out")
    assert cleaned.is_set()


async def test_a_timed_out_try_is_tried_again_when_tries_are_left(bench: Bench) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    ending, _ = await soon(bench.attempt(job, timeout=0.02, max_attempts=2).run())
    assert isinstance(ending, Requeue)
    assert ending.why == "failed"


async def test_past_its_deadline_a_job_expires_whatever_tries_are_left(bench: Bench) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    for left in (0.02, -1.0):
        deadline = datetime.now(UTC) + timedelta(seconds=left)
        attempt = Bench(bench.threads).attempt(job, deadline=deadline, max_attempts=9)
        ending, _ = await soon(attempt.run())
        assert code(ending) == (JobStatus.EXPIRED, JobExpired.code)


async def test_the_sooner_of_time_out_and_deadline_counts(bench: Bench) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    late = datetime.now(UTC) + timedelta(hours=1)
    ending, _ = await soon(bench.attempt(job, deadline=late, timeout=0.02).run())
    assert code(ending) == (JobStatus.FAILED, "job_timed_out")


async def test_a_job_that_swallows_its_cancel_and_returns_has_timed_out(bench: Bench) -> None:
    async def job() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "too late"

    ending, data = await soon(bench.attempt(job, timeout=0.02).run())
    assert code(ending) == (JobStatus.FAILED, "job_timed_out")
    assert data is None


async def test_a_job_in_a_thread_that_takes_too_long_ends_without_waiting_for_its_thread(bench: Bench) -> None:
    release = threading.Event()
    try:
        ending, _ = await soon(bench.attempt(lambda: release.wait(60), timeout=0.02).run())
        assert code(ending) == (JobStatus.FAILED, "job_timed_out")
    finally:
        release.set()


# Stops


async def held(started: asyncio.Event) -> None:
    started.set()
    await asyncio.Event().wait()


def holding(started: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def job() -> None:
        await held(started)

    return job


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_cancelled_job_ends_cancelled(bench: Bench, when: str) -> None:
    started = asyncio.Event()

    async def job() -> None:
        await held(started)

    attempt = bench.attempt(job, max_attempts=5)
    if when == "before":
        attempt.stop(Stop.CANCELLED)
    running = asyncio.create_task(attempt.run())
    if when == "during":
        await started.wait()
        attempt.stop(Stop.CANCELLED)
    ending, _ = await soon(running)
    assert code(ending) == (JobStatus.CANCELLED, "job_cancelled")
    assert started.is_set() is (when == "during")


async def test_a_handed_back_job_uses_up_no_try_and_a_lost_one_is_no_longer_ours(bench: Bench) -> None:
    for why in (Stop.HANDED_BACK, Stop.LOST):
        started = asyncio.Event()

        attempt = Bench(bench.threads).attempt(holding(started))
        running = asyncio.create_task(attempt.run())
        await started.wait()
        attempt.stop(why)
        attempt.stop(Stop.CANCELLED)
        ending, _ = await soon(running)
        if why is Stop.LOST:
            assert ending is None
        else:
            assert isinstance(ending, Requeue)
            assert (ending.why, ending.delay) == ("handed back", 0.0)


async def test_a_job_that_finishes_although_it_was_stopped_keeps_its_result(bench: Bench) -> None:
    started = asyncio.Event()

    async def job() -> str:
        try:
            await held(started)
        except asyncio.CancelledError:
            return "after all"
        return ""

    attempt = bench.attempt(job)
    running = asyncio.create_task(attempt.run())
    await started.wait()
    attempt.stop(Stop.CANCELLED)
    ending, data = await soon(running)
    assert isinstance(ending, Outcome)
    assert (ending.status, data) == (JobStatus.SUCCEEDED, b'"after all"')


async def test_an_error_while_being_stopped_is_not_why_the_job_ended(bench: Bench) -> None:
    started = asyncio.Event()

    async def job() -> None:
        try:
            await held(started)
        finally:
            raise ValueError("in the clean-up")

    attempt = bench.attempt(job)
    running = asyncio.create_task(attempt.run())
    await started.wait()
    attempt.stop(Stop.CANCELLED)
    ending, _ = await soon(running)
    assert code(ending) == (JobStatus.CANCELLED, "job_cancelled")


@pytest.mark.parametrize("first", ["time-out", "stop"])
async def test_exactly_one_cancel_reaches_the_job(bench: Bench, first: str) -> None:
    """A second one in the midst of its clean-up would leave its queries running in the server."""
    cancels = 0
    cleaning, go_on = asyncio.Event(), asyncio.Event()
    started = asyncio.Event()

    async def job() -> None:
        nonlocal cancels
        try:
            await held(started)
        finally:
            cleaning.set()
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    cancels += 1

    attempt = bench.attempt(job, timeout=0.02 if first == "time-out" else 30.0)
    running = asyncio.create_task(attempt.run())
    await started.wait()
    if first == "stop":
        attempt.stop(Stop.CANCELLED)
    await cleaning.wait()
    attempt.stop(Stop.HANDED_BACK)
    attempt.stop(Stop.CANCELLED)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go_on.set()
    await soon(running)
    assert cancels == 0


# The context


async def test_progress_is_throttled_and_the_latest_wins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "PROGRESS_EVERY", 0.03)
    told: list[Progress] = bench.progress

    async def job(ctx: JobContext) -> None:
        for n in range(50):
            await ctx.progress(n / 100, f"step {n}")
        await until(lambda: told and told[-1].message == "step 49")
        await ctx.progress(1, "done")

    await soon(bench.attempt(job).run())
    assert len(told) < 10
    assert told[0].value <= told[-1].value
    assert "step 49" in [progress.message for progress in told]


async def test_progress_that_comes_while_another_is_being_told_is_told_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes after the last one that would bring it along."""
    monkeypatch.setattr(context_module, "PROGRESS_EVERY", 0.001)
    told: list[Progress] = []
    published = asyncio.Event()

    async def job(ctx: JobContext) -> None:
        async def tell(progress: Progress) -> None:
            told.append(progress)
            await published.wait()

        monkeypatch.setattr(ctx, "_tell", tell)
        await ctx.progress(0.1)
        await until(lambda: told)
        await ctx.progress(0.9, "last")
        published.set()
        await until(lambda: told[-1].message == "last")

    ending, _ = await soon(bench.attempt(job).run())
    assert isinstance(ending, Outcome)
    assert ending.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
async def test_progress_beyond_the_whole_is_refused(bench: Bench, value: float) -> None:
    async def job(ctx: JobContext) -> None:
        await ctx.progress(value)

    ending, _ = await bench.attempt(job).run()
    assert code(ending) == (JobStatus.FAILED, "job_failed")


async def test_no_progress_comes_after_the_end(bench: Bench) -> None:
    """Not even when closing the job's databases changes the state of its queries."""
    told: list[Progress] = []

    class Closing:
        queries = ()

        def __init__(self, changed: Callable[[Any], None]) -> None:
            self._changed = changed

        async def close(self) -> None:
            await asyncio.sleep(0)
            self._changed(None)

    async def tell(progress: Progress) -> None:
        told.append(progress)

    context = JobContext(
        id="j",
        name="n",
        attempt=1,
        tenant="default",
        user=None,
        open_database=lambda _name, changed: Closing(changed),  # type: ignore[arg-type,return-value]
        tell=tell,
    )
    _ = context.db
    await context.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == []
    assert context._teller is None or context._teller.done()


async def test_a_database_that_is_not_there_is_named(bench: Bench) -> None:
    async def job(ctx: JobContext) -> None:
        ctx.database("replica")

    ending, _ = await bench.attempt(job).run()
    assert code(ending) == (JobStatus.FAILED, SettingsError.code)


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    """Every attempt cleans up after itself."""
    yield
    await until(lambda: len(asyncio.all_tasks()) <= 1, "no task is left")


@pytest.mark.parametrize("message", ["é" * 1_000_000, "a\ud800\x00b", "two\nlines", 7])
async def test_a_progress_message_is_text_within_bounds(bench: Bench, message: Any) -> None:
    async def job(ctx: JobContext) -> None:
        await ctx.progress(0.5, message)
        await until(lambda: bench.progress)

    await bench.attempt(job).run()
    [told, *_] = bench.progress
    assert told.message
    assert len(told.message.encode()) <= 2048
    wire.bus_progress(told)
