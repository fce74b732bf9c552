"""Subscribers, as odd as they come: they hop, go deaf, vanish, forget; and each keeps a journal."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

from pushsvc.domain import Cursor, Position, format_cursor, inbox
from pushsvc.tasks import stop

from ..acceptance.clients import Received
from .http_lines import PollingLine, PollLine, StreamLine
from .journal import Journal, Resumption
from .lines import Ended, Line, Refused
from .plan import Leg, Member, Transport
from .socket_line import SocketLine

LINES: Mapping[Transport, type[Line]] = {
    "websocket": SocketLine,
    "event stream": StreamLine,
    "long-poll": PollLine,
    "polling": PollingLine,
}

WATCHED = 20
"""Jobs that a subscriber watches at a time, at the most."""

FROZEN = 5
"""Connections of a subscriber that nobody reads any more, and that the server has to give up."""

ACK_EVERY = 5


class Subscriber:
    """One member of the plan, from its first connection to the end of the soak (Listening)."""

    def __init__(self, member: Member, nodes: list[str], token: str, legs: Iterator[Leg], pauses: Random) -> None:
        self.member = member
        self.token = token
        self.device = member.name if member.device else None
        self.journal = Journal(member.name)
        self.channels: dict[str, Position | None] = dict.fromkeys([inbox(member.user), *member.groups])
        self.fresh = asyncio.Event()
        self._nodes = nodes
        self._legs = legs
        self._pauses = pauses
        self._forgetful = False
        self._confirmed: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._unacked = 0
        self._calm = asyncio.Event()
        self._frozen: dict[Line, asyncio.Task[None]] = {}

    # Its life

    async def run(self) -> None:
        """Until it is cancelled. Nothing that happens to a connection ends it: then it would hear no more."""
        try:
            for leg in self._legs:
                try:
                    ended = await self._connection(leg)
                except Exception as error:
                    ended = self._broke(leg, error)
                self.journal.ends[ended.reason] += 1
                await asyncio.sleep(self._pauses.uniform(*ended.within))
        finally:
            for line, listening in self._frozen.items():
                await stop(listening)
                await self._close(line, "vanished")

    def _broke(self, leg: Leg, error: Exception) -> Ended:
        """Nobody foresaw this: that is a fault of ours, and not of the service."""
        at = traceback.extract_tb(error.__traceback__)[-1]
        self.journal.broken.append(f"{leg.transport}: {error!r} in {at.name}, {Path(at.filename).name}:{at.lineno}")
        return Ended("auditor broke")

    async def _close(self, line: Line, end: str) -> None:
        # The connection may have ended by itself in the meantime, in any way.
        with suppress(Exception):
            await line.close(end)

    def calm_down(self) -> None:
        """From now on stay connected, and do nothing odd."""
        self._calm.set()

    async def _connection(self, leg: Leg) -> Ended:
        """One connection, from its beginning to its end."""
        if self._calm.is_set():
            leg = replace(leg, seconds=None, deaf=None, forgetful=False)
        self._forgetful = leg.forgetful and bool(self._confirmed)
        self.journal.connections += 1
        line = LINES[leg.transport](self, self._nodes[leg.node], leg)
        listening = asyncio.create_task(line.listen())
        try:
            await self._live(line, leg, listening)
            if listening.done():
                await listening
            if leg.end == "frozen" and len(self._frozen) < FROZEN:
                line.deafen()
                self._frozen[line] = listening
            return Ended(leg.end)
        except Ended as ended:
            return ended
        except Refused as refused:
            self.journal.refusals.append(f"{leg.transport}: {refused}")
            return Ended("refused")
        finally:
            if line not in self._frozen:
                await stop(listening)
                await self._close(line, "vanished" if leg.end == "frozen" else leg.end)

    async def _live(self, line: Line, leg: Leg, listening: asyncio.Task[None]) -> None:
        """Until the leg is over, the connection is, or everybody is to calm down."""
        calm = asyncio.create_task(self._until_calm())
        try:
            left = leg.seconds
            if leg.deaf is not None and left is not None:
                after, seconds = leg.deaf
                await asyncio.wait([listening, calm], timeout=after, return_when=asyncio.FIRST_COMPLETED)
                line.deafen()
                await asyncio.wait([calm], timeout=seconds)
                line.hear()
                left -= after + seconds
            await asyncio.wait([listening, calm], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            calm.cancel()

    async def _until_calm(self) -> None:
        if self._calm.is_set():
            await asyncio.Event().wait()
        await self._calm.wait()

    # What its connections ask and say (Listening)

    @property
    def cursor(self) -> str | None:
        known = [(name, at) for name, at in self.channels.items() if at is not None]
        return None if self._forgetful or not known else format_cursor(known)

    def located(self, positions: Mapping[str, Position]) -> None:
        self.journal.locate(positions)
        if self._forgetful:
            self._forgetful = False
            for channel, told in positions.items():
                if channel in self._confirmed:
                    self.journal.resumptions.append(
                        Resumption(channel, self._confirmed[channel], self._sent[channel], told.offset)
                    )
        self.moved(positions)

    def take(self, received: Received) -> None:
        self.journal.note(received.channel, Position.parse(received.position), received.text)
        self._unacked += 1
        if received.channel.startswith("job:") and received.event["final"]:
            self.channels.pop(received.channel, None)
            self.fresh.set()

    def moved(self, positions: Mapping[str, Position]) -> None:
        for channel, position in positions.items():
            if channel in self.channels:
                self.channels[channel] = position

    def reset(self, item: str) -> None:
        self.journal.resets.append(item)

    def acking(self) -> str | None:
        if self.device is None or self._unacked < ACK_EVERY or self._forgetful:
            return None
        self._unacked = 0
        positions = {name: at for name, at in self.channels.items() if at is not None}
        for channel, position in positions.items():
            self._sent[channel] = max(self._sent.get(channel, 0), position.offset)
        return format_cursor(positions.items())

    def acked(self, cursor: str) -> None:
        for channel, position in Cursor.parse(cursor).positions.items():
            self._confirmed[channel] = max(self._confirmed.get(channel, 0), position.offset)

    # Jobs that it watches

    def watch(self, job: str, position: Position) -> None:
        """Hear of this job, from `position` on, if there is room for another."""
        channel = f"job:{job}"
        if len(self.channels) < WATCHED and channel not in self.journal.starts:
            self.journal.locate({channel: position})
            self.channels[channel] = position
            self.fresh.set()
