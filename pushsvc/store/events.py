"""Reading channels: where each stands, and what lies after a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import wire
from ..domain import JOB_EPOCH, Channel, Place, Position
from . import statements as sql
from .jobs import encoded, job_of
from .postgres import Postgres


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Where a channel stands: events at `floor` and below are gone, the last one is at `top`."""

    epoch: str
    floor: int
    top: int
    row: int = 0
    """The row's id in `channels`; 0 for a job's channel, which has no row of its own."""

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
    that nothing ever will, as the channel is that of a job which has finished.
    """

    events: tuple[tuple[Position, bytes], ...]
    position: Position
    reset: Position | None = None
    more: bool = False
    closed: bool = False


class EventStore:
    """The logs of inboxes and groups, and the states of jobs, as streams of events.

    `prefix` is where the HTTP API is mounted: it stands in the links inside events.
    """

    def __init__(self, postgres: Postgres, prefix: str = "") -> None:
        self._postgres = postgres
        self._prefix = prefix

    async def states(self, channels: Sequence[Channel]) -> Mapping[Channel, ChannelState]:
        """Where each channel stands. Logs that do not exist yet are made, so that they have an epoch; a job
        that does not exist is missing from the answer."""
        logs = list(dict.fromkeys(channel for channel in channels if channel.kind != "job"))
        jobs = [channel for channel in channels if channel.kind == "job"]
        states: dict[Channel, ChannelState] = {}
        if logs:
            names = ([c.tenant for c in logs], [c.name for c in logs])
            rows = await self._postgres.fetch(sql.CHANNEL_STATES, *names)
            if len(rows) < len(logs):
                await self._postgres.fetch(sql.OPEN_CHANNELS, *names)
                rows = await self._postgres.fetch(sql.CHANNEL_STATES, *names)
            for row in rows:
                channel = Channel(row["tenant"], row["name"])
                states[channel] = ChannelState(row["epoch"], row["floor"], row["top"], row["id"])
        if jobs:
            rows = await self._postgres.fetch(sql.JOB_VERSIONS, [c.tenant for c in jobs], [c.key for c in jobs])
            for row in rows:
                states[Channel(row["tenant"], row["name"])] = ChannelState(JOB_EPOCH, 0, row["version"])
        return states

    async def read(self, channel: Channel, place: Place, limit: int = 100) -> Page | None:
        """Up to `limit` events after `place`; None if the channel is a job's that does not exist."""
        if channel.kind == "job":
            return await self._read_job(channel, place)
        state = (await self.states([channel]))[channel]
        after, reset = self._resolve(place, state)
        if after.offset >= state.top:
            return Page((), after, reset)
        rows = await self._postgres.fetch(sql.EVENTS_AFTER, state.row, after.offset, limit)
        # Retention may have overtaken us between the two statements, and not only at the lower end.
        if not rows:
            return Page((), state.end, state.end)
        first = rows[0]["offset"]
        if first > after.offset + 1:
            reset = Position(state.epoch, first - 1)
        events = tuple(
            (
                Position(state.epoch, row["offset"]),
                encoded(row["body"]) or wire.event(job_of(row), encoded(row["result"]), self._prefix),
            )
            for number, row in enumerate(rows)
            if row["offset"] == first + number
        )
        # Up to the first gap: the next page begins there, and says so.
        return Page(events, events[-1][0], reset, more=len(events) < len(rows) or len(rows) == limit)

    async def resolve(self, channel: Channel, place: Place) -> Position | None:
        """Where `place` is now; None if the channel is a job's that does not exist."""
        state = (await self.states([channel])).get(channel)
        return None if state is None else self._resolve(place, state)[0]

    def _resolve(self, place: Place, state: ChannelState) -> tuple[Position, Position | None]:
        """The position to read after, and the reset that says so when it is not the one asked for."""
        if place == "now":
            return state.end, None
        if place == "start":
            return state.start, None
        if place.epoch != state.epoch or place.offset > state.top:
            return state.end, state.end
        if place.offset < state.floor:
            return state.start, state.start
        return place, None

    async def _read_job(self, channel: Channel, place: Place) -> Page | None:
        rows = await self._postgres.fetch(sql.JOB_WITH_RESULT, channel.tenant, channel.key)
        if not rows:
            return None
        job = job_of(rows[0])
        here = Position(JOB_EPOCH, job.version)
        if place == "now" or (
            isinstance(place, Position) and place.epoch == JOB_EPOCH and place.offset >= job.version
        ):
            return Page((), here, closed=job.status.terminal)
        result = encoded(rows[0]["result"]) if job.inline else None
        return Page(((here, wire.event(job, result, self._prefix)),), here, closed=job.status.terminal)
