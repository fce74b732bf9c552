"""The pure codec: values to bytes and bytes to values, no sockets.

An event's bytes are a function of its job's row, made once and written as they are to every transport;
`tests/vectors/` holds examples that both languages test against.
"""

from .bus import bus_event, bus_progress, parse_bus
from .encoding import dump, load, mistakes, read
from .events import (
    Delivery,
    event,
    event_type,
    is_final,
    poll_answer,
    progress_frame,
    progress_item,
    published,
    reset_frame,
    reset_item,
    sse_block,
)
from .frames import (
    SUBPROTOCOL,
    Ack,
    ClientFrame,
    Hello,
    Refresh,
    Submit,
    Subscribe,
    Unsubscribe,
    bye_frame,
    error_frame,
    ok_frame,
    ok_frame_of,
    parse_frame,
    text_frame,
)
from .preferences import preferences, preferred_wait
from .problems import problem_bytes, problem_of

__all__ = [
    "SUBPROTOCOL",
    "Ack",
    "ClientFrame",
    "Delivery",
    "Hello",
    "Refresh",
    "Submit",
    "Subscribe",
    "Unsubscribe",
    "bus_event",
    "bus_progress",
    "bye_frame",
    "dump",
    "error_frame",
    "event",
    "event_type",
    "is_final",
    "load",
    "mistakes",
    "ok_frame",
    "ok_frame_of",
    "parse_bus",
    "parse_frame",
    "poll_answer",
    "preferences",
    "preferred_wait",
    "problem_bytes",
    "problem_of",
    "progress_frame",
    "progress_item",
    "published",
    "read",
    "reset_frame",
    "reset_item",
    "sse_block",
    "text_frame",
]
