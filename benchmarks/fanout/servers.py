"""The servers that are measured, each a process of its own on one core."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from pushsvc.access import Tokens
from pushsvc.bus.subscriber import TOLD_AGAIN_AFTER

from . import naive
from .messages import GROUP

SECRET = "a secret for benchmarks, 32 chars."
MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


@dataclass(frozen=True, slots=True)
class Engines:
    """What all of them run on."""

    database_url: str
    redis_url: str
    redis_port: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Way:
    """How the load client reaches a server: subscribers by `path`, publishers by `pub` at `pub_port`.

    `prefix` stands before a channel's number in what is published to.
    """

    port: int
    pid: int
    path: str
    pub: str
    pub_port: int
    prefix: str
    extra: Sequence[str] = ()


@dataclass(frozen=True)
class Server(ABC):
    """A server that can be started. `effort` is how many of a figure's messages it is given, `most` the subscribers
    beyond which it would take minutes to connect them."""

    engines: Engines
    core: int | None

    name: str = field(default="", init=False)
    effort: float = field(default=1.0, init=False)
    most: int = field(default=100_000, init=False)
    settled_after: float = field(default=0.0, init=False)
    """Seconds from its start until it does nothing more by itself."""

    @abstractmethod
    def command(self, port: int) -> list[str]: ...

    @abstractmethod
    def way(self, port: int, pid: int) -> Way: ...

    def environment(self) -> dict[str, str]:
        return {}

    def ready(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def served_by(self, process: subprocess.Popen[bytes]) -> int:
        return process.pid

    @contextmanager
    def running(self) -> Iterator[Way]:
        """The process, pinned to its core, from when it answers until the block's end."""
        port = free_port()
        process = subprocess.Popen(
            self.command(port),
            env=os.environ | self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not self.ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} did not start")
                time.sleep(0.05)
            pid = self.served_by(process)
            if self.core is not None:
                psutil.Process(pid).cpu_affinity([self.core])
            time.sleep(self.settled_after)
            yield self.way(port, pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Pushsvc(Server):
    """`pushsvc serve`: every subscriber is a user of its own, with a token of its own, in its inbox and a group."""

    name = "pushsvc"
    # Some seconds after it has connected to Redis, it looks in PostgreSQL for what it may have missed. There it would
    # find the events that have been stored and are still to be published, and deliver them before their turn.
    settled_after = max(TOLD_AGAIN_AFTER) + 1.0

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "pushsvc", "serve", "benchmarks.app:service", "--port", str(port)]

    def environment(self) -> dict[str, str]:
        return {
            "PUSHSVC_DATABASE_URL": self.engines.database_url,
            "PUSHSVC_REDIS_URL": self.engines.redis_url,
            "PUSHSVC_SECRET": SECRET,
            "PUSHSVC_LOG_LEVEL": "warning",
            # For the same reason it is not to look later on, either.
            "PUSHSVC_TOP_CHECK": "1h",
        }

    def ready(self, port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def way(self, port: int, pid: int) -> Way:
        hellos = str(self.engines.directory / "hellos")
        extra = ["--subproto", "pushsvc.v1", "--hellos", hellos, "--ack", '"ok":']
        return Way(port, pid, "/v1/ws", "redis", self.engines.redis_port, "redis", extra)


class Nchan(Server):
    """nginx with one worker process, which keeps messages in memory."""

    name = "Nchan"

    @staticmethod
    def installed() -> tuple[str, str] | None:
        """nginx, and the module's file (empty if it is built in); None where there is no Nchan."""
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if nginx is None:
            return None
        modules = [Path(directory, "ngx_nchan_module.so") for directory in MODULES]
        found = next((str(module) for module in modules if module.exists()), None)
        return (nginx, found) if found else None

    def command(self, port: int) -> list[str]:
        found = self.installed()
        assert found is not None
        nginx, module = found
        home = self.engines.directory / f"nginx-{port}"
        home.mkdir()
        temporary = "".join(
            f"{kind}_temp_path {home};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = home / "nginx.conf"
        config.write_text(f"""
load_module {module};
worker_processes 1; worker_rlimit_nofile 20000; daemon off; pid {home}/pid; error_log {home}/error.log error;
events {{ worker_connections 16000; }}
http {{
  access_log off; {temporary} keepalive_requests 1000000000; nchan_max_reserved_memory 256m;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location ~ ^/sub/(\\d+)$ {{
      nchan_subscriber websocket; nchan_channel_id $1; nchan_subscriber_first_message newest;
    }}
    location ~ ^/pub/(\\d+)$ {{ nchan_publisher; nchan_channel_id $1; }}
  }}
}}
""")
        return [nginx, "-p", str(home), "-c", str(config), "-e", str(home / "error.log")]

    def served_by(self, process: subprocess.Popen[bytes]) -> int:
        return psutil.Process(process.pid).children()[0].pid

    def way(self, port: int, pid: int) -> Way:
        return Way(port, pid, "/sub/%d", "http", port, "/pub/")


class Naive(Server):
    """One of the two in `naive`."""

    effort = 0.1
    kind = ""

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.fanout.naive", self.kind, str(port), self.engines.redis_url]

    def way(self, port: int, pid: int) -> Way:
        return Way(port, pid, "/%d", "redis", self.engines.redis_port, naive.PREFIX)


class StarletteLoop(Naive):
    name = "Starlette, `await ws.send_text()`"
    kind = "starlette"


class WebsocketsBroadcast(Naive):
    name = "`websockets.broadcast`"
    kind = "websockets"


@dataclass(frozen=True)
class Channels(Server):
    """Django channels under daphne, on its Redis layer."""

    python: str = ""

    name = "Django channels"
    effort = 0.02
    most = 1000

    def command(self, port: int) -> list[str]:
        home = str(Path(__file__).parent)
        daphne = ["-m", "daphne", "-v", "0", "-p", str(port), "channels_app:application"]
        return ["env", f"PYTHONPATH={home}", self.python, *daphne]

    def environment(self) -> dict[str, str]:
        return {"REDIS_URL": self.engines.redis_url}

    def way(self, port: int, pid: int) -> Way:
        return Way(port, pid, "/sub/%d", "http", port, "/pub/")


def users(count: int) -> list[str]:
    return [f"user-{number}" for number in range(count)]


def write_hellos(engines: Engines, count: int) -> None:
    """A hello for each of `count` users, as the load client sends them."""
    tokens = Tokens(SECRET)
    with (engines.directory / "hellos").open("w") as file:
        for user in users(count):
            token = tokens.mint(user, channels=[GROUP], ttl=86400)
            file.write(f'{{"id":1,"op":"hello","token":"{token}","channels":["{GROUP}"]}}\n')


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
