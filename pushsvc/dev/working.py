"""The process of a worker: whatever a job does, it goes on until it is told to stop, and then it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from types import FrameType

from ..jobs import Holds
from ..service import Service
from ..tasks import tolerated

_EX_SOFTWARE = 70
_LEAVE_WITHIN = 2.0
"""Seconds that threads, tasks and `atexit` functions of an app have, when the work is done."""


def work(service: Service, holds: Holds | None = None) -> None:
    """Be a worker until SIGTERM or SIGINT, in the main thread. With `holds`, the parent keeps the leases.

    Raises what `Service.work` does.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        loop = runner.get_loop()
        stop = asyncio.Event()
        own = holds is None
        seen = Holds.of_this_process(service.settings.max_jobs) if holds is None else holds

        def told_to_stop(number: int, frame: FrameType | None) -> None:
            # Not by the event loop: a job may block it. Its keeper sees this all the same.
            seen.stopping()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, told_to_stop)
        try:
            _run(loop, service.work(stop, holds=seen, kept=not own, end=_end))
        except BaseException:
            _leave_in_time(1)
            raise
        _leave_in_time(0)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _run(loop: asyncio.AbstractEventLoop, main: object) -> None:
    """Run the loop until this is done. A task of a job's that ends with SystemExit stops the loop: it goes on."""
    assert asyncio.iscoroutine(main)
    task = loop.create_task(main, name="worker")
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        with tolerated("something that a job had begun"):
            loop.run_forever()
    task.result()


def _leave_in_time(status: int) -> None:
    """Leave the usual way if that does not take long: jobs may have left threads, and tasks that go on."""

    def leave() -> None:
        _flush()
        os._exit(status)

    timer = threading.Timer(_LEAVE_WITHIN, leave)
    timer.daemon = True
    timer.start()


def _end() -> None:
    """End this process, from a thread, whatever the others do."""
    _flush()
    os._exit(_EX_SOFTWARE)


def _flush() -> None:
    # Not all of it: a handler's lock may be held by what hangs.
    for handler in logging.getLogger().handlers:
        if handler.lock is None or handler.lock.acquire(timeout=0.5):
            with contextlib.suppress(Exception):
                handler.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
