"""The acceptance tests' service, with jobs that outlast a lease.

It notes what can only be seen inside a process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushsvc import JobContext, telemetry

from ..acceptance.app import service

__all__ = ["service"]

NOTED = ("hub.gap", "hub.behind", "bus.lost", "job.retrying", "job.fenced")


def _note_in(name: str, line: str) -> None:
    """A line of a file; appending one is atomic."""
    with Path(os.environ["ACCEPTANCE_DIR"], name).open("a") as file:
        file.write(line + "\n")


# The auditor imports this for the jobs' names, and has nothing to note.
NOTES = os.environ.get("ACCEPTANCE_DIR")


def _note(name: str, measures: Mapping[str, float], _labels: Mapping[str, Any]) -> None:
    if NOTES and name in NOTED:
        _note_in("telemetry", f"{name} {next(iter(measures.values())):g}")


telemetry.attach(_note)


def _begun(ctx: JobContext) -> None:
    _note_in("runs", f"{ctx.id} {os.getpid()}")


@service.job
async def long(ctx: JobContext, seconds: float) -> float:
    """Asks nothing of anybody, so nothing but its worker's end is a reason to run it again."""
    _begun(ctx)
    await asyncio.sleep(seconds)
    return seconds


@service.job
async def blocking(ctx: JobContext, seconds: float) -> float:
    """The same, and nothing else in its process has a turn meanwhile."""
    _begun(ctx)
    time.sleep(seconds)  # noqa: ASYNC251  this is what it is for
    return seconds
