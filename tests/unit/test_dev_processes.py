"""The supervisor: children start again when they die, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pushsvc.dev.child import children_of, command_line, describe_exit
from pushsvc.dev.processes import Command, Supervisor
from pushsvc.dev.signals import Interrupted, Signals
from pushsvc.errors import SettingsError

from .test_dev_support import gone, line_with, python, wait_until

SUPERVISE = """
import json, logging, os, sys
from pushsvc.dev.processes import Command, Supervisor
logging.basicConfig(level="WARNING")
codes = json.loads(sys.argv[1])
commands = [Command(f"child{n}", [sys.executable, "-u", "-c", code]) for n, code in enumerate(codes)]
status = Supervisor(commands, grace=float(sys.argv[2])).run()
print("returned", status)
"""
# In one write: two children have one pipe, and unbuffered `print` writes word by word.
WAITS = "import os, time; os.write(1, b'child %d\\n' % os.getpid()); time.sleep(600)"
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS
LINGERS = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
os.write(1, b'child %d\\n' % os.getpid())
while True: time.sleep(600)
"""
BROKEN = "raise SystemExit(78)"


def supervise(*codes: str, grace: float = 30.0) -> tuple[str, str, float]:
    return SUPERVISE, json.dumps(codes), grace


def pid_in(line: str) -> int:
    return int(line.split()[1])


def test_a_child_that_dies_is_started_again_and_a_signal_stops_all() -> None:
    with python(*supervise(WAITS, WAITS)) as parent:
        first = pid_in(line_with(parent, "child"))
        second = pid_in(line_with(parent, "child"))
        os.kill(first, signal.SIGKILL)
        assert "ended (signal SIGKILL); starting again in 0.1 s" in line_with(parent, "ended")
        third = pid_in(line_with(parent, "child"))
        assert third not in (first, second)
        assert not gone(second)
        parent.send_signal(signal.SIGTERM)
        assert line_with(parent, "returned") == "returned 0"
        assert gone(second)
        assert gone(third)


def test_the_pauses_grow_while_a_child_keeps_dying() -> None:
    with python(*supervise("raise SystemExit(3)")) as parent:
        for pause in ("0.1", "0.2", "0.4"):
            assert f"ended (exit status 3); starting again in {pause} s" in line_with(parent, "ended")
        parent.send_signal(signal.SIGINT)
        assert line_with(parent, "returned") == "returned 0"


def test_exit_78_is_final_and_ends_the_others() -> None:
    with python(*supervise(WAITS, BROKEN)) as parent:
        assert line_with(parent, "returned") == "returned 78"
        assert children_of(parent.pid) == []


def test_a_child_deaf_to_sigterm_is_killed_after_the_grace() -> None:
    with python(*supervise(IGNORES, grace=0.2)) as parent:
        child = pid_in(line_with(parent, "child"))
        parent.send_signal(signal.SIGTERM)
        assert line_with(parent, "returned") == "returned 0"
        assert gone(child)


def test_a_second_signal_does_not_wait_for_the_grace() -> None:
    with python(*supervise(LINGERS, grace=600.0)) as parent:
        child = pid_in(line_with(parent, "child"))
        parent.send_signal(signal.SIGINT)
        line_with(parent, "asked")
        parent.send_signal(signal.SIGINT)
        assert line_with(parent, "returned") == "returned 0"
        assert gone(child)


def test_when_the_supervisor_is_killed_its_children_end() -> None:
    with python(*supervise(WAITS, WAITS)) as parent:
        children = [pid_in(line_with(parent, "child")) for _ in range(2)]
        parent.kill()
        wait_until(lambda: all(gone(child) for child in children), "the children have followed their parent")


def test_what_a_child_leaves_in_its_group_goes_with_it() -> None:
    forks = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print('child', p.pid, flush=True); p.wait()"
    )
    with python(*supervise(forks)) as parent:
        grandchild = pid_in(line_with(parent, "child"))
        parent.send_signal(signal.SIGTERM)
        assert line_with(parent, "returned") == "returned 0"
        wait_until(lambda: gone(grandchild), "the grandchild is gone")


def test_a_command_that_does_not_exist_is_an_error_and_stops_the_rest() -> None:
    commands = [Command("sleeper", ["sleep", "600"]), Command("missing", ["/does/not/exist"])]
    with pytest.raises(SettingsError, match="missing can't be run"):
        Supervisor(commands).run()
    assert [child for child in psutil.Process().children() if "600" in child.cmdline()] == []


def test_environment_and_descriptors_reach_the_child(tmp_path: Path) -> None:
    file = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    code = f"import os; os.write({file}, os.environb[b'GIVEN']); raise SystemExit(78)"
    command = Command("writer", [sys.executable, "-c", code], {"GIVEN": "yes"}, pass_fds=(file,))
    assert Supervisor([command]).run() == 78
    os.close(file)
    assert (tmp_path / "out").read_text() == "yes"


def test_signals_wait_to_be_asked_for_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        assert signals.wait(0) == frozenset()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.SIGTERM in signals.wait(30)
        assert signals.during(lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            signals.during(lambda: 1 // 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            signals.during(threading.Event().wait)
    assert signal.getsignal(signal.SIGTERM) == before


def test_processes_are_described_as_they_are() -> None:
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-9) == "signal SIGKILL"
    child = subprocess.Popen(["sleep", "600"])
    wait_until(lambda: command_line(child.pid) == "sleep 600", "the new program has its arguments")
    assert child.pid in children_of(os.getpid())
    child.kill()
    child.wait()
    assert command_line(child.pid) == ""
