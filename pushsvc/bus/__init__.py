"""Redis hurries: the ARQ queue and its wake-ups, pub/sub, the latest progress."""

from .connection import FAULTS, LONGEST_WAIT, RedisClient, away, connect
from .publisher import CANCEL_TOPIC, Publisher, channel_of, topic
from .queue import Claimed, Queue, Queued
from .subscriber import Subscriber

__all__ = [
    "CANCEL_TOPIC",
    "FAULTS",
    "LONGEST_WAIT",
    "Claimed",
    "Publisher",
    "Queue",
    "Queued",
    "RedisClient",
    "Subscriber",
    "away",
    "channel_of",
    "connect",
    "topic",
]
