"""Random programs of publishing, finishing, purging and trimming, read from every position, against a plain model."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushsvc.domain import Channel, Position, new_job_id
from pushsvc.settings import Settings
from pushsvc.store import Published

from ..contract.kit import Kit, me, opened

SHORT, LONG = 0.0, 3600.0

retentions = st.sampled_from([SHORT, LONG])
programs = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), retentions),
        st.tuples(st.just("finish"), retentions),
        st.tuples(st.just("purge"), st.sampled_from([1, 2, 100])),
        st.tuples(st.just("trim"), st.integers(1, 4)),
    ),
    max_size=14,
)


class Log:
    """What one log should hold: its living offsets, and those of them that are past their time."""

    def __init__(self) -> None:
        self.top = 0
        self.living: list[int] = []
        self.expired: dict[str, list[int]] = {"publish": [], "finish": []}

    def add(self, kind: str, retention: float) -> None:
        self.top += 1
        self.living.append(self.top)
        if retention == SHORT:
            self.expired[kind].append(self.top)

    def purge(self, limit: int) -> None:
        for kind, offsets in self.expired.items():
            # What was trimmed below a job that is still there counts against the limit as well.
            going, self.expired[kind] = offsets[:limit], offsets[limit:]
            self.living = [offset for offset in self.living if offset not in going]

    def trim(self, length: int) -> None:
        self.living = self.living[-length:]
        # Published events are gone with it; jobs are purged in their own time.
        self.expired["publish"] = [offset for offset in self.expired["publish"] if offset in self.living]

    def read(self, after: int) -> list[tuple[str, int]]:
        """What a reader gets: events, and a reset wherever something is gone."""
        items = []
        for offset in (offset for offset in self.living if offset > after):
            if offset > after + 1:
                items.append(("reset", offset - 1))
            items.append(("event", offset))
            after = offset
        return [*items, ("reset", self.top)] if after < self.top else items


async def read_all(kit: Kit, channel: Channel, place: Position, limit: int) -> list[tuple[str, int]]:
    items: list[tuple[str, int]] = []
    while True:
        page = await kit.events.read(channel, place, limit)
        while page is not None:
            if page.reset is not None:
                items.append(("reset", page.reset.offset))
            items += [("event", position.offset) for position, _ in page.events]
            place, more, page = page.position, page.more, page.following
        if not more:
            return items


async def carry_out(kit: Kit, channel: Channel, program: list[tuple[str, Any]]) -> Log:
    log = Log()
    for what, value in program:
        if what == "publish":
            await kit.events.publish(Published(f"evt_{new_job_id()}", channel, b"{}", value))
        elif what == "finish":
            await kit.finish(publish=False, owner=None, channels=(channel.name,), retention=value)
        elif what == "purge":
            await kit.retention.purge_published(value)
            await kit.retention.purge(value)
        else:
            await kit.retention.trim(value, 2)
        if what in ("publish", "finish"):
            log.add(what, value)
        else:
            getattr(log, what)(value)
    return log


async def compare(kit: Kit, program: list[tuple[str, Any]]) -> None:
    for table in ("events", "jobs", "channels"):
        await kit.postgres.fetch(f"DELETE FROM pushsvc.{table}")
    channel = me("group:log")
    await kit.events.states([channel])
    log = await carry_out(kit, channel, program)
    state = (await kit.events.states([channel]))[channel]
    assert state.top == log.top
    assert all(offset > state.floor for offset in log.living), "a floor is over what is gone only"
    for after in range(log.top + 1):
        place = Position(state.epoch, after)
        expected = log.read(after)
        for limit in (1, 3, 100):
            assert await read_all(kit, channel, place, limit) == expected
        missed = any(kind == "reset" for kind, _ in expected)
        if after >= state.floor:
            assert bool(await kit.events.with_gaps({channel: place})) == missed
        if after >= state.gone and after >= state.floor:
            assert not missed


def test_each_event_lives_as_long_as_was_said_and_every_reader_learns_what_is_gone(
    database_url: str, redis_url: str
) -> None:
    made = Settings.from_env({}, database_url=database_url, redis_url=redis_url)
    with asyncio.Runner() as runner:
        opening = opened(made)
        kit = runner.run(opening.__aenter__())

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(programs)
        def check(program: list[tuple[str, Any]]) -> None:
            runner.run(compare(kit, program))

        try:
            check()
        finally:
            runner.run(opening.__aexit__(None, None, None))
