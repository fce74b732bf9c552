"""A request's head and body have a size and a time, whoever sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pushsvc.transports import DirectHttp, DirectProtocol

from ..contract.kit import until


class Hasty(DirectHttp):
    head_within = 0.3
    stalled_after = 0.3


class Served:
    def __init__(self) -> None:
        self.port = 0
        self.bodies: list[int] = []
        self.broken: asyncio.Event = asyncio.Event()
        self.wait = asyncio.Event()

    async def endpoint(self, request: Request) -> PlainTextResponse:
        if "slow" in request.query_params:
            await self.wait.wait()
        try:
            size = len(await request.body())
        except ClientDisconnect:
            self.broken.set()
            raise
        self.bodies.append(size)
        return PlainTextResponse(f"{size}")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    app = Starlette(routes=[Route("/", made.endpoint, methods=["GET", "POST"])])
    config = uvicorn.Config(app, port=0, http=Hasty, ws=DirectProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    made.port = server.servers[0].sockets[0].getsockname()[1]
    yield made
    server.should_exit = True
    await serving


async def test_a_head_of_usual_size_is_read_however_it_is_cut(served: Served) -> None:
    reader, writer = await served.connect()
    head = b"POST / HTTP/1.1\r\nhost: h\r\nx: %b\r\ncontent-length: 3\r\n\r\nabc" % (b"y" * 30_000)
    for at in range(0, len(head), 10_000):
        writer.write(head[at : at + 10_000])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: h\r\nx: %b\r\n\r\n" % (b"y" * 100_000),
        b"GET /?%b HTTP/1.1\r\nhost: h\r\n\r\n" % (b"y" * 100_000),
        b"GET / HTTP/1.1\r\nhost: h\r\n%b\r\n" % (b"x: y\r\n" * 20_000),
    ],
    ids=["one header", "the URL", "many headers"],
)
@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_that_is_too_large_is_refused(served: Served, head: bytes, pieces: int) -> None:
    reader, writer = await served.connect()
    step = len(head) // pieces + 1
    try:
        for at in range(0, len(head), step):
            writer.write(head[at : at + step])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
    except ConnectionError:
        answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    writer.close()
    assert served.bodies == []


async def test_a_head_without_end_is_cut_off_before_it_fills_the_memory(served: Served) -> None:
    _, writer = await served.connect()
    writer.write(b"GET / HTTP/1.1\r\nhost: h\r\nx: ")

    async def send() -> None:
        for _ in range(800):
            writer.write(b"y" * 65536)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send()
    writer.close()


async def test_a_head_that_does_not_come_whole_is_given_up(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_body_that_comes_slowly_is_read_and_one_that_stops_is_given_up(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 8\r\n\r\n")
    for _ in range(8):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 8\r\n\r\nx")
    await served.broken.wait()
    assert served.bodies == [8]
    writer.close()


async def test_a_body_that_the_app_is_slow_to_read_is_not_its_clients_fault(served: Served) -> None:
    reader, writer = await served.connect()
    body = b"x" * (1 << 20)
    writer.write(b"POST /?slow HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body))
    writer.write(body)
    await asyncio.sleep(1)
    served.wait.set()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert served.bodies == [len(body)]
    writer.close()
