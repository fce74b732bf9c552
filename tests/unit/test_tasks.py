"""Background work: whatever is raised in it is logged, and it goes on. The list of loops is proven to be whole."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pushsvc
from pushsvc import JobContext, Service, tasks
from pushsvc.bus import Queue, Subscriber, line
from pushsvc.errors import Unavailable
from pushsvc.hub import Hub
from pushsvc.settings import Settings
from pushsvc.store import EventStore, Postgres

from ..contract.kit import soon, until
from .bus_support import SCOPE

PACKAGE = Path(pushsvc.__file__).parent


class OwnError(BaseException):
    """What no `except Exception` catches."""


ERRORS = (ValueError("no"), OwnError(), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after a failed step, and the log, are of this test."""
    monkeypatch.setattr(tasks, "LONGEST", 0.005)
    monkeypatch.setattr(tasks, "_said", {})
    monkeypatch.setattr(line, "LONGEST", 0.005)
    monkeypatch.setattr(line, "CHECK_EVERY", 0.05)


# A loop


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_loop_goes_on_whatever_a_step_raises(error: BaseException) -> None:
    """Under a loop of its own, which some of these would end."""
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        await asyncio.sleep(0)
        if steps < 4:
            raise error

    async def run() -> None:
        looping = asyncio.create_task(tasks.forever("trying", step))
        await until(lambda: steps > 6)
        await tasks.stop(looping)
        assert looping.cancelled()

    asyncio.run(run())


async def test_who_asks_within_a_time_is_told_in_time_even_where_a_cancel_is_swallowed() -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed += 1
            await asyncio.Event().wait()

    async def answers() -> int:
        return 7

    async def fails() -> None:
        raise OSError("away")

    assert await tasks.within(60, answers()) == 7
    with pytest.raises(OSError, match="away"):
        await tasks.within(60, fails())
    with pytest.raises(TimeoutError):
        await soon(tasks.within(0.01, deaf()))
    assert swallowed == 1
    asking = asyncio.create_task(tasks.within(60, deaf()))
    await asyncio.sleep(0)
    await tasks.stop(asking)
    assert asking.cancelled()
    assert swallowed == 2


async def test_a_loop_ends_when_it_is_cancelled_or_told_to() -> None:
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        await asyncio.sleep(0)

    await soon(tasks.forever("trying", step, until=lambda: steps == 3))
    assert steps == 3
    looping = asyncio.create_task(tasks.forever("trying", asyncio.Event().wait))
    await asyncio.sleep(0)
    looping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looping


async def test_errors_of_one_kind_are_logged_once_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        raise KeyError(steps) if steps % 2 else ValueError(steps)

    await soon(tasks.forever("counting sheep", step, until=lambda: steps == 20))
    said = [record for record in caplog.records if record.name == "pushsvc.tasks"]
    assert [record.levelno for record in said] == [logging.ERROR] * 2
    assert all("counting sheep" in record.getMessage() for record in said)
    assert ["KeyError: 1" in caplog.text, "ValueError: 2" in caplog.text, "Traceback" in caplog.text] == [True] * 3


async def test_an_error_that_goes_on_is_said_again_after_a_minute_with_how_often_it_came(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        tasks.complain("it", ValueError())
    monkeypatch.setattr(tasks, "SAY_EVERY", 0.0)
    tasks.complain("it", ValueError())
    assert [("4 times more" in record.getMessage()) for record in caplog.records] == [False, True]


async def test_an_error_whose_text_ends_the_process_can_be_logged() -> None:
    class Exiting(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    tasks.complain("it", Exiting())


# Parts and batches


@pytest.mark.parametrize("error", [*ERRORS, StopIteration()], ids=lambda error: type(error).__name__)
async def test_a_tolerated_block_raises_nothing(error: BaseException) -> None:
    def fail() -> int:
        raise error

    for _ in range(2):
        with tasks.tolerated("a part"):
            fail()


async def test_a_tolerated_block_lets_its_task_be_cancelled() -> None:
    async def work() -> None:
        with tasks.tolerated("a part"):
            await asyncio.Event().wait()
        pytest.fail("it went on")

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_in_a_batch_each_harms_itself_only() -> None:
    done: list[int] = []

    async def work(some: Sequence[int]) -> None:
        if {3, 11} & {*some}:
            raise ValueError
        done.extend(some)

    assert await tasks.each_apart("an item", range(16), work) == [3, 11]
    assert done == [n for n in range(16) if n not in (3, 11)]
    assert await tasks.each_apart("an item", [], work) == []


@pytest.mark.parametrize(("error", "passing"), [(Unavailable(), ()), (OSError(), (OSError,))])
async def test_what_is_nobodys_fault_is_not_looked_for_in_a_batch(
    error: Exception, passing: tuple[type[Exception], ...]
) -> None:
    calls = 0

    async def work(_some: Sequence[int]) -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await tasks.each_apart("an item", range(16), work, passing)
    assert calls == 1


async def test_a_background_holds_its_tasks_and_stops_them() -> None:
    background, ended = tasks.Background(), asyncio.Event()

    async def failing() -> None:
        raise OwnError

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    failed = background.start("failing", failing())
    background.start("waiting", waiting())
    background.loop("looping", asyncio.Event().wait)
    assert len(background) == 3
    await soon(failed)
    await until(lambda: len(background) == 2)
    await background.stop()
    assert ended.is_set()
    assert len(background) == 0


# Every loop of the package


class Faults:
    """Makes a loop's first steps fail: the first at its first await, the second at its second, …, and then at its
    first call of an engine, and so on; all that again with the next error. `clean` is how many have begun since."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.left = [(where, at, error) for error in ERRORS for where in ("await", "engine") for at in range(3)]
        self.clean = 0
        self._task: asyncio.Task[Any] | None = None
        self._fault: tuple[int, BaseException] | None = None
        for owner, method in ((Postgres, "run"), (Queue, "_run"), (Queue, "token"), (Subscriber, "_open")):
            monkeypatch.setattr(owner, method, self._failing(getattr(owner, method)))

    async def forever(self, name: str, step: Callable[[], Awaitable[object]], **options: Any) -> None:
        await _forever(name, (lambda: self._step(step)) if name == self.name else step, **options)

    async def _step(self, step: Callable[[], Awaitable[object]]) -> None:
        if not self.left:
            self.clean += 1
            await step()
            return
        where, at, kind = self.left.pop(0)
        error = type(kind)(*kind.args)
        if where == "await":
            await _Failing(step(), at, error)
            return
        self._task, self._fault = asyncio.current_task(), (at, error)
        try:
            await step()
        finally:
            self._task = None

    def _failing(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            if self._task is not None and self._task is asyncio.current_task() and self._fault is not None:
                at, error = self._fault
                self._fault = None if at == 0 else (at - 1, error)
                if at == 0:
                    raise error
            return await method(*args, **options)

        return call


class _Failing:
    """An awaitable that goes on as another does, until that awaits something for the `at`th time: then this error is
    raised there. Not within a library's own code, whose books it would upset."""

    def __init__(self, work: Awaitable[object], at: int, error: BaseException) -> None:
        self._work, self._left, self._error = work, at, error

    def __await__(self) -> Generator[Any, Any, None]:
        steps: Any = self._work.__await__()
        with suppress(StopIteration):
            waiting = next(steps)
            while True:
                if self._is_here():
                    waiting = steps.throw(self._error)
                    continue
                try:
                    answer = yield waiting
                except BaseException as error:
                    waiting = steps.throw(error)
                else:
                    waiting = steps.send(answer)

    def _is_here(self) -> bool:
        inner: Any = self._work
        while inner is not None:
            code = getattr(inner, "cr_code", None) or getattr(inner, "gi_code", None)
            if code is not None and "site-packages" in code.co_filename:
                return False
            inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
        self._left -= 1
        return self._left == -1


_forever = tasks.forever

LOOPS = {
    "a line to pub/sub": "bus.line",
    "looking where pub/sub is": "bus.subscriber",
    "comparing channels with the store": "hub.tops",
    "waiting for wake-ups": "jobs.wakeup",
    "claiming jobs": "jobs.worker",
    "renewing leases": "tasks",
    "saying which queues are served": "tasks",
    "telling that the event loop turns": "tasks",
    "watching the event loop": "jobs.watch",
    "keeping leases": "jobs.keeper",
    "sweeping": "jobs.sweeper",
    "writing beats": "store.beats",
    "looking for due webhooks": "webhooks.courier",
    "listening for transactions": "store.ear",
    "queueing what transactions have submitted": "jobs.committed",
    "following schedules": "jobs.ticker",
}
"""Every supervised loop, and the module that names `forever` for it."""


@asynccontextmanager
async def a_whole_service(settings: Settings) -> AsyncIterator[tuple[Service, Hub]]:
    """A worker with all that belongs to it, and a hub."""
    service, stopping = Service(settings=settings), asyncio.Event()

    @service.job
    async def held(ctx: JobContext) -> None:
        await stopping.wait()

    @service.job
    async def quick() -> int:
        return 1

    async with Postgres(settings.need("database_url")) as postgres:
        hub = Hub(EventStore(postgres), settings.bus, SCOPE, top_check=0.02)
        working = asyncio.create_task(service.work(stopping))
        hub.start()
        try:
            await until(lambda: service._workplace.parts is not None)
            yield service, hub
            assert not working.done(), "the worker ended"
        finally:
            await hub.stop()
            stopping.set()
            await soon(working)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_goes_on_after_whatever_is_raised_at_its_awaits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """Under a loop of its own, which some of these errors would end."""
    faults = Faults(loop, monkeypatch)
    monkeypatch.setattr(import_module(f"pushsvc.{LOOPS[loop]}"), "forever", faults.forever)
    monkeypatch.setattr("pushsvc.store.ear.STILL_THERE", 0.02)
    quick = settings.model_copy(update={"lease": 0.6, "sweep": 0.01, "poll": 0.02, "drain": 0.1})

    async def run() -> None:
        async with a_whole_service(quick) as (service, hub):
            await service_submit(service, "held")

            async def goes_on() -> bool:
                # Some wait long for something: that it is wrong, that it ends, that a token comes.
                hub._bus._look_now.set()
                if loop == "a line to pub/sub" and not faults.clean:
                    hub._bus.renew()
                if loop == "waiting for wake-ups":
                    await service.parts.queue.wake()
                return faults.clean >= (1 if loop == "a line to pub/sub" else 2)

            await until(goes_on, loop)
            job = await service_submit(service, "quick")
            await until(lambda: finished(service, job))

    asyncio.run(run())


async def service_submit(service: Service, name: str) -> str:
    """Accept a job as the web process does."""
    from ..contract.kit import submission

    stored = await service.parts.store.insert(submission(name=name))
    return stored.job.id


async def finished(service: Service, job: str) -> bool:
    found = await service.parts.store.get("default", job)
    return found is not None and found.status == "succeeded"


# The list is whole


TASKS = {
    # Supervised: `forever`, or `contained`.
    "bus/line.py Line.start": "forever",
    "bus/subscriber.py Subscriber.start": "forever",
    "jobs/wakeup.py Wakeup.start": "forever",
    "jobs/worker.py Worker._launch": "contained",
    "jobs/context.py JobContext._schedule": "contained",
    "webhooks/courier.py Courier._launch": "contained",
    "workplace.py Workplace._work": "awaited there; what it runs are loops",
    "tasks.py Background._keep": "forever or contained",
    "tasks.py within": "awaited there",
    "store/batching.py Batcher.put": "gives every error to the futures of its batch",
    # Each belongs to one connection or request, gives its error to nobody else, and ends with it.
    "transports/session.py Session.received": "ends its session",
    "transports/sockets.py AsgiSocket.serve": "ends its socket",
    "transports/sse.py EventStream.__call__": "ends its stream",
    "transports/sse.py EventStream._serve": "ends its stream",
    "transports/sse.py EventStream._wake": "ends its stream",
    "web/events.py Events.poll": "awaited there",
    "endpoints/layer.py Layer._wait": "awaited there",
    "web/events.py _unless_gone": "awaited there",
    "bus/link.py Link.lost_within": "awaited there",
    # Beginning and end of a process: whoever asked for it awaits it.
    "hosting.py Host._start_once": "awaited there",
    "hosting.py Host._start": "contained",
    "hosting.py _AtSignal.watch.start": "contained",
    "endpoints/lifespan.py _Lifespan.start": "awaited by start and stop",
    "endpoints/lifespan.py _Lifespan._answer": "awaited there",
    "serving.py Server.shutdown": "awaited there",
    # A job's own: its error is the job's, or the promise's.
    "endpoints/replay.py Replayer._run": "awaited there",
    "jobs/attempt.py Attempt._bounded": "the call raises nothing; what is left to close is contained",
    "dev/working.py _run": "awaited there",
    "jobs/handle.py Handle.progress": "awaited there",
    "lifetime.py Lifetime._enter": "awaited there, and at its end",
}
"""Where tasks are made, and who hears of what is raised in them."""


def _scan(found: Callable[[ast.AST], bool], *, below: str = "") -> Iterator[tuple[str, ast.AST]]:
    """`file qualified.name` of each function in the package that holds such a node, and the node."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(below):
            yield from ((f"{place} {name}", node) for name, node in _within(ast.parse(path.read_text()), found, ""))


def _within(tree: ast.AST, found: Callable[[ast.AST], bool], name: str) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        inner = name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}".lstrip(".")
        if found(node):
            yield name, node
        yield from _within(node, found, inner)


def _calls(*names: str) -> Callable[[ast.AST], bool]:
    def found(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        called = node.func
        return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in names

    return found


def test_the_list_of_loops_is_whole() -> None:
    named = set()
    for place, node in _scan(_calls("forever", "loop")):
        assert isinstance(node, ast.Call)
        if node.args and isinstance(node.args[0], ast.Constant):
            named.add(node.args[0].value)
        else:
            assert place == "tasks.py Background.loop"
    assert named == set(LOOPS)


def test_every_task_is_supervised_or_has_somebody_who_hears_of_its_errors() -> None:
    """Promises and queries are apart: they give their errors to whoever awaits them."""
    places = {place for place, _ in _scan(_calls("create_task", "ensure_future")) if not place.startswith("queries/")}
    assert places == set(TASKS)


TIMERS = {
    "bus/line.py Line._send_soon": "what raises is logged, and connecting sends all topics again",
    "bus/publisher.py Publisher._keep": "each message is tolerated",
    "bus/publisher.py Publisher.event_soon": "what raises is logged; whoever misses it reads it from the store",
    "bus/subscriber.py Subscriber._give_up_after": "settles futures",
    "bus/subscriber.py Subscriber._settle": "sets an event",
    "dev/working.py work.told_to_stop": "sets an event",
    "jobs/attempt.py Attempt._after": "settles one attempt",
    "jobs/context.py JobContext.progress": "starts a contained task",
    "jobs/handle.py Handle.progress.follow": "puts into a queue",
    "jobs/keeper.py OwnLoop.stop": "cancels a task",
    "jobs/threads.py Threads.run.call": "settles one attempt",
    "store/postgres.py Postgres._try": "closes one connection",
    "transports/ending.py end_in_time": "ends one connection",
    "transports/session.py Session.__init__": "ends one session",
    "transports/session.py Session._end_with": "ends one session",
    "transports/sse.py EventStream._set_timer": "one stream's; it sets itself again whatever it raises",
    "hosting.py _AtSignal.watch.heard": "starts a contained task",
    "transports/sockets.py DirectHttp.connection_made": "ends one connection",
    "transports/sockets.py DirectHttp.data_received": "ends one connection",
    "transports/sockets.py DirectHttp._look": "ends one connection",
    "transports/sweep.py Sweep.add": "each socket is tolerated",
    "transports/sweep.py Sweep._tick": "each socket is tolerated",
}
"""Where callbacks are left with the event loop, which logs what they raise; and why nothing ends with it."""


def test_every_timer_is_known() -> None:
    calls = _calls("call_later", "call_soon", "call_at", "call_soon_threadsafe")
    assert {place for place, _ in _scan(calls) if not place.startswith("queries/")} == set(TIMERS)


def test_no_loop_without_end_is_outside_of_a_supervised_one() -> None:
    """Those that are there end with what they wait for: a reading, a request, a statement."""

    def endless(node: ast.AST) -> bool:
        return isinstance(node, ast.While) and isinstance(node.test, ast.Constant)

    assert {place for place, _ in _scan(endless) if not place.startswith(("dev/", "queries/"))} == {
        "endpoints/office.py Office.finished",
        "hub/hub.py Hub._read_on",
        "hub/hub.py Hub._read_gap",
        "hub/reading.py Reading.page",
        "hub/feed.py Feed._write",
        "jobs/following.py Follower._changes",
        "jobs/following.py Follower.ended",
        "jobs/sweeper.py Sweeper._requeue_missing",
        "store/beats.py Beats.beat",
        "store/postgres.py Postgres.run",
        "transports/sockets.py AsgiSocket.serve",
        "transports/sockets.py AsgiSocket._send_until_closed",
    }
