"""How Redis connections are made, and what it looks like when Redis is away."""

from __future__ import annotations

import asyncio

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from ..errors import SettingsError

RedisClient = Redis

FAULTS = (OSError, asyncio.TimeoutError, RedisError)
"""Whatever may go wrong with Redis. PostgreSQL has the facts, so none of it is ever fatal."""


def connect(url: str, *, connections: int = 16, blocking: bool = False) -> RedisClient:
    """A lazy client of at most `connections` connections.

    `blocking` is for commands that wait on the server: no read time-out of ours cuts them short.
    Raises SettingsError on a URL that is not one.
    """
    options = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=5,
            socket_timeout=None if blocking else 5,
            socket_connect_timeout=2,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(f"PUSHSVC_REDIS_URL is not a redis://, rediss:// or unix:// URL: {error}") from None
    return Redis(connection_pool=pool)
