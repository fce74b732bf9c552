"""How Redis clients are made: to one server, or to the master behind Sentinels."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from ..errors import SettingsError
from .endpoint import Address, Endpoint
from .guarded import guarded
from .sentinel import MasterPool

RedisClient = Redis

LONGEST_WAIT = 5.0
"""Seconds that a blocking command may wait in Redis; silence beyond means that the connection is dead."""


def connect(
    url: str, *, connections: int = 16, blocking: bool = False, setting: str = "PUSHSVC_REDIS_URL"
) -> RedisClient:
    """A lazy client of at most `connections` connections, to one server or to the master behind Sentinels.

    `blocking` is for commands that wait on the server, for up to `LONGEST_WAIT` seconds.
    Raises SettingsError on a URL that is not one, or is a Cluster's.
    """
    endpoint = Endpoint.parse(url, setting)
    if endpoint.kind == "cluster":
        raise SettingsError(
            f"{setting} can't be a Redis Cluster: what the queue does at once, it does with keys of several slots; "
            "give the queue a server or Sentinels, and the Cluster to PUSHSVC_BUS_URL"
        )
    return client(endpoint, endpoint.nodes[0], connections=connections, blocking=blocking)


def client(endpoint: Endpoint, address: Address, *, connections: int = 16, blocking: bool = False) -> RedisClient:
    """A lazy client of the server at `address`; with Sentinels, of whichever is the master."""
    options: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0, **endpoint.options}
    if blocking:
        options["socket_timeout"] += LONGEST_WAIT
    pool: dict[str, Any] = {"max_connections": connections, "timeout": 5, **endpoint.pool}
    if endpoint.kind == "sentinel":
        return Redis(connection_pool=MasterPool(endpoint, **pool, **options))
    if "path" not in options:
        options |= {"host": address[0], "port": address[1]}
        options.setdefault("socket_keepalive", True)
    return Redis(
        connection_pool=BlockingConnectionPool(connection_class=guarded(endpoint.connection), **pool, **options)
    )
