"""A request that the server cancels as it ends is told to come again; one cancelled otherwise is just gone."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

import pytest
import uvicorn

from pushsvc import Service
from pushsvc.settings import Settings

from ..contract.kit import soon

UVICORN = "Task cancelled, timeout graceful shutdown exceeded"
"""As `uvicorn.Server.shutdown` says it."""


class Asking:
    """A GET that waits for an event, and what it is sent."""

    def __init__(self, service: Service) -> None:
        self.sent: list[dict[str, Any]] = []
        self._asked = asyncio.Event()
        headers = [(b"authorization", f"Bearer {service.token('alice')}".encode())]
        path = "/v1/events"
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"wait=60",
            "headers": headers,
        }
        scope |= {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "server": ("here", 80)}
        self.task = asyncio.ensure_future(service.asgi()(scope, self._receive, self._send))

    async def waits(self) -> None:
        await soon(self._asked.wait())

    async def _receive(self) -> dict[str, Any]:
        self._asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def test_uvicorn_still_says_it_in_these_words() -> None:
    assert UVICORN in inspect.getsource(uvicorn.Server.shutdown)


async def test_at_the_end_of_the_server_it_is_503(settings: Settings) -> None:
    service = Service(settings=settings)
    async with service.running():
        asking = Asking(service)
        await asking.waits()
        asking.task.cancel(msg=UVICORN)
        await soon(asking.task)
    start, body = asking.sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"])["code"] == "unavailable"


async def test_any_other_cancel_is_passed_on(settings: Settings) -> None:
    service = Service(settings=settings)
    async with service.running():
        asking = Asking(service)
        await asking.waits()
        asking.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(asking.task)
    assert asking.sent == []
