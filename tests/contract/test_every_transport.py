"""One set of scenarios, run over each transport: who listens hears everything after its cursor, once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from pushsvc import wire
from pushsvc.settings import Settings

from .drivers import TRANSPORTS, Item, Subscriber, take
from .kit import Kit, opened, soon, submission, succeeded
from .node import Node, serving

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@dataclass
class World:
    """Two nodes on the same engines, each serving sockets in its own way, and who writes results."""

    kit: Kit
    nodes: dict[str, Node]
    subscribers: list[Subscriber] = field(default_factory=list)

    async def open(
        self, transport: str, cursor: str | None, channels: Sequence[str] = (), *, allowed: Sequence[str] = ()
    ) -> Subscriber:
        """A subscriber for `me`, whose token names the `allowed` channels."""
        node, driver = TRANSPORTS[transport]
        subscriber = driver(self.nodes[node], channels=allowed)
        self.subscribers.append(subscriber)
        await subscriber.open(channels, cursor)
        return subscriber


@asynccontextmanager
async def world_of(settings: Settings) -> AsyncIterator[World]:
    async with opened(settings) as kit, serving(settings, "direct") as direct, serving(settings, "asgi") as asgi:
        world = World(kit, {"direct": direct, "asgi": asgi})
        try:
            yield world
        finally:
            await asyncio.gather(*(subscriber.close() for subscriber in world.subscribers))
            for node in world.nodes.values():
                # Both at once: each takes a while.
                node.server.should_exit = True


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    async with world_of(settings) as made:
        yield made


def numbers(items: Sequence[Item]) -> list[Any]:
    return [item.data for item in items]


def in_order(items: Sequence[Item]) -> bool:
    return all(later.offset == earlier.offset + 1 for earlier, later in pairwise(items))


@each_transport
async def test_a_first_attach_hears_what_comes_from_now_on(world: World, transport: str) -> None:
    await world.kit.finish_many(range(3))
    subscriber = await world.open(transport, None)
    await world.kit.finish_many([10, 11])
    items = await take(subscriber, 2)
    assert numbers(items) == [10, 11]
    assert [(item.channel, item.offset) for item in items] == [("user:me", 4), ("user:me", 5)]
    assert subscriber.recovered


@each_transport
async def test_from_the_start_everything_that_is_kept_is_heard(world: World, transport: str) -> None:
    await world.kit.finish_many(range(12))
    subscriber = await world.open(transport, "start")
    await world.kit.finish(12)
    assert numbers(await take(subscriber, 13)) == list(range(13))


@each_transport
@pytest.mark.parametrize("missed", [1, 300])
async def test_what_was_missed_while_away_is_heard_on_return(world: World, transport: str, missed: int) -> None:
    first = await world.open(transport, None)
    await world.kit.finish(0)
    await take(first, 1)
    cursor = first.cursor
    await first.close()
    await world.kit.finish_many(range(1, missed + 1))
    again = await world.open(transport, cursor)
    await world.kit.finish(missed + 1)
    items = await take(again, missed + 1)
    assert numbers(items) == list(range(1, missed + 2))
    assert in_order(items)
    assert again.recovered


@each_transport
async def test_two_subscribers_hear_the_same(world: World, transport: str) -> None:
    subscribers = [await world.open(transport, None) for _ in range(2)]
    await world.kit.finish_many(range(5))
    first, second = await asyncio.gather(*(take(subscriber, 5) for subscriber in subscribers))
    assert first == second
    assert numbers(first) == list(range(5))


@each_transport
async def test_repeated_messages_are_heard_once_and_lost_ones_all_the_same(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    kit = world.kit
    for n in range(10):
        finished = await kit.finish(n, publish=n % 3 != 1)
        if n % 3 == 2:
            for _ in range(3):
                await kit.publisher.event(finished.places, wire.event(finished.job, wire.dump(n)))
    items = await take(subscriber, 10)
    assert numbers(items) == list(range(10))
    await kit.finish("last")
    assert numbers(await take(subscriber, 1)) == ["last"]


@each_transport
async def test_a_subscriber_hears_several_channels_each_in_its_order(world: World, transport: str) -> None:
    groups = ["group:ops", "group:Zürich"]
    subscriber = await world.open(transport, None, groups, allowed=groups)
    for n in range(10):
        await world.kit.finish(n, owner="you" if n % 2 else "me", channels=("group:ops", "group:Zürich"))
    items = await take(subscriber, 25)
    by_channel = {name: [i for i in items if i.channel == name] for name in {item.channel for item in items}}
    assert {name: numbers(found) for name, found in by_channel.items()} == {
        "user:me": [0, 2, 4, 6, 8],
        "group:ops": list(range(10)),
        "group:Zürich": list(range(10)),
    }
    assert all(in_order(found) for found in by_channel.values())
    assert set(subscriber.cursor.split(",")) == {
        f"{name}@{found[-1].position}".replace("ü", "%C3%BC") for name, found in by_channel.items()
    }


@each_transport
async def test_a_place_that_is_gone_is_an_explicit_reset(world: World, transport: str) -> None:
    first = await world.open(transport, None)
    await world.kit.finish_many(range(3), retention=0.001)
    await take(first, 1)
    cursor = first.cursor
    await first.close()
    await world.kit.finish(3)
    assert await world.kit.jobs.purge(100) == 3
    again = await world.open(transport, cursor)
    assert not again.recovered
    reset, event = await take(again, 2)
    assert (reset.event, reset.offset) == (None, 3)
    assert (event.data, event.offset) == (3, 4)
    assert again.cursor == f"user:me@{event.position}"


@each_transport
async def test_a_cursor_of_another_history_is_an_explicit_reset(world: World, transport: str) -> None:
    await world.kit.finish(0)
    subscriber = await world.open(transport, "user:me@k0.7")
    assert not subscriber.recovered
    await world.kit.finish(1)
    reset, event = await take(subscriber, 2)
    assert (reset.event, reset.offset) == (None, 1)
    assert (event.data, event.offset) == (1, 2)


@each_transport
async def test_a_jobs_channel_is_followed_to_its_end(world: World, transport: str) -> None:
    kit = world.kit
    job = await kit.store(submission(owner="me"))
    subscriber = await world.open(transport, f"job:{job.id}@1.1", [f"job:{job.id}"])
    kit.announcer.changed((await kit.jobs.start([job.id], "w", 60))[job.id].job)
    started = await subscriber.next_event()
    assert (started.channel, started.position) == (f"job:{job.id}", "1.2")
    finished = await kit.jobs.finish(succeeded(job.id, 2, b'{"x":1}'))
    assert finished is not None
    await kit.announcer.finished(finished, b'{"x":1}')
    items = await take(subscriber, 2)
    assert {(item.channel, item.offset) for item in items} == {(f"job:{job.id}", 3), ("user:me", 1)}
    assert items[0].event == items[1].event


async def test_the_bytes_of_an_event_are_the_same_over_every_transport(world: World) -> None:
    """Live and read back, and the same as the store's."""
    result = {"Zürich": "naïve 🚀 \u2028 <&>", "n": 12.5, "nested": [{"final": False}, None]}
    live = [await world.open(transport, None) for transport in TRANSPORTS]
    finished = await world.kit.finish(result)
    late = [await world.open(transport, "start") for transport in TRANSPORTS]
    heard = await asyncio.gather(*(subscriber.next_event() for subscriber in [*live, *late]))
    assert {item.event for item in heard} == {wire.event(finished.job, wire.dump(result))}
    assert len({(item.channel, item.position) for item in heard}) == 1


async def test_a_subscriber_may_switch_transport_and_node_in_the_middle(world: World) -> None:
    """The cursor is all that goes along, and results keep coming meanwhile."""
    total = 120
    work = asyncio.create_task(world.kit.finish_many(range(total)))
    cursor: str | None = "start"
    items: list[Item] = []
    turn = 0
    while len(items) < total:
        transport = list(TRANSPORTS)[turn % len(TRANSPORTS)]
        subscriber = await world.open(transport, cursor)
        assert subscriber.recovered
        items += await take(subscriber, min(11, total - len(items)))
        cursor = subscriber.cursor
        await subscriber.close()
        turn += 1
    await soon(work)
    assert numbers(items) == list(range(total))
    assert in_order(items)


async def test_results_that_come_in_a_storm_reach_every_transport_once_and_in_order(world: World) -> None:
    """Four writers at once, messages lost and repeated, the subscribers' connections to Redis killed."""
    subscribers = [await world.open(transport, None) for transport in TRANSPORTS]
    kit, total = world.kit, 160

    async def write(share: range) -> None:
        for n in share:
            finished = await kit.finish(n, publish=n % 5 != 0)
            if n % 7 == 0:
                await kit.publisher.event(finished.places, wire.event(finished.job, wire.dump(n)))
            if n % 50 == 49:
                await kit.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]  # untyped in redis

    await asyncio.gather(*(write(range(n, total, 4)) for n in range(4)))
    await kit.finish("last")
    heard = await asyncio.gather(*(take(subscriber, total + 1) for subscriber in subscribers))
    for items in heard:
        assert in_order(items)
        assert items == heard[0]
    assert sorted(numbers(heard[0][:-1])) == list(range(total))


@each_transport
@pytest.mark.parametrize(
    ("channel", "refusal"),
    [("group:ops", "forbidden"), ("user:you", "forbidden"), ("job:01J9ZZ8QG5V0000000000000AB", "not_found")],
)
async def test_a_channel_of_others_is_refused(world: World, transport: str, channel: str, refusal: str) -> None:
    with pytest.raises(AssertionError, match=refusal):
        await world.open(transport, None, [channel])


@each_transport
async def test_a_job_of_another_is_as_unknown_as_none(world: World, transport: str) -> None:
    job = await world.kit.store(submission(owner="you"))
    with pytest.raises(AssertionError, match="not_found"):
        await world.open(transport, None, [f"job:{job.id}"])


@each_transport
async def test_results_of_another_tenant_are_not_heard(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    await world.kit.finish("theirs", tenant="other")
    await world.kit.finish("ours")
    assert numbers(await take(subscriber, 1)) == ["ours"]
