"""PostgreSQL remembers: jobs, channels and events, and every change of them."""

from .events import ChannelState, EventStore, Page
from .jobs import MAX_LOSSES, Finished, JobStore, Requeue
from .postgres import Postgres, is_lost
from .schema import check_schema, migrate

__all__ = [
    "MAX_LOSSES",
    "ChannelState",
    "EventStore",
    "Finished",
    "JobStore",
    "Page",
    "Postgres",
    "Requeue",
    "check_schema",
    "is_lost",
    "migrate",
]
