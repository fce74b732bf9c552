"""The embedded PostgreSQL: a real one, durable, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from pushsvc.dev.account import Account, server_account, socket_directory
from pushsvc.dev.postgres import EmbeddedPostgres
from pushsvc.errors import SettingsError, Unavailable

from .test_dev_support import gone, line_with, processes_on, python, wait_until

HOLDER = """
import sys
from pathlib import Path
from pushsvc.dev.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print("started", postgres.pid)
sys.stdin.read()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    # short, unlike tmp_path, so that the socket lies in it; 0700, as a clone's parent often is
    with tempfile.TemporaryDirectory(prefix="pg") as parent:
        yield Path(parent, "postgres")


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A directory with a fresh cluster, to copy: making one takes longer than most tests."""
    with tempfile.TemporaryDirectory(prefix="pg") as parent:
        with EmbeddedPostgres(Path(parent, "made")) as postgres:
            pass
        yield postgres.data_dir


@pytest.fixture
def data_dir(made: Path, empty_dir: Path) -> Path:
    subprocess.run(["cp", "-a", made, empty_dir], check=True)
    return empty_dir


def ask(url: str, statement: str) -> Any:
    async def asking() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(asking())


async def ask_sqlalchemy(url: str, statement: str) -> Any:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        answer = (await connection.execute(text(statement))).scalar()
    await engine.dispose()
    return answer


def test_it_answers_asyncpg_and_sqlalchemy_by_one_url_and_keeps_its_data(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        url = postgres.url
        assert ask(url, "CREATE TABLE kept AS SELECT 41 AS n") is None
        first = postgres.pid
        assert postgres.restart() == url
        assert asyncio.run(ask_sqlalchemy(url, "SELECT n + 1 FROM kept")) == 42
        assert postgres.pid != first
    assert processes_on(data_dir) == []


def test_it_is_as_durable_as_in_production_and_listens_on_no_port(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")  # neither the server nor a client may be led astray by it
    with EmbeddedPostgres(data_dir) as postgres:
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "max_connections": "100",
            "jit": "off",
            "server_encoding": "UTF8",
        }.items():
            assert ask(postgres.url, f"SHOW {name}") == value
        assert ask(postgres.url, "SELECT count(*) > 0 FROM pg_stat_statements")
        assert postgres.log.read_text().endswith("\n")


def test_after_a_crash_it_recovers_what_was_committed(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        ask(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
        pid = postgres.pid
        assert pid is not None
        postgres.kill()
        assert gone(pid)
        assert (data_dir / "cluster" / "postmaster.pid").exists()
        assert ask(postgres.start(), "SELECT n FROM kept") == 42


def test_a_crash_in_the_middle_of_a_query_leaves_no_backend_in_the_way(data_dir: Path) -> None:
    async def crash(postgres: EmbeddedPostgres) -> None:
        connection = await asyncpg.connect(postgres.url)
        query = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))
        watcher = await asyncpg.connect(postgres.url)
        running = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while not await watcher.fetchval(running):  # asks again at once: the query is on its way
            pass
        await asyncio.to_thread(postgres.kill)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await query
        watcher.terminate()

    with EmbeddedPostgres(data_dir) as postgres:
        asyncio.run(crash(postgres))
        assert ask(postgres.start(), "SELECT 1") == 1


def test_when_its_parent_is_killed_it_stops(data_dir: Path) -> None:
    with python(HOLDER, data_dir) as parent:
        pid = int(line_with(parent, "started").split()[1])
        assert not gone(pid)
        parent.kill()
        wait_until(lambda: gone(pid), "postgres has followed its parent")
    wait_until(lambda: not processes_on(data_dir), "nothing is left on the directory")


def test_started_in_a_thread_it_outlives_the_thread(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    postgres.log.unlink()
    starter = threading.Thread(target=postgres.start)
    starter.start()
    starter.join()
    try:
        # were the signal bound to the thread, the server would be shutting down, and refuse this
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        assert "shutdown request" not in postgres.log.read_text()
        assert postgres.pid is not None
    finally:
        postgres.stop()


def test_a_live_leftover_of_a_killed_run_is_stopped_first(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        url = postgres.url
        assert ask(url, "CREATE TABLE kept AS SELECT 42 AS n") is None
        argv = [str(part) for part in postgres._argv()]
        owner = postgres._owner
    (data_dir / "run").mkdir(mode=0o700, exist_ok=True)
    run_as: dict[str, Any] = {"user": owner[0], "group": owner[1], "extra_groups": []} if owner else {}
    leftover = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **run_as)
    try:
        status = data_dir / "cluster" / "postmaster.pid"
        wait_until(lambda: status.exists() and "ready" in status.read_text(), "the leftover is up")
        with EmbeddedPostgres(data_dir) as postgres:
            assert leftover.wait() == 0, "it was asked to shut down in good order"
            assert ask(postgres.url, "SELECT n FROM kept") == 42
    finally:
        leftover.kill()
        leftover.wait()


@pytest.mark.parametrize("whose", ["nobody's", "a stranger's"])
def test_a_stale_pid_file_is_no_obstacle_and_no_reason_to_kill(data_dir: Path, whose: str) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        owner = postgres._owner
    run_as: dict[str, Any] = {"user": owner[0]} if owner else {}
    stranger = subprocess.Popen(["cat"], stdin=subprocess.PIPE, **run_as)
    if whose == "nobody's":
        stranger.communicate()
    (data_dir / "cluster" / "postmaster.pid").write_text(f"{stranger.pid}\n{data_dir / 'cluster'}\n")
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
        if whose == "a stranger's":
            assert stranger.poll() is None
            stranger.communicate()


def test_an_interrupted_initdb_is_not_taken_for_a_cluster(empty_dir: Path) -> None:
    empty_dir.mkdir()
    half = empty_dir / "cluster.new-abandoned"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(empty_dir) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
    assert not half.exists()


def test_a_start_in_progress_ends_when_cancelled_and_leaves_nothing(empty_dir: Path) -> None:
    cancel = threading.Event()
    postgres = EmbeddedPostgres(empty_dir, cancel=cancel)
    failures: list[Exception] = []

    def start() -> None:
        try:
            postgres.start()
        except Unavailable as error:
            failures.append(error)

    starter = threading.Thread(target=start)
    starter.start()
    wait_until(lambda: bool(processes_on(empty_dir)), "initdb is running")
    cancel.set()
    starter.join()
    assert "stopped while starting" in str(failures[0])
    wait_until(lambda: not processes_on(empty_dir), "nothing is left on the directory")
    assert not list(empty_dir.glob("cluster*"))


def test_two_at_once_on_one_directory_are_refused(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        with pytest.raises(Unavailable, match=rf"another pushsvc is running on .* \(pid {os.getpid()}\)"):
            EmbeddedPostgres(data_dir).start()
        assert postgres.pid is not None


def test_a_server_that_does_not_come_up_says_what_its_log_says(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    with (data_dir / "cluster" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_parameter = 1\n")
    with pytest.raises(Unavailable, match="no_such_parameter"):
        postgres.start()
    assert postgres.pid is None


def test_a_cluster_of_another_major_version_is_refused_with_the_way_out(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    (data_dir / "cluster" / "PG_VERSION").write_text("17\n")
    with pytest.raises(SettingsError, match=rf"made by PostgreSQL 17, and this is {postgres.version}.*--data-dir"):
        postgres.start()


@pytest.mark.parametrize("name", ["x" * 120, "blank, comma: and ü"])
def test_a_directory_no_socket_could_lie_in_gets_a_short_one(tmp_path: Path, name: str) -> None:
    with EmbeddedPostgres(tmp_path / name) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
        sockets = Path(postgres.url.partition("host=")[2])
        assert sockets.parent == Path(tempfile.gettempdir()).resolve()
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        url = postgres.url
        assert postgres.restart() == url
    assert not sockets.exists()


def test_somebody_elses_socket_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    long = Path("/", "x" * 120)
    ours = socket_directory(long, "socket")
    ours.rmdir()
    ours.symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="belongs to another user"):
        socket_directory(long, "socket")


@as_root
def test_as_root_it_runs_as_another_user_who_is_let_through_and_no_more(empty_dir: Path) -> None:
    parent = empty_dir.parent
    parent.chmod(0o700)
    with EmbeddedPostgres(empty_dir / "deep" / "postgres") as postgres:
        assert postgres.pid is not None
        uid = Path(f"/proc/{postgres.pid}").stat().st_uid
        assert uid != 0
        assert stat.S_IMODE(parent.stat().st_mode) == 0o701
        assert postgres.log.stat().st_uid == 0
        cluster = empty_dir / "deep" / "postgres" / "cluster"
        assert (cluster.stat().st_uid, stat.S_IMODE(cluster.stat().st_mode)) == (uid, 0o700)


@as_root
def test_as_root_a_cluster_keeps_its_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    account = server_account(tmp_path)
    assert account is not None
    assert account.owner == (12345, 12345)


@as_root
def test_a_strict_umask_at_installation_is_made_up_for(tmp_path: Path) -> None:
    program = tmp_path / "tree" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.touch()
    for path, mode in {tmp_path: 0o700, program: 0o700, program.parent: 0o700, program.parent.parent: 0o700}.items():
        path.chmod(mode)
    Account("someone", 12345, 12345).let_read(tmp_path / "tree")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o701
    assert stat.S_IMODE(program.parent.stat().st_mode) == 0o705
    assert stat.S_IMODE(program.stat().st_mode) == 0o705


def test_ctrl_c_in_the_terminal_does_not_reach_it(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.pid is not None
        assert os.getpgid(postgres.pid) != os.getpgid(0)
        assert postgres.death_signal == signal.SIGINT
