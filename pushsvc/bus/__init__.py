"""Redis hurries: the ARQ queue and its wake-ups, pub/sub, the latest progress."""

from .cluster import BusClient, Cluster, connect_bus
from .connection import LONGEST_WAIT, RedisClient, connect
from .faults import FAULTS, away, described
from .link import Ear
from .local import LocalBus, LocalQueue, listen
from .publisher import Publisher, said
from .queue import Claimed, Queue, Queued
from .scope import Scope
from .subscriber import Subscriber

__all__ = [
    "FAULTS",
    "LONGEST_WAIT",
    "BusClient",
    "Claimed",
    "Cluster",
    "Ear",
    "LocalBus",
    "LocalQueue",
    "Publisher",
    "Queue",
    "Queued",
    "RedisClient",
    "Scope",
    "Subscriber",
    "away",
    "connect",
    "connect_bus",
    "described",
    "listen",
    "said",
]
