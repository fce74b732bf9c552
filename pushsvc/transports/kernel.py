"""What only the kernel knows of a connection, or keeps for it."""

from __future__ import annotations

import asyncio
import selectors
import socket
from contextlib import suppress

TRANSPORT = "pushsvc.transport"
"""The scope's extension by which an answer gets hold of the transport that it goes to."""

SEND_BUFFER = 128 * 1024
"""Bytes that the kernel may keep for a socket (Linux takes twice as many): left alone, it hides up to 4 MB each."""

TCPI_RETRANSMITS, TCPI_PROBES = 2, 3
"""Where they stand in `struct tcp_info` (linux/tcp.h), a byte each."""
UNANSWERED = 2
"""So many in a row, and nobody is there."""


_CLOSED = (OSError, ValueError)
"""What the socket of a closed transport raises: asyncio's the first, uvloop's the second."""


def bound_send_buffer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel keep no more than `SEND_BUFFER` of what its peer does not take."""
    with suppress(*_CLOSED):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether something has come that we have not read: the peer is there, it is us who are late."""
    with suppress(*_CLOSED), selectors.DefaultSelector() as selector:
        selector.register(transport.get_extra_info("socket").fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
    return False


def reachable(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer's kernel still acknowledges what is sent, though the peer itself does not read it: then it is
    slow, not gone. Only Linux tells (tcp(7), TCP_INFO): probes and retransmissions without an answer."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    with suppress(*_CLOSED):
        info: bytes = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        return max(info[TCPI_RETRANSMITS], info[TCPI_PROBES]) < UNANSWERED
    return False
