"""Periodic jobs: whichever worker looks first submits the job of a tick, and PostgreSQL lets only one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime

from ..errors import Unavailable
from ..store import TickState, TickStore
from ..tasks import forever
from .registry import JobSpec, Registry
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
        specs = {spec.schedule.key(spec.name): spec for spec in self._registry if spec.schedule is not None}
        pause = LONGEST
        for state in await self._ticks.states(list(specs)) if specs else ():
            spec = specs[state.schedule]
            assert spec.schedule is not None
            await self._follow(spec, state)
            coming = next(spec.schedule.after(state.now))
            pause = min(pause, (coming - state.now).total_seconds())
        return max(pause, LEAST)

    async def _follow(self, spec: JobSpec, state: TickState) -> None:
        schedule = spec.schedule
        assert schedule is not None
        if state.last is None:
            await self._ticks.note(state.schedule, state.now)
            return
        last, flying = state.last, state.flying
        for at in schedule.due(last, state.now):
            if flying and not schedule.overlap:
                logger.warning("%s is due and skipped: the job of the tick before still runs", spec.name)
                await self._ticks.note(state.schedule, at, state.job)
            else:
                flying = await self._submit(spec, state.schedule, at) or flying

    async def _submit(self, spec: JobSpec, schedule: str, at: datetime) -> bool:
        assert spec.schedule is not None
        made = self._submitter.check("default", spec.schedule.owner, spec.name, {})
        return await self._submitter.accept_tick(self._ticks, schedule, at, replace(made, coalesce=False, mark=None))
