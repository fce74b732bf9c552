"""The same promise when something goes wrong: messages, histories, Redis, a node. Nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pushsvc import wire
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.domain import Channel, Position, inbox
from pushsvc.settings import Settings

from .drivers import TRANSPORTS, Ended, Item, Subscriber, take
from .kit import Kit, opened, soon, until
from .node import serving
from .test_every_transport import each_transport, in_order, numbers
from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAR_BEHIND = (["websocket direct"], ["event stream"], ["long-poll", "polling"])
"""The last two read in the same way when they are behind: each takes its share."""


# What was missed


async def test_a_hundred_thousand_missed_events_are_heard_once_and_in_order(world: World) -> None:
    total = 100_000
    await world.kit.log(total)
    for transports in FAR_BEHIND:
        cursor, offsets, results = "start", [0], [0]
        for transport in transports:
            subscriber = await world.open(transport, cursor)
            for _ in range(total // len(transports)):
                item = await subscriber.next_event()
                offsets.append(item.offset)
                if item.offset % 100 == 0:
                    results.append(item.data)
            cursor = subscriber.cursor
            assert subscriber.recovered
            await subscriber.close()
        assert offsets == list(range(total + 1))
        assert results == list(range(0, total + 1, 100))


@each_transport
async def test_a_place_that_is_gone_is_an_explicit_reset(world: World, transport: str) -> None:
    first = await world.open(transport, None)
    await world.kit.finish_many(range(3), retention=0.001)
    await take(first, 1)
    cursor = first.cursor
    await first.close()
    await world.kit.finish(3)
    await purge(world.kit, 3)
    again = await world.open(transport, cursor)
    reset, event = await take(again, 2)
    assert not again.recovered
    assert (reset.event, reset.offset) == (None, 3)
    assert (event.data, event.offset) == (3, 4)
    assert again.cursor == f"user:me@{event.position}"


@each_transport
async def test_what_was_lost_on_the_way_and_is_gone_by_now_is_an_explicit_reset(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    await world.kit.finish(0)
    await take(subscriber, 1)
    await world.kit.finish_many(range(1, 4), publish=False, retention=0.001)
    await purge(world.kit, 3)
    await world.kit.finish(4)
    reset, event = await take(subscriber, 2)
    assert (reset.event, reset.offset) == (None, 4)
    assert (event.data, event.offset) == (4, 5)
    assert not subscriber.recovered


LIVES = (3600.0, 0.001, 0.001, 3600.0, 3600.0, 0.001, 3600.0, 0.001)
"""Of events in one log, how long each is kept."""

LEFT = [(1, "event"), (3, "reset"), (4, "event"), (5, "event"), (6, "reset"), (7, "event"), (8, "reset")]
"""What a reader from its beginning gets when the short ones are gone."""


async def mixed(kit: Kit) -> None:
    for n, retention in enumerate(LIVES, 1):
        await kit.finish(n, publish=False, retention=retention)
    await purge(kit, sum(retention < 1 for retention in LIVES))


def kinds(items: Sequence[Item]) -> list[tuple[int, str]]:
    return [(item.offset, "reset" if item.event is None else "event") for item in items]


@each_transport
async def test_short_lived_events_take_none_of_their_neighbours_along(world: World, transport: str) -> None:
    first = await world.open(transport, None)
    await world.kit.finish(0)
    cursor = (await take(first, 1))[0].position.replace(".1", ".0")
    await first.close()
    await mixed(world.kit)
    again = await world.open(transport, f"user:me@{cursor}")
    assert again._told in (False, None), "that something is gone is said at once"
    found = kinds(await take(again, len(LEFT) + 1))
    assert found == [(1, "event"), *((offset + 1, kind) for offset, kind in LEFT)]
    await world.kit.finish("live")
    assert (await again.next_event()).data == "live"
    whole = await world.open(transport, again.cursor)
    assert whole._told in (True, None)


@each_transport
async def test_who_is_connected_hears_what_still_lives_of_what_was_lost_on_the_way(
    world: World, transport: str
) -> None:
    subscriber = await world.open(transport, None)
    await mixed(world.kit)
    await world.kit.finish("live")
    found = await take(subscriber, len(LEFT) + 1)
    assert kinds(found) == [*LEFT, (9, "event")]
    assert not subscriber.recovered


async def purge(kit: Kit, count: int) -> None:
    """As soon as so many jobs have outlived their retention."""
    gone = 0

    async def purged() -> bool:
        nonlocal gone
        gone += await kit.retention.purge(100)
        return gone == count

    await until(purged)


# Another history


@each_transport
async def test_a_cursor_of_another_history_is_an_explicit_reset(world: World, transport: str) -> None:
    await world.kit.finish(0)
    subscriber = await world.open(transport, "user:me@k0.7")
    await world.kit.finish(1)
    reset, event = await take(subscriber, 2)
    assert not subscriber.recovered
    assert (reset.event, reset.offset) == (None, 1)
    assert (event.data, event.offset) == (1, 2)


@each_transport
async def test_a_history_that_ends_while_connected_is_an_explicit_reset(world: World, transport: str) -> None:
    """As when a backup is restored: what has just been heard is gone, and its offsets are given anew."""
    subscriber = await world.open(transport, None)
    await world.kit.finish_many(range(3))
    before = (await take(subscriber, 3))[-1]
    restored = "UPDATE pushsvc.channels SET epoch = 'k0', top = 2 WHERE tenant = $1"
    await world.kit.postgres.fetch("DELETE FROM pushsvc.jobs WHERE tenant = $1", world.kit.tenant)
    await world.kit.postgres.fetch(restored, world.kit.tenant)
    await world.kit.finish("tells of the new history")
    reset = await subscriber.next_event()
    assert reset.event is None
    assert reset.position.startswith("k0.")
    await world.kit.finish("last")
    heard = [await subscriber.next_event()]
    while heard[-1].data != "last":
        heard.append(await subscriber.next_event())
    assert in_order([reset, *heard])
    assert heard[-1].position == "k0.4"
    assert heard[-1].channel == before.channel


# What Redis brings


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
async def test_messages_in_any_order_are_heard_in_theirs(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    kit = world.kit
    messages = [(await kit.finish(n, publish=False), n) for n in range(12)] * 2
    random.Random(7).shuffle(messages)
    for finished, n in messages:
        await kit.publisher.event(finished.places, wire.event(finished.job, wire.dump(n)))
    await kit.finish(12)
    items = await take(subscriber, 13)
    assert numbers(items) == list(range(13))
    assert in_order(items)


@each_transport
async def test_the_last_message_may_be_lost_when_the_connection_to_redis_is(world: World, transport: str) -> None:
    subscriber = await world.open(transport, None)
    await world.kit.finish_many(range(3), publish=False)
    await kill_subscribers(world.kit)
    assert numbers(await take(subscriber, 3)) == [0, 1, 2]


@each_transport
@pytest.mark.parametrize("heard_of", [(2, 3), (3,)])
async def test_messages_ahead_of_what_the_store_shows_are_heard_in_their_turn(
    world: World, transport: str, heard_of: Sequence[int]
) -> None:
    """Two events of which the store shows nothing yet, as a replica that lags behind; one message may be lost."""
    subscriber = await world.open(transport, None)
    await world.kit.finish(0)
    (first,) = await take(subscriber, 1)
    epoch = Position.parse(first.position).epoch
    async with uncommitted(world.kit, 2) as bodies:
        for offset in heard_of:
            place = (Channel(world.kit.tenant, inbox("me")), Position(epoch, offset))
            await world.kit.publisher.event([place], bodies[offset - 2])
        late = asyncio.create_task(world.open(transport, f"user:me@{epoch}.1"))
        await asyncio.wait([late], timeout=0.05)
    items = await take(subscriber, 2)
    assert [item.event for item in items] == bodies
    assert in_order([first, *items])
    assert await take(await soon(late), 2) == items


@each_transport
async def test_a_cursor_ahead_of_what_the_store_shows_is_no_reset(world: World, transport: str) -> None:
    """Heard by Redis, and resumed at a node whose replica does not show it yet; then two more, one message lost."""
    subscriber = await world.open("websocket direct", None)
    await world.kit.finish(0)
    (first,) = await take(subscriber, 1)
    epoch = Position.parse(first.position).epoch
    place = Channel(world.kit.tenant, inbox("me"))
    async with uncommitted(world.kit, 3) as bodies:
        await world.kit.publisher.event([(place, Position(epoch, 2))], bodies[0])
        await take(subscriber, 1)
        resumed = asyncio.create_task(world.open(transport, subscriber.cursor))
        await world.kit.publisher.event([(place, Position(epoch, 4))], bodies[2])
        await asyncio.wait([resumed], timeout=0.05)
    for it in (subscriber, await soon(resumed)):
        assert [item.event for item in await take(it, 2)] == bodies[1:]
        assert it.recovered


@asynccontextmanager
async def uncommitted(kit: Kit, count: int) -> AsyncIterator[list[bytes]]:
    """Events in the inbox whose transaction is open until the block ends."""
    bodies = [wire.dump({"id": f"evt_{uuid4().hex}", "type": "t", "final": False, "data": n}) for n in range(count)]
    pool = await kit.postgres.pool()
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            "UPDATE pushsvc.channels SET top = top + $2 WHERE tenant = $1 AND name = 'user:me' RETURNING id, top",
            kit.tenant,
            count,
        )
        for number, body in enumerate(bodies):
            await connection.execute(
                'INSERT INTO pushsvc.events (deployment, channel, "offset", id, body, expires_at)'
                " VALUES ('arq:queue', $1, $2, $3, $4, now() + interval '1 hour')",
                rows[0]["id"],
                rows[0]["top"] - count + 1 + number,
                uuid4().hex,
                body.decode(),
            )
        yield bodies


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
                await kill_subscribers(kit)

    await asyncio.gather(*(write(range(n, total, 4)) for n in range(4)))
    await kit.finish("last")
    heard = await asyncio.gather(*(take(subscriber, total + 1) for subscriber in subscribers))
    for items in heard:
        assert in_order(items)
        assert items == heard[0]
    assert sorted(numbers(heard[0][:-1])) == list(range(total))


async def kill_subscribers(kit: Kit) -> None:
    await kit.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]  # untyped in redis


async def test_redis_may_be_restarted_in_the_middle(shared_settings: Settings, data_dir: Path) -> None:
    """While it is away, and after, every transport hears everything."""
    with EmbeddedValkey(data_dir / f"valkey-{uuid4().hex[:6]}", port=0) as valkey:
        settings = shared_settings.model_copy(update={"redis_url": SecretStr(valkey.url)})
        async with (
            opened(settings) as kit,
            serving(settings, "direct") as direct,
            serving(settings, "asgi") as asgi,
        ):
            world = World(kit.of(f"t{uuid4().hex[:12]}"), {"direct": direct, "asgi": asgi})
            subscribers = [await world.open(transport, None) for transport in TRANSPORTS]
            await world.kit.finish_many(range(5))
            await asyncio.to_thread(valkey.stop)
            await world.kit.finish_many(range(5, 10))
            heard = await asyncio.gather(*(take(subscriber, 10) for subscriber in subscribers))
            await asyncio.to_thread(valkey.start)
            await world.kit.finish_many(range(10, 15))
            rest = await asyncio.gather(*(take(subscriber, 5) for subscriber in subscribers))
            for before, after in zip(heard, rest, strict=True):
                assert numbers([*before, *after]) == list(range(15))
                assert in_order([*before, *after])
            await world.close()
            for node in (direct, asgi):
                node.server.should_exit = True


# A node that goes away


async def test_a_node_may_go_away_in_the_middle(world: World, shared_settings: Settings) -> None:
    """Whoever it sends elsewhere goes on at another node with its cursor, while results keep coming."""
    total = 60
    async with serving(shared_settings, "direct") as direct, serving(shared_settings, "asgi") as asgi:
        leaving = {"direct": direct, "asgi": asgi}
        subscribers = {t: await world.open(t, "start", node=leaving[kind]) for t, (kind, _) in TRANSPORTS.items()}
        heard: dict[str, list[Item]] = {transport: [] for transport in TRANSPORTS}
        following = asyncio.gather(*(follow(world, t, s, heard[t], total) for t, s in subscribers.items()))
        await world.kit.finish_many(range(total // 2))
        for node in (direct, asgi):
            node.server.should_exit = True
        await world.kit.finish_many(range(total // 2, total))
    await soon(following)
    for items in heard.values():
        assert numbers(items) == list(range(total))
        assert in_order(items)


async def follow(world: World, transport: str, subscriber: Subscriber, heard: list[Item], count: int) -> None:
    while len(heard) < count:
        try:
            heard.append(await subscriber.next_event())
        except Ended:
            subscriber = await world.open(transport, subscriber.cursor or "start")
