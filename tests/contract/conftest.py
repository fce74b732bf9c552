"""Two nodes for all the tests of a module, each test with a tenant of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import redis

from pushsvc.settings import Settings

from ..conftest import EMPTY, SECRET
from .kit import opened
from .node import serving
from .world import ORIGIN, World


@pytest.fixture(scope="module")
def shared_settings(_migrated_database_url: str, _valkey_url: str) -> Settings:
    """Engines that are emptied once. No look at the tops may hide what a message that came has to bring about."""
    asyncio.run(_empty(_migrated_database_url))
    with redis.Redis.from_url(_valkey_url) as client:
        client.flushall()
    urls = {"database_url": _migrated_database_url, "redis_url": _valkey_url}
    return Settings.from_env({}, **urls, secret=SECRET, top_check=3600.0, allowed_origins=ORIGIN)


async def _empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(EMPTY)
    finally:
        await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(shared_settings: Settings) -> AsyncIterator[World]:
    async with (
        opened(shared_settings) as kit,
        serving(shared_settings, "direct") as direct,
        serving(shared_settings, "asgi") as asgi,
    ):
        yield World(kit, {"direct": direct, "asgi": asgi})
        for node in (direct, asgi):
            # Both at once: each takes a while.
            node.server.should_exit = True


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    """The nodes, and a tenant whom nobody else has."""
    world = World(shared.kit.of(f"t{uuid4().hex[:12]}"), shared.nodes)
    yield world
    await world.close()
