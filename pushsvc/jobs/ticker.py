"""Periodic jobs: whichever worker looks first submits the job of a tick, and PostgreSQL lets only one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from ..errors import Unavailable
from ..store import TickState, TickStore
from ..tasks import forever, tolerated
from .registry import Registry
from .schedule import Schedule
from .submission import Submitter

logger = logging.getLogger(__name__)

LONGEST = 1.0
"""Seconds between two looks at most: PostgreSQL's clock may be set."""
LEAST = 0.01


class Ticker:
    """Runs in each worker whose app has periodic jobs."""

    def __init__(self, registry: Registry, ticks: TickStore, submitter: Submitter) -> None:
        self._registry = registry
        self._ticks = ticks
        self._submitter = submitter

    async def run(self) -> None:
        """For ever."""
        await forever("following schedules", self._look)

    async def _look(self) -> None:
        pause = LONGEST
        try:
            pause = await self.tick()
        except Unavailable:
            logger.debug("no look at schedules, PostgreSQL is away")
        await asyncio.sleep(pause)

    async def tick(self) -> float:
        """Submit whatever is due; in how many seconds to look again."""
        followed = {
            spec.schedule.key(spec.name): (spec.name, spec.schedule)
            for spec in self._registry
            if spec.schedule is not None
        }
        pause = LONGEST
        for state in await self._ticks.states(list(followed)) if followed else ():
            name, schedule = followed[state.schedule]
            # What is wrong with one keeps none of the others from its time.
            with tolerated(f"submitting the periodic job {name}", (Unavailable,)):
                await self._follow(name, schedule, state)
            coming = next(schedule.after(state.now))
            pause = min(pause, (coming - state.now).total_seconds())
        return max(pause, LEAST)

    async def _follow(self, name: str, schedule: Schedule, state: TickState) -> None:
        if state.last is None:
            await self._ticks.note(state.schedule, state.now)
            return
        due = schedule.due(state.last, state.now)
        if not schedule.overlap and due:
            # One at a time: whether its job still runs when the next one is due, the next look finds in PostgreSQL.
            if state.flying and schedule.missed != "all":
                logger.warning("%s is due and skipped: the job of the tick before still runs", name)
                await self._ticks.note(state.schedule, due[-1], state.job)
            due = [] if state.flying else due[:1]
        for at in due:
            made = self._submitter.check("default", schedule.owner, name, {})
            await self._submitter.accept_tick(
                self._ticks, state.schedule, at, replace(made, coalesce=False, mark=None)
            )
