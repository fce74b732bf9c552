"""The delivery half's ways out: WebSocket, event stream and long-poll, by one cursor."""

from .cursors import Cursors
from .direct import DirectSocket
from .gate import Gate, own_inbox
from .longpoll import Poll
from .revoked import REVOCATIONS, RevocationListener, revocation_data
from .session import RETRY_MS, Desk, Door, Session, Views
from .sockets import EXTENSION, AsgiSocket, DirectHttp, DirectProtocol
from .sse import STREAM_HEADERS, EventStream, Streams, nothing_follows
from .waiting import Waiter, until_ended

__all__ = [
    "EXTENSION",
    "RETRY_MS",
    "REVOCATIONS",
    "STREAM_HEADERS",
    "AsgiSocket",
    "Cursors",
    "Desk",
    "DirectHttp",
    "DirectProtocol",
    "DirectSocket",
    "Door",
    "EventStream",
    "Gate",
    "Poll",
    "RevocationListener",
    "Session",
    "Streams",
    "Views",
    "Waiter",
    "nothing_follows",
    "own_inbox",
    "revocation_data",
    "until_ended",
]
