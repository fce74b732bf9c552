"""`docker-compose.yml` holds what it should, and the very commands in it run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .harness import ROOT, SECRET, Process, wait_until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def pushsvc(command: str) -> list[str]:
    """The arguments of a `pushsvc …` command."""
    name, *arguments = shlex.split(command)
    assert name == "pushsvc"
    return arguments


def test_there_are_two_of_each_process_and_health_checks_for_what_can_be_asked() -> None:
    kinds = sorted(SERVICES)
    assert kinds == ["postgres", "setup", "valkey", "web-1", "web-2", "worker-1", "worker-2"]
    assert all("healthcheck" in SERVICES[name] for name in ("postgres", "valkey", "web-1", "web-2"))
    for name in ("web-1", "web-2", "worker-1", "worker-2"):
        assert SERVICES[name]["depends_on"]["setup"]["condition"] == "service_completed_successfully"


def test_no_secret_is_written_down() -> None:
    assert SERVICES["web-1"]["environment"]["PUSHSVC_SECRET"].startswith("${PUSHSVC_SECRET:?")


@pytest.mark.timeout(180)
def test_the_commands_run_as_they_stand(
    empty_database_url: str, redis_url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Set-up, web, worker and the health check, on this machine's engines and another port."""
    env = os.environ | {name: "" for name in os.environ if name.startswith("PUSHSVC_")}
    env |= {"PUSHSVC_DATABASE_URL": empty_database_url, "PUSHSVC_REDIS_URL": redis_url, "PUSHSVC_SECRET": SECRET}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    subprocess.run(shlex.split(SERVICES["setup"]["command"]), env=env, cwd=ROOT, check=True, timeout=120)

    command = SERVICES["web-1"]["command"].replace("--port 8000", f"--port {unused_tcp_port}")
    web = Process("web", pushsvc(command), env, tmp_path / "web.log")
    worker = Process("worker", pushsvc(SERVICES["worker-1"]["command"]), env, tmp_path / "worker.log")
    try:
        check = [
            part.replace(":8000", f":{unused_tcp_port}") for part in SERVICES["web-1"]["healthcheck"]["test"][1:]
        ]
        check[0] = sys.executable
        healthy = wait_until(
            lambda: subprocess.run(check, env=env, check=False, stderr=subprocess.DEVNULL).returncode == 0,
            "the web is healthy",
        )
        assert healthy
        worker.line_with("takes up to")
    finally:
        for process in (web, worker):
            process.terminate()
        # uvicorn ends as the signal would have ended it, after it has shut down.
        assert web.wait() in (0, -signal.SIGTERM)
        assert worker.wait() == 0
