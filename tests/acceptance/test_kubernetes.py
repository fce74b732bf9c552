"""`deploy/kubernetes` holds what it should, and the very commands and probes in it work."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pushsvc.settings import Settings, parse_duration

from .harness import ROOT, SECRET, Process, wait_until

TEXT = (ROOT / "deploy/kubernetes/pushsvc.yaml").read_text()
OBJECTS: dict[tuple[str, str], Any] = {
    (found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(TEXT)
}
CONFIG: dict[str, str] = OBJECTS["ConfigMap", "pushsvc"]["data"]
# What Kubernetes sets in each pod for the Service.
LINKS = {
    "PUSHSVC_SERVICE_HOST": "10.96.0.12",
    "PUSHSVC_SERVICE_PORT": "80",
    "PUSHSVC_SERVICE_PORT_HTTP": "80",
    "PUSHSVC_PORT": "tcp://10.96.0.12:80",
    "PUSHSVC_PORT_80_TCP": "tcp://10.96.0.12:80",
    "PUSHSVC_PORT_80_TCP_PROTO": "tcp",
    "PUSHSVC_PORT_80_TCP_PORT": "80",
    "PUSHSVC_PORT_80_TCP_ADDR": "10.96.0.12",
}


def container(kind: str, name: str) -> Any:
    [found] = OBJECTS[kind, name]["spec"]["template"]["spec"]["containers"]
    return found


def arguments(kind: str, name: str) -> list[str]:
    program, *rest = container(kind, name)["args"]
    assert program == "pushsvc"
    return list(rest)


def test_the_budget_counts_the_pods_that_a_rolling_update_adds() -> None:
    for role in ("web", "worker"):
        spec = OBJECTS["Deployment", f"pushsvc-{role}"]["spec"]
        most = spec["replicas"] + spec["strategy"]["rollingUpdate"]["maxSurge"]
        assert CONFIG[f"PUSHSVC_{role.upper()}_PROCESSES"] == str(most)


def test_a_pod_has_the_time_that_draining_takes() -> None:
    drain = parse_duration(CONFIG["PUSHSVC_DRAIN"])
    assert isinstance(drain, float)
    for role, before in (("web", 5), ("worker", 0)):
        spec = OBJECTS["Deployment", f"pushsvc-{role}"]["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] >= drain + before + 10


def test_the_selectors_find_their_pods_and_no_secret_is_written_down() -> None:
    for (kind, _), found in OBJECTS.items():
        if kind in ("Service", "PodDisruptionBudget"):
            selector = found["spec"]["selector"]
            labels = selector.get("matchLabels", selector)
            role = OBJECTS["Deployment", f"pushsvc-{labels['role']}"]
            assert role["spec"]["template"]["metadata"]["labels"] == labels
    Settings.from_env(CONFIG | LINKS)
    assert not {"PUSHSVC_SECRET", "PUSHSVC_DATABASE_URL", "PUSHSVC_REDIS_URL"} & CONFIG.keys()


@pytest.mark.timeout(180)
def test_the_commands_run_and_the_probes_are_answered(
    empty_database_url: str, redis_url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")} | CONFIG | LINKS
    env |= {"PUSHSVC_DATABASE_URL": empty_database_url, "PUSHSVC_REDIS_URL": redis_url, "PUSHSVC_SECRET": SECRET}
    migrate = [sys.executable, "-m", "pushsvc", *arguments("Job", "pushsvc-migrate")]
    subprocess.run(migrate, env=env, cwd=ROOT, check=True, timeout=120)

    serve = [str(unused_tcp_port) if part == "8000" else part for part in arguments("Deployment", "pushsvc-web")]
    web = Process("web", serve, env, tmp_path / "web.log")
    worker = Process("worker", arguments("Deployment", "pushsvc-worker"), env, tmp_path / "worker.log")
    try:
        probed = container("Deployment", "pushsvc-web")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            url = f"http://127.0.0.1:{unused_tcp_port}{probed[probe]['httpGet']['path']}"
            wait_until(partial(_ok, url), f"{probe} is answered")
        worker.line_with("takes up to")
    finally:
        for process in (web, worker):
            process.terminate()
            process.wait()


def _ok(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
