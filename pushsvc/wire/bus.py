"""What goes through Redis: `e k3.41 {event}` or `p {progress}`, readable in MONITOR, split without parsing JSON."""

from __future__ import annotations

from ..domain import Position, Progress
from .encoding import dump
from .events import progress_item


def bus_event(position: Position, event_bytes: bytes) -> bytes:
    return bus_head(position.epoch, position.offset) + event_bytes


def bus_head(epoch: str, offset: int) -> bytes:
    """What stands before the event of this position."""
    return f"e {epoch}.{offset} ".encode()


def bus_progress(progress: Progress) -> bytes:
    return b"p " + dump(progress_item(progress))


def parse_bus(message: bytes) -> tuple[Position, bytes] | bytes | None:
    """An event with its position, a progress item's JSON, or None for what this version does not know."""
    if message.startswith(b"e "):
        _, position, body = message.split(b" ", 2)
        return Position.parse(position.decode()), body
    return message[2:] if message.startswith(b"p ") else None
