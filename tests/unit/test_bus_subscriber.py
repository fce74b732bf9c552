"""Publishing and hearing, over every way to reach Redis, and through every way to lose it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from pushsvc import telemetry, wire
from pushsvc.bus import Ear, Publisher, Scope, Subscriber, connect
from pushsvc.bus import line as line_module
from pushsvc.bus.line import Line
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.domain import Channel, Position, Progress
from pushsvc.errors import SettingsError

from ..contract.kit import me, soon, until
from .bus_support import SCOPE


class Heard:
    """A subscriber's callbacks, remembered."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.connections = 0

    def get(self, topic: bytes) -> Ear:
        """Whoever hears the topic: always this one."""
        return lambda messages: self.take(topic.decode(), messages)

    def take(self, topic: str, messages: Sequence[bytes]) -> None:
        self.messages += [(topic, message) for message in messages]

    def connected(self) -> None:
        self.connections += 1


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[tuple[Subscriber, Heard]]:
    heard = Heard()
    subscriber = Subscriber(url, heard, heard.connected)
    subscriber.start()
    try:
        await until(lambda: subscriber.connected)
        yield subscriber, heard
    finally:
        await subscriber.stop()


@pytest.fixture(scope="module")
def tcp(data_dir: Path) -> Iterator[EmbeddedValkey]:
    """A Redis server on a port of its own, with a password."""
    with EmbeddedValkey(data_dir / "valkey-tcp", port=0) as valkey:
        yield valkey


@pytest.fixture
def private(data_dir: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    """A Redis server that a test may stop."""
    with EmbeddedValkey(data_dir / f"valkey-{abs(hash(request.node.name)) % 10000}", port=0) as valkey:
        yield valkey


async def publish(url: str, name: str, payload: bytes) -> int:
    client = connect(url)
    try:
        return int(await client.publish(name, payload))
    finally:
        await client.aclose(close_connection_pool=True)


async def subscribers(url: str, kill: bool = False) -> list[dict[str, Any]]:
    client = connect(url)
    try:
        found = [c for c in await client.client_list() if c["name"] == "pushsvc-subscriber"]
        for each in found if kill else []:
            await client.client_kill_filter(_id=each["id"])
        return found
    finally:
        await client.aclose(close_connection_pool=True)


@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_what_is_published_after_the_confirmation_is_heard(
    way: str, redis_url: str, tcp: EmbeddedValkey
) -> None:
    url = redis_url if way == "unix" else tcp.url
    payload = bytes(range(256)) * 400
    async with hearing(url) as (subscriber, heard):
        assert await soon(subscriber.subscribe("a:é"))
        assert await soon(subscriber.subscribe("a:é")), "again is no matter"
        assert await publish(url, "a:é", payload) == 1
        assert await publish(url, "b", b"unheard") == 0
        await until(lambda: heard.messages)
        assert heard.messages == [("a:é", payload)]
        subscriber.unsubscribe("a:é")
        subscriber.unsubscribe("never:subscribed")

        async def nobody() -> bool:
            return await publish(url, "a:é", b"late") == 0

        await until(nobody)


async def test_many_topics_at_once_are_all_confirmed(redis_url: str) -> None:
    async with hearing(redis_url) as (subscriber, heard):
        assert all(await soon(asyncio.gather(*(subscriber.subscribe(f"t{n}") for n in range(500)))))
        for n in (0, 250, 499):
            assert await publish(redis_url, f"t{n}", b"x") == 1
        await until(lambda: len(heard.messages) == 3)


async def test_after_a_lost_connection_every_topic_is_confirmed_before_anybody_is_told(redis_url: str) -> None:
    async with hearing(redis_url) as (subscriber, heard):
        await until(lambda: heard.connections == 1)
        for n in range(50):
            await subscriber.subscribe(f"t{n}")
        listening: list[list[int]] = []
        counting = connect(redis_url)
        told = asyncio.Event()
        subscriber._on_connected = told.set
        for _ in range(3):
            told.clear()
            assert len(await subscribers(redis_url, kill=True)) == 1
            await soon(told.wait())
            answer = await counting.pubsub_numsub(*(f"t{n}" for n in range(50)))
            listening.append([count for _, count in answer])
        await counting.aclose(close_connection_pool=True)
        assert listening == [[1] * 50] * 3


async def test_a_topic_given_up_while_connecting_does_not_keep_the_word_back(redis_url: str) -> None:
    """Somebody leaves between the reconnect and Redis' confirmation: the others must still be told."""
    heard = Heard()
    subscriber = Subscriber(redis_url, heard, heard.connected)

    def leave_early(line: Line) -> None:
        subscriber.unsubscribe("goes")
        Subscriber.up(subscriber, line)

    subscriber.up = leave_early  # type: ignore[method-assign]
    assert not await subscriber.subscribe("stays")
    assert not await subscriber.subscribe("goes")
    subscriber.start()
    try:
        await until(lambda: heard.connections == 1, "told that it is connected")
        assert await soon(subscriber.subscribe("stays"))
    finally:
        await subscriber.stop()


async def test_subscribing_while_redis_is_away_is_made_good_when_it_is_back(private: EmbeddedValkey) -> None:
    async with hearing(private.url) as (subscriber, heard):
        await soon(subscriber.subscribe("before"))
        await asyncio.to_thread(private.stop)
        await until(lambda: not subscriber.connected)
        assert not await soon(subscriber.subscribe("meanwhile"))
        connections = heard.connections
        await asyncio.to_thread(private.start)
        await until(lambda: heard.connections > connections)
        for name in ("before", "meanwhile"):
            assert await publish(private.url, name, b"1") == 1
        await until(lambda: len(heard.messages) == 2)


async def test_a_redis_that_stops_answering_is_noticed(
    private: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open, but not even a pong comes: as when a network drops packets."""
    import os
    import signal

    monkeypatch.setattr(line_module, "CHECK_EVERY", 0.05)
    pid = private.pid
    assert pid is not None
    async with hearing(private.url) as (subscriber, heard):
        await soon(subscriber.subscribe("t"))
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: not subscriber.connected)
        finally:
            os.kill(pid, signal.SIGCONT)
        connections = heard.connections
        await until(lambda: subscriber.connected and heard.connections > connections)
        assert await publish(private.url, "t", b"1") >= 1


async def test_a_silent_but_living_redis_stays_connected(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "CHECK_EVERY", 0.02)
    async with hearing(redis_url) as (subscriber, heard):
        await soon(subscriber.subscribe("t"))
        (line,) = subscriber._lines.values()
        link = line._link
        answers = 0
        received = line._received

        def count(reply: Any) -> None:
            nonlocal answers
            answers += reply[0] == b"subscribe"
            received(reply)

        assert link is not None
        link._on_reply = count
        await until(lambda: answers >= 6)
        assert line._link is link
        assert heard.connections == 1
        assert heard.messages == []


async def test_a_password_is_used_and_a_wrong_one_connects_nobody(
    private: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(private.url) as admin:
        caplog.set_level("DEBUG")
        admin.config_set("requirepass", "p@ss:w/rd")
        admin.acl_setuser("app", enabled=True, passwords=["+s%cret"], commands=["+@all"], channels=["*"], keys=["*"])
    host = private.url.removeprefix("redis://")
    for user in (":p%40ss%3Aw%2Frd", "app:s%25cret"):
        url = f"redis://{user}@{host}"
        async with hearing(url) as (subscriber, heard):
            assert await soon(subscriber.subscribe("t"))
            assert await publish(url, "t", b"1") == 1
            await until(partial(len, heard.messages))
    heard = Heard()
    wrong = Subscriber(f"redis://:hunter2@{host}", heard, heard.connected)
    assert not await wrong.subscribe("t")
    wrong.start()
    try:
        await until(lambda: "Redis refuses (WRONGPASS)" in caplog.text)
        assert not await wrong.subscribe("t", patience=0.05)
        assert heard.connections == 0
    finally:
        await wrong.stop()
    assert "hunter2" not in caplog.text
    with redis.Redis.from_url(f"redis://:p%40ss%3Aw%2Frd@{host}") as admin:
        admin.config_set("requirepass", "")


async def test_a_message_that_the_listener_can_not_bear_does_not_end_the_connection(redis_url: str) -> None:
    class Sensitive(Heard):
        def take(self, topic: str, messages: Sequence[bytes]) -> None:
            if b"bad" in messages:
                raise ValueError("a bug of whoever listens")
            super().take(topic, messages)

    heard = Sensitive()
    subscriber = Subscriber(redis_url, heard, heard.connected)
    subscriber.start()
    try:
        await until(lambda: heard.connections == 1)
        await soon(subscriber.subscribe("t"))
        await publish(redis_url, "t", b"bad")

        async def heard_again() -> bool:
            await publish(redis_url, "t", b"good")
            return bool(heard.messages)

        await until(heard_again)
    finally:
        await subscriber.stop()


async def test_stopping_twice_and_starting_twice_does_no_harm(redis_url: str) -> None:
    heard = Heard()
    subscriber = Subscriber(redis_url, heard)
    await subscriber.stop()
    subscriber.start()
    subscriber.start()
    await until(lambda: subscriber.connected)
    assert len(await subscribers(redis_url)) == 1
    assert await soon(subscriber.subscribe("t"))
    await subscriber.stop()
    await subscriber.stop()
    assert not subscriber.connected

    async def gone() -> bool:
        return not await subscribers(redis_url)

    await until(gone)
    assert not await soon(subscriber.subscribe("t"))
    subscriber.start()
    await until(lambda: subscriber.connected)
    assert await publish(redis_url, "t", b"1") == 1
    await subscriber.stop()


async def test_connecting_and_losing_are_measured(redis_url: str) -> None:
    measured: list[tuple[str, Any]] = []
    detach = telemetry.attach(lambda name, _measures, labels: measured.append((name, labels.get("role"))))
    try:
        async with hearing(redis_url):
            await until(lambda: ("bus.connected", "subscriber") in measured)
            await subscribers(redis_url, kill=True)
            await until(lambda: ("bus.lost", "subscriber") in measured)
    finally:
        detach()


# Publishing


@pytest.mark.parametrize("name", ["user:me", "group:a:b", "user:ä,@%🚀", "job:01J"])
def test_a_topic_stands_for_exactly_one_channel(name: str) -> None:
    own, topic = Channel("default", name), SCOPE.topic
    others = [Channel("default", name + "x"), Channel("defaul", f"t:{name}"), Channel("", name)]
    foreign = [Scope("other", lambda: "a database"), Scope("tests", lambda: "another"), Scope("t", lambda: "ests")]
    assert topic(own) not in {SCOPE.cancels, *map(topic, others), *(scope.topic(own) for scope in foreign)}


async def test_events_are_published_in_the_order_in_which_they_were_handed_over(redis_url: str) -> None:
    client = connect(redis_url)
    publisher = Publisher(client, SCOPE)
    async with hearing(redis_url) as (subscriber, heard):
        await soon(subscriber.subscribe(SCOPE.topic(me())))
        positions = [Position("k1", n) for n in range(1, 1201)]
        told = [publisher.event([(me(), position)], b'{"n":%d}' % position.offset) for position in positions]
        await soon(asyncio.gather(*told))
        await until(lambda: len(heard.messages) == 1200)
    parsed = [wire.parse_bus(payload) for _, payload in heard.messages]
    assert parsed == [(p, wire.Delivery(me(), p, b'{"n":%d}' % p.offset).ws) for p in positions]
    await client.aclose(close_connection_pool=True)


async def test_without_redis_publishing_raises_nothing() -> None:
    client = connect("redis://127.0.0.1:1")
    publisher = Publisher(client, SCOPE)
    await soon(publisher.event([(me(), Position("k1", 1))], b"{}"))
    await soon(publisher.progress([me()], Progress("j", 0.5)))
    await soon(publisher.cancel("j"))
    assert await soon(publisher.last_progress("j")) is None
    await client.aclose(close_connection_pool=True)


async def test_a_cancel_reaches_whoever_listens_for_them(redis_url: str) -> None:
    client = connect(redis_url)
    async with hearing(redis_url) as (subscriber, heard):
        await soon(subscriber.subscribe(SCOPE.cancels))
        await Publisher(client, SCOPE).cancel("01J")
        await until(lambda: heard.messages == [(SCOPE.cancels, b"01J")])
    await client.aclose(close_connection_pool=True)


@pytest.mark.parametrize("url", ["http://host", "host:6379", "", "redis://me:hunter2@host:port"])
def test_what_is_no_redis_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_REDIS_URL") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)
