"""A stock arq worker with the same job, for comparison: `arq benchmarks.stock.Worker`."""

from __future__ import annotations

import os
from typing import Any

from arq.connections import RedisSettings

DONE = "stock:done"


async def nothing(ctx: dict[str, Any]) -> None:
    """Says that it ran, which is more than stock arq does: a result there has to be polled for."""
    await ctx["redis"].publish(DONE, ctx["job_id"])


class Worker:
    functions = (nothing,)
    queue_name = "stock:queue"
    redis_settings = RedisSettings.from_dsn(os.environ.get("PUSHSVC_REDIS_URL", "redis://localhost"))
