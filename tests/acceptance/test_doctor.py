"""`pushsvc doctor` and `pushsvc worker --processes`, as an operator meets them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import make_url

from .harness import ROOT, SECRET, TARGET, Cluster, Process, environment, processes_of, wait_until

PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def role_url(cluster: Cluster) -> Iterator[str]:
    """The cluster's database, for a role with a password that may do all that the service does."""
    name = f"app_{os.getpid()}"
    execute(cluster.database_url, f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    yield make_url(cluster.database_url).set(username=name, password=PASSWORD).render_as_string(hide_password=False)
    execute(cluster.database_url, f"DROP ROLE {name}")


@pytest.fixture(scope="module")
def env(cluster: Cluster, role_url: str, _valkey_url: str) -> dict[str, str]:
    """The environment of a whole service, in which the database has a password."""
    return environment(cluster.directory, database_url=role_url, redis_url=_valkey_url, secret=SECRET)


@pytest.fixture(scope="module")
def workers(cluster: Cluster, env: dict[str, str]) -> Iterator[Process]:
    """The command that runs two worker processes; both are up."""
    arguments = ["worker", TARGET, "--processes", "2"]
    started = Process("workers", arguments, env | {"PUSHSVC_MAX_JOBS": "3"}, cluster.directory / "workers.log")
    try:
        wait_until(lambda: started.log.read_text().count("takes up to") == 2, "both work")
        yield started
    finally:
        started.kill()


def execute(url: str, *statements: str) -> None:
    async def executing() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(executing())


def test_where_all_is_well_it_says_so_of_each_part_and_leaves_no_trace(
    cluster: Cluster, env: dict[str, str], workers: Process
) -> None:
    execute(
        cluster.database_url,
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
        *("SELECT pg_sleep(0.02), 1 /*job='nap',job_id='01J'*/",) * 2,
        "SELECT pg_sleep(0.03), 2, 3 /*job='nap',job_id='01J'*/",
        "SELECT 1, 2, 3 /*job='nobody_knows'*/",
    )
    command = [sys.executable, "-m", "pushsvc", "doctor", TARGET]
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    output = answer.stdout
    assert (answer.returncode, answer.stderr) == (0, ""), output
    lines = [line.strip() for line in output.splitlines()]
    assert "\033" not in output, "no colours where there is no terminal"
    for secret in (PASSWORD, SECRET):
        assert secret not in output
    assert any(line.startswith("PUSHSVC_DATABASE_URL") and ":***@" in line for line in lines)
    assert any(line.startswith("✓ PostgreSQL 18") for line in lines)
    assert any(line.startswith("✓ Valkey") for line in lines)
    arithmetic = "1 × 5 + 1 × 4 + 1 × 10 + 1 × 4 + 1 × 4 + 1 × 5 + 1 × 1 = 33"
    assert any(line.startswith(f"✓ {arithmetic}, within what the server") for line in lines)
    assert any(line.startswith("✓ a job went all the way and was pushed") for line in lines)
    asked = [line.split()[:2] for line in lines if "SELECT" in line]
    assert asked == [["nap", "2"], ["nap", "1"]]
    assert sum(line.startswith("→ side by side: mean") for line in lines) == 2
    assert lines[-1] == "all is well"
    wait_until(lambda: jobs_of(cluster) == 0, "the probe has left nothing")


def jobs_of(cluster: Cluster) -> int:
    return len(asyncio.run(cluster.fetch("SELECT id FROM pushsvc.jobs WHERE name LIKE 'pushsvc.%'")))


def test_each_process_counts_all_that_its_command_starts_and_a_signal_reaches_all(
    cluster: Cluster, workers: Process
) -> None:
    children = [process for process in processes_of(cluster.directory) if process.pid != workers.pid]
    assert [process.environ()["PUSHSVC_WORKER_PROCESSES"] for process in children] == ["2", "2"]
    workers.terminate()
    assert workers.wait() == 0
    assert processes_of(cluster.directory) == []
