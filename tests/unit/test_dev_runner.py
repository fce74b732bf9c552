"""All in one: a ready line when it answers, and nothing left behind, whenever it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_dev_support import line_with, processes_on, python, wait_until

RUN = """
import sys
from pathlib import Path
from pushsvc.dev import runner
from pushsvc.errors import PushsvcError
data_dir, sys.executable, port, explicit = sys.argv[1:]
try:
    print("returned", runner.run("module:service", host="127.0.0.1", port=int(port), explicit_port=explicit == "yes",
          data_dir=Path(data_dir), prepare=lambda settings: print("prepared", settings.need("database_url"))))
except PushsvcError as error:
    print("refused:", error)
"""

# Stands in for `python -m pushsvc`, whose commands are tested elsewhere; it is told apart by the data
# directory in its arguments.
COMMANDS = """#!{python}
import http.server, os, pathlib, signal, socket, sys, time
directory = pathlib.Path({directory!r})
command, arguments = sys.argv[3], sys.argv[4:]
if command == "migrate":
    print("migrating", os.environ["PUSHSVC_DATABASE_URL"])
    raise SystemExit((directory / "broken").exists())
if command == "load":
    if (directory / "unsound").exists():
        sys.stderr.write("pushsvc: module can't be imported")
        raise SystemExit(78)
    raise SystemExit(0)
if command == "worker":
    time.sleep(600)

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if (directory / "ready").exists() else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass

assert arguments[:2] == ["module:service", "--fd"]
server = http.server.HTTPServer(("", 0), Ready, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(arguments[2]))
print("serving", flush=True)
server.serve_forever()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="run") as name:
        commands = Path(name, "commands")
        commands.write_text(COMMANDS.format(python=sys.executable, directory=name))
        commands.chmod(0o700)
        yield Path(name)
        wait_until(lambda: not processes_on(Path(name)), "nothing is left behind")


def running(
    directory: Path, port: int = 0, explicit: str = "no"
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return python(RUN, directory / ".pushsvc", directory / "commands", port, explicit)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_it_is_ready_only_when_the_service_says_so_and_stops_at_a_signal(directory: Path) -> None:
    with running(directory) as parent:
        line_with(parent, "creating the cluster")
        line_with(parent, "prepared postgresql://")
        line_with(parent, "serving")
        (directory / "ready").touch()
        ready = line_with(parent, "ready http")
        assert ready.startswith("ready http://127.0.0.1:")
        with urllib.request.urlopen(f"{ready.split()[1]}/readyz") as response:
            assert response.status == 200
        parent.send_signal(signal.SIGTERM)
        assert line_with(parent, "returned") == "returned 0"
        assert processes_on(directory / ".pushsvc") in ([], [parent.pid]), "the engines had gone before it returned"


@pytest.mark.parametrize("moment", ["creating the cluster", "PostgreSQL 18: ready", "serving"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_it_leaves_nothing_behind(directory: Path, moment: str, how: signal.Signals) -> None:
    with running(directory) as parent:
        line_with(parent, moment)
        parent.send_signal(how)
        if how == signal.SIGINT:
            assert line_with(parent, "returned") == "returned 0"
        parent.wait()


def test_a_failed_migration_is_shown_and_ends_it(directory: Path) -> None:
    (directory / "broken").touch()
    with running(directory) as parent:
        assert "pushsvc migrate ended with exit status 1" in line_with(parent, "refused")
        line_with(parent, "migrating postgresql://")


def test_a_taken_port_is_refused_if_it_was_asked_for(directory: Path, taken_port: int) -> None:
    with running(directory, taken_port, "yes") as parent:
        assert f"port {taken_port} of 127.0.0.1 can't be used" in line_with(parent, "refused")


def test_a_taken_port_is_passed_over_if_it_was_not(directory: Path, taken_port: int) -> None:
    (directory / "ready").touch()
    with running(directory, taken_port) as parent:
        assert f"port {taken_port} is taken, using " in line_with(parent, "taken")
        assert f":{taken_port}" not in line_with(parent, "ready http")
        parent.send_signal(signal.SIGTERM)
        line_with(parent, "returned")


def test_a_wrong_setting_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; os.environ['PUSHSVC_REDIS'] = 'x'\n" + RUN
    with python(script, directory / ".pushsvc", directory / "commands", 0, "no") as parent:
        assert "did you mean PUSHSVC_REDIS_URL" in line_with(parent, "refused")
    assert "PUSHSVC_REDIS" not in os.environ
