"""Redis hurries: the ARQ queue and its wake-ups, pub/sub, the latest progress."""

from .cluster import BusClient, Cluster, connect_bus
from .connection import LONGEST_WAIT, RedisClient, connect
from .faults import FAULTS, away, described
from .link import Ear
from .local import LocalBus, listen
from .local_queue import LocalQueue
from .publisher import Publisher, said
from .queue import NO_WEIGHTS, Claimed, Kind, Queue, Queued, Rules, Stand
from .scope import Scope
from .subscriber import Subscriber

__all__ = [
    "FAULTS",
    "LONGEST_WAIT",
    "NO_WEIGHTS",
    "BusClient",
    "Claimed",
    "Cluster",
    "Ear",
    "Kind",
    "LocalBus",
    "LocalQueue",
    "Publisher",
    "Queue",
    "Queued",
    "RedisClient",
    "Rules",
    "Scope",
    "Stand",
    "Subscriber",
    "away",
    "connect",
    "connect_bus",
    "described",
    "listen",
    "said",
]
