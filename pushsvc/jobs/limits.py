"""How long things take at the most, where more than one part of a worker goes by it."""

from __future__ import annotations

import random

REDIS_MARGIN = 0.5
"""Seconds by which the lease in Redis outlives that in PostgreSQL, so that whoever claims the job from the
queue after a worker's death may also start it."""

CLEAN_UP = 2.0
"""Seconds that jobs have to clean up when their worker ends."""


def backoff(tries: int, base: float = 1.0, most: float = 60.0) -> float:
    """Seconds until the next try: exponential, with jitter so that what failed together does not come back so."""
    return min(most, base * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)
