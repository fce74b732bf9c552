"""One set of scenarios, run over each transport: who listens hears everything after its cursor, once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from pushsvc import wire

from .drivers import CLIENTS, TRANSPORTS, Item, WebSocketSubscriber, take
from .kit import soon, succeeded
from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
each_transport = pytest.mark.parametrize("transport", TRANSPORTS | CLIENTS)


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
@pytest.mark.parametrize("missed", [1, 1000])
async def test_what_was_missed_while_away_is_heard_on_return(world: World, transport: str, missed: int) -> None:
    first = await world.open(transport, None)
    await world.kit.finish(1)
    await take(first, 1)
    cursor = first.cursor
    await first.close()
    await world.kit.log(missed)
    again = await world.open(transport, cursor)
    await world.kit.finish(missed + 2)
    items = await take(again, missed + 1)
    assert numbers(items) == list(range(2, missed + 3))
    assert in_order(items)
    assert again.recovered


@each_transport
async def test_two_subscribers_hear_the_same(world: World, transport: str) -> None:
    subscribers = [await world.open(transport, None) for _ in range(2)]
    await world.kit.finish_many(range(5))
    first, second = await asyncio.gather(*(take(subscriber, 5) for subscriber in subscribers))
    assert first == second
    assert numbers(first) == list(range(5))


@pytest.mark.parametrize("cursor", [None, ""])
@each_transport
async def test_a_device_goes_on_from_what_it_has_acknowledged(
    world: World, transport: str, cursor: str | None
) -> None:
    """Two of them, each from its own place, and one that is not known from now on. An empty cursor is none."""
    for device, count in (("phone", 2), ("laptop", 4)):
        subscriber = await world.open(transport, "start", device=device)
        if device == "phone":
            await world.kit.finish_many(range(5))
        await take(subscriber, count)
        await subscriber.ack()
        await subscriber.close()
    phone, laptop, new = [await world.open(transport, cursor, device=device) for device in ("phone", "laptop", "new")]
    await world.kit.finish(5)
    assert numbers(await take(phone, 4)) == [2, 3, 4, 5]
    assert numbers(await take(laptop, 2)) == [4, 5]
    assert numbers(await take(new, 1)) == [5]


@pytest.mark.parametrize("transport", ["websocket direct", "websocket asgi"])
async def test_a_device_goes_on_in_a_group_that_it_subscribes_to_later(world: World, transport: str) -> None:
    """By the same rule as in `hello`: without a cursor, from what it has acknowledged."""
    group = ["group:ops"]
    first = await world.open(transport, None, group, device="phone", channels=group)
    await world.kit.finish_many(range(3), owner="you", channels=("group:ops",))
    await take(first, 1)
    await first.ack()
    await first.close()
    again = await world.open(transport, None, device="phone", channels=group)
    assert isinstance(again, WebSocketSubscriber)
    await again._ask({"op": "subscribe", "channels": group})
    assert numbers(await take(again, 2)) == [1, 2]


@each_transport
async def test_a_subscriber_hears_several_channels_each_in_its_order(world: World, transport: str) -> None:
    groups = ["group:ops", "group:Zürich"]
    subscriber = await world.open(transport, None, groups, channels=groups)
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
async def test_a_cursor_of_several_channels_resumes_each_where_it_stood(world: World, transport: str) -> None:
    first = await world.open(transport, None, ["group:ops"], channels=["group:ops"])
    await world.kit.finish(0, channels=("group:ops",))
    await world.kit.finish(1)
    await take(first, 2)
    cursor = first.cursor
    await first.close()
    await world.kit.finish(2, channels=("group:ops",))
    again = await world.open(transport, cursor, ["group:ops"], channels=["group:ops"])
    heard = {(item.channel, item.offset) for item in await take(again, 3)}
    everything = {("user:me", 1), ("group:ops", 1), ("user:me", 2), ("user:me", 3), ("group:ops", 2)}
    before = {name: int(at.partition(".")[2]) for name, _, at in (part.partition("@") for part in cursor.split(","))}
    assert heard == {(name, offset) for name, offset in everything if offset > before[name]}
    assert again.recovered


@each_transport
async def test_a_jobs_channel_is_followed_to_its_end(world: World, transport: str) -> None:
    kit = world.kit
    job = await kit.submit()
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
    result = {"Zürich": "naïve 🚀 \u2028 \x85 <&>\n\r\0", "n": 12.5, "nested": [{"final": False}, None]}
    live = [await world.open(transport, None) for transport in TRANSPORTS]
    finished = await world.kit.finish(result)
    late = [await world.open(transport, "start") for transport in TRANSPORTS]
    heard = await asyncio.gather(*(subscriber.next_event() for subscriber in [*live, *late]))
    assert {item.event for item in heard} == {wire.event(finished.job, wire.dump(result))}
    assert len({(item.channel, item.position) for item in heard}) == 1


async def test_a_result_of_several_lines_is_the_same_over_every_transport(world: World) -> None:
    """PostgreSQL writes line breaks into what `json_agg` makes, and nobody parses that on its way."""
    live = [await world.open(transport, None) for transport in TRANSPORTS]
    await world.kit.log(1, '[{"n":1}, \n {"n":2}\n\n]')
    await world.kit.finish("next")
    late = [await world.open(transport, "start") for transport in TRANSPORTS]
    heard = await asyncio.gather(*(subscriber.next_event() for subscriber in [*live, *late]))
    (event,) = {item.event for item in heard}
    assert event is not None
    assert event.endswith(b'"data":[{"n":1}, \n {"n":2}\n\n]}')


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
        items += await take(subscriber, min(11, total - len(items)))
        assert subscriber.recovered
        cursor = subscriber.cursor
        await subscriber.close()
        turn += 1
    await soon(work)
    assert numbers(items) == list(range(total))
    assert in_order(items)


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
    job = await world.kit.submit(owner="you")
    with pytest.raises(AssertionError, match="not_found"):
        await world.open(transport, None, [f"job:{job.id}"])


@each_transport
async def test_results_of_another_tenant_are_not_heard(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    await world.kit.finish("theirs", tenant="other")
    await world.kit.finish("ours")
    assert numbers(await take(subscriber, 1)) == ["ours"]
