"""The delivery half's ways out: WebSocket and long-poll, by one cursor."""

from .gate import Gate, own_inbox
from .longpoll import Poll
from .session import Desk, Session
from .sockets import EXTENSION, AsgiSocket, DirectProtocol, DirectSocket
from .waiting import until_final

__all__ = [
    "EXTENSION",
    "AsgiSocket",
    "Desk",
    "DirectProtocol",
    "DirectSocket",
    "Gate",
    "Poll",
    "Session",
    "own_inbox",
    "until_final",
]
