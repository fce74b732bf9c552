"""The ways to hear, each of which knows only how to open, to read and to close."""

from .line import Ended, Line, Opening
from .longpoll import LongPoll
from .sse import EventStream
from .websocket import WebSocket

LINES: dict[str, type[WebSocket] | type[EventStream] | type[LongPoll]] = {
    "websocket": WebSocket,
    "sse": EventStream,
    "longpoll": LongPoll,
}

__all__ = ["LINES", "Ended", "Line", "Opening"]
