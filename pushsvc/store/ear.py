"""Listening to PostgreSQL's NOTIFY, on a connection of its own.

Behind a pooler in transaction mode nobody can listen: the session would be somebody else's, who would hear it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import SettingsError
from ..tasks import forever
from .conninfo import Conninfo
from .faults import is_away
from .pooler import DriverConnection, PoolerMode
from .postgres import ADJUST, CONNECT_WITHIN, SETTINGS
from .wakeup_statements import CHANNEL

AGAIN_AFTER = 1.0
"""Seconds until it connects again."""

STILL_THERE = 20.0
"""Seconds between two questions whether the connection still lives."""


POOLED = 300.0
"""Seconds until it looks whether the pooler is still there."""


class Ear:
    """Hears of the transactions of one deployment that have submitted jobs."""

    def __init__(self, url: str, deployment: str, pooler: PoolerMode = "auto") -> None:
        self._conninfo = Conninfo.parse(url, "PUSHSVC_DATABASE_URL", writes=True, pooler=pooler)
        self._deployment = deployment
        self._connection: DriverConnection | None = None

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` at each, for ever; and whenever it begins to listen, as something may have been missed."""
        try:
            await forever("listening for transactions", lambda: self._step(heard))
        finally:
            self._hang_up()

    async def _step(self, heard: Callable[[], None]) -> None:
        """Connect, if need be; then see that the connection lives. Behind a pooler, look again after a while."""
        try:
            if self._connection is None:
                await self._connect(heard)
            assert self._connection is not None
            if self._connection.pooled:
                self._hang_up()
                await asyncio.sleep(POOLED)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(STILL_THERE):
                    await self._lost.wait()
            await self._connection.execute("SELECT 1", timeout=CONNECT_WITHIN)
        except BaseException as error:
            self._hang_up()
            if not isinstance(error, SettingsError) and not (isinstance(error, Exception) and is_away(error)):
                raise
            await asyncio.sleep(AGAIN_AFTER)

    async def _connect(self, heard: Callable[[], None]) -> None:
        self._lost = lost = asyncio.Event()
        connection = await self._conninfo.connect(
            session=ADJUST, within=CONNECT_WITHIN, server_settings=SETTINGS, timeout=CONNECT_WITHIN
        )
        self._connection = connection
        if connection.pooled:
            return
        connection.add_termination_listener(lambda _: lost.set())

        def said(_connection: Any, _process: int, _channel: str, deployment: object) -> None:
            if deployment == self._deployment:
                heard()

        await connection.add_listener(CHANNEL, said)
        heard()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
