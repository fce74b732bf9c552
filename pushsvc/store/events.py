"""Reading channels: where each stands, and what lies after a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import asyncpg

from .. import wire
from ..domain import JOB_EPOCH, Channel, Place, Position
from . import statements as sql
from .batching import Batcher
from .jobs import encoded, job_of
from .postgres import Postgres


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Where a channel stands: events at `floor` and below are gone, the last one is at `top`."""

    epoch: str
    floor: int
    top: int
    gone: int = 0
    """The last offset whose event was purged: what lies between the floor and here may have gaps."""
    closed: bool = False
    """Nothing will ever follow: the channel is that of a job which has finished."""

    @property
    def end(self) -> Position:
        return Position(self.epoch, self.top)

    @property
    def start(self) -> Position:
        return Position(self.epoch, self.floor)


@dataclass(frozen=True, slots=True)
class Page:
    """What lies after a place in a channel.

    `reset` is set when what lay between is gone: it is the position to go on from, after reading the state.
    `position` is where the reader stands after `events`; `more` says that another page follows; `closed`
    that nothing ever will, as the channel is that of a job which has finished. `following` is the page that follows
    if it has been read with this one: it begins with a gap.
    """

    events: tuple[tuple[Position, bytes], ...]
    position: Position
    reset: Position | None = None
    more: bool = False
    closed: bool = False
    following: Page | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """An event that an app publishes, encoded, to be kept for `retention` seconds."""

    id: str
    channel: Channel
    body: bytes
    retention: float


class EventStore:
    """The logs of inboxes and groups, and the states of jobs, as streams of events.

    `prefix` is where the HTTP API is mounted: it stands in the links inside events.
    """

    def __init__(self, postgres: Postgres, prefix: str = "") -> None:
        self._postgres = postgres
        self._prefix = prefix
        # Those who come at the same time are answered by one statement: a node's restart brings them in thousands.
        self._states: Batcher[Sequence[Channel], Mapping[Channel, ChannelState]] = Batcher("states", self._look)
        self._publish: Batcher[Published, tuple[Position, bytes]] = Batcher("publish events", self._log)

    async def states(self, channels: Sequence[Channel]) -> Mapping[Channel, ChannelState]:
        """Where each channel stands. Logs that do not exist yet are made, so that they have an epoch; a job
        that does not exist is missing from the answer."""
        return await self._states(channels)

    async def _look(self, batch: Sequence[Sequence[Channel]]) -> list[Mapping[Channel, ChannelState]]:
        asked = list(dict.fromkeys(channel for channels in batch for channel in channels))
        logs = [channel for channel in asked if channel.kind != "job"]
        jobs = [channel for channel in asked if channel.kind == "job"]
        states: dict[Channel, ChannelState] = {}
        if logs:
            states |= await self._logs(logs)
            if new := [channel for channel in logs if channel not in states]:
                await self._postgres.ask(sql.OPEN_CHANNELS, [c.tenant for c in new], [c.name for c in new])
                states |= await self._logs(new)
        if jobs:
            rows = await self._postgres.ask(sql.JOB_VERSIONS, [c.tenant for c in jobs], [c.key for c in jobs])
            for row in rows:
                state = ChannelState(JOB_EPOCH, 0, row["version"], closed=row["closed"])
                states[Channel(row["tenant"], row["name"])] = state
        return [states] * len(batch)

    async def _logs(self, logs: Sequence[Channel]) -> dict[Channel, ChannelState]:
        rows = await self._postgres.ask(sql.CHANNEL_STATES, [c.tenant for c in logs], [c.name for c in logs])
        return {Channel(row["tenant"], row["name"]): _state(row) for row in rows}

    async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
        """Up to `limit` events after `place`; None if the channel is a job's that does not exist."""
        if channel.kind == "job":
            return await self._read_job(channel, place)
        epoch, offset = (place.epoch, place.offset) if isinstance(place, Position) else (place, 0)
        asked = (channel.tenant, channel.name, epoch, offset, limit)
        rows = await self._postgres.ask(sql.READ_LOG, *asked)
        if not rows:
            await self.states([channel])
            rows = await self._postgres.ask(sql.READ_LOG, *asked)
        state = _state(rows[0])
        after, reset = locate(channel, place, state)
        if rows[0]["offset"] is None:
            # All that lay between is gone.
            return Page((), state.end, reset if after == state.end else state.end)
        if rows[0]["offset"] > after.offset + 1:
            reset = Position(state.epoch, rows[0]["offset"] - 1)
        pages: Page | None = None
        for run in reversed(_runs(rows)):
            events = tuple((Position(state.epoch, row["offset"]), self._event(row)) for row in run)
            end = events[-1][0]
            gap = Position(state.epoch, events[0][0].offset - 1)
            pages = Page(events, end, gap, more=end.offset < state.top, following=pages)
        assert pages is not None
        return replace(pages, reset=reset)

    def _event(self, row: asyncpg.Record) -> bytes:
        return encoded(row["body"]) or wire.event(job_of(row), encoded(row["result"]), self._prefix)

    async def with_gaps(self, places: Mapping[Channel, Position]) -> set[Channel]:
        """In which of these logs something is gone between the position and what is there."""
        rows = await self._postgres.ask(
            sql.CHANNELS_WITH_GAPS,
            [channel.tenant for channel in places],
            [channel.name for channel in places],
            [position.offset for position in places.values()],
        )
        return {Channel(row["tenant"], row["name"]) for row in rows}

    async def _read_job(self, channel: Channel, place: Place) -> Page | None:
        rows = await self._postgres.ask(sql.JOB_WITH_RESULT, channel.tenant, channel.key)
        if not rows:
            return None
        job = job_of(rows[0])
        here = Position(JOB_EPOCH, job.version)
        if locate(channel, place, ChannelState(JOB_EPOCH, 0, job.version))[0] == here:
            return Page((), here, closed=job.status.terminal)
        result = encoded(rows[0]["result"]) if job.inline else None
        return Page(((here, wire.event(job, result, self._prefix)),), here, closed=job.status.terminal)

    # Publishing

    async def publish(self, event: Published) -> tuple[Position, bytes]:
        """Log an event of the app's own; where it stands, and its body. One of the same id that was published
        before changes nothing: the answer is that one."""
        return await self._publish(event)

    async def _log(self, batch: Sequence[Published]) -> list[tuple[Position, bytes]]:
        given = list({event.id: event for event in batch}.values())
        columns = (
            [event.id for event in given],
            [event.channel.tenant for event in given],
            [event.channel.name for event in given],
            [event.body.decode() for event in given],
            [event.retention for event in given],
        )
        try:
            rows = await self._postgres.ask(sql.PUBLISH_EVENTS, *columns)
        except asyncpg.UniqueViolationError:
            # An earlier try of the same statement, its answer lost on the way, has just been committed.
            rows = await self._postgres.ask(sql.PUBLISH_EVENTS, *columns)
        logged = {row["id"]: (Position(row["epoch"], row["offset"]), row["body"].encode()) for row in rows}
        return [logged[event.id] for event in batch]

    async def renew_epochs(self) -> int:
        """After a backup was restored: every log begins a new history, so that a cursor from the old one meets
        a reset and never other events under the same offsets. How many there are."""
        return len(await self._postgres.ask(sql.RENEW_EPOCHS))


def locate(channel: Channel, place: Place, state: ChannelState) -> tuple[Position, Position | None]:
    """The position to read after, and the reset that says so when it is not the one asked for.

    A job's channel has no resets: its last event says all there is, whatever the reader has seen of it.
    """
    if place == "now":
        return state.end, None
    if place == "start":
        return state.start, None
    whole = place.epoch == state.epoch and place.offset <= state.top
    if channel.kind == "job":
        return (place if whole else state.start), None
    if not whole:
        return state.end, state.end
    if place.offset < state.floor:
        return state.start, state.start
    return place, None


def _state(row: asyncpg.Record) -> ChannelState:
    return ChannelState(row["epoch"], row["floor"], row["top"], row["gone"])


def _runs(rows: Sequence[asyncpg.Record]) -> list[Sequence[asyncpg.Record]]:
    """The rows, divided where offsets are missing."""
    first = rows[0]["offset"]
    if rows[-1]["offset"] - first == len(rows) - 1:
        return [rows]
    begins = [0, *(n for n in range(1, len(rows)) if rows[n]["offset"] > rows[n - 1]["offset"] + 1), len(rows)]
    return [rows[begin:end] for begin, end in pairwise(begins)]
