"""Where a server listens: TCP of both families, or a UNIX socket; and how that is said."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from .errors import SettingsError

BACKLOG = 2048


def listen(host: str, port: int, *, others: int = 0) -> socket.socket:
    """A TCP socket that listens, at the port or at the first free one of so many `others` after it; port 0 is any.

    `::` listens on IPv4, too. Raises SettingsError when the host is no address of this machine, or the port taken.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"{host} is not an address to listen on: {error.strerror or error}") from error
    # localhost is both, and 127.0.0.1 is what everybody expects
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    for candidate in range(port, min(port + others, 65535) + 1 if port else 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            listener.bind((address[0], candidate, *address[2:]))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            problem = error
        else:
            return listener
    raise SettingsError(f"port {port} of {host} can't be used: {problem.strerror}; choose another with --port")


def listen_unix(path: Path) -> socket.socket:
    """A UNIX socket that listens, for everybody who may reach its directory; one that nobody serves any more is
    replaced. Raises SettingsError when the path is taken or can't be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_over(path):
            path.unlink()
        listener.bind(str(path))
        os.chmod(path, 0o666)  # a proxy runs as another user
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"{path} can't be used: {error.strerror or error}; choose another with --uds") from error
    return listener


def _is_left_over(path: Path) -> bool:
    """Whether it is a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        try:
            asked.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def shown(listener: socket.socket) -> str:
    """Where this machine reaches it: `http://127.0.0.1:8000`, or `unix:/path`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
