"""Sharded pub/sub on a real Cluster of three nodes: all shards, a slot that moves, a node that dies and returns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError

from pushsvc import Service, wire
from pushsvc.bus import Cluster, Publisher, connect, connect_bus, subscriber, topology
from pushsvc.bus import line as line_module
from pushsvc.bus.outlet import outlet_of
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.domain import Channel, Position, Progress
from pushsvc.errors import SettingsError
from pushsvc.settings import Settings

from ..contract.drivers import LongPollSubscriber, WebSocketSubscriber
from ..contract.kit import opened, soon, until
from ..contract.node import serving
from .bus_support import SCOPE, listening
from .redis_servers import Server, Shards


@pytest.fixture(scope="module")
def _shards(data_dir: Path) -> Iterator[Shards]:
    with Shards(data_dir / "shards") as shards:
        yield shards


@pytest.fixture
async def shards(_shards: Shards) -> Shards:
    """A Cluster that is whole."""
    for node in _shards.nodes:
        node.start()
    await _shards.agreed()
    return _shards


@pytest.fixture(autouse=True)
def told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told again later would be taken for the next time."""
    monkeypatch.setattr(subscriber, "TOLD_AGAIN_AFTER", ())


@asynccontextmanager
async def publishing(shards: Shards) -> AsyncIterator[tuple[Publisher, Cluster]]:
    cluster = connect_bus(shards.url)
    assert isinstance(cluster, Cluster)
    publisher = Publisher(cluster, SCOPE)
    try:
        yield publisher, cluster
    finally:
        publisher.close()
        await cluster.aclose()


def other_than(shards: Shards, node: Server) -> Server:
    return next(each for each in shards.nodes if each is not node)


# So many that they are of all three shards.
CHANNELS = [Channel("acme", f"user:{n}") for n in range(30)]


async def test_one_tenants_channels_spread_over_the_shards_and_each_is_heard_in_order(shards: Shards) -> None:
    topics = shards.topics(map(SCOPE.topic, CHANNELS))
    async with listening(shards.url, *topics) as found, publishing(shards) as (publisher, _):
        told = [publisher.event([(c, Position("k1", n)) for c in CHANNELS], b'{"n":%d}' % n) for n in range(1, 41)]
        await soon(asyncio.gather(*told))
        await until(lambda: all(len(found.heard.get(name, ())) == 40 for name in topics))
        for name in topics:
            parsed = [wire.parse_bus(message) for message in found.heard[name]]
            assert [part[0] for part in parsed if isinstance(part, tuple)] == [
                Position("k1", n) for n in range(1, 41)
            ]
        assert (found.told, found.lost) == (1, 0)


async def test_only_the_shard_of_a_topic_hears_of_it_and_nobody_does_after_it_is_given_up(shards: Shards) -> None:
    topics = shards.topics()
    async with listening(shards.url, *topics) as found:
        assert [shards.subscribers(name) for name in topics] == [1] * len(topics)
        found.subscriber.unsubscribe(topics[0])
        await until(lambda: shards.subscribers(topics[0]) == 0)
        assert found.subscriber.connected


async def test_a_slot_that_moves_takes_its_topics_along(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    # The node says so itself: nobody has to find it out by looking at the map, or by counting subscriptions.
    monkeypatch.setattr(line_module, "CHECK_EVERY", 3600.0)
    monkeypatch.setattr(topology._OnShards, "look_every", 3600.0)
    monkeypatch.setattr(subscriber, "LONGEST", 3600.0)
    topics = shards.topics(f"moving:{n}" for n in range(9))
    async with listening(shards.url, *topics) as found, publishing(shards) as (publisher, cluster):
        outlet = outlet_of(cluster)
        assert await outlet.publish([(name, b"before") for name in topics]) == []
        for moving in topics[:3]:
            told = found.told
            await shards.move(moving, other_than(shards, shards.owner(moving)))
            await found.told_again(told)
            assert shards.subscribers(moving) == 1
            assert found.subscriber.connected
        # The publisher has not looked since: each message that a node refuses finds its way, the others as ever.
        messages = [publisher._put([(name, b"after")]) for name in topics]
        await soon(asyncio.gather(*messages))
        await until(lambda: all(found.heard[name] == [b"before", b"after"] for name in topics))


async def test_a_topic_asked_for_at_a_slot_that_has_moved_is_confirmed_at_its_new_home(shards: Shards) -> None:
    async with listening(shards.url) as found:
        moved = "has moved"
        await shards.move(moved, other_than(shards, shards.owner(moved)))
        assert await soon(found.subscriber.subscribe(moved))
        assert shards.subscribers(moved) == 1


async def test_a_node_that_dies_costs_the_other_shards_nothing_and_is_heard_again_when_it_is_back(
    shards: Shards,
) -> None:
    topics = shards.topics()
    node = shards.owner(topics[0])
    alive = [name for name in topics if shards.owner(name) is not node]
    async with listening(shards.url, *topics) as found, publishing(shards) as (publisher, _):
        await soon(publisher._put([(name, b"1") for name in topics]))
        await until(lambda: all(found.heard.get(name) for name in topics))
        node.kill()
        await until(lambda: found.lost == 1 and not found.subscriber.connected)
        telling = publisher._put([(name, b"2") for name in topics])
        await until(lambda: all(found.heard[name][-1:] == [b"2"] for name in alive), "the other shards are heard")
        await soon(telling)
        late = [f"late:{n}" for n in range(9)]
        assert not await soon(found.subscriber.subscribe_all(late)), "not all of them can be heard yet"
        told = found.told
        node.start()
        await until(lambda: found.told > told, "told that it is whole again")
        assert [shards.subscribers(name) for name in shards.topics([*topics, *late])] == [1] * 18
        # What could not be said meanwhile is said again.
        await until(lambda: all(found.heard[name][-1:] == [b"2"] for name in topics))


async def test_a_reader_that_a_shard_drops_comes_back(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "CHECK_EVERY", 0.05)
    topics = shards.topics()
    async with listening(shards.url, *topics) as found:
        for node in shards.nodes:
            told = found.told
            node.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await found.told_again(told)
        assert [shards.subscribers(name) for name in topics] == [1] * len(topics)


async def test_the_progress_of_jobs_is_kept_on_the_shard_of_its_key(shards: Shards) -> None:
    jobs = [f"job{n}" for n in range(9)]
    async with publishing(shards) as (publisher, cluster):
        channels = [Channel("default", f"job:{job}") for job in jobs]
        async with listening(shards.url, *map(SCOPE.topic, channels)) as found:
            for n, (job, channel) in enumerate(zip(jobs, channels, strict=True)):
                await publisher.progress([channel], Progress(job, n / 10))
            await until(lambda: len(found.heard) == 9)
        key = SCOPE.key("progress", "job3")
        await shards.move(key, other_than(shards, shards.owner(key)))
        for n, job in enumerate(jobs):
            kept = await soon(publisher.last_progress(job))
            assert kept is not None
            assert wire.load(kept)["value"] == n / 10
            await publisher.forget_progress(job)
            assert await publisher.last_progress(job) is None
        assert await cluster.execute_command("EXISTS", key) == 0


async def test_a_key_on_its_way_to_another_node_is_found(shards: Shards) -> None:
    """ASK: the slot is still the one node's, and a key that it does not hold is the other's already."""
    async with publishing(shards) as (publisher, cluster):
        key = SCOPE.key("progress", "asked")
        source = shards.owner(key)
        to = other_than(shards, source)
        slot = key_slot(key.encode())
        ids = {node.port: node.client.execute_command("CLUSTER", "MYID") for node in (source, to)}
        to.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to.port])
        try:
            await publisher.progress([], Progress("asked", 0.5))
            assert await soon(publisher.last_progress("asked")) is not None
            assert await cluster.execute_command("DEL", key) == 1
        finally:
            for node in (to, source):
                node.client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")


async def test_a_whole_node_hears_its_events_over_the_cluster(shards: Shards, settings: Settings) -> None:
    settings = Settings.model_validate(settings.model_dump() | {"bus_url": shards.url})
    async with serving(settings) as node, opened(settings) as kit, publishing(shards) as (_, cluster):
        kit.publisher = Publisher(cluster, kit.scope)
        users = {kit.scope.topic(Channel("default", f"user:{name}")): name for name in "abcdefgh"}
        shards.topics(users)
        clients = {
            name: (WebSocketSubscriber if n % 2 else LongPollSubscriber)(node, name)
            for n, name in enumerate(users.values())
        }
        for client in clients.values():
            await client.open([client._inbox], None)
        for name in clients:
            await kit.finish(name, owner=name)
        assert [(await soon(client.next_event())).data for client in clients.values()] == list(clients)
        # What is stored while a shard is away, and never published, is read when it is back.
        away = shards.owner(next(iter(users)))
        away.kill()
        for name in clients:
            await kit.finish([name], owner=name, publish=False)
        away.start()
        assert [(await soon(client.next_event())).data for client in clients.values()] == [[name] for name in clients]
        for client in clients.values():
            await client.close()


async def test_a_user_with_the_documented_rights_is_enough(shards: Shards) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    listed = re.search(r"user needs ((?:`[A-Z ]+`(?:, | and |,\n *)?)+)", text)
    assert listed is not None
    allowed = [f"+{command.replace(' ', '|').lower()}" for command in re.findall("`([A-Z ]+)`", listed[1])]
    assert "+cluster|slots" in allowed
    for node in shards.nodes:
        rights = ["on", ">p@ss", "~pushsvc:*", "resetchannels", "&pushsvc:*", "-@all", *allowed]
        node.client.execute_command("ACL", "SETUSER", "app", "reset", *rights)
    shards_url = shards.url.replace("//", "//app:p%40ss@")
    names = [SCOPE.topic(channel) for channel in CHANNELS]
    cluster = connect_bus(shards_url)
    publisher = Publisher(cluster, SCOPE)
    async with listening(shards_url, *names) as found:
        await soon(publisher.event([(channel, Position("k1", 1)) for channel in CHANNELS], b"{}"))
        await soon(publisher.progress(CHANNELS, Progress("j", 0.5)))
        await until(lambda: all(len(found.heard.get(name, ())) == 2 for name in names))
        assert await soon(publisher.last_progress("j")) is not None
        await soon(publisher.forget_progress("j"))
    publisher.close()
    await cluster.aclose(close_connection_pool=True)


async def test_a_cluster_is_no_place_for_the_queue(shards: Shards) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_REDIS_URL can't be a Redis Cluster"):
        connect(shards.url)


async def test_the_doctor_looks_at_every_shard(shards: Shards, settings: Settings) -> None:
    mine = Settings.model_validate(settings.model_dump() | {"bus_url": shards.url.replace("//", "//:hunter2@")})
    found = await Service(settings=mine).examine()
    queue, bus = found.redis
    assert (queue.names, queue.error) == (("queue",), None)
    assert bus.error is not None
    assert "AuthenticationError" in bus.error
    mine = Settings.model_validate(settings.model_dump() | {"bus_url": shards.url})
    queue, bus = (await Service(settings=mine).examine()).redis
    assert (bus.names, bus.error, bus.url) == (("bus",), None, shards.url)
    assert bus.version.startswith("Valkey")
    assert "hunter2" not in repr(found)


async def test_a_server_that_is_no_cluster_is_told_from_one(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir / "no-cluster", port=0) as alone:
        cluster = connect_bus(alone.url.replace("redis:", "redis+cluster:"))
        with pytest.raises(ConnectionError, match="cluster support disabled"):
            await soon(cluster.ping())
        await cluster.aclose(close_connection_pool=True)
