"""`pushsvc serve` as an operator meets it: where it listens, how it ends, what it logs, what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from pushsvc.access import Tokens

from .harness import SECRET, TARGET, Process, environment

Serve = Callable[..., Process]


@pytest.fixture
def serve(database_url: str, redis_url: str, directory: Path) -> Any:
    """Starts `pushsvc serve` with these arguments; its processes end with the test."""
    started: list[Process] = []

    def start(*arguments: str, **settings: object) -> Process:
        given = {"database_url": database_url, "redis_url": redis_url, "secret": SECRET} | settings
        log = directory / f"serve-{len(started)}.log"
        process = Process("serve", ["serve", TARGET, *arguments], environment(directory, **given), log)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.running:
            process.kill()
        print(repr(process))


def place_of(process: Process) -> str:
    return process.line_with("listening on ").removeprefix("listening on ")


async def alive(place: str) -> bool:
    transport = httpx.AsyncHTTPTransport(uds=place.removeprefix("unix:")) if place.startswith("unix:") else None
    url = "http://uds" if transport else place
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=30) as client:
        return (await client.get(f"{url}/healthz")).is_success


@pytest.mark.parametrize(
    ("where", "workers"), [("", "1"), ("--host ::", "2"), ("--host localhost", "1"), ("--uds", "1"), ("--uds", "2")]
)
async def test_it_says_where_it_listens_and_is_there(
    serve: Serve, directory: Path, where: str, workers: str, unused_tcp_port: int
) -> None:
    path = directory / "web.sock"
    if where == "--uds":
        # What a killed server has left behind is in nobody's way.
        with closing(socket.socket(socket.AF_UNIX)) as left_over:
            left_over.bind(str(path))
        process = serve("--uds", str(path), "--workers", workers)
        assert place_of(process) == f"unix:{path}"
    else:
        process = serve(*where.split(), "--port", "0", "--workers", workers)
    assert await alive(place_of(process))
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert not path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_said_in_a_sentence(serve: Serve, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = serve("--port", str(port), "--workers", workers)
        assert process.wait() == 78
    said = process.log.read_text()
    assert f"port {port} of 127.0.0.1 can't be used: Address already in use; choose another with --port" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid is not an address to listen on"),
        (["--uds", "/no/such/directory/web.sock"], "/no/such/directory/web.sock can't be used: No such file"),
    ],
)
def test_what_can_not_be_listened_on_is_refused(serve: Serve, arguments: list[str], sentence: str) -> None:
    process = serve(*arguments)
    assert process.wait() in (2, 78)
    assert sentence in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


@asynccontextmanager
async def open_connections(place: str) -> AsyncIterator[Callable[[], Any]]:
    """A WebSocket, an event stream and a poll that wait; what is called gives how each of them ended."""
    token = Tokens(SECRET).mint("alice")
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=place, headers=headers, timeout=30, trust_env=False) as client,
        websockets.connect(f"{place.replace('http', 'ws')}/v1/ws", subprotocols=["pushsvc.v1"]) as ws,  # type: ignore[list-item]
        client.stream("GET", "/v1/events/stream") as stream,
    ):
        await ws.send(json.dumps({"id": 1, "op": "hello", "token": token}))
        await ws.recv()
        lines = stream.aiter_lines()
        await anext(lines)
        poll = asyncio.create_task(client.get("/v1/events?wait=30"))

        async def ended() -> Any:
            bye = json.loads(await asyncio.wait_for(ws.recv(), 20))
            async with asyncio.timeout(20):
                async for _ in lines:
                    pass
                return bye["op"], (await poll).status_code

        yield ended


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_sends_the_connections_elsewhere_and_ends_it_with_0(
    serve: Serve, number: signal.Signals, workers: str
) -> None:
    process = serve("--port", "0", "--workers", workers, drain=5)
    async with open_connections(place_of(process)) as ended:
        process.signal(number)
        assert await ended() == ("bye", 200)
    assert await asyncio.to_thread(process.wait) == 0


async def until_closed(port: int) -> None:
    """Until nobody listens there any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_a_second_signal_ends_it_at_once(serve: Serve) -> None:
    """Though a request is under way, for which it would wait five minutes."""
    process = serve("--port", "0", drain=300)
    place = place_of(process)
    port = int(place.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    token = Tokens(SECRET).mint("alice")
    writer.write(
        f"POST /v1/jobs HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\ncontent-length: 9\r\n\r\n{{".encode()
    )
    await writer.drain()
    assert await alive(place)
    process.terminate()
    await until_closed(port)
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    writer.close()
    await reader.read()


async def test_the_access_log_is_there_on_request_and_shows_no_ticket(serve: Serve) -> None:
    silent, told = serve("--port", "0"), serve("--port", "0", "--access-log")
    ticket = "tkt_hunter2hunter2"
    for process in (silent, told):
        async with httpx.AsyncClient(base_url=place_of(process), trust_env=False) as client:
            assert (await client.get(f"/v1/events/stream?channels=x&ticket={ticket}&a=b")).status_code == 401
    await asyncio.to_thread(told.line_with, "GET /v1/events/stream")
    line = next(line for line in told.log.read_text().splitlines() if "GET /v1/events" in line)
    assert re.search(r'"GET /v1/events/stream\?channels=x&ticket=\*\*\*&a=b HTTP/1\.1" 401', line)
    for process in (silent, told):
        process.terminate()
        await asyncio.to_thread(process.wait)
        assert ticket not in process.log.read_text()
    assert "GET /v1" not in silent.log.read_text()


async def test_a_trusted_proxy_says_whose_request_it_is(serve: Serve) -> None:
    trusting = serve("--port", "0", "--access-log", "--forwarded-allow-ips", "127.0.0.1")
    wary = serve("--port", "0", "--access-log", "--forwarded-allow-ips", "10.0.0.1")
    for process, client_shown in ((trusting, "203.0.113.9"), (wary, "127.0.0.1")):
        async with httpx.AsyncClient(base_url=place_of(process), trust_env=False) as client:
            await client.get("/healthz", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
        line = await asyncio.to_thread(process.line_with, "GET /healthz")
        assert client_shown in line
