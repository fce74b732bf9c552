"""Event streams byte by byte, and what is theirs alone: ids, retries, pings, their several ends."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

import httpx
import pytest

from pushsvc import wire
from pushsvc.access import claims_of, new_ticket, ticket_id
from pushsvc.domain import Channel, Principal, Progress, job_channel
from pushsvc.settings import Settings
from pushsvc.store import TicketStore
from pushsvc.transports import EventStream
from pushsvc.transports.kernel import SEND_BUFFER

from .drivers import Block, StreamReader
from .kit import Kit, soon, succeeded, until
from .node import Node, serving
from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Stream:
    """A stream over a connection of its own, of which every byte is looked at."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.blocks: list[Block] = []
        self.comments = 0
        self._parser = StreamReader()

    async def head(self) -> None:
        lines = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}

    async def chunk(self) -> bytes:
        """The next chunk (RFC 9112, section 7.1); the last one is empty."""
        size = int(await soon(self.reader.readuntil(b"\r\n")), 16)
        return (await soon(self.reader.readexactly(size + 2)))[:-2]

    async def body(self) -> bytes:
        """An answer of a known length."""
        return await soon(self.reader.readexactly(int(self.headers["content-length"])))

    async def block(self) -> Block:
        """The next block that is no ping."""
        while not self.blocks:
            chunk = await self.chunk()
            if not chunk:
                raise EOFError
            for block in self._parser.feed(chunk):
                if block.data is None and block.retry is None:
                    self.comments += 1
                else:
                    self.blocks.append(block)
        return self.blocks.pop(0)

    async def rest(self) -> list[Block]:
        """What comes until the answer has been ended as HTTP has it."""
        found = []
        while True:
            try:
                found.append(await self.block())
            except EOFError:
                return found


@asynccontextmanager
async def streaming(
    node: Node, query: str = "", *, method: str = "GET", sock: socket.socket | None = None, **headers: str
) -> AsyncIterator[Stream]:
    where: dict[str, Any] = {"sock": sock} if sock else {"host": "127.0.0.1", "port": node.port}
    reader, writer = await asyncio.open_connection(**where)
    stream = Stream(reader, writer)
    lines = [f"{method} /v1/events/stream{query} HTTP/1.1", "Host: here"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        await stream.head()
        yield stream
    finally:
        writer.close()


def bearer(world: World, **claims: Any) -> str:
    return f"Bearer {world.nodes['direct'].token(**({'tenant': world.kit.tenant} | claims))}"


def in_kernel(node: Node, client: socket.socket) -> int:
    """Bytes for this client that have left the process, and not the machine (tcp(7), SIOCOUTQ)."""
    port = client.getsockname()[1]
    transports = [connection.transport for connection in node.server.server_state.connections]
    found = next(each for each in transports if each.get_extra_info("peername")[1] == port)
    return int.from_bytes(ioctl(found.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)


def streams(node: Node) -> list[EventStream]:
    return [listener for listener in node.listeners if isinstance(listener, EventStream)]


# What it looks like


async def test_the_answer_begins_with_its_cursor_and_goes_on_with_whole_events(world: World) -> None:
    node = world.nodes["direct"]
    await world.kit.finish(0)
    async with streaming(node, Authorization=bearer(world)) as it:
        assert it.status == 200
        assert it.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert it.headers["cache-control"] == "no-cache, no-transform"
        assert it.headers["x-accel-buffering"] == "no"
        assert "content-length" not in it.headers
        assert "content-encoding" not in it.headers
        first = re.fullmatch(rb": recovered\nretry: (\d+)\nid: user:me@(\w+)\.1\n\n", await it.chunk())
        assert first is not None
        assert 500 <= int(first[1]) <= 3000
        finished = await world.kit.finish({"n": 1})
        item = b'{"channel":"user:me","position":"%b.2","event":%b}' % (
            first[2],
            wire.event(finished.job, b'{"n":1}'),
        )
        assert await it.chunk() == b"id: user:me@%b.2\nevent: event\ndata: %b\n\n" % (first[2], item)


async def test_an_id_is_the_cursor_of_all_the_streams_channels(world: World) -> None:
    node = world.nodes["direct"]
    query = "?channels=group%3AZ%C3%BCrich,user%3Ame"
    async with streaming(node, query, Authorization=bearer(world, channels=["group:Zürich"])) as it:
        start = (await it.block()).id
        assert re.fullmatch(r"group:Z%C3%BCrich@k\w+\.0,user:me@k\w+\.0", start)
        await world.kit.finish(0, channels=("group:Zürich",))
        ids = {(await it.block()).id, (await it.block()).id}
        assert start.replace(".0", ".1") in ids
        assert len({re.sub(r"\.\d", "", id) for id in {start, *ids}}) == 1


async def test_the_header_of_a_browser_that_comes_back_goes_before_the_urls_cursor(world: World) -> None:
    await world.kit.finish_many(range(3))
    node = world.nodes["direct"]
    async with streaming(node, "?cursor=start", Authorization=bearer(world)) as it:
        await it.block()
        ids = [(await it.block()).id for _ in range(3)]
    async with streaming(node, "?cursor=start", Authorization=bearer(world), Last_Event_ID=ids[1]) as it:
        assert (await it.block()).id == ids[1]
        assert (await it.block()).id == ids[2]


async def test_a_reset_that_is_still_to_come_is_not_passed_over_by_the_first_id(world: World) -> None:
    """Whoever is cut off between the two comes back with the cursor it had, and meets the reset again."""
    await world.kit.finish(0)
    async with streaming(world.nodes["direct"], "?cursor=user:me@k0.9", Authorization=bearer(world)) as it:
        start = await it.block()
        assert (start.id, start.comments, start.data) == ("user:me@k0.9", ["a reset follows"], None)
        reset = await it.block()
        assert reset.event == "reset"
        assert reset.data is not None
        body = json.loads(reset.data)
        assert reset.id == f"user:me@{body['position']}"
        assert body == {"channel": "user:me", "position": body["position"], "links": {"jobs": "/v1/jobs"}}


async def test_line_breaks_of_any_kind_stay_between_events(world: World) -> None:
    """In JSON they are white space, so that a client may get another kind than was written."""
    assert wire.sse_block("event", b'{"a":\r\n 1,\r"b":\n2}') == (
        b'event: event\ndata: {"a":\ndata:  1,\ndata: "b":\ndata: 2}\n\n'
    )


async def test_progress_changes_no_id(world: World) -> None:
    kit = world.kit
    job = await kit.submit()
    channel = job_channel(job.id)
    async with streaming(world.nodes["direct"], f"?channels={channel}", Authorization=bearer(world)) as it:
        start = await it.block()
        await kit.publisher.progress([Channel(kit.tenant, channel)], Progress(job.id, 0.5, "half", ()))
        block = await it.block()
        assert (block.event, block.id) == ("progress", start.id)
        assert block.data is not None
        assert json.loads(block.data) == {"job": job.id, "value": 0.5, "message": "half", "queries": []}


# Its ends


async def test_a_stream_of_finished_jobs_says_so_and_does_not_let_a_browser_come_back(world: World) -> None:
    kit, node = world.kit, world.nodes["direct"]
    jobs = [await kit.submit() for _ in range(2)]
    query = "?channels=" + ",".join(job_channel(job.id) for job in jobs)
    who = bearer(world)
    async with streaming(node, query, Authorization=who) as it:
        last = (await it.block()).id
        for job in jobs:
            finished = await kit.jobs.finish(succeeded(job.id, job.version))
            assert finished is not None
            await kit.announcer.finished(finished, b"1")
        blocks = await it.rest()
        assert [block.event for block in blocks] == ["event", "event"]
        assert it.comments == 1, "it says that it is closed"
        assert blocks[-1].id == last.replace("@1.1", "@1.2")
        # The connection lives on, as HTTP/1.1 has it.
        again = f"GET /v1/events/stream{query} HTTP/1.1\r\nHost: here\r\nAuthorization: {who}\r\n"
        it.writer.write(f"{again}Last-Event-ID: {blocks[-1].id}\r\n\r\n".encode())
        await it.head()
        assert it.status == 204
        # Half of it has not been heard: then it goes on.
        it.writer.write(f"{again}Last-Event-ID: {blocks[0].id}\r\n\r\n".encode())
        await it.head()
        assert it.status == 200
        assert [block.data is None for block in await it.rest()] == [True, False]
    assert streams(node) == []


async def test_on_drain_it_ends_with_a_time_to_come_back_at(world: World, shared_settings: Settings) -> None:
    who = bearer(world)
    async with serving(shared_settings) as node:
        async with streaming(node, Authorization=who) as one, streaming(node, Authorization=who) as two:
            assert [(await it.block()).comments for it in (one, two)] == [["recovered"], ["recovered"]]
            node.server.should_exit = True
            ends = [await it.rest() for it in (one, two)]
            assert all(block.retry is not None and 500 <= block.retry <= 20_000 for (block,) in ends)
            assert ends[0] != ends[1]


async def test_it_pings_and_ends_with_its_token(world: World, shared_settings: Settings) -> None:
    async with serving(shared_settings.model_copy(update={"ping": 0.05})) as node:
        soon_over = datetime.now(UTC) + timedelta(seconds=0.3)
        ticket = await ticket_for(world.kit, Principal("me", world.kit.tenant, expires_at=soon_over))
        async with streaming(node, f"?ticket={ticket}") as it:
            assert [block.data for block in await it.rest()] == [None]
            assert datetime.now(UTC) >= soon_over
            assert it.comments >= 2
        assert streams(node) == []


async def ticket_for(kit: Kit, principal: Principal) -> str:
    ticket = new_ticket()
    await TicketStore(kit.postgres).put(ticket_id(ticket), claims_of(principal), 30)
    return ticket


async def test_it_ends_when_its_token_is_revoked(world: World) -> None:
    node = world.nodes["direct"]
    me, other = bearer(world), bearer(world, sub="you")
    async with streaming(node, Authorization=me) as it, streaming(node, Authorization=other) as you:
        await it.block()
        await you.block()
        await world.nodes["asgi"].service.revoke("me", tenant=world.kit.tenant)
        assert await it.rest() == []
        await world.kit.finish("still there", owner="you")
        assert (await you.block()).event == "event"


async def test_when_its_client_goes_nothing_is_left_of_it(world: World) -> None:
    node = world.nodes["direct"]
    slots = node.service.parts.connections
    async with streaming(node, Authorization=bearer(world)) as it:
        await it.block()
        assert len(slots.of((world.kit.tenant, "me"))) == 1
    await until(lambda: slots.of((world.kit.tenant, "me")) == ())
    assert streams(node) == []


# What it refuses, before it begins


@pytest.mark.parametrize(
    ("query", "header", "status", "code"),
    [
        ("", None, 401, "unauthorized"),
        ("?ticket=" + "x" * 43, None, 401, "unauthorized"),
        ("?channels=job:01J9ZZ8QG5V0000000000000AB", "", 404, "not_found"),
        ("?channels=group:ops", "", 403, "forbidden"),
        ("?cursor=nonsense", "", 400, "bad_cursor"),
        ("?device=", "", 400, "bad_request"),
    ],
)
async def test_what_is_wrong_is_a_problem_and_no_stream(
    world: World, query: str, header: str | None, status: int, code: str
) -> None:
    headers: dict[str, Any] = {} if header is None else {"Authorization": bearer(world)}
    async with streaming(world.nodes["direct"], query, **headers) as it:
        assert it.status == status
        assert it.headers["content-type"] == "application/problem+json"
        assert json.loads(await it.body())["code"] == code
    assert streams(world.nodes["direct"]) == []


async def test_limits_are_kept_before_it_begins(world: World, shared_settings: Settings) -> None:
    """Of connections a principal, and of the cursor's length, which no browser could send back."""
    async with serving(shared_settings.model_copy(update={"connection_limit": 1, "cursor_limit": 30})) as node:
        who = bearer(world, channels=["group:ops"])
        async with streaming(node, "?channels=user:me,group:ops", Authorization=who) as it:
            assert it.status == 400
            assert json.loads(await it.body())["code"] == "bad_cursor"
        async with streaming(node, Authorization=bearer(world)) as it:
            await it.block()
            async with streaming(node, Authorization=bearer(world)) as second:
                assert second.status == 429
        await until(lambda: streams(node) == [])
        async with streaming(node, Authorization=bearer(world)) as third:
            assert third.status == 200


async def test_a_head_request_is_answered_at_once(world: World) -> None:
    node = world.nodes["direct"]
    async with streaming(node, method="HEAD", Authorization=bearer(world)) as it:
        assert it.status == 200
        assert it.headers["content-type"] == "text/event-stream; charset=utf-8"
    async with httpx.AsyncClient(base_url=node.http, verify=False) as http:
        for path in ("/v1/events", "/v1/events/stream"):
            answer = await http.head(path, headers={"Authorization": bearer(world)})
            assert (answer.status_code, answer.content) == (200, b"")
            answer = await http.options(path)
            assert answer.status_code == 405
            assert "GET" in answer.headers["allow"]


# Slow clients


async def test_a_client_that_stops_reading_costs_bounded_memory_and_gets_everything_in_the_end(
    world: World, shared_settings: Settings
) -> None:
    """18 MB for a deaf one, with 64 KiB of backlog allowed; another hears everything meanwhile."""
    value, live, count = "x" * 60_000, 120, 300
    async with serving(shared_settings.model_copy(update={"backlog_limit": 64 * 1024})) as node:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", node.port))
        who = bearer(world)
        async with streaming(node, sock=deaf, Authorization=who) as slow, streaming(node, Authorization=who) as quick:
            for stream in (slow, quick):
                await stream.block()
            await world.kit.finish_many([value] * live)
            heard = [await quick.block() for _ in range(live)]
            assert len(node.hub._paused) == 1
            assert 0 < in_kernel(node, deaf) <= 2 * SEND_BUFFER, "the kernel hides little, of what nobody takes"
            await world.kit.log(count - live - 1, json.dumps(value))
            await world.kit.finish(value)
            heard += [await quick.block() for _ in range(count - live)]
            assert [stream._waiting < 500_000 for stream in streams(node)] == [True, True]
            assert [await slow.block() for _ in range(count)] == heard
            assert [block.id.partition(".")[2] for block in heard] == [str(n) for n in range(1, count + 1)]
            await world.kit.finish("after")
            assert b'"data":"after"' in ((await slow.block()).data or b"")
