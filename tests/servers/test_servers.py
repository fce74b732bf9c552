"""An attached app under each server of docs/operations.md: every transport, and an end within the drain."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pushsvc.access import Tokens
from pushsvc.dev.child import spawn
from pushsvc.wire import SUBPROTOCOL

from ..acceptance.harness import ROOT, SECRET, environment, nothing_left, wait_until

DRAIN = 2
DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = {
    name: (command.split(), "cuts" not in remark)
    for name, command, remark in re.findall(
        r"^\| ([^|]+?) \| `([^`|]*myapp:[^`|]*)` \|(.*)\|$", DOCUMENT, re.MULTILINE
    )
}
"""The table of servers: each row's command, and whether the server lets open connections say good-bye."""


class Server:
    """A server of somebody else's with the app, as a process of its own."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str], patient: bool) -> None:
        self.patient = patient
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._listener.close()
        arguments = [part.replace("8000", str(port)).replace("myapp:", "tests.servers.app:") for part in command]
        self.log = directory / f"{arguments[0]}-{next(_numbers)}.log"
        with self.log.open("wb") as output:
            self.process = spawn(
                [Path(sys.executable).parent / arguments[0], *arguments[1:]],
                death_signal=signal.SIGKILL,
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/push/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        with psutil.Process(self.process.pid).oneshot():
            children = psutil.Process(self.process.pid).children(recursive=True)
        for child in children:
            child.kill()
        self.process.kill()
        self.process.wait()


_numbers = itertools.count(1)


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Server]:
    with nothing_left(tmp_path):
        env = environment(tmp_path, database_url=database_url, redis_url=redis_url, secret=SECRET, drain=DRAIN) | {
            "HOME": str(tmp_path)
        }
        command, patient = COMMANDS[request.param]
        server = Server(command, tmp_path, env, patient)
        try:
            wait_until(server.ready, f"{request.param} is ready")
            yield server
        finally:
            if server.process.poll() is None:
                server.kill()
            print(server.log.read_text())


async def test_every_transport_works_and_a_signal_ends_all_within_the_drain(server: Server) -> None:
    """Servers run the end of a lifespan only after the last connection, so an open stream would hold them up."""
    headers = {"Authorization": f"Bearer {Tokens(SECRET).mint('alice')}"}
    async with httpx.AsyncClient(base_url=f"{server.url}/push", headers=headers, trust_env=False) as http:
        answer = await http.post("/v1/jobs", json={"job": "echo", "params": {"value": "x"}})
        assert answer.status_code == 202, answer.text
        cursor = answer.json()["cursor"]
        job = answer.json()["id"]
        assert (await http.post(f"/v1/jobs/{job}/cancel")).status_code == 202
        polled = (await http.get("/v1/events", params={"cursor": cursor, "wait": 20})).json()
        assert [item["event"]["type"] for item in polled["events"]] == ["job.cancelled"]

        url = server.url.replace("http", "ws", 1) + "/push/v1/ws"
        async with connect(
            url, subprotocols=[Subprotocol(SUBPROTOCOL)], additional_headers=headers, proxy=None
        ) as websocket:
            await websocket.send(json.dumps({"id": 1, "op": "hello", "cursor": cursor}))
            assert json.loads(await websocket.recv())["ok"]["user"] == "alice"
            assert json.loads(await websocket.recv())["event"]["job"] == job

            async with http.stream("GET", "/v1/events/stream", params={"cursor": cursor}) as stream:
                assert stream.status_code == 200
                lines = stream.aiter_lines()
                async for line in lines:
                    if line.startswith("data: "):
                        assert json.loads(line[6:])["event"]["job"] == job
                        break
                began = asyncio.get_running_loop().time()
                server.process.terminate()
                code = await _close_code(websocket)
                rest = await _rest(lines)
        await asyncio.to_thread(server.process.wait, 30)
        assert asyncio.get_running_loop().time() - began < DRAIN + 8
        if server.patient:
            # Ours, or the server's own, if that was faster: either makes a client come back.
            assert code in (4001, 1012)
            assert any(line.startswith("retry: ") for line in rest)


async def _rest(lines: AsyncIterator[str]) -> list[str]:
    """What still comes, until the stream ends or is cut."""
    found = []
    with suppress(httpx.RemoteProtocolError):
        async for line in lines:
            found.append(line)
    return found


async def _close_code(websocket: Any) -> int:
    try:
        while True:
            await websocket.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def test_the_table_has_every_server_that_is_tested() -> None:
    assert len(COMMANDS) == 5
