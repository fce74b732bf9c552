"""How Redis connections are made, and what it looks like when Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from ..errors import SettingsError

logger = logging.getLogger(__name__)

RedisClient = Redis

FAULTS = (OSError, asyncio.TimeoutError, RedisError)
"""Whatever may go wrong with Redis. PostgreSQL has the facts, so none of it is ever fatal."""


LONGEST_WAIT = 5.0
"""Seconds that a blocking command may wait in Redis; silence beyond means that the connection is dead."""


SAY_EVERY = 10.0
"""Seconds between two warnings about the same thing, however often it is tried meanwhile."""

_said: dict[str, float] = {}


def away(doing: str, error: BaseException) -> None:
    """Log that something could not be done just now, and is going to be tried again: not more often than helps."""
    now = time.monotonic()
    level = logging.WARNING if now - _said.get(doing, float("-inf")) > SAY_EVERY else logging.DEBUG
    if level == logging.WARNING:
        _said[doing] = now
    logger.log(level, "%s, to be tried again: %s", doing, type(error).__name__)


def connect(url: str, *, connections: int = 16, blocking: bool = False) -> RedisClient:
    """A lazy client of at most `connections` connections.

    `blocking` is for commands that wait on the server, for up to `LONGEST_WAIT` seconds.
    Raises SettingsError on a URL that is not one.
    """
    options = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=5,
            socket_timeout=5 + (LONGEST_WAIT if blocking else 0),
            socket_connect_timeout=2,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(f"PUSHSVC_REDIS_URL is not a redis://, rediss:// or unix:// URL: {error}") from None
    return Redis(connection_pool=pool)
