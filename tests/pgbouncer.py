"""PgBouncer in front of a PostgreSQL server, as Debian has it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from pushsvc.dev.account import server_account
from pushsvc.dev.child import spawn
from pushsvc.store import Conninfo

PATIENCE = 30.0
PLACES = (os.environ.get("PGBOUNCER", ""), "pgbouncer", "/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer")
PROGRAM = next((found for place in PLACES if place and (found := shutil.which(place))), None)

needed = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer here (PGBOUNCER=/path/to/it names one)")


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    port: int
    log: Path

    def url(self, direct: str, **query: str) -> str:
        """The way through it to the database of a URL."""
        parts = urlsplit(direct)
        place = f"{parts.username or 'postgres'}@127.0.0.1:{self.port}"
        more = "&".join(f"{name}={value}" for name, value in query.items())
        return urlunsplit(parts._replace(netloc=place, query=more))


@contextmanager
def pgbouncer(
    url: str, *, mode: str = "transaction", size: int = 5, port: int | None = None, **settings: object
) -> Iterator[Pooler]:
    """One in front of the server of `url`, with `size` connections to each of its databases, for each user."""
    assert PROGRAM is not None
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-"))
    try:
        pooler = Pooler(port or _free_port(), directory / "log")
        account = server_account(directory)
        config = directory / "pgbouncer.ini"
        config.write_text(_config(url, pooler, mode=mode, size=size, **settings))
        (directory / "users").write_text('"postgres" ""\n')
        if account is not None:
            account.let_through(directory)
            os.chown(directory, *account.owner)
            for path in directory.iterdir():
                os.chown(path, *account.owner)
        owner = account.owner if account is not None else None
        process = spawn(
            [PROGRAM, str(config)],
            death_signal=signal.SIGKILL,
            owner=owner,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(pooler, process)
            yield pooler
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _config(url: str, pooler: Pooler, *, mode: str, size: int, **settings: object) -> str:
    place = Conninfo.parse(url).place
    hosts, ports = place.get("host", ["127.0.0.1"]), place.get("port", [5432])
    port = ports[0] if isinstance(ports, list) else ports
    password = f" password={place['password']}" if "password" in place else ""
    more = "\n".join(f"{name} = {value}" for name, value in settings.items())
    return f"""
[databases]
* = host={hosts[0]} port={port}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {pooler.port}
unix_socket_dir =
auth_type = trust
auth_file = {pooler.log.parent / "users"}
logfile = {pooler.log}
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
{more}
"""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(pooler: Pooler, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", pooler.port), 1).close()
        except OSError:
            said = pooler.log.read_text() if pooler.log.exists() else ""
            assert process.poll() is None, f"pgbouncer has ended: {said}"
            assert time.monotonic() < deadline, f"pgbouncer is not there: {said}"
            time.sleep(0.01)
        else:
            return
