"""Clusters of real processes, each with a database of its own, and clients that are closed in the end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import redis

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.store import migrate

from .clients import Client
from .harness import Cluster, Web, nothing_left

LEASE = 2
"""Seconds, so that a dead worker's jobs are taken over soon."""

NEVER = 3600
"""Seconds between two looks at PostgreSQL for what Redis did not bring: none of them hides what goes missing."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of the test's own, short since sockets lie in it; no process of it outlives the test."""
    with temporary_directory() as path:
        yield path


@pytest.fixture(scope="module")
def cluster(postgres_url: str, _valkey_url: str) -> Iterator[Cluster]:
    """A cluster on the session's engines, which every test of a module shares."""
    with temporary_directory() as path, cluster_on(path, postgres_url, _valkey_url) as cluster:
        yield cluster


class Engines:
    """A PostgreSQL and a Valkey that a test may stop."""

    def __init__(self, directory: Path) -> None:
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self.valkey = EmbeddedValkey(directory / "valkey")

    def start(self) -> None:
        self.postgres.start()
        self.valkey.start()

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()

    def flushall(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()


@pytest.fixture(scope="module")
def _own_engines() -> Iterator[Engines]:
    with temporary_directory() as path:
        engines = Engines(path)
        try:
            engines.start()
            yield engines
        finally:
            engines.stop()


@pytest.fixture
def engines(_own_engines: Engines) -> Engines:
    """The module's own engines, both up, whatever the test before has done to them."""
    _own_engines.start()
    return _own_engines


@pytest.fixture
def fragile(engines: Engines, directory: Path) -> Iterator[Cluster]:
    """A cluster on engines that may be stopped, with short leases."""
    with cluster_on(directory, engines.postgres.url, engines.valkey.url, lease=LEASE, top_check=NEVER) as cluster:
        yield cluster


Join = Callable[..., Client]


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """`join(cluster, web, user)`: a client, closed after the test."""
    clients: list[Client] = []

    def make(cluster: Cluster, web: Web, user: str, **claims: Any) -> Client:
        clients.append(cluster.client(web, user, **claims))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@contextmanager
def temporary_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="accept"))
    path.chmod(0o711)
    try:
        with nothing_left(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def cluster_on(directory: Path, postgres_url: str, redis_url: str, **settings: Any) -> Iterator[Cluster]:
    """A cluster with no process yet, on a new database and an empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    name = f"accept_{uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    asyncio.run(_create(postgres_url, name, url))
    cluster = Cluster(directory, url, redis_url, **settings)
    try:
        yield cluster
    finally:
        cluster.close()
        with suppress(OSError):  # a test that failed may have left PostgreSQL down
            asyncio.run(_drop(postgres_url, name))


async def _drop(server: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def _create(server: str, name: str, url: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    await migrate(url)
