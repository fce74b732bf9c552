"""redis-py's connections, made to fail in one way: whatever goes wrong on one is a ConnectionError, and it is closed.

Otherwise a connection on which something came that is no Redis's word, or one that uvloop has closed (RuntimeError),
would be given to the next who asks, and raise what nobody expects of a server that is away.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import ConnectionError, RedisError

_EXPECTED = (RedisError, OSError, asyncio.TimeoutError)


_made: dict[type[Any], type[Any]] = {}


def guarded(kind: type[Any]) -> type[Any]:
    """The class of connections `kind`, with all errors of what it reads and writes as RedisError or OSError."""
    if kind not in _made:
        _made[kind] = _guarded(kind)
    return _made[kind]


def _guarded(kind: type[Any]) -> type[Any]:

    class Guarded(kind):  # type: ignore[misc]  # whatever class of redis-py's it is
        async def connect(self) -> None:
            try:
                await super().connect()
            except _EXPECTED:
                raise
            except Exception as error:
                raise await _broken(self, error) from error

        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*args, **options)
            except _EXPECTED:
                raise
            except Exception as error:
                raise await _broken(self, error) from error

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except _EXPECTED:
                raise
            except Exception as error:
                raise await _broken(self, error) from error

        async def can_read_destructive(self) -> Any:
            try:
                return await super().can_read_destructive()
            except Exception as error:
                # The pool asks before it gives the connection out, and makes another only on this.
                raise ConnectionError("the connection can't be read") from error

    Guarded.__name__ = Guarded.__qualname__ = kind.__name__
    return Guarded


async def _broken(connection: Any, error: Exception) -> ConnectionError:
    await connection.disconnect(nowait=True)
    return ConnectionError(f"redis-py failed ({type(error).__name__})")
