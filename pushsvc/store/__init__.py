"""PostgreSQL remembers: jobs, channels and events, and every change of them."""

from .beats import Beats
from .conninfo import Conninfo
from .ear import Ear
from .events import ChannelState, EventStore, Page, Published, locate
from .faults import described, is_away, is_lost, is_unreachable
from .jobs import MAX_LOSSES, Finished, JobStore, Requeue
from .pooler import DriverConnection, PoolerMode
from .positions import Device, PositionStore
from .postgres import UNHURRIED, Connection, Postgres
from .records import Entered, KeptAnswer, Record, RecordStore
from .retention import Retention
from .schema import check_schema, migrate
from .tickets import TicketStore
from .ticks import TickState, TickStore
from .waiting import Limit, Waiting
from .webhooks import Viewer, Webhook, WebhookStore
from .within import Within

__all__ = [
    "MAX_LOSSES",
    "UNHURRIED",
    "Beats",
    "ChannelState",
    "Connection",
    "Conninfo",
    "Device",
    "DriverConnection",
    "Ear",
    "Entered",
    "EventStore",
    "Finished",
    "JobStore",
    "KeptAnswer",
    "Limit",
    "Page",
    "PoolerMode",
    "PositionStore",
    "Postgres",
    "Published",
    "Record",
    "RecordStore",
    "Requeue",
    "Retention",
    "TickState",
    "TickStore",
    "TicketStore",
    "Viewer",
    "Waiting",
    "Webhook",
    "WebhookStore",
    "Within",
    "check_schema",
    "described",
    "is_away",
    "is_lost",
    "is_unreachable",
    "locate",
    "migrate",
]
