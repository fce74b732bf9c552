"""Queues on which jobs wait for a worker, and which none serves."""

from __future__ import annotations

from ..bus import Queue
from ..store import JobStore

MOST_WAITING = 10_000
"""Due jobs that are looked at, those that wait longest."""


async def unserved(store: JobStore, queue: Queue, longer_than: float = 0.0) -> dict[str, int]:
    """How many due jobs wait on each such queue, where the first has done so for longer than this, in seconds.

    Raises Unavailable, and what FAULTS lists.
    """
    waiting = {name: count for name, count, longest in await store.waiting(MOST_WAITING) if longest > longer_than}
    served = await queue.served(list(waiting))
    return {name: count for name, count in waiting.items() if name not in served}
