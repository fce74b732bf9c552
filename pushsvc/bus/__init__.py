"""Redis hurries: the ARQ queue and its wake-ups, pub/sub, the latest progress."""

from .connection import FAULTS, RedisClient, connect
from .publisher import CANCEL_TOPIC, Publisher, channel_of, topic
from .queue import Claimed, Queue, Queued
from .subscriber import Subscriber

__all__ = [
    "CANCEL_TOPIC",
    "FAULTS",
    "Claimed",
    "Publisher",
    "Queue",
    "Queued",
    "RedisClient",
    "Subscriber",
    "channel_of",
    "connect",
    "topic",
]
