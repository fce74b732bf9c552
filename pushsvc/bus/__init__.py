"""Redis hurries: the ARQ queue and its wake-ups, pub/sub, the latest progress."""

from .cluster import BusClient, Cluster, connect_bus
from .connection import LONGEST_WAIT, RedisClient, connect
from .faults import FAULTS, away, described
from .link import Ear
from .publisher import CANCEL_TOPIC, Publisher, channel_of, topic
from .queue import Claimed, Queue, Queued
from .subscriber import Subscriber

__all__ = [
    "CANCEL_TOPIC",
    "FAULTS",
    "LONGEST_WAIT",
    "BusClient",
    "Claimed",
    "Cluster",
    "Ear",
    "Publisher",
    "Queue",
    "Queued",
    "RedisClient",
    "Subscriber",
    "away",
    "channel_of",
    "connect",
    "connect_bus",
    "described",
    "topic",
]
