"""The delivery half's ways out: WebSocket, event stream and long-poll, by one cursor."""

from .direct import DirectSocket
from .gate import Gate, own_inbox
from .longpoll import Poll
from .revoked import REVOCATIONS, RevocationListener, revocation_data
from .session import RETRY_MS, Connection, Desk, Session
from .sockets import EXTENSION, AsgiSocket, DirectHttp, DirectProtocol
from .sse import STREAM_HEADERS, EventStream, nothing_follows
from .waiting import until_ended, until_final

__all__ = [
    "EXTENSION",
    "RETRY_MS",
    "REVOCATIONS",
    "STREAM_HEADERS",
    "AsgiSocket",
    "Connection",
    "Desk",
    "DirectHttp",
    "DirectProtocol",
    "DirectSocket",
    "EventStream",
    "Gate",
    "Poll",
    "RevocationListener",
    "Session",
    "nothing_follows",
    "own_inbox",
    "revocation_data",
    "until_ended",
    "until_final",
]
