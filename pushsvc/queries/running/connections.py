"""The connections to one database in this process: kept, given out, replaced when the server closes them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sqlalchemy.exc import DBAPIError

from ...errors import QueryBroken, QueryError, Unavailable
from ...store import Conninfo, PoolerMode, is_lost
from .engine import make_engine
from .interrupt import Interrupt
from .link import Link, lost
from .owner import Owner
from .reading import Reading
from .traces import Catalog

logger = logging.getLogger("pushsvc.queries")


class Connections:
    """All of one database's. There is no bound here: whoever takes one has a place in a lane.

    Nothing connects before it is needed. The last connection used is the next, so that few stay warm and
    those that a burst opened rest. One on which another owner may have left something is cleared first.
    """

    def __init__(self, url: str, *, name: str, pooler: PoolerMode = "auto") -> None:
        self._name = name
        self.engine = make_engine(Conninfo.parse(url, f"the URL of database {name!r}", pooler=pooler), name)
        self._idle: list[Link] = []
        self._catalog = Catalog()
        self._clearing: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        """How many are open and free."""
        return len(self._idle)

    async def read(
        self, reading: Reading, *, owner: Owner, interrupt: Interrupt, snapshot: str | None = None
    ) -> list[Any]:
        """The rows; they need the connection no longer.

        PostgreSQL restarts: if it has closed the connection, those that rest are dropped, and a question that
        only reads is asked once more on a new one. This costs nothing where all is well, unlike a ping before
        each query. With `snapshot`, the one that a transaction exported, it sees what that transaction sees.
        Raises Unavailable when that fails too, or when no connection can be had; asyncio's CancelledError
        when interrupted, with the server's side already wound up; else the query's own error.
        """
        try:
            return await self._read(reading, owner, interrupt, snapshot)
        except Exception as error:
            if not lost(error):
                raise
            if snapshot is not None or not reading.question.reads_only():
                raise QueryBroken(f"database {self._name!r} closed the connection during a query") from error
        logger.info("database %r closed the connection; reading once more on a new one", self._name)
        try:
            return await self._read(reading, owner, interrupt, None)
        except Exception as error:
            if not lost(error):
                raise
            raise QueryBroken(f"database {self._name!r} closed the connection twice during a query") from error

    async def take(self, owner: Owner) -> Link:
        """A connection of one's own, to be given back. Raises Unavailable when none can be had."""
        link = await self._rested(owner) or await self._opened()
        link.owner = owner
        return link

    async def clear(self, owner: Owner) -> None:
        """The owner asks no more: free all connections of what it may have left on them.

        A lock that it left is not to be held until somebody happens to need the connection.
        """
        tasks = set()
        for link in [link for link in self._idle if link.left_by is owner]:
            self._idle.remove(link)
            tasks.add(asyncio.create_task(self._clear(link)))
        self._clearing |= tasks
        if tasks:
            await asyncio.wait(tasks)
            self._clearing -= tasks

    async def _clear(self, link: Link) -> None:
        if await link.clear():
            self._idle.append(link)
        else:
            await link.close()

    async def _rested(self, owner: Owner) -> Link | None:
        """One of those that rest: if possible, one that is to be cleared for nobody."""
        while True:
            while self._idle:
                free = (i for i in reversed(range(len(self._idle))) if self._idle[i].left_by in (None, owner))
                link = self._idle.pop(next(free, -1))
                if link.usable and (link.left_by in (None, owner) or await link.clear()):
                    return link
                await link.close()
            if not self._clearing:
                return None
            # There are as many connections as places: one more, in place of one being cleared, would be too many.
            await asyncio.wait(self._clearing, return_when=asyncio.FIRST_COMPLETED)

    async def _opened(self) -> Link:
        try:
            return await Link.open(self.engine, self._catalog)
        except OSError as error:
            raise Unavailable(f"database {self._name!r} can't be reached") from error
        except DBAPIError as error:
            if is_lost(error):
                raise Unavailable(f"database {self._name!r} takes no connections") from error
            raise

    async def give_back(
        self, link: Link, *, error: BaseException | None = None, used: bool = False, rollback: bool = False
    ) -> None:
        """Keep it for the next. `used` says that nothing went wrong on it; else it is looked after first."""
        if used or await link.recover(error, rollback=rollback):
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

    async def _read(self, reading: Reading, owner: Owner, interrupt: Interrupt, snapshot: str | None) -> list[Any]:
        link = await self.take(owner)
        try:
            if snapshot is None and owner.settings is None and not link.pooled:
                with interrupt.window():
                    rows = await link.ask(reading, owner)
            else:
                rows = await _ask_within(link, reading, owner, snapshot, interrupt)
            if link.in_transaction:
                raise QueryError(
                    f"{reading.question.name} left a transaction open, which is rolled back:"
                    " use `async with db.transaction()`"
                )
        except BaseException as error:
            await self.give_back(link, error=None if interrupt.asked else error, rollback=True)
            if lost(error):
                await self.drop_idle()
            raise
        self._idle.append(link)
        return rows


async def _ask_within(
    link: Link, reading: Reading, owner: Owner, snapshot: str | None, interrupt: Interrupt
) -> list[Any]:
    """The rows, in a transaction of the query's own, in which the owner's settings hold."""
    begin = "BEGIN"
    if snapshot is not None:
        begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
    with interrupt.window():
        try:
            await link.begin(begin, owner.settings)
        except DBAPIError as error:
            if snapshot is not None and not lost(error):
                raise QueryError("the transaction whose snapshot it was to see has failed, or has ended") from error
            raise
        rows = await link.ask(reading, owner)
    if not link.in_transaction:
        raise QueryError(f"{reading.question.name} has ended the transaction in which it ran")
    await link.end("COMMIT")
    return rows
