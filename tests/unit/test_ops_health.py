"""`/readyz` on real engines that answer and can't serve: it is never an error, and names what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import hiredis
import httpx
import pytest
import pytest_asyncio
import redis.asyncio
from redis.exceptions import RedisError
from starlette.applications import Starlette

from pushsvc import Service
from pushsvc.bus import described
from pushsvc.errors import Unavailable
from pushsvc.settings import Settings

from .redis_servers import FAST, Server, free_ports

PASSWORD = "hunter2hunter2"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"), free_ports(1)[0], *FAST)
    yield server.start()
    server.kill()


@pytest_asyncio.fixture
async def admin(valkey: Server) -> AsyncIterator[Any]:
    """A client that may change how the server is set; it is put right afterwards."""
    client: Any = redis.asyncio.Redis(port=valkey.port)
    yield client
    await client.execute_command("REPLICAOF", "NO", "ONE")
    await client.config_set("maxmemory", "0")
    await client.execute_command("ACL", "SETUSER", "default", "on", "nopass", "allkeys", "allchannels", "+@all")
    await client.aclose()


async def readiness(settings: Settings, **urls: str) -> tuple[int, dict[str, Any]]:
    """What a web process with these settings says."""
    service = Service(settings=Settings.from_env({}, **{**settings.model_dump(exclude_unset=True), **urls}))
    try:
        # As it answers while it runs, which begins with a look at PostgreSQL; one that did not start says so itself.
        with suppress(Unavailable):
            await service.parts.postgres.fetch("SELECT 1", patience=1.0)
        transport = httpx.ASGITransport(Starlette(routes=service.parts.health.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            response = await client.get("/readyz")
        assert PASSWORD not in response.text
        return response.status_code, response.json()
    finally:
        await service.close()


async def test_where_all_is_well_nothing_more_is_said(settings: Settings) -> None:
    assert await readiness(settings) == (200, {"status": "ok", "postgres": True, "redis": True})


async def test_a_bus_of_its_own_is_asked_too(settings: Settings, valkey: Server, admin: Any) -> None:
    bus = f"redis://127.0.0.1:{valkey.port}"
    assert await readiness(settings, bus_url=bus) == (
        200,
        {"status": "ok", "postgres": True, "redis": True, "bus": True},
    )
    await admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    status, body = await readiness(settings, bus_url=bus)
    assert (status, body["redis"], body["bus"]) == (200, True, False)
    assert body["causes"] == {"bus": "Redis is a replica, which takes no changes"}


async def test_a_postgresql_that_takes_no_changes_is_not_ready(settings: Settings, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    try:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert await readiness(settings) == (
            503,
            {
                "status": "unavailable",
                "postgres": False,
                "redis": True,
                "causes": {"postgres": "PostgreSQL is read-only right now"},
            },
        )
    finally:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await connection.close()


async def test_one_that_is_not_there_is_not_ready_and_its_password_is_not_shown(settings: Settings) -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:1/none"
    status, body = await readiness(settings, database_url=url)
    assert (status, body["causes"]["postgres"]) == (503, "PostgreSQL can't be reached right now")


async def cause(settings: Settings, url: str) -> str:
    """What is said of this Redis, without which requests are still accepted."""
    status, body = await readiness(settings, redis_url=url)
    assert (status, body["status"], body["postgres"], body["redis"]) == (200, "ok", True, False)
    return str(body["causes"]["redis"])


async def test_a_redis_that_answers_and_takes_no_changes_is_said_to(
    settings: Settings, valkey: Server, admin: Any
) -> None:
    url = f"redis://127.0.0.1:{valkey.port}"
    await admin.config_set("maxmemory", "1")
    assert await cause(settings, url) == "Redis is out of memory"
    await admin.config_set("maxmemory", "0")
    await admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert await cause(settings, url) == "Redis is a replica, which takes no changes"


async def test_a_redis_that_lets_us_in_no_more_is_said_to(settings: Settings, valkey: Server, admin: Any) -> None:
    host = f"127.0.0.1:{valkey.port}"
    assert await cause(settings, f"redis://nobody:{PASSWORD}@{host}") == "Redis does not let the service in"
    await admin.execute_command("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "allkeys", "+@read", "+hello")
    assert await cause(settings, f"redis://reader:{PASSWORD}@{host}") == (
        "Redis does not permit the service what it needs"
    )


async def test_a_redis_of_another_kind_of_connection_is_said_to(
    settings: Settings, valkey: Server, database_url: str
) -> None:
    """A server takes the beginning of TLS for that of a command, and waits for the rest."""
    assert await cause(settings, f"rediss://127.0.0.1:{valkey.port}?ssl_cert_reqs=none") == "Redis does not answer"
    assert await cause(settings, "redis://127.0.0.1:1") == "Redis can't be reached"


def test_each_word_of_the_server_is_understood_and_nothing_else_of_it_is_said() -> None:
    for code, words in {
        "MISCONF": "Redis can't save to its disk, and takes no changes",
        "LOADING": "Redis is loading its data",
        "NOAUTH": "Redis does not let the service in",
        "CLUSTERDOWN": "Redis is a cluster that is not whole",
        "SOMETHING": "Redis refuses what the service asks",
    }.items():
        assert described(hiredis.ReplyError(f"{code} {PASSWORD}")) == words
    assert described(RedisError(PASSWORD)) == "Redis can't be reached"
    assert described(TimeoutError(PASSWORD)) == "Redis does not answer"
