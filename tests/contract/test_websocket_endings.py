"""How a connection to `/v1/ws` ends, whoever ends it, and that nothing is left of it; then random bytes."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
import uvloop
from websockets.frames import EXTERNAL_CLOSE_CODES

from pushsvc import errors
from pushsvc.settings import Settings
from pushsvc.transports import DirectSocket, ending

from .kit import until
from .node import Node, serving
from .websocket_cases import HELLO
from .websocket_client import BINARY, PING, TEXT, Line, close_frame, dial, frame, handshake, on_the_wire, shaken
from .websocket_trial import hello

LIMIT = 64 * 1024
"""Of a connection's backlog, in bytes."""
READ_AT_ONCE = 600_000
"""Bytes that the answers to one segment may take: uvloop reads 256 KiB of it."""


@pytest_asyncio.fixture
async def nodes(settings: Settings) -> AsyncIterator[dict[str, Node]]:
    """One for each socket class. Afterwards nothing may be left of any connection."""
    changed = settings.model_copy(update={"backlog_limit": LIMIT, "rate_limit": 1e9, "connection_limit": 10_000})
    async with serving(changed, "direct") as direct, serving(changed, "asgi") as asgi:
        yield {"direct": direct, "asgi": asgi}
        for node in (direct, asgi):
            await nothing_left(node)
            node.server.should_exit = True


async def nothing_left(node: Node) -> None:
    state = node.server.server_state
    await until(lambda: not state.connections, "every connection has ended")
    await until(lambda: not state.tasks, "every endpoint has returned")
    await until(lambda: not node.service.parts.connections._held, "every slot is given back")
    assert node.listeners == []


async def greeted(node: Node) -> Line:
    it = await shaken(node.port)
    it.transport.write(hello(node.token()))
    assert await it.until(messages=1)
    assert b'"ok"' in it.heard.messages.pop()[1]
    return it


def asked(number: int, op: str = "unsubscribe", **members: object) -> bytes:
    return frame(TEXT, json.dumps({"id": number, "op": op, "channels": [], **members}).encode())


def codes(it: Line) -> list[object]:
    """Of each message: its op, or its error's code, or the id of an `ok`."""
    bodies = [json.loads(data) for _, data in it.heard.messages]
    return [body.get("op") or body.get("error", {}).get("code") or body["id"] for body in bodies]


async def test_after_our_close_frame_there_is_nothing_more_whatever_the_client_sends(nodes: dict[str, Node]) -> None:
    for ws, node in nodes.items():
        for first, code, said in (
            (asked(1, "subscribe"), 4401, ["unauthorized", "bye"]),
            (frame(TEXT, b"{"), 4400, ["bad_frame", "bye"]),
            (hello("no.token"), 4401, ["unauthorized", "bye"]),
            (frame(BINARY, b"{}"), 1003, []),
            (frame(TEXT, b"\xff"), 1007, []),
        ):
            it = await shaken(node.port)
            await it.write(first)
            assert await it.until(end=True)
            more = [asked(2), frame(PING, b"?"), frame(BINARY, b"x"), frame(TEXT, b"\xff"), frame(TEXT, b"y", rsv=7)]
            for segment in more:
                if not it.heard.ended:
                    await it.write(segment)
            await it.until_end()
            assert (it.heard.code, codes(it)) == (code, said), first
            # uvicorn's own class answers pings after its Close, which the RFC leaves open.
            assert it.heard.pongs == [] or ws == "asgi"
            assert it.heard.wrong == [] or ws == "asgi"


async def test_frames_behind_a_clients_close_are_not_answered(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        it = await greeted(node)
        await it.write(close_frame(4000, b"enough") + asked(1) + frame(PING, b"?"))
        await it.until_end()
        assert (it.heard.code, it.heard.reason, it.heard.messages, it.heard.pongs) == (4000, b"enough", [], [])


async def test_a_client_may_close_while_its_frames_are_being_answered(nodes: dict[str, Node]) -> None:
    """Each asks the database: some are answered, some are not, and nothing comes after the Close."""
    jobs = [f"job:01J9ZZ8QG5V0000000000000{n:02}" for n in range(20)]
    frames = b"".join(asked(n, "subscribe", channels=[job]) for n, job in enumerate(jobs))
    for node in nodes.values():
        for turns in range(0, 20, 2):
            it = await greeted(node)
            await it.write(frames)
            for _ in range(turns):
                await asyncio.sleep(0)
            await it.write(close_frame())
            await it.until_end()
            assert (it.heard.code, it.heard.wrong) == (1000, [])
            assert set(codes(it)) <= {"not_found"}


async def test_more_frames_than_are_read_at_once_are_all_answered_in_order(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        it = await greeted(node)
        await it.write(b"".join(asked(n) for n in range(500)))
        assert await it.until(messages=500)
        assert codes(it) == list(range(500))
        await it.write(close_frame())
        await it.until_end()
        assert (it.heard.code, it.heard.wrong) == (1000, [])


async def test_a_connection_that_breaks_off_leaves_nothing(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        for way in ("half-closed", "reset", "reset half-way", "closed unread"):
            for it in [await greeted(node) for _ in range(5)]:
                await break_off(it, way)
            await nothing_left(node)


async def break_off(it: Line, way: str) -> None:
    if way == "half-closed":
        it.end()
        assert await it.until_end()
        assert it.heard.wrong == []
    elif way == "closed unread":
        it.transport.pause_reading()
        it.transport.write(asked(1) * 200)
        it.transport.close()
    else:
        linger = struct.pack("ii", 1, 0)
        it.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        it.transport.write(asked(1)[: 10 if way == "reset half-way" else None])
        await asyncio.sleep(0)
        it.transport.abort()


async def test_a_client_that_is_still_sending_learns_why_it_is_cut_off(nodes: dict[str, Node]) -> None:
    """Were the socket closed at once, the kernel would drop our Close for what it has not read (section 7.1.1)."""
    for bad, code in ((frame(TEXT, b"x" * 8_000_000), 1009), (frame(TEXT, b"", rsv=7) + b"x" * 8_000_000, 1002)):
        it = await greeted(nodes["direct"])
        await it.write(bad)
        await it.until_end()
        assert (it.heard.code, it.heard.reset, it.heard.wrong) == (code, False, [])


async def deaf(node: Node, sends: Callable[[Line], Awaitable[None]]) -> Line:
    """A client that has said hello and does not read what it is answered."""
    it = await greeted(node)
    it.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    it.transport.pause_reading()
    await sends(it)
    return it


def backlog(node: Node) -> int:
    """Bytes that wait for the clients of a node."""
    return sum(connection.transport.get_write_buffer_size() for connection in node.server.server_state.connections)


async def test_who_does_not_read_is_not_listened_to_until_it_reads(nodes: dict[str, Node]) -> None:
    """Else the answers to what it sends would take the memory of the node: 5 MB of each are asked for here."""
    node = nodes["direct"]
    for one, pongs, messages in ((frame(PING, b"x" * 125), 40_000, 0), (long_answer(), 0, 20_000)):

        async def flood(it: Line, body: bytes = one * max(pongs, messages)) -> None:
            it.transport.write(body)
            (connection,) = node.server.server_state.connections
            # Not by what is left to write here: two kernels may well hold all of it, and how much they do depends on
            # how quickly the node reads.
            await until(lambda: not connection.transport.is_reading(), "the node has stopped to read")

        it = await deaf(node, flood)
        for _ in range(20):
            assert 0 < backlog(node) < LIMIT + READ_AT_ONCE
            await asyncio.sleep(0.005)
        assert len(it.heard.messages) < messages or len(it.heard.pongs) < pongs
        it.transport.resume_reading()
        assert await it.until(messages, pongs)
        assert (len(it.heard.messages), len(it.heard.pongs)) == (messages, pongs)
        await it.write(close_frame())
        await it.until_end()
        assert (it.heard.code, it.heard.wrong) == (1000, [])


def long_answer() -> bytes:
    return asked(7, "subscribe", channels=["group:" + "x" * 200])


async def test_a_deaf_client_can_not_keep_its_connection(
    nodes: dict[str, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket takes no Close frame, and so it would never end by itself."""
    monkeypatch.setattr(ending, "CLOSE_TIMEOUT", 0.05)
    node = nodes["direct"]

    async def fill(it: Line) -> None:
        it.transport.write(long_answer() * 20_000)
        await until(lambda: backlog(node) > LIMIT)

    for end in ("no pong", "bad frame", "bye"):
        it = await deaf(node, fill)
        (connection,) = node.server.server_state.connections
        assert isinstance(connection, DirectSocket)
        if end == "bye":
            await node.service.drain()
        elif end == "no pong":
            connection.lost()
        else:
            parser = connection._parsing()
            parser.fail(1002)
            connection._misunderstood(parser)
        await nothing_left(node)
        it.transport.abort()


def test_every_close_code_of_ours_may_be_sent() -> None:
    tree = [errors.PushsvcError]
    for kind in tree:
        tree += kind.__subclasses__()
        assert 4000 <= kind.close_code <= 4999
    assert all(on_the_wire(code) for code in EXTERNAL_CLOSE_CODES)


# Random bytes


def stream(chance: random.Random) -> bytes:
    """Frames that are right, frames that are not, and no frames at all."""
    parts = []
    for _ in range(chance.randint(1, 6)):
        kind = chance.randrange(6)
        if kind == 0:
            parts.append(chance.randbytes(chance.randint(1, 300)))
            continue
        opcode = chance.choice((0, 1, 1, 1, 2, 8, 9, 10, chance.randrange(16)))
        payload = chance.choice((HELLO, asked(1)[6:], chance.randbytes(chance.randint(0, 200)), b'{"op":"hello"}'))
        made = frame(
            opcode,
            payload,
            fin=chance.random() < 0.8,
            rsv=0 if chance.random() < 0.9 else chance.randrange(8),
            key=chance.randbytes(4) if chance.random() < 0.95 else None,
            size=None if chance.random() < 0.9 else chance.choice((0, 3, 126, 70_000, 1 << 40, 1 << 63)),
        )
        if kind == 1:
            at = chance.randrange(len(made))
            made = made[:at] + bytes((made[at] ^ 1 << chance.randrange(8),)) + made[at + 1 :]
        parts.append(made[: chance.randint(1, len(made))] if kind == 2 else made)
    return b"".join(parts)


async def sent_at_random(number: int, node: Node, token: bytes) -> None:
    """One connection, as its number says: sent before the handshake's answer or after it, cut and ended anywhere."""
    chance = random.Random(number)
    it = await dial(node.port)
    request = handshake("x", "/v1/ws")
    opening = rest = chance.choice((request, *(request + token,) * 8, b""))
    if opening and chance.random() < 0.5:
        it.transport.write(opening)
        assert await it.until(head=True)
        rest = b""
    body = rest + stream(chance)
    cuts = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randrange(4)))
    await it.write(*(body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b))
    if chance.random() < 0.5:
        await it.write(close_frame())
    chance.choice((it.transport.abort, it.transport.close, it.end, it.end))()
    if not it.transport.is_closing():
        assert not opening or await it.until_end(), number
        assert it.heard.reset or it.heard.wrong == [], number
    it.transport.abort()


async def storm(settings: Settings, numbers: range) -> None:
    changed = settings.model_copy(update={"rate_limit": 1e9, "connection_limit": 10_000})
    places = asyncio.Semaphore(100)
    async with serving(changed, "direct") as node:
        token = hello(node.token())

        async def one(number: int) -> None:
            async with places:
                await sent_at_random(number, node, token)

        await asyncio.gather(*(one(number) for number in numbers))
        await nothing_left(node)
        # And it still serves.
        (await greeted(node)).transport.abort()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_random_bytes_break_nothing_and_leave_nothing(
    settings: Settings, caplog: pytest.LogCaptureFixture, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """2000 connections in all, the same ones each time."""
    first = 0 if loop is asyncio.new_event_loop else 1000
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(storm(settings, range(first, first + 1000)))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
