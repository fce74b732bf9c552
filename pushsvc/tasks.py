"""Ending background tasks."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel each task until it has ended; what it raised at its end is dropped.

    Once is not enough: `asyncio.wait_for` of Python 3.11 swallows a cancel that comes as its future is done
    (python/cpython#86296), and most clients' reads and writes go through it.
    """
    for task in tasks:
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        if task is not None and not task.cancelled():
            task.exception()
