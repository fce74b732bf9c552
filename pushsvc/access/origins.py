"""From where: the origin check (RFC 6454) of WebSocket handshakes, and CORS. Closed by default."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


def allowed_origin(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """True without an Origin (no browser), from the service's own host, or from an allowed origin.

    Browsers send cookies along with any site's WebSocket handshake, so this is what keeps other sites out.
    """
    if origin is None or "*" in allowed:
        return True
    if origin in allowed:
        return True
    try:
        own = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(own) and host is not None and own.lower() == host.lower()
