"""Notices that the event loop does not turn, and says which job keeps it from that, and where."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..tasks import forever
from .attempt import running_job
from .holds import Holds

logger = logging.getLogger(__name__)

BLOCKED_AFTER = 2.0
"""Seconds without a turn after which the event loop counts as blocked, or a quarter of a lease if that is less."""

LOOK_EVERY = 0.25
SHOWN_FRAMES = 15

Describe = Callable[[str], str | None]
"""A job's name and function by its id."""


class Watch:
    """Watches the event loop in which it is made, from a thread of its own."""

    def __init__(self, holds: Holds, lease: float, describe: Describe) -> None:
        self._holds = holds
        self._after = min(BLOCKED_AFTER, lease / 4)
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._said_at = 0.0
        self._longest = 0.0

    async def run(self) -> None:
        """Watch for ever, in another loop than the one that is watched."""
        await forever("watching the event loop", self._look)

    async def _look(self) -> None:
        await asyncio.sleep(min(LOOK_EVERY, self._after / 2))
        silent = self._holds.silent
        if silent < self._after:
            if self._said_at:
                self._holds.blame(None)
                logger.warning("the event loop turns again, after %.1f s", self._longest)
            self._said_at = self._longest = 0.0
            return
        self._longest = silent
        job = self._culprit()
        self._holds.blame(job)
        # Once at the beginning, then whenever it has taken twice as long.
        if silent > 2 * self._said_at:
            self._said_at = silent
            self._say(silent, job)

    def _say(self, silent: float, job: str | None) -> None:
        frame = sys._current_frames().get(self._thread)
        by = "something that is no job" if job is None else self._describe(job) or f"job {job}"
        logger.error(
            "the event loop has been blocked for %.1f s by %s, in %s. All other jobs of this process wait. "
            "Make it a plain `def` job, or await what takes long.\n%s",
            silent,
            by,
            "?" if frame is None else f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})",
            "" if frame is None else "".join(traceback.format_stack(frame)[-SHOWN_FRAMES:]),
        )

    def _culprit(self) -> str | None:
        """The id of the job whose task the loop is at: its own call, or whatever that has begun."""
        task = asyncio.current_task(self._loop)
        if task is None:
            return _job_of_callback(sys._current_frames().get(self._thread))
        kind, _, job = task.get_name().partition(":")
        return job if kind in ("job", "attempt") else _job_in(_context_of(task))


def _context_of(task: asyncio.Task[Any]) -> contextvars.Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # It has one that it does not show; the garbage collector knows what it refers to.
    return next((found for found in gc.get_referents(task) if isinstance(found, contextvars.Context)), None)


def _job_of_callback(frame: FrameType | None) -> str | None:
    """Of a plain callback, such as of `call_later`: asyncio's own handles can be seen on the stack."""
    while frame is not None:
        handle = frame.f_locals.get("self") if frame.f_code.co_name == "_run" else None
        if isinstance(handle, asyncio.Handle):
            return _job_in(getattr(handle, "_context", None))
        frame = frame.f_back
    return None


def _job_in(context: contextvars.Context | None) -> str | None:
    return None if context is None else context.get(running_job)
