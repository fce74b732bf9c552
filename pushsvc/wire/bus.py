"""What goes through Redis: `k3.40 k3.41 FRAME` or `p {progress}`, split without parsing JSON.

An event goes as the WebSocket frame that subscribers get, made once for all nodes, after the position of the event
before it and its own: a node that stands at the first has missed nothing, and looks at nothing else. All else begins
with a word that is no position, so what a later version may say is not taken for an event.
"""

from __future__ import annotations

from ..domain import Channel, Position, Progress
from ..errors import BadCursor
from .encoding import dump
from .events import Delivery, is_event_frame, progress_item


def bus_event(channel: Channel, position: Position, event_bytes: bytes) -> bytes:
    epoch, offset = position.epoch, position.offset
    return f"{epoch}.{offset - 1} {epoch}.{offset} ".encode() + Delivery(channel, position, event_bytes).ws


def bus_progress(progress: Progress) -> bytes:
    return b"p " + dump(progress_item(progress))


def parse_bus(message: bytes) -> tuple[Position, bytes] | bytes | None:
    """An event's position and frame, a progress item's JSON, or None for what this version does not know."""
    if message.startswith(b"p "):
        return message[2:]
    try:
        before, at, frame = message.split(b" ", 2)
        Position.parse(before.decode())
        return (Position.parse(at.decode()), frame) if is_event_frame(frame) else None
    except (BadCursor, ValueError):
        return None
