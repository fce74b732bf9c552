"""The web process of `pushsvc serve`: uvicorn with our protocols, its signals, its limits."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from .settings import Settings
from .transports import DirectHttp, DirectProtocol

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

FEW_FILES = 1024
"""Open files with which a server is soon at its end: each connection is one."""
LOOK_EVERY = 5.0
"""Seconds between two looks at how many files are open."""
SAY_EVERY = 60.0

_TICKET = re.compile(r"(?<=[?&]ticket=)[^&\s\"]+")


class Server(uvicorn.Server):
    """uvicorn, which takes no more connections and sends those it has elsewhere, before it closes all at once.

    SIGTERM, SIGINT and SIGHUP end it in peace; a second one at once. `started_up` is called when it serves.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], started_up: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._started_up = started_up
        self._at_once = asyncio.Event()
        self._files = OpenFiles()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started_up()

    async def on_tick(self, counter: int) -> bool:
        self._files.look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        draining = asyncio.ensure_future(self._drain())
        hurried = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait([draining, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        draining.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would end the process by the signal, after all is done: with -15 rather than 0."""
        watched = [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            self._at_once.set()
            # What is cut off now is what was asked for, and worth no traceback.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.should_exit = True


class OpenFiles:
    """How near the process is to its limit of open files, beyond which no connection is taken."""

    def __init__(self) -> None:
        self.limit = raise_limit()
        self._looked_at = time.monotonic()
        self._said_at = float("-inf")
        if self.limit < FEW_FILES:
            logger.warning("this process may open %d files, each connection is one: %s", self.limit, _ADVICE)

    def look(self) -> None:
        """Warn, once a minute, when nine tenths are open."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        open_files = count_open()
        if open_files >= 0.9 * self.limit and now - self._said_at >= SAY_EVERY:
            self._said_at = now
            logger.warning("%d of %d files are open, each connection is one: %s", open_files, self.limit, _ADVICE)


_ADVICE = "raise the limit (ulimit -n, LimitNOFILE= of systemd) or run more processes"


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; what it is then."""
    try:
        import resource
    except ImportError:  # there is no such limit
        return 2**31
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 2**20)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def count_open() -> int:
    """How many files the process has open; 0 where that can't be seen."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


class _WithoutTickets(logging.Filter):
    """A ticket is as good as a token for half a minute, and it stands in a URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_TICKET.sub("***", a) if isinstance(a, str) else a for a in record.args)
        return True


def configure(
    app: ASGIApp, settings: Settings, *, access_log: bool, forwarded_allow_ips: str | None
) -> uvicorn.Config:
    """How uvicorn serves the app. `forwarded_allow_ips` are the proxies that are believed (`X-Forwarded-…`)."""
    for name in ("uvicorn.access", "uvicorn.error"):
        its = logging.getLogger(name)
        if not any(isinstance(each, _WithoutTickets) for each in its.filters):
            its.addFilter(_WithoutTickets())
    options: dict[str, Any] = {"forwarded_allow_ips": forwarded_allow_ips} if forwarded_allow_ips else {}
    return uvicorn.Config(
        app,
        http=DirectHttp,
        ws=DirectProtocol,
        ws_max_size=settings.frame_limit,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping,
        ws_ping_timeout=settings.ping,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(settings.drain)),
        backlog=2048,
        root_path=settings.root_path,
        lifespan="on",
        access_log=access_log,
        log_config=None,
        server_header=False,
        **options,
    )
