"""Several commands as child processes: started again when they die, stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import SettingsError
from .child import describe_exit, spawn
from .signals import STOP, Signals

_log = logging.getLogger(__name__)

EX_CONFIG = 78
"""The exit status of a command that can't run as configured: trying again would not help."""

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
_HEALTHY_AFTER = 10.0


class Companion(Protocol):
    """What goes along with one process, from before its start until after its end. Nothing here may block."""

    @property
    def argv(self) -> Sequence[str]:
        """Arguments by which the process knows of it."""

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """What the process inherits for it."""

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """The process has begun."""

    def stopping(self) -> None:
        """The process is about to be told to stop."""

    def ended(self) -> None:
        """The process has ended, or never began."""

    def join(self) -> None:
        """Wait until it has done what was left to do; it does not take long. At the end of this process."""


@dataclass(frozen=True)
class Command:
    """A child to run: its name in the log, its arguments, and what it inherits beside the standard streams.

    `companion` makes one for each process. `death_signal` is what the child gets when this process dies.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    companion: Callable[[], Companion] | None = None
    death_signal: signal.Signals = signal.SIGTERM


class Supervisor:
    """Keeps commands running until a signal asks to stop. Lives in the main thread, where signals arrive."""

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        grace: float = 10.0,
        signals: Signals | None = None,
        renew: Callable[[], bool] | None = None,
    ) -> None:
        """`renew` says, after each signal, whether all are to be started anew."""
        self._children = [_Child(command) for command in commands]
        self._grace = grace
        self._signals = signals
        self._renew = renew

    def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP (returns 0), or until a command exits with 78 (returns 78).

        Then every child gets SIGTERM and `grace` seconds; a second signal, or the end of the grace, SIGKILL.
        """
        with contextlib.ExitStack() as stack:
            signals = self._signals or stack.enter_context(Signals())
            try:
                return self._watch(signals)
            finally:
                self._stop(signals)

    def _watch(self, signals: Signals) -> int:
        while True:
            for child in self._children:
                child.start_if_due()
            if signals.wait(self._until_next_start()) & STOP:
                return 0
            # all are reaped, even after a 78, so that none is taken for running
            if EX_CONFIG in [child.reap() for child in self._children]:
                return EX_CONFIG
            if self._renew is not None and self._renew() and not self._end_all(signals):
                return 0

    def _until_next_start(self) -> float | None:
        due = [child.due for child in self._children if child.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _stop(self, signals: Signals) -> None:
        self._end_all(signals)
        for child in self._children:
            child.join()

    def _end_all(self, signals: Signals) -> bool:
        """End every process, within the grace. False: a signal to stop has cut it short."""
        stopped = False
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + self._grace
        while any(child.running for child in self._children):
            left = deadline - time.monotonic()
            stopped = left > 0 and bool(signals.wait(left) & STOP)
            if left <= 0 or stopped:
                break
        for child in self._children:
            child.kill()
        return not stopped


class _Child:
    """One command and its process, if it has one right now."""

    def __init__(self, command: Command) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.due = 0.0
        self._command = command
        self._companion: Companion | None = None
        self._former: Companion | None = None
        self._delay = _FIRST_DELAY
        self._started = 0.0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start_if_due(self) -> None:
        if self.process is not None or time.monotonic() < self.due:
            return
        self._started = time.monotonic()
        companion = self._command.companion() if self._command.companion is not None else None
        self._companion = companion
        try:
            self.process = spawn(
                [*self._command.argv, *(companion.argv if companion else ())],
                death_signal=self._command.death_signal,
                env=self._command.env,
                pass_fds=(*self._command.pass_fds, *(companion.pass_fds if companion else ())),
                # a group of its own: Ctrl-C is for the supervisor, which tells the children in its own way,
                # and a group in the background can't read the terminal
                process_group=0,
                stdin=subprocess.DEVNULL,
            )
        except (FileNotFoundError, PermissionError) as error:
            self._part()
            raise SettingsError(f"{self._command.name} can't be run: {error}") from error
        except OSError as error:  # such as too many processes: that may pass
            self._part()
            self._died(str(error))
        else:
            if companion is not None:
                companion.started(self.process)

    def reap(self) -> int | None:
        """The exit status, once, if the process has ended; schedules the next start."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        self._sweep()
        self.process = None
        self._part()
        self._died(describe_exit(status))
        return status

    def terminate(self) -> None:
        if self.process is not None:
            if self._companion is not None:
                self._companion.stopping()
            self.process.terminate()

    def kill(self) -> None:
        """End the process and whatever it left behind in its group."""
        if self.process is not None:
            self._sweep()
            self.process.wait()
            self.process = None
            self._part()
        self.due, self._delay = 0.0, _FIRST_DELAY

    def join(self) -> None:
        """Wait for what is left to do after the last process."""
        if self._former is not None:
            self._former.join()

    def _part(self) -> None:
        if self._companion is not None:
            self._companion.ended()
            self._former, self._companion = self._companion, None

    def _died(self, reason: str) -> None:
        if time.monotonic() - self._started >= _HEALTHY_AFTER:
            self._delay = _FIRST_DELAY
        self.due = time.monotonic() + self._delay
        _log.warning("%s ended (%s); starting again in %.1f s", self._command.name, reason, self._delay)
        self._delay = min(self._delay * 2, _LONGEST_DELAY)

    def _sweep(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
