"""A session and a poll at the moments that no client can be made to hit: between two steps of theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
import pytest_asyncio

from pushsvc import wire
from pushsvc.access import Admission, Rate, Slots, Tokens
from pushsvc.domain import Channel, Cursor, Place, Principal
from pushsvc.errors import NotFound, Unavailable
from pushsvc.hub import Hub
from pushsvc.jobs import Registry, Submitter
from pushsvc.settings import Settings
from pushsvc.store import EventStore, PositionStore, Within
from pushsvc.store.events import Page
from pushsvc.transports import Cursors, Desk, Gate, Poll, Session, Waiter
from pushsvc.web import JobViews

from ..conftest import SECRET
from ..contract.kit import Kit, me, opened, running, soon, submission, succeeded, until


class Wire:
    """A socket that remembers what was sent, and that nothing is after its close."""

    writer: Callable[[bytes], object] | None = None

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.code: int | None = None
        self.held = False

    def send(self, message: bytes) -> None:
        assert self.code is None, "nothing follows a Close"
        self.frames.append(json.loads(message))

    def close(self, code: int, reason: str = "") -> None:
        self.code = code

    async def drained(self) -> bool:
        return self.code is None

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


class HeldGate(Gate):
    """A gate that waits, as when the database is slow."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit.jobs, 100)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def channels(self, principal: Principal, names: Iterable[str]) -> list[Channel]:
        self.asked.set()
        await self.go_on.wait()
        return await super().channels(principal, names)


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest_asyncio.fixture
async def hub(kit: Kit) -> AsyncIterator[Hub]:
    async with running(kit.hub()) as made:
        yield made


def desk(kit: Kit, hub: Hub, gate: Gate | None = None, **changes: Any) -> Desk:
    settings = kit.settings.model_copy(update=changes)
    return Desk(
        hub=hub,
        gate=gate or Gate(kit.jobs, 100),
        admission=admission(),
        cursors=Cursors(PositionStore(kit.postgres), settings.cursor_limit),
        door=Submitter(Registry(), kit.jobs, Within(kit.postgres), kit.events, kit.queue, settings),
        views=JobViews(kit.queue, kit.publisher),
        settings=settings,
    )


def admission() -> Admission:
    return Admission(Tokens(SECRET), Slots(5), Rate(1000))


def waiter(hub: Hub) -> Waiter:
    return Waiter(hub, admission())


def hello(**changes: Any) -> bytes:
    return wire.dump({"id": 1, "op": "hello", "token": Tokens(SECRET).mint("me"), **changes})


def held(desk: Desk) -> int:
    return sum(map(len, desk.admission.connections._held.values()))


async def test_a_client_that_goes_while_its_hello_is_checked_holds_no_connection(kit: Kit, hub: Hub) -> None:
    gate = HeldGate(kit)
    counter = desk(kit, hub, gate)
    socket = Wire()
    session = Session(counter, socket)
    session.received(hello())
    await soon(gate.asked.wait())
    session.closed(1006)
    gate.go_on.set()
    await until(lambda: session._task is None)
    assert held(counter) == 0
    assert hub._subscriptions == {}


async def test_ending_a_session_twice_gives_its_connection_back_once(kit: Kit, hub: Hub) -> None:
    counter = desk(kit, hub)
    sessions = [Session(counter, Wire()) for _ in range(2)]
    for session in sessions:
        session.received(hello())
    await until(lambda: len(hub._subscriptions) == 2)
    assert held(counter) == 2
    sessions[0].closed(1000)
    sessions[0].closed(1006)
    sessions[0].goodbye(4001)
    assert held(counter) == 1
    sessions[1].drain()
    assert held(counter) == 0


async def test_what_goes_wrong_inside_is_no_business_of_the_clients(
    kit: Kit, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Gate):
        async def channels(self, principal: Principal, names: Iterable[str]) -> list[Channel]:
            raise ZeroDivisionError("a secret of the inside")

    socket = Wire()
    session = Session(desk(kit, hub, Broken(kit.jobs, 9)), socket)
    session.received(hello())
    await until(lambda: socket.code is not None)
    assert (socket.code, socket.frames) == (
        4000,
        [{"op": "bye", "code": 4000, "retry_ms": [500, 20000]}],
    )
    assert "a secret of the inside" in caplog.text


async def test_when_the_store_goes_away_under_a_resume_the_client_is_told_to_come_again(kit: Kit) -> None:
    """It has its `ok` by then: an error frame would leave it without the events that the `ok` promised."""

    class Away(EventStore):
        async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
            raise Unavailable

    await kit.finish_many(range(3))
    async with running(Hub(Away(kit.postgres), kit.settings.bus, kit.scope, top_check=3600)) as hub:
        socket = Wire()
        session = Session(desk(kit, hub), socket)
        session.received(hello(cursor="start"))
        await until(lambda: socket.code is not None)
        assert [*socket.frames[0]] == ["id", "ok"]
        assert (socket.code, socket.frames[1:]) == (4003, [{"op": "bye", "code": 4003, "retry_ms": [500, 20000]}])
        assert hub._subscriptions == {}


async def test_pausing_a_session_that_has_ended_leaves_nothing_behind(kit: Kit, hub: Hub) -> None:
    """The bye of a full socket pauses it once more."""
    session = Session(desk(kit, hub), Wire())
    session.received(hello())
    await until(lambda: hub._subscriptions)
    session.closed(1006)
    session.paused()
    session.resumed()
    session.paused()
    assert hub._subscriptions == {}
    assert hub._paused == set()


# Long-poll


async def poll(
    kit: Kit, hub: Hub, *names: str, cursor: str = "start", limit: int = 100, wait: float = 0.0
) -> dict[str, Any]:
    channels = [me(name) for name in names or ("user:me",)]
    answer: dict[str, Any] = json.loads(await soon(Poll(limit).run(hub, channels, Cursor.parse(cursor), wait)))
    return answer


async def test_a_poll_is_answered_when_something_comes(kit: Kit, hub: Hub) -> None:
    waiting = asyncio.create_task(poll(kit, hub, cursor="now", wait=60))
    await until(lambda: hub._feeds and hub._feeds[me()].top is not None)
    await kit.finish(7)
    answer = await waiting
    assert [item["event"]["data"] for item in answer["events"]] == [7]
    assert answer["up_to_date"]
    assert not answer["closed"]
    assert hub._subscriptions == {}


async def test_a_poll_without_anything_new_says_where_it_stands(kit: Kit, hub: Hub) -> None:
    await kit.finish_many(range(2))
    answer = await poll(kit, hub, cursor="now", wait=0.01)
    assert answer["events"] == answer["resets"] == answer["progress"] == []
    assert answer["up_to_date"]
    assert (await poll(kit, hub, cursor=answer["cursor"]))["events"] == []


async def test_reading_never_deletes(kit: Kit, hub: Hub) -> None:
    await kit.finish_many(range(3))
    assert await poll(kit, hub) == await poll(kit, hub)


async def test_a_full_answer_leaves_the_rest_for_the_next_poll(kit: Kit, hub: Hub) -> None:
    """Of several channels, whichever fills it."""
    for n in range(9):
        await kit.finish(n, channels=("group:a", "group:b"))
    cursor, seen, polls = "start", [], 0
    while True:
        answer = await poll(kit, hub, "group:a", "group:b", "user:me", cursor=cursor, limit=4)
        assert len(answer["events"]) <= 4
        seen += [(item["channel"], item["event"]["data"]) for item in answer["events"]]
        cursor, polls = answer["cursor"], polls + 1
        if not answer["events"]:
            break
        assert polls < 20
    assert sorted(seen) == sorted((name, n) for name in ("group:a", "group:b", "user:me") for n in range(9))
    assert answer["up_to_date"]


async def test_a_reset_is_told_even_when_another_channel_has_filled_the_answer(kit: Kit, hub: Hub) -> None:
    epoch = (await kit.events.states([me("group:old")]))[me("group:old")].epoch
    for _ in range(3):
        await kit.finish(0, owner=None, channels=("group:old",), retention=0.001)
    await kit.retention.purge(100)
    await kit.finish_many(range(5))
    inbox = (await kit.events.states([me()]))[me()].epoch
    cursor = f"user:me@{inbox}.0,group:old@{epoch}.1"
    full = await poll(kit, hub, "user:me", "group:old", cursor=cursor, limit=5)
    assert len(full["events"]) == 5
    after = await poll(kit, hub, "user:me", "group:old", cursor=full["cursor"], limit=5)
    assert [reset["channel"] for reset in full["resets"] + after["resets"]] == ["group:old"]


async def test_an_event_that_found_no_room_is_not_skipped_by_the_cursor(kit: Kit) -> None:
    """Results of one channel fill the answer while the other channel is being read."""
    first, second = me("group:first"), me("group:second")
    filling = False
    hub: Hub

    class Busy(EventStore):
        async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
            page = await super().read(channel, place, limit)
            if channel == second and filling:
                for n in range(3):
                    await kit.finish(n, owner=None, channels=("group:first",))
                await until(lambda: hub._feeds[first].top == 3)
                await asyncio.sleep(0)
            return page

    async with running(Hub(Busy(kit.postgres), kit.settings.bus, kit.scope, top_check=3600)) as hub:
        await kit.finish("waiting", owner=None, channels=("group:second",))
        filling = True
        answer = await poll(kit, hub, "group:first", "group:second", limit=2)
        filling = False
        seen = [(item["channel"], item["event"]["data"]) for item in answer["events"]]
        while answer["events"]:
            answer = await poll(kit, hub, "group:first", "group:second", cursor=answer["cursor"], limit=2)
            seen += [(item["channel"], item["event"]["data"]) for item in answer["events"]]
        assert sorted(seen, key=str) == sorted(
            [("group:first", 0), ("group:first", 1), ("group:first", 2), ("group:second", "waiting")], key=str
        )


async def test_a_poll_of_finished_jobs_is_closed_once_all_is_told(kit: Kit, hub: Hub) -> None:
    jobs = [(await kit.finish(n)).job.id for n in range(3)]
    names = [f"job:{job}" for job in jobs]
    answer = await poll(kit, hub, *names, limit=2, wait=60)
    assert (len(answer["events"]), answer["closed"]) == (2, False)
    answer = await poll(kit, hub, *names, cursor=answer["cursor"], limit=2, wait=60)
    assert (len(answer["events"]), answer["closed"]) == (1, True)
    answer = await poll(kit, hub, *names, cursor=answer["cursor"], limit=2, wait=60)
    assert (len(answer["events"]), answer["closed"]) == (0, True), "at once: nothing will ever come"


async def test_a_poll_of_an_unknown_job_is_not_found(kit: Kit, hub: Hub) -> None:
    with pytest.raises(NotFound):
        await poll(kit, hub, "user:me", "job:01J9ZZ8QG5V0000000000000AB")
    assert hub._subscriptions == {}


async def test_draining_answers_the_polls_that_wait(kit: Kit, hub: Hub) -> None:
    waiting = asyncio.create_task(poll(kit, hub, cursor="now", wait=60))
    await until(lambda: hub._feeds and hub._feeds[me()].top is not None)
    await hub.drain()
    answer = await waiting
    assert answer["events"] == []
    assert answer["cursor"].startswith("user:me@")


# Waiting for one job


async def test_waiting_for_a_job_ends_with_it(kit: Kit, hub: Hub) -> None:
    job = await kit.store(submission())
    waiting = asyncio.create_task(waiter(hub).until_final(Principal("me"), job, 60))
    await until(lambda: hub._subscriptions)
    kit.announcer.changed((await kit.jobs.start([job.id], "w", 60))[job.id].job)
    finished = await kit.jobs.finish(succeeded(job.id, 2))
    assert finished is not None
    await kit.announcer.finished(finished, b"1")
    assert await soon(waiting)
    assert hub._subscriptions == {}
    assert await waiter(hub).until_final(Principal("me"), finished.job, 0)


async def test_waiting_for_a_job_that_finished_just_before_is_no_waiting(kit: Kit, hub: Hub) -> None:
    job = await kit.store(submission())
    await kit.jobs.finish(succeeded(job.id, 1))
    assert await soon(waiter(hub).until_final(Principal("me"), job, 60))


async def test_waiting_for_a_job_has_an_end(kit: Kit, hub: Hub) -> None:
    job = await kit.store(submission())
    assert not await soon(waiter(hub).until_final(Principal("me"), job, 0.01))
    assert hub._subscriptions == {}
