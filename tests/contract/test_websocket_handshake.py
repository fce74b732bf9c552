"""The opening handshake (RFC 6455, section 4), byte by byte, and what comes too soon after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest_asyncio

from pushsvc.settings import Settings

from .kit import until
from .node import Node, serving
from .websocket_client import PING, TEXT, Heard, close_frame, dial, fragments, frame, handshake
from .websocket_trial import hello

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to `websocket_client.KEY`; both are the RFC's own example."""

Rows = Sequence[tuple[str, Sequence[str], int]]

GOOD: Rows = [
    ("as it should be", (), 101),
    ("names and tokens in any case", ("UPGRADE: WebSocket", "conNECTion: uPGRade"), 101),
    ("other tokens beside", ("Connection: keep-alive, Upgrade",), 101),
    ("its own page", ("Origin: http://127.0.0.1:{port}",), 101),
    ("an allowed origin", ("Origin: https://app.example",), 101),
    ("a header of almost 8 KiB", ("X-Long: " + "x" * 8000,), 101),
    ("a hundred headers", [f"X-{n}: {n}" for n in range(100)], 101),
]
BAD: Rows = [
    ("no version", ("Sec-WebSocket-Version:",), 400),
    ("an old version", ("Sec-WebSocket-Version: 8",), 400),
    ("a version to come", ("Sec-WebSocket-Version: 14",), 400),
    ("a version that is no number", ("Sec-WebSocket-Version: x",), 400),
    ("two versions", ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 400),
    ("no key", ("Sec-WebSocket-Key:",), 400),
    ("a short key", ("Sec-WebSocket-Key: c2hvcnQ=",), 400),
    ("a key that is not base64", ("Sec-WebSocket-Key: %%%%%%%%%%%%%%%%%%%%%%==",), 400),
    ("two keys", ("Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==", "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw=="), 400),
    ("another site's page", ("Origin: https://evil.example",), 403),
    ("no site at all", ("Origin: null",), 403),
    ("another port of the same host", ("Origin: http://127.0.0.1:1",), 403),
]
OURS: Rows = [
    ("a header line that is too long", ("X-Long: " + "x" * 9000,), 431),
    ("too many headers", [f"X-{n}: {n}" for n in range(130)], 431),
    ("a body", ("Content-Length: 5",), 400),
]
"""uvicorn's own class never answers these."""


@pytest_asyncio.fixture
async def nodes(settings: Settings) -> AsyncIterator[dict[str, Node]]:
    changed = settings.model_copy(update={"allowed_origins": ("https://app.example",), "rate_limit": 1e9})
    async with serving(changed, "direct") as direct, serving(changed, "asgi") as asgi:
        yield {"direct": direct, "asgi": asgi}
        direct.server.should_exit = asgi.server.should_exit = True


async def nothing_left(node: Node) -> None:
    state = node.server.server_state
    await until(lambda: not state.connections and not state.tasks)
    assert node.listeners == []


async def answered(
    node: Node, headers: Sequence[str] = (), *, line: str | None = None, behind: bytes = b"", cut: bool = False
) -> Heard:
    """What the server says to a handshake, and to what comes `behind` it."""
    it = await dial(node.port)
    rows = [row.format(port=node.port) for row in headers]
    request = handshake(f"127.0.0.1:{node.port}", "/v1/ws", rows, line=line) + behind
    await it.write(*([request[n : n + 1] for n in range(len(request))] if cut else [request]))
    assert await it.until(head=True)
    if behind:
        await it.until(messages=1, pongs=1)
    elif it.heard.status == 101:
        await it.write(close_frame())
        await it.until_end()
    it.transport.abort()
    return it.heard


async def test_a_handshake_is_accepted_or_refused_by_the_rules(nodes: dict[str, Node]) -> None:
    for ws, node in nodes.items():
        rows = [*GOOD, *BAD, *(OURS if ws == "direct" else ())]
        heard = await asyncio.gather(*(answered(node, headers) for _, headers, _ in rows))
        got = {what: answer.status for (what, _, _), answer in zip(rows, heard, strict=True)}
        assert got == {what: status for what, _, status in rows}
        for answer in heard:
            assert answer.wrong == []
            if answer.status == 101:
                assert answer.header("Sec-WebSocket-Accept") == ACCEPT
                assert answer.header("Upgrade") == "websocket"
                assert answer.code == 1000


async def test_what_is_no_handshake_gets_no_websocket(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        for headers, line in (
            (["Upgrade:"], None),
            (["Connection:"], None),
            (["Connection: close"], None),
            (["Upgrade: h2c"], None),
            ([], "POST /v1/ws HTTP/1.1"),
            ([], "GET /v1/nowhere HTTP/1.1"),
        ):
            assert 400 <= (await answered(node, headers, line=line)).status < 500, (headers, line)
    # uvicorn's own class takes it for HTTP/1.1.
    assert 400 <= (await answered(nodes["direct"], line="GET /v1/ws HTTP/1.0")).status < 500


async def test_a_handshake_may_come_byte_by_byte(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        heard = await answered(node, cut=True)
        assert (heard.status, heard.code, heard.wrong) == (101, 1000, [])


async def test_the_one_subprotocol_is_chosen_when_it_is_offered(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        for offered, chosen in (
            (["pushsvc.v1"], "pushsvc.v1"),
            (["graphql-ws, pushsvc.v1"], "pushsvc.v1"),
            (["graphql-ws", "pushsvc.v1"], "pushsvc.v1"),
            (["pushsvc.v2"], None),
            (["PUSHSVC.V1"], None),
            ([], None),
        ):
            heard = await answered(node, [f"Sec-WebSocket-Protocol: {names}" for names in offered])
            assert (heard.status, heard.header("Sec-WebSocket-Protocol")) == (101, chosen), offered


async def test_no_extension_is_agreed_to(nodes: dict[str, Node]) -> None:
    """12 and 13 in Autobahn: compressed frames can't be shared. One that comes all the same is an error."""
    for node in nodes.values():
        for offer in (
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "x-webkit-deflate-frame, permessage-bzip2",
        ):
            compressed = frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
            heard = await answered(node, [f"Sec-WebSocket-Extensions: {offer}"])
            assert (heard.status, heard.header("Sec-WebSocket-Extensions")) == (101, None)
        it = await dial(node.port)
        it.transport.write(handshake("x", "/v1/ws", [f"Sec-WebSocket-Extensions: {offer}"]))
        assert await it.until(head=True)
        await it.write(compressed)
        await it.until_end()
        assert (it.heard.code, it.heard.wrong) == (1002, [])


async def test_frames_right_behind_the_handshake_are_not_lost(nodes: dict[str, Node]) -> None:
    """A client has to wait for the answer; one that does not is understood all the same, wherever it cuts."""
    node = nodes["direct"]
    early = hello(node.token()) + frame(PING, b"early")
    asked = handshake(f"127.0.0.1:{node.port}", "/v1/ws")

    async def cut(at: int) -> Heard:
        it = await dial(node.port)
        await it.write(*(part for part in ((asked + early)[:at], (asked + early)[at:]) if part))
        assert await it.until(messages=1, pongs=1)
        it.transport.abort()
        return it.heard

    whole = len(asked) + len(early)
    for heard in await asyncio.gather(*(cut(at) for at in range(len(asked) - 2, whole + 1, 7))):
        assert (heard.status, heard.pongs, heard.wrong) == (101, [b"early"], [])
        assert json.loads(heard.messages[0][1])["ok"]["user"] == "me"


async def test_whatever_comes_with_the_handshake_its_answer_comes_first_and_nothing_is_left(
    nodes: dict[str, Node],
) -> None:
    node = nodes["direct"]
    text = frame(TEXT, b"{")
    codes: dict[bytes, set[int | None]] = {
        close_frame(): {1000},
        text + close_frame(4000): {4000},
        frame(2, b"{}"): {1003},
        frame(TEXT, b"\xff"): {1007},
        frame(TEXT, b"x", rsv=7): {1002},
        frame(TEXT, b"x", key=None): {1002},
        frame(TEXT, b"", size=1 << 40): {1009},
        fragments(TEXT, b"x", b"y")[1]: {1002},
        text: {4400},
    }
    for behind, code in codes.items():
        it = await dial(node.port)
        it.transport.write(handshake("x", "/v1/ws") + behind)
        await it.until_end()
        assert it.heard.status == 101
        assert it.heard.code in code, behind
        assert it.heard.wrong == []
    await nothing_left(node)


async def test_a_client_that_goes_during_the_handshake_leaves_nothing(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        for ends in ("close", "abort", "eof"):
            for turns in range(6):
                it = await dial(node.port)
                it.transport.write(handshake("x", "/v1/ws"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                {"close": it.transport.close, "abort": it.transport.abort, "eof": it.end}[ends]()
        await nothing_left(node)
