"""What it looks like when Redis is away, and in words."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import Unavailable, causes

logger = logging.getLogger(__name__)

FAULTS = (OSError, asyncio.TimeoutError, RedisError, hiredis.HiredisError)
"""Whatever may go wrong with Redis. PostgreSQL has the facts, so none of it is ever fatal."""

SAY_EVERY = 10.0
"""Seconds between two warnings about the same thing, however often it is tried meanwhile."""

_said: dict[str, float] = {}

_WORDS = {
    "OOM": "is out of memory",
    "READONLY": "is a replica, which takes no changes",
    "MISCONF": "can't save to its disk, and takes no changes",
    "NOREPLICAS": "has too few replicas, and takes no changes",
    "LOADING": "is loading its data",
    "BUSY": "is busy with a script",
    "MASTERDOWN": "is a replica without its master",
    "CLUSTERDOWN": "is a cluster that is not whole",
    "NOAUTH": "does not let the service in",
    "WRONGPASS": "does not let the service in",
    "NOPERM": "does not permit the service what it needs",
}
"""By the code with which an error of the server begins."""

_CLASSES: tuple[tuple[type[BaseException], str], ...] = (
    (AuthenticationError, "does not let the service in"),
    (NoPermissionError, _WORDS["NOPERM"]),
    (ReadOnlyError, _WORDS["READONLY"]),
    (OutOfMemoryError, _WORDS["OOM"]),
    (BusyLoadingError, _WORDS["LOADING"]),
    (ssl.SSLError, "does not speak TLS as the URL says"),
    (InvalidResponse, "does not speak as Redis does"),
    (TimeoutError, "does not answer"),
    (RedisTimeoutError, "does not answer"),
)
"""What redis-py makes errors of their own; it cuts off their codes."""


def described(error: BaseException) -> str:
    """What is the matter with Redis, for operators: nothing of what the server itself has written."""
    for seen in causes(error, contexts=True):
        for kind, words in _CLASSES:
            if isinstance(seen, kind):
                return f"Redis {words}"
        if isinstance(seen, ResponseError | hiredis.ReplyError):
            code = str(seen).partition(" ")[0]
            return f"Redis {_WORDS.get(code, 'refuses what the service asks')}"
    return "Redis can't be reached"


def away(doing: str, error: BaseException) -> None:
    """Log that something could not be done just now, and is going to be tried again: not more often than helps."""
    now = time.monotonic()
    level = logging.WARNING if now - _said.get(doing, float("-inf")) > SAY_EVERY else logging.DEBUG
    if level == logging.WARNING:
        _said[doing] = now
    words = str(error) if isinstance(error, Unavailable) else described(error)
    logger.log(level, "%s, to be tried again: %s (%s)", doing, words, type(error).__name__)
