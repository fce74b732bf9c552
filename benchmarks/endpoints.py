"""What it adds that an endpoint may answer later: one of 0 ms, directly and through a worker, one request at a time.

    python -m benchmarks.endpoints [--runs 300]

Both are asked in turn, so that whatever else the machine does falls on both. CPU is that of the web process and the
worker, for each request; PostgreSQL's and Redis' is not counted.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import psutil

from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.dev.valkey import EmbeddedValkey

from .latency import SECRET

TARGET = "benchmarks.endpoints_app:service"


@contextmanager
def running() -> Iterator[tuple[str, psutil.Process, psutil.Process]]:
    """The app on engines of its own: its URL, the web process and the worker."""
    directory = Path(tempfile.mkdtemp(prefix="pushsvc-bench-"))
    directory.chmod(0o711)
    try:
        with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedValkey(directory / "valkey") as valkey:
            environment = os.environ | {
                "PUSHSVC_DATABASE_URL": str(postgres.url),
                "PUSHSVC_REDIS_URL": str(valkey.url),
                "PUSHSVC_SECRET": SECRET,
                "PUSHSVC_LOG_LEVEL": "warning",
            }
            pushsvc = [sys.executable, "-m", "pushsvc"]
            web = subprocess.Popen([*pushsvc, "serve", TARGET, "--port", "8765"], env=environment)
            worker = subprocess.Popen([*pushsvc, "worker", TARGET, "--alone"], env=environment)
            try:
                _until_ready("http://127.0.0.1:8765/push/readyz")
                yield "http://127.0.0.1:8765", psutil.Process(web.pid), psutil.Process(worker.pid)
            finally:
                for process in (web, worker):
                    process.terminate()
                    process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _until_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the app never answered")


def _cpu(*processes: psutil.Process) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@click.command()
@click.option("--runs", default=300, show_default=True)
def main(runs: int) -> None:
    with running() as (url, web, worker), httpx.Client(base_url=url, trust_env=False) as http:
        took: dict[str, list[float]] = {"/direct": [], "/later": []}
        spent = dict.fromkeys(took, 0.0)
        for number in range(-20, runs):
            for path, times in took.items():
                before, begun = _cpu(web, worker), time.perf_counter()
                answer = http.get(path)
                elapsed = time.perf_counter() - begun
                assert answer.json() == {"code": "JFK"}, answer.text
                if number >= 0:
                    times.append(elapsed * 1000)
                    time.sleep(0.01)  # what is done after the answer counts, too
                    spent[path] += _cpu(web, worker) - before
        for path, times in took.items():
            p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
            print(f"{path:8} p50 {p50:5.1f} ms  p95 {p95:5.1f} ms  CPU {spent[path] / runs * 1000:4.1f} ms")
        added = statistics.median(took["/later"]) - statistics.median(took["/direct"])
        print(f"added    p50 {added:5.1f} ms")


if __name__ == "__main__":
    main()
