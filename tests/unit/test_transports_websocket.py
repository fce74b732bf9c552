"""WebSocket sessions of `pushsvc.v1` through a real uvicorn, under both of its WebSocket classes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Origin, Subprotocol

from pushsvc import wire
from pushsvc.settings import Settings

from ..contract.kit import Kit, opened, soon, until
from ..contract.node import WS_CLASSES, Node, serving

SUBPROTOCOLS = [Subprotocol(wire.SUBPROTOCOL)]


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest_asyncio.fixture(params=WS_CLASSES)
async def node(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """A node with small limits, under each class."""
    small = settings.model_copy(
        update={"connection_limit": 3, "channel_limit": 5, "hello_timeout": 30.0, "frame_limit": 4096}
    )
    async with serving(small, request.param) as made:
        yield made


class Client:
    """A WebSocket client that speaks JSON."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    async def ask(self, **frame: Any) -> Any:
        await self.ws.send(json.dumps(frame))
        return await self.next()

    async def next(self) -> Any:
        return json.loads(await soon(self.ws.recv()))

    async def ended(self) -> tuple[list[Any], int | None]:
        """What still comes, and the code of the Close frame that nothing follows."""
        frames: list[Any] = []
        try:
            while True:
                frames.append(await self.next())
        except ConnectionClosed as closed:
            return frames, closed.rcvd.code if closed.rcvd else None


@asynccontextmanager
async def client(node: Node, **options: Any) -> AsyncIterator[Client]:
    async with connect(node.ws, subprotocols=SUBPROTOCOLS, compression=None, max_queue=None, **options) as ws:
        yield Client(ws)


@asynccontextmanager
async def greeted(node: Node, **hello: Any) -> AsyncIterator[Client]:
    async with client(node) as made:
        answer = await made.ask(id=1, op="hello", **{"token": node.token(), **hello})
        assert "ok" in answer, answer
        yield made


# The handshake and hello


async def test_hello_is_answered_before_any_event(kit: Kit, node: Node) -> None:
    await kit.finish_many(range(3))
    async with client(node) as it:
        assert it.ws.subprotocol == "pushsvc.v1"
        answer = await it.ask(id=7, op="hello", token=node.token(), cursor="start")
        assert answer["id"] == 7
        ok = answer["ok"]
        assert ok["session"].startswith("ses_")
        assert (ok["user"], ok["ping"], ok["recovered"]) == ("me", node.service.settings.ping, True)
        frames = [await it.next() for _ in range(3)]
        assert [(frame["op"], frame["channel"], frame["event"]["data"]) for frame in frames] == [
            ("event", "user:me", n) for n in range(3)
        ]
        assert ok["cursor"] == f"user:me@{frames[0]['position'].partition('.')[0]}.0"


async def test_a_token_may_come_with_the_handshake(node: Node) -> None:
    async with client(node, additional_headers={"Authorization": f"Bearer {node.token('you')}"}) as it:
        assert (await it.ask(op="hello"))["ok"]["user"] == "you"


async def test_a_token_in_hello_counts_before_that_of_the_handshake(node: Node) -> None:
    async with client(node, additional_headers={"Authorization": f"Bearer {node.token('you')}"}) as it:
        assert (await it.ask(op="hello", token=node.token("me")))["ok"]["user"] == "me"


@pytest.mark.parametrize(
    ("hello", "code", "close"),
    [
        ({"op": "hello", "token": "not.a.token"}, "unauthorized", 4401),
        ({"op": "hello"}, "unauthorized", 4401),
        ({"op": "subscribe", "channels": ["user:me"]}, "unauthorized", 4401),
        ({"op": "nonsense"}, "bad_frame", 4400),
        ({"op": "hello", "token": 7}, "bad_frame", 4400),
    ],
)
async def test_a_wrong_hello_gets_an_error_a_bye_and_its_close_code(
    node: Node, hello: dict[str, Any], code: str, close: int
) -> None:
    async with client(node) as it:
        answer = await it.ask(id=3, **hello)
        assert (answer["id"], answer["error"]["code"], answer["error"]["temporary"]) == (3, code, False)
        assert "not.a.token" not in json.dumps(answer)
        frames, ended = await it.ended()
        assert frames == [{"op": "bye", "code": close}]
        assert ended == close


@pytest.mark.parametrize(
    ("claims", "hello", "code", "close"),
    [
        ({"scope": ["submit"]}, {}, "forbidden", 4403),
        ({}, {"cursor": "rubbish"}, "bad_cursor", 4400),
        ({}, {"channels": ["rubbish"]}, "bad_request", 4400),
        ({}, {"channels": ["group:ops"]}, "forbidden", 4403),
        ({}, {"channels": [f"user:me{n}" for n in range(9)]}, "too_many_channels", 4413),
    ],
)
async def test_a_hello_that_asks_too_much_is_refused(
    node: Node, claims: dict[str, Any], hello: dict[str, Any], code: str, close: int
) -> None:
    async with client(node) as it:
        answer = await it.ask(id=1, op="hello", token=node.token(**claims), **hello)
        assert answer["error"]["code"] == code
        assert await it.ended() == ([{"op": "bye", "code": close}], close)


@pytest.mark.parametrize("ws", WS_CLASSES)
async def test_without_a_hello_in_time_the_connection_is_closed(settings: Settings, ws: str) -> None:
    async with serving(settings.model_copy(update={"hello_timeout": 0.05}), ws) as node, client(node) as it:
        assert await it.ended() == ([{"op": "bye", "code": 4401}], 4401)


async def test_a_connection_does_not_outlive_its_token(node: Node) -> None:
    async with greeted(node, token=node.token(ttl=1)) as it:
        assert await it.ended() == ([{"op": "bye", "code": 4401}], 4401)
    await until(lambda: not node.listeners and held(node) == 0)


async def test_a_second_hello_is_an_error_and_changes_nothing(kit: Kit, node: Node) -> None:
    async with greeted(node) as it:
        answer = await it.ask(id=2, op="hello", token=node.token("you"))
        assert (answer["id"], answer["error"]["code"]) == (2, "bad_frame")
        await kit.finish(1)
        assert (await it.next())["event"]["data"] == 1


async def test_another_sites_page_is_refused_at_the_handshake(node: Node) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(node.ws, origin=Origin("https://evil.example")):
            pass
    assert caught.value.response.status_code == 403
    async with connect(node.ws, origin=Origin(node.http)):
        pass


# Frames


async def test_channels_are_joined_and_left(kit: Kit, node: Node) -> None:
    await kit.finish(0, owner="you", channels=("group:ops",))
    async with greeted(node, token=node.token(channels=["group:ops"])) as it:
        answer = await it.ask(id=2, op="subscribe", channels=["group:ops"], cursor="start")
        assert answer["ok"]["recovered"]
        assert (await it.next())["event"]["data"] == 0
        again = await it.ask(id=3, op="subscribe", channels=["group:ops"])
        assert again == {"id": 3, "ok": {"cursor": "", "recovered": True}}
        assert await it.ask(id=4, op="unsubscribe", channels=["group:ops", "group:unknown"]) == {"id": 4, "ok": {}}
        await kit.finish(1, owner="you", channels=("group:ops",))
        await kit.finish(2)
        frame = await it.next()
        assert (frame["channel"], frame["event"]["data"]) == ("user:me", 2)


async def test_an_error_names_its_frame_and_the_connection_goes_on(kit: Kit, node: Node) -> None:
    async with greeted(node) as it:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"op": "subscribe", "channels": ["group:ops"]}, "forbidden"),
            ({"op": "subscribe", "channels": ["job:01J9ZZ8QG5V0000000000000AB"]}, "not_found"),
            ({"op": "subscribe", "channels": ["user:me"], "cursor": "rubbish"}, "bad_cursor"),
            ({"op": "subscribe"}, "bad_frame"),
            ({"op": "fly"}, "bad_frame"),
        ]
        for number, (frame, code) in enumerate(wrong, 10):
            answer = await it.ask(id=number, **frame)
            assert (answer["id"], answer["error"]["code"]) == (number, code)
        await it.ws.send("{")
        assert (await it.next())["error"]["code"] == "bad_frame"
        await kit.finish(1)
        assert (await it.next())["event"]["data"] == 1


async def test_no_more_channels_than_the_limit(node: Node) -> None:
    names = [f"group:{n}" for n in range(6)]
    async with greeted(node, token=node.token(channels=names)) as it:
        assert "ok" in await it.ask(id=2, op="subscribe", channels=names[:4])
        answer = await it.ask(id=3, op="subscribe", channels=names[4:5])
        assert answer["error"]["code"] == "too_many_channels"
        assert "ok" in await it.ask(id=4, op="unsubscribe", channels=names[:1])
        assert "ok" in await it.ask(id=5, op="subscribe", channels=names[4:5])


async def test_frames_are_answered_in_their_order(node: Node) -> None:
    async with greeted(node) as it:
        for number in range(20):
            await it.ws.send(json.dumps({"id": number, "op": "unsubscribe", "channels": []}))
        assert [(await it.next())["id"] for _ in range(20)] == list(range(20))


async def test_a_client_that_sends_without_waiting_is_read_no_faster_than_it_is_answered(node: Node) -> None:
    """Megabytes of frames: they wait in the socket, not in the node, and each has its answer in the end."""
    async with greeted(node) as it:
        count, most = 3000, 0
        sending = asyncio.create_task(send_all(it, count))
        for number in range(count):
            answer = await it.next()
            assert (answer["id"], answer["error"]["code"]) == (number, "not_found")
            (session,) = node.listeners
            most = max(most, len(session._frames or ()))  # type: ignore[attr-defined]
        await soon(sending)
        assert most < 1000, "what one read of the socket brought, and no more"


async def send_all(it: Client, count: int) -> None:
    padding = "x" * 300
    for number in range(count):
        channels = ["job:01J9ZZ8QG5V0000000000000AB"]
        await it.ws.send(json.dumps({"id": number, "op": "subscribe", "channels": channels, "padding": padding}))


async def test_nothing_follows_a_close_frame(kit: Kit, node: Node) -> None:
    """Raw bytes: while results keep coming, the node says bye; whatever it sends ends with that Close."""
    async with greeted(node) as it:
        task = asyncio.create_task(kit.finish_many(range(30)))
        await it.next()
        await node.hub.drain()
        frames, code = await it.ended()
        await task
        assert code == 4001
        assert frames[-1] == {"op": "bye", "code": 4001, "retry_ms": [500, 20000]}
        assert all(frame["op"] == "event" for frame in frames[:-1])


async def test_a_binary_frame_is_refused_with_1003(node: Node) -> None:
    async with greeted(node) as it:
        await it.ws.send(b'{"op":"unsubscribe","channels":[]}')
        frames, code = await it.ended()
        assert (frames, code) == ([], 1003)
    await until(lambda: not node.listeners)


async def test_text_that_is_not_utf8_is_refused_with_1007(node: Node) -> None:
    async with greeted(node) as it:
        await raw(it, Frame(Opcode.TEXT, b'{"op":"\xff\xfe"}'))
        frames, code = await it.ended()
        assert (frames, code) == ([], 1007)
    await until(lambda: not node.listeners)


async def test_a_message_in_fragments_is_one_message(node: Node) -> None:
    async with greeted(node) as it:
        text = '{"id":5,"op":"unsubscribe","channels":["group:Zürich"]}'.encode()
        at = text.index(b"\xbc")
        await raw(it, Frame(Opcode.TEXT, text[:at], fin=False))
        await raw(it, Frame(Opcode.CONT, text[at:]))
        assert await it.next() == {"id": 5, "ok": {}}


async def test_a_message_beyond_the_frame_limit_is_refused_with_1009(node: Node) -> None:
    async with greeted(node) as it:
        await it.ws.send(json.dumps({"op": "unsubscribe", "channels": ["x" * 5000]}))
        assert (await it.ended())[1] == 1009
    await until(lambda: not node.listeners)


async def raw(it: Client, frame: Frame) -> None:
    it.ws.transport.write(frame.serialize(mask=True))


# How many, and how they end


async def test_a_principal_has_no_more_connections_than_its_limit_and_gets_them_back(node: Node) -> None:
    async with greeted(node), greeted(node):
        async with greeted(node):
            async with client(node) as it:
                answer = await it.ask(id=1, op="hello", token=node.token())
                assert (answer["error"]["code"], answer["error"]["temporary"]) == ("too_many_connections", True)
                frames, code = await it.ended()
                assert code == 4029
                assert frames[0]["retry_ms"]
            async with greeted(node, token=node.token("you")):
                pass
        await until(lambda: held(node) == 2)
        async with greeted(node):
            pass
    await until(lambda: held(node) == 0)


def held(node: Node) -> int:
    return sum(map(len, node.service.parts.connections._held.values()))


@pytest.mark.parametrize("way", ["close", "abort", "half hello", "no handshake"])
async def test_however_a_connection_ends_nothing_is_left_of_it(node: Node, way: str) -> None:
    """Even while its hello is still being answered."""
    for turns in range(10):
        if way == "no handshake":
            probe = socket.create_connection(("127.0.0.1", node.port))
            probe.send(b"GET /v1/ws HTTP/1.1\r\n")
            probe.close()
            continue
        ws = await connect(node.ws, subprotocols=SUBPROTOCOLS)
        hello = {"op": "hello", "token": node.token(channels=["group:a"]), "channels": ["group:a"]}
        await ws.send(json.dumps(hello))
        if way == "half hello":
            for _ in range(turns * 3):
                await asyncio.sleep(0)
        else:
            await soon(ws.recv())
        if way == "close":
            await ws.close()
        else:
            ws.transport.abort()
    await until(lambda: not node.listeners and held(node) == 0 and not node.server.server_state.connections)


async def test_a_job_channel_in_hello_of_a_client_that_goes_at_once_leaks_no_connection(kit: Kit, node: Node) -> None:
    """The check of a job's owner asks the database: enough time for the client to be gone."""
    finished = await kit.finish(1)
    hello = json.dumps({"op": "hello", "token": node.token(), "channels": [f"job:{finished.job.id}"]})
    for turns in range(12):
        ws = await connect(node.ws, subprotocols=SUBPROTOCOLS)
        await ws.send(hello)
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        ws.transport.abort()
    await until(lambda: not node.server.server_state.connections)
    await until(lambda: not node.server.server_state.tasks)
    await until(lambda: held(node) == 0, "every connection's slot is given back")
    assert node.listeners == []


# Slow clients


@pytest.mark.parametrize("ws", WS_CLASSES)
@pytest.mark.parametrize("attached", ["live", "catching up"])
async def test_a_client_that_stops_reading_costs_bounded_memory_and_gets_everything_in_the_end(
    kit: Kit, settings: Settings, ws: str, attached: str
) -> None:
    """30 MB for a deaf one, with 64 KiB of backlog allowed; another client hears everything meanwhile."""
    value, count = "x" * 60_000, 500
    small = settings.model_copy(update={"backlog_limit": 64 * 1024})
    async with serving(small, ws) as node:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", node.port))
        if attached == "catching up":
            await kit.finish_many([value] * 99, publish=False)
        async with (
            connect(
                node.ws, sock=deaf, subprotocols=SUBPROTOCOLS, compression=None, max_queue=1, max_size=None
            ) as slow_ws,
            greeted(node, cursor="start") as quick,
        ):
            slow = Client(slow_ws)
            await slow_ws.send(json.dumps({"op": "hello", "token": node.token(), "cursor": "start"}))
            assert "ok" in await slow.next()
            already = 99 if attached == "catching up" else 0
            await kit.finish_many([value] * (count - already))
            heard = [await quick.next() for _ in range(count)]
            assert [frame["position"].partition(".")[2] for frame in heard] == [str(n) for n in range(1, count + 1)]
            assert backlog(node) < 10_000_000, "a page of missed events and no more"
            got = [await slow.next() for _ in range(count)]
            assert got == heard
            await kit.finish("after")
            assert (await slow.next())["event"]["data"] == "after"


def backlog(node: Node) -> int:
    """Bytes that wait in this process for sockets to take them, as far as the transports and sessions know."""
    total = 0
    for connection in node.server.server_state.connections:
        transport = getattr(connection, "transport", None)
        if transport is not None:
            total += transport.get_write_buffer_size()
    for listener in node.listeners:
        total += getattr(getattr(listener, "_socket", None), "_bytes", 0)
    return total


# Shutting down


async def test_a_node_that_goes_away_says_so_first(kit: Kit, settings: Settings) -> None:
    for ws in WS_CLASSES:
        async with serving(settings, ws) as node:
            async with greeted(node) as it:
                await node.service.drain()
                frames, code = await it.ended()
                assert frames == [{"op": "bye", "code": 4001, "retry_ms": [500, 20000]}]
                assert code == 4001


async def test_a_request_that_is_no_websocket_is_refused(node: Node) -> None:
    async with httpx.AsyncClient(base_url=node.http) as http:
        response = await http.get("/v1/ws")
    assert response.status_code in (404, 426)
