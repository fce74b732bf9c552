"""All in one: engines, migrations, web and worker, from one command, with nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click

from .. import listening
from ..errors import SettingsError, Unavailable
from ..settings import Settings
from .changes import Changes
from .child import describe_exit, spawn
from .engines import Engines
from .processes import EX_CONFIG, Command, Supervisor
from .signals import STOP, Interrupted, Signals

_PORTS_TO_TRY = 100
_POLL = 0.1
# What the children have beyond their own time to drain.
_GRACE = 5.0


def run(
    target: str,
    *,
    host: str,
    port: int,
    explicit_port: bool,
    data_dir: Path,
    prepare: Callable[[Settings], None] | None = None,
    reload: bool = False,
) -> int:
    """Serve `target` (MODULE:SERVICE) and work for it until a signal; the exit status.

    Prints `ready http://HOST:PORT` on standard output when it answers, everything else on standard error.
    `prepare` gets the complete settings once the store's tables are there, before anything is served.
    A port that is taken is an error if `explicit_port`, else the next free one serves. With `reload`, web and worker
    start anew when a Python file below the working directory changes; the engines stay.
    """
    settings = Settings.from_env()
    engines = Engines(data_dir, settings, say=_say)
    with Signals() as signals:
        try:
            engines.lock()
            with _listen(host, port, explicit_port) as listener:
                signals.during(engines.start)
                engines.keep()
                environment = {"PUSHSVC_SHOW_ERRORS": "true", **os.environ, **engines.environment()}
                _run_command(signals, environment, "migrate")
                if prepare is not None:
                    signals.during(partial(prepare, engines.settings))
                commands = _commands(target, listener, environment, inline=settings.inline)
                with contextlib.ExitStack() as stack:
                    renew = None
                    if reload:
                        changes = stack.enter_context(Changes(Path.cwd(), signals.wake, data_dir))
                        renew = partial(_is_new_and_sound, target, changes, signals, environment)
                        _wait_until_sound(target, changes, signals, environment)
                    else:
                        _run_command(signals, environment, "load", target)
                    supervisor = Supervisor(commands, grace=settings.drain + _GRACE, signals=signals, renew=renew)
                    stack.enter_context(_ReadyWatch(listening.shown(listener)))
                    return supervisor.run()
        except Interrupted:
            return 0
        finally:
            engines.stop()


def _commands(
    target: str, listener: socket.socket, environment: Mapping[str, str], *, inline: bool = False
) -> list[Command]:
    pushsvc = [sys.executable, "-m", "pushsvc"]
    fd = listener.fileno()
    serve = Command("serve", [*pushsvc, "serve", target, "--fd", str(fd)], environment, pass_fds=(fd,))
    worker = Command("worker", [*pushsvc, "worker", target, "--alone"], environment)
    return [serve] if inline else [serve, worker]


def _is_new_and_sound(target: str, changes: Changes, signals: Signals, environment: Mapping[str, str]) -> bool:
    """Whether the code has changed, and can be loaded; if it can't, what was there before goes on."""
    if not changes.taken():
        return False
    try:
        _run_command(signals, environment, "load", target)
    except SettingsError as error:
        _say(f"{error}\nthe code from before goes on; waiting for a change")
        return False
    _say("the code has changed: web and worker start anew")
    return True


def _wait_until_sound(target: str, changes: Changes, signals: Signals, environment: Mapping[str, str]) -> None:
    while True:
        try:
            return _run_command(signals, environment, "load", target)
        except SettingsError as error:
            _say(f"{error}\nwaiting for a change")
        while not changes.taken():
            if signals.wait() & STOP:
                raise Interrupted


def _run_command(signals: Signals, environment: Mapping[str, str], *arguments: str) -> None:
    """Run `pushsvc …` to its end. Raises SettingsError, in its own words, where it says that it can't run like this;
    Unavailable if it ends in another way."""
    child = spawn(
        [sys.executable, "-m", "pushsvc", *arguments],
        death_signal=signal.SIGTERM,
        env=environment,
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = signals.during(child.communicate)
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode != 0:
        shown = output.decode(errors="replace").strip()
        if child.returncode == EX_CONFIG:
            raise SettingsError(shown.removeprefix("pushsvc: "))
        raise Unavailable(f"pushsvc {arguments[0]} ended with {describe_exit(child.returncode)}:\n{shown}")


def _listen(host: str, port: int, explicit: bool) -> socket.socket:
    """A listening socket, held here so that clients wait rather than fail while `serve` starts again."""
    listener = listening.listen(host, port, others=0 if explicit else _PORTS_TO_TRY)
    taken = listener.getsockname()[1]
    if port and taken != port:
        _say(f"port {port} is taken, using {taken}")
    return listener


class _ReadyWatch:
    """Prints the ready line once, as soon as the service answers that it is ready."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ready", daemon=True)
        # no proxy: it would not know this machine by that address
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()  # not joined: it may be waiting for an answer, and prints nothing more

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._ready() and not self._over.is_set():
                _say(f"ready {self._url}", err=False)
                return
            self._over.wait(_POLL)

    def _ready(self) -> bool:
        try:
            with self._opener.open(f"{self._url}/readyz", timeout=2.0):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            # an attached app keeps its own root, so any answer of its own is one; 503 is "not yet"
            return error.code < 500
        except (OSError, http.client.HTTPException):
            return False


def _say(line: str, *, err: bool = True) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, which is no reason to stop serving
        click.echo(line, err=err)
