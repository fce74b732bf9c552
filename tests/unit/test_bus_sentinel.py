"""Redis behind Sentinels: clients, the queue and pub/sub follow the master through its death and its demotion."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from pushsvc import Service
from pushsvc.bus import FAULTS, Publisher, Queue, RedisClient, connect, subscriber, topology
from pushsvc.bus import sentinel as sentinel_module
from pushsvc.bus.endpoint import Endpoint
from pushsvc.bus.link import open_link
from pushsvc.settings import Settings

from ..conftest import SECRET
from ..contract.drivers import WebSocketSubscriber
from ..contract.kit import soon, until
from ..contract.node import serving
from .bus_support import SCOPE, Listening, listening
from .redis_servers import Guarded


@pytest.fixture(scope="module")
def _guarded(data_dir: Path) -> Iterator[Guarded]:
    with Guarded(data_dir / "guarded") as guarded:
        yield guarded


@pytest.fixture
async def guarded(_guarded: Guarded) -> Guarded:
    """A master and a replica that is ready to take its place."""
    await _guarded.whole()
    return _guarded


@pytest.fixture(autouse=True)
def told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told again later would be taken for the next time."""
    monkeypatch.setattr(subscriber, "TOLD_AGAIN_AFTER", ())


async def published(client: RedisClient, payload: bytes, found: Listening) -> None:
    """Publish until it is heard."""

    async def heard() -> bool:
        try:
            await client.publish("t", payload)
        except FAULTS:
            return False
        return payload in found.heard.get("t", ())

    await until(heard, f"{payload!r} is heard")


async def test_a_masters_death_is_followed_by_clients_the_queue_and_pub_sub_without_a_lost_job(
    guarded: Guarded, database_url: str
) -> None:
    settings = Settings.from_env({}, database_url=database_url, redis_url=guarded.url, secret=SECRET)
    worker = Service(settings=settings)
    stopping = asyncio.Event()

    @worker.job
    async def double(x: int) -> int:
        return 2 * x

    async with serving(settings) as node:
        node.service.job(double)
        client = WebSocketSubscriber(node)
        await client.open(["user:me"], None)

        async def submit(x: int) -> None:
            response = await client._http.post("/v1/jobs", json={"job": "double", "params": {"x": x}})
            assert response.status_code == 202, response.text

        await submit(1)
        master = guarded.master
        master.kill()
        # Nobody took it yet; what the replica knows of it, and of the next ones, is all that Redis has.
        await submit(2)
        working = asyncio.create_task(worker.work(stopping))
        try:
            await until(lambda: guarded.master is not master, "another is the master")
            await submit(3)
            heard = [(await soon(client.next_event())).data for _ in range(3)]
            assert sorted(heard) == [2, 4, 6]
            await until(lambda: node.hub._bus.connected)
            await submit(4)
            assert (await soon(client.next_event())).data == 8
        finally:
            stopping.set()
            await soon(working)
            await client.close()


async def test_a_master_that_hangs_with_our_connections_open_is_left_when_there_is_another(guarded: Guarded) -> None:
    client = connect(guarded.url + "?socket_timeout=1")
    async with listening(guarded.url, "t") as found:
        old, replica = guarded.master, guarded.replica
        await client.set("k", b"1")
        await until(lambda: replica.client.get("k") == b"1")
        await published(client, b"before", found)
        old.signal(signal.SIGSTOP)
        try:
            await until(lambda: guarded.master is not old, "another is the master")
            await published(client, b"after", found)
            assert await client.get("k") == b"1"
            assert found.lost
            assert found.told >= 2
        finally:
            old.signal(signal.SIGCONT)
    await client.aclose(close_connection_pool=True)


async def test_a_demoted_master_ends_what_waits_on_it_and_is_left(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_module, "ASK_EVERY", 0.0)
    client, blocking = connect(guarded.url), connect(guarded.url, blocking=True)
    queue = Queue(client, blocking, SCOPE)
    old = guarded.master
    assert await client.ping()
    waiting = asyncio.create_task(queue.token(5.0))
    await until(lambda: old.client.info("clients")["blocked_clients"] == 1, "a worker waits for a token")
    async with listening(guarded.url, "t") as found:
        guarded.sentinels[0].client.execute_command("SENTINEL", "FAILOVER", "themaster")
        await until(lambda: guarded.agreed_master not in (None, old), "all know the other master")
        # The old one takes itself for the master still, and would take this.
        assert old.client.role()[0] == b"master"
        await client.set("where", b"here")
        assert guarded.master.client.get("where") == b"here"
        # The Sentinels do so in ten seconds, and end its connections; here they stay open.
        old.client.execute_command("REPLICAOF", *guarded.master.address)
        with pytest.raises(FAULTS):
            await soon(waiting)
        await until(lambda: _wakes(queue), "a token can be left")
        assert await soon(queue.token(5.0)) is not None
        await published(client, b"after", found)
    for each in (client, blocking):
        await each.aclose(close_connection_pool=True)


async def _wakes(queue: Queue) -> bool:
    try:
        await queue.wake()
    except FAULTS:
        return False
    return True


async def test_a_server_that_is_no_master_is_not_taken_for_one(guarded: Guarded) -> None:
    """As when the Sentinels are ahead of it, or one of them was cut off and asked alone: ROLE decides."""
    endpoint, replica = Endpoint.parse(guarded.url), guarded.replica
    with pytest.raises(ConnectionError):
        await soon(open_link(endpoint, replica.address, {}, lambda _: None))
    client = connect(guarded.url)
    pool: Any = client.connection_pool
    sentinels = pool.sentinels
    sentinels._master, sentinels._asked_at = replica.address, float("inf")
    with pytest.raises(ConnectionError):
        await soon(client.ping())
    await client.aclose(close_connection_pool=True)


async def test_while_no_sentinel_answers_the_master_stays_who_it_was(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_module, "ASK_EVERY", 0.02)
    monkeypatch.setattr(topology._BehindSentinels, "look_every", 0.02)
    monkeypatch.setattr(sentinel_module, "PATIENCE", 0.1)
    client = connect(guarded.url)
    pool: Any = client.connection_pool
    async with listening(guarded.url, "t") as found:
        await published(client, b"before", found)
        told = found.told
        for sentinel in guarded.sentinels:
            sentinel.signal(signal.SIGSTOP)
        try:
            asked = pool.sentinels._asked_at
            for n in range(3):
                while pool.sentinels._asked_at <= asked:
                    assert await soon(client.ping())
                asked = pool.sentinels._asked_at
                await published(client, b"meanwhile %d" % n, found)
            assert (found.told, found.lost) == (told, 0)
        finally:
            for sentinel in guarded.sentinels:
                sentinel.signal(signal.SIGCONT)
    await client.aclose(close_connection_pool=True)


async def test_a_failover_is_told_again_since_publishers_may_learn_of_it_later(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "TOLD_AGAIN_AFTER", (0.01, 0.02))
    async with listening(guarded.url, "t") as found:
        await until(lambda: found.told == 3)
        guarded.master.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: found.told == 6)
        assert found.lost == 1


async def test_an_unknown_master_is_no_connection_until_there_is_one(guarded: Guarded) -> None:
    url = guarded.url.replace("themaster", "another")
    client, found = connect(url), Listening(url)
    assert not await soon(found.subscriber.subscribe("t"))
    found.subscriber.start()
    try:
        with pytest.raises(FAULTS):
            await soon(client.ping())
        await soon(Publisher(client, SCOPE).cancel("j"))
        assert not found.subscriber.connected
    finally:
        await found.subscriber.stop()
        await client.aclose(close_connection_pool=True)
