"""A reader that Redis drops, forgets or never lets in: noticed, made good, and what was missed is read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis

from pushsvc.bus import FAULTS, Publisher, connect
from pushsvc.bus import line as line_module
from pushsvc.bus import publisher as publisher_module
from pushsvc.bus.link import NAME, Link
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.settings import Settings

from ..contract.drivers import WebSocketSubscriber, take
from ..contract.kit import opened, soon, until
from ..contract.node import serving
from .bus_support import SCOPE, Listening, listening

TLS = Path(__file__).parent / "tls"


@pytest.fixture(scope="module")
def valkey(data_dir: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(data_dir / "valkey-live", port=0) as valkey:
        yield valkey


class Proxy:
    """A TCP proxy that can put another connection to Redis in the place of one, behind the client's back."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self._port = int(url.rpartition(":")[2])
        self._context = context
        self._backends: list[asyncio.StreamWriter] = []
        self.port = 0
        self.clients = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.swap()

    def swap(self) -> None:
        """Every client goes on with a new connection of its proxy's to Redis."""
        for backend in self._backends:
            backend.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        backend: asyncio.StreamWriter | None = None

        async def replies() -> None:
            nonlocal backend
            while self._server.is_serving():
                source, backend = await asyncio.open_connection("127.0.0.1", self._port)
                self._backends.append(backend)
                with suppress(OSError):
                    while data := await source.read(65536):
                        writer.write(data)

        answering = asyncio.create_task(replies())
        with suppress(OSError):
            while data := await reader.read(65536):
                while backend is None or backend.transport.is_closing():  # noqa: ASYNC110  the other task's doing
                    await asyncio.sleep(0.001)
                backend.write(data)
        answering.cancel()
        writer.close()
        if backend is not None:
            backend.close()


async def publish(url: str, payload: bytes) -> None:
    client = connect(url)
    await client.publish("t", payload)
    await client.aclose(close_connection_pool=True)


def link_of(found: Listening) -> Link:
    (line,) = found.subscriber._lines.values()
    assert line._link is not None
    return line._link


async def test_a_redis_that_answers_and_has_forgotten_us_is_left(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy its server was replaced: the connection is open, and every PING would be answered."""
    monkeypatch.setattr(line_module, "CHECK_EVERY", 0.05)
    async with Proxy(valkey.url) as proxy, listening(f"redis://127.0.0.1:{proxy.port}", "t", "u") as found:
        await publish(valkey.url, b"before")
        await until(lambda: found.heard.get("t") == [b"before"])
        told = found.told
        proxy.swap()
        await found.told_again(told)
        assert (found.lost, proxy.clients) == (1, 2)
        await publish(valkey.url, b"after")
        await until(lambda: found.heard["t"] == [b"before", b"after"])


async def test_a_reader_too_slow_for_redis_is_dropped_and_reads_from_postgresql_what_it_missed(
    settings: Settings, valkey: EmbeddedValkey
) -> None:
    """Redis drops a subscriber beyond `client-output-buffer-limit pubsub`: 32 MB, or 8 MB for a minute."""
    settings = Settings.model_validate(settings.model_dump() | {"bus_url": valkey.url})
    value = "x" * 50_000
    with redis.Redis.from_url(valkey.url) as admin:
        admin.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        async with serving(settings) as node, opened(settings) as kit:
            client = WebSocketSubscriber(node)
            await client.open(["user:me"], None)
            kit.publisher = Publisher(connect(valkey.url), kit.scope)
            await kit.finish([0, value])
            assert (await soon(client.next_event())).data[0] == 0
            (line,) = node.hub._bus._lines.values()
            link = line._link
            assert link is not None
            assert link._transport is not None
            link._transport.pause_reading()  # as if this process were busy with something else
            sent = 0
            while any(each["name"] == NAME.decode() for each in admin.client_list()):
                sent += 1
                await kit.finish([sent, value])
            await kit.finish([sent + 1, value])
            link._transport.resume_reading()
            heard = [item.data[0] for item in await soon(take(client, sent + 1))]
            assert heard == list(range(1, sent + 2))
            assert line._link is not link
            await client.close()
        admin.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")


async def test_a_message_that_is_refused_is_said_later_and_keeps_none_of_the_others_back(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "AGAIN_AFTER", 0.02)
    client = connect(valkey.url.replace("//", "//teller:x@"))
    publisher = Publisher(client, SCOPE)
    with redis.Redis.from_url(valkey.url) as admin:
        admin.acl_setuser("teller", enabled=True, passwords=["+x"], commands=["+@all"], channels=["t"])
        async with listening(valkey.url, "t", "u") as found:
            for n in range(3):
                await soon(publisher._put([("u", b"u%d" % n), ("t", b"t%d" % n)]))
            await until(lambda: found.heard == {"t": [b"t0", b"t1", b"t2"]})
            admin.execute_command("ACL", "SETUSER", "teller", "allchannels")
            # The last is enough: its offset shows what lies before it.
            await until(lambda: found.heard.get("u") == [b"u2"])
            assert found.heard["t"] == [b"t0", b"t1", b"t2"]
            assert not publisher._unsaid
        admin.acl_deluser("teller")
    publisher.close()
    await client.aclose(close_connection_pool=True)


async def test_what_waits_to_be_said_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "UNSAID_LIMIT", 1000)
    client = connect("redis://127.0.0.1:1")
    publisher = Publisher(client, SCOPE)
    for n in range(50):
        await soon(publisher._put([(f"t{n}", b"x" * 100)]))
    assert list(publisher._unsaid) == [f"t{n}" for n in range(40, 50)]
    publisher.close()
    await client.aclose(close_connection_pool=True)


async def test_a_whole_turns_topics_are_one_write_and_known_ones_cost_no_turn(redis_url: str) -> None:
    async with listening(redis_url) as found:
        link = link_of(found)
        written: list[int] = []
        send = link.send

        def count(*commands: tuple[bytes, ...]) -> None:
            written.append(sum(len(command) - 1 for command in commands))
            send(*commands)

        link.send = count  # type: ignore[method-assign]
        asked = [found.subscriber.subscribe_all((f"t{n}", f"u{n}", "shared")) for n in range(1000)]
        assert all(await soon(asyncio.gather(*asked)))
        assert written == [2001]
        again = found.subscriber.subscribe_all(("t1", "u999", "shared"))
        with pytest.raises(StopIteration) as ended:
            again.send(None)
        assert ended.value.value is True
        assert written == [2001]


async def test_a_topic_given_up_and_asked_for_again_is_never_unheard(redis_url: str) -> None:
    async with listening(redis_url, "t") as found:
        client = connect(redis_url)
        for n in range(20):
            found.subscriber.unsubscribe("t")
            if n % 2:
                await asyncio.sleep(0)
            asked = asyncio.create_task(found.subscriber.subscribe("t"))
            await asyncio.sleep(0)
            if n % 3 == 0:
                found.subscriber.unsubscribe("t")
                await soon(asked)
                asked = asyncio.create_task(found.subscriber.subscribe("t"))
            assert await soon(asked)
            assert await client.publish("t", b"%d" % n) == 1
        await until(lambda: len(found.heard["t"]) == 20)
        assert found.lost == 0
        await client.aclose(close_connection_pool=True)


async def test_a_topic_that_redis_refuses_is_tried_again_until_it_may_be_heard(
    valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with redis.Redis.from_url(valkey.url) as admin:
        admin.acl_setuser("hearer", enabled=True, passwords=["+x"], commands=["+@all"], channels=["t"])
        async with listening(valkey.url.replace("//", "//hearer:x@"), "t") as found:
            assert not await soon(found.subscriber.subscribe("u", patience=0.1))
            await until(lambda: "Redis refuses (NOPERM)" in caplog.text)
            assert not found.subscriber.connected, "so that PostgreSQL is asked instead"
            admin.execute_command("ACL", "SETUSER", "hearer", "allchannels")
            await until(lambda: found.subscriber.connected)
            assert await soon(found.subscriber.subscribe_all(["t", "u"]))
        admin.acl_deluser("hearer")


async def test_renewing_connects_anew_and_is_told(redis_url: str) -> None:
    async with listening(redis_url, "t") as found:
        link, told = link_of(found), found.told
        found.subscriber.renew()
        await found.told_again(told)
        assert link_of(found) is not link
        await publish(redis_url, b"1")
        await until(lambda: found.heard == {"t": [b"1"]})


# TLS


@asynccontextmanager
async def over_tls(valkey: EmbeddedValkey) -> AsyncIterator[Proxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    async with Proxy(valkey.url, context) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("host", "options", "works"),
    [
        ("127.0.0.1", f"ssl_ca_certs={TLS / 'certificate.pem'}", True),
        ("127.0.0.1", "ssl_cert_reqs=none", True),
        ("localhost", f"ssl_ca_certs={TLS / 'certificate.pem'}&ssl_check_hostname=no", True),
        ("localhost", f"ssl_ca_certs={TLS / 'certificate.pem'}", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "ssl_ca_certs=/nowhere", False),
    ],
)
async def test_tls_is_as_the_url_says_for_clients_and_for_pub_sub(
    host: str, options: str, works: bool, valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with over_tls(valkey) as proxy:
        url = f"rediss://{host}:{proxy.port}?{options}"
        client = connect(url)
        if works:
            assert await soon(client.ping())
            async with listening(url, "t") as found:
                await publish(url, b"secret")
                await until(lambda: found.heard == {"t": [b"secret"]})
        else:
            with pytest.raises(FAULTS):
                await soon(client.ping())
            found = Listening(url)
            found.subscriber.start()
            await until(lambda: "connecting to pub/sub" in caplog.text)
            assert not found.subscriber.connected
            await found.subscriber.stop()
        await client.aclose(close_connection_pool=True)
