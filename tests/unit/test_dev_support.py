"""What the tests of `pushsvc.dev` share; no tests here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds; the deadline is far away and only for a test that fails."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has: whoever adopted it may be slow to reap)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def processes_on(directory: Path) -> list[int]:
    """The processes with the directory in their arguments, except this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@contextlib.contextmanager
def python(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process running `script`, its standard output and error in one pipe; killed in the end."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", script, *map(str, args)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def line_with(child: subprocess.Popen[str], text: str) -> str:
    """The child's next line that holds `text`."""
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        if text in line:
            return line.strip()
        seen.append(line)
    raise AssertionError(f"the output ended without {text!r}:\n{''.join(seen)}")
