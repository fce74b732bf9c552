"""PostgreSQL remembers: jobs, channels and events, and every change of them."""

from .events import ChannelState, EventStore, Page
from .jobs import MAX_LOSSES, Finished, JobStore, Requeue
from .postgres import LOST, Postgres
from .schema import check_schema, migrate

__all__ = [
    "LOST",
    "MAX_LOSSES",
    "ChannelState",
    "EventStore",
    "Finished",
    "JobStore",
    "Page",
    "Postgres",
    "Requeue",
    "check_schema",
    "migrate",
]
