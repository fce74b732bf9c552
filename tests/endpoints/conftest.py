"""A site: an attached app, served and worked for in the test's own loop, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from pushsvc import Service
from pushsvc.settings import Settings

from ..unit.test_hosting import lifespan_of


@dataclass
class Site:
    """`app` is what a server serves."""

    service: Service
    app: Starlette

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client with cookies of its own. `headers` go with every request."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://shop.example", **options)

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask PostgreSQL itself."""
        return list(await self.service.parts.postgres.fetch(sql, *arguments))


@asynccontextmanager
async def opened(service: Service, app: Starlette, *, worker: bool = True) -> AsyncIterator[Site]:
    """The app with its lifespan, and a worker."""
    stop = asyncio.Event()
    async with lifespan_of(app):
        working = asyncio.create_task(service.work(stop)) if worker else None
        try:
            yield Site(service, app)
        finally:
            stop.set()
            if working is not None:
                await working


Open = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def service(settings: Settings) -> Service:
    """A service with no endpoints yet, whose login is the session's `user`."""
    return Service(settings=settings, principal=lambda request: request.session.get("user"))
