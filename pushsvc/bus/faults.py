"""What it looks like when Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

FAULTS = (OSError, asyncio.TimeoutError, RedisError)
"""Whatever may go wrong with Redis. PostgreSQL has the facts, so none of it is ever fatal."""

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
