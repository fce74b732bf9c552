"""How a WebSocket's connection is ended so that its peer learns why, whichever object holds it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from websockets.protocol import State
from websockets.server import ServerProtocol

CLOSE_TIMEOUT = 10.0
"""Seconds that a peer has for its part of the closing handshake."""

_CLOSE = b"\x88"


class Ends(Protocol):
    """A connection, as far as its end is concerned."""

    transport: asyncio.Transport
    close_sent: bool
    close_timer: asyncio.TimerHandle | None


def answer_pings(connection: Ends, parser: ServerProtocol) -> None:
    """At once, those of the whole segment; a Close, which ends all, waits for its turn."""
    output = parser.data_to_send()
    if output and parser.state is not State.OPEN:
        last = next((n for n, part in enumerate(output) if not part or part.startswith(_CLOSE)), len(output))
        parser.writes = output[last:]
        output = output[:last]
    if output and not connection.close_sent:
        connection.transport.write(b"".join(output))


def hang_up(connection: Ends, parser: ServerProtocol) -> None:
    """Write what is left to say, and nothing more; then read until the peer has hung up too.

    To close at once would make the kernel take back what the peer has not read, if it was still sending: it
    would never learn why (RFC 6455, section 7.1.1).
    """
    transport = connection.transport
    if transport.is_closing():
        return
    if not connection.close_sent:
        transport.write(b"".join(parser.data_to_send()))
    connection.close_sent = True
    if not transport.can_write_eof():
        transport.close()
        return
    try:
        transport.write_eof()
    except OSError:
        # The peer has gone already; asyncio passes on what the kernel says of that.
        transport.abort()
    else:
        end_in_time(connection)


def end_in_time(connection: Ends) -> None:
    """The connection ends by CLOSE_TIMEOUT, unless the peer is still reading what it was sent."""
    stop_close_timer(connection)
    left = connection.transport.get_write_buffer_size()
    loop = asyncio.get_running_loop()
    connection.close_timer = loop.call_later(CLOSE_TIMEOUT, _give_up, connection, left)
    # Nothing is answered any more, and the peer's own Close, or its end, is waited for.
    connection.transport.resume_reading()


def stop_close_timer(connection: Ends) -> None:
    if connection.close_timer is not None:
        connection.close_timer.cancel()
        connection.close_timer = None


def _give_up(connection: Ends, left: int) -> None:
    if 0 < connection.transport.get_write_buffer_size() < left:
        end_in_time(connection)
    else:
        connection.transport.abort()
