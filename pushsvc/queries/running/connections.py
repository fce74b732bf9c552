"""The connections to one database in this process: kept, given out, replaced when the server closes them."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.exc import DBAPIError

from ...errors import Unavailable
from ...store import Conninfo, is_lost
from .comment import SqlComment
from .engine import make_engine
from .interrupt import Interrupt
from .link import Link, lost
from .reading import Reading

logger = logging.getLogger("pushsvc.queries")


class Connections:
    """All of one database's. There is no bound here: whoever takes one has a place in a lane.

    Nothing connects before it is needed. The last connection used is the next, so that few stay warm and
    those that a burst opened rest.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._name = name
        self.engine = make_engine(Conninfo.parse(url, f"the URL of database {name!r}"), name)
        self._idle: list[Link] = []

    @property
    def idle(self) -> int:
        """How many are open and free."""
        return len(self._idle)

    async def read(
        self, reading: Reading, *, comment: SqlComment, interrupt: Interrupt, snapshot: str | None = None
    ) -> list[Any]:
        """The rows; they need the connection no longer.

        PostgreSQL restarts: if it has closed the connection, those that rest are dropped, and a question that
        only reads is asked once more on a new one. This costs nothing where all is well, unlike a ping before
        each query. With `snapshot`, the one that a transaction exported, it sees what that transaction sees.
        Raises Unavailable when that fails too, or when no connection can be had; asyncio's CancelledError
        when interrupted, with the server's side already wound up; else the query's own error.
        """
        try:
            return await self._read(reading, comment, interrupt, snapshot)
        except Exception as error:
            if not lost(error):
                raise
            if snapshot is not None or not reading.question.reads_only():
                raise Unavailable(f"database {self._name!r} closed the connection during a query") from error
        logger.info("database %r closed the connection; reading once more on a new one", self._name)
        try:
            return await self._read(reading, comment, interrupt, None)
        except Exception as error:
            if not lost(error):
                raise
            raise Unavailable(f"database {self._name!r} closed the connection twice during a query") from error

    async def take(self) -> Link:
        """A connection of one's own, to be given back. Raises Unavailable when none can be had."""
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
            await link.close()
        try:
            return await Link.open(self.engine)
        except OSError as error:
            raise Unavailable(f"database {self._name!r} can't be reached") from error
        except DBAPIError as error:
            if is_lost(error):
                raise Unavailable(f"database {self._name!r} takes no connections") from error
            raise

    async def give_back(self, link: Link, *, used: bool = False, rollback: bool = False) -> None:
        """Keep it for the next. `used` says that nothing went wrong on it; else it is looked after first."""
        if used or await link.recover(rollback=rollback):
            self._idle.append(link)
        else:
            await link.close()

    async def drop_idle(self) -> None:
        """Close those that rest: the server has closed one, so probably all."""
        while self._idle:
            await self._idle.pop().close()

    def forget(self) -> None:
        """Drop all that rest, without a word to the server: their event loop is over."""
        while self._idle:
            self._idle.pop().forget()

    async def close(self) -> None:
        """Close all that rest; by now, none is taken."""
        await self.drop_idle()
        await self.engine.dispose()

    async def _read(
        self, reading: Reading, comment: SqlComment, interrupt: Interrupt, snapshot: str | None
    ) -> list[Any]:
        link = await self.take()
        try:
            with interrupt.window():
                if snapshot is None:
                    rows = await link.ask(reading, comment)
                else:
                    rows = await _ask_within(link, reading, comment, snapshot)
        except BaseException as error:
            await self.give_back(link, rollback=snapshot is not None)
            if lost(error):
                await self.drop_idle()
            raise
        self._idle.append(link)
        return rows


async def _ask_within(link: Link, reading: Reading, comment: SqlComment, snapshot: str) -> list[Any]:
    await link.command(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'")
    rows = await link.ask(reading, comment)
    await link.command("COMMIT")
    return rows
