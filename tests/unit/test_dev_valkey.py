"""The embedded Valkey: a real one, that keeps what it holds, and is never left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from arq import create_pool
from arq.connections import RedisSettings

from pushsvc.dev.valkey import EmbeddedValkey
from pushsvc.errors import Unavailable

from .test_dev_support import gone, line_with, processes_on, python, wait_until

HOLDER = """
import sys
from pathlib import Path
from pushsvc.dev.valkey import EmbeddedValkey
valkey = EmbeddedValkey(Path(sys.argv[1]))
valkey.start()
print("started", valkey.pid)
sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vk") as parent:
        yield Path(parent, "valkey")


def asynchronous(url: str) -> redis.asyncio.Redis:
    client: redis.asyncio.Redis = redis.asyncio.from_url(url)  # type: ignore[no-untyped-call]
    return client


async def test_it_answers_redis_py_and_arq_by_one_url_and_keeps_what_it_holds(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        url = valkey.url
        assert url.startswith("unix://")
        pool = await create_pool(RedisSettings.from_dsn(url))
        await pool.enqueue_job("report", _job_id="kept")
        await pool.aclose()
        first = valkey.pid
        assert valkey.restart() == url
        assert valkey.pid != first
        async with asynchronous(url) as client:
            assert await client.zcard("arq:queue") == 1
            assert (await client.config_get("appendonly"))["appendonly"] == "no"
            assert (await client.config_get("port"))["port"] == "0"
    assert processes_on(data_dir) == []


def test_on_a_port_it_comes_back_at_the_same_address(data_dir: Path) -> None:
    valkey = EmbeddedValkey(data_dir, port=0)
    url = valkey.start()
    try:
        assert url.startswith("redis://127.0.0.1:")
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
            valkey.stop()
            with pytest.raises(redis.ConnectionError):
                client.ping()
            assert valkey.start() == url
            assert client.get("kept") == b"yes"
    finally:
        valkey.stop()


def test_somebody_elses_server_on_the_port_is_not_taken_for_it(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir / "one", port=0) as other:
        port = int(other.url.rpartition(":")[2])
        with pytest.raises(Unavailable, match="Address already in use"):
            EmbeddedValkey(data_dir / "two", port=port).start()
        assert other.pid is not None


def test_killed_it_starts_again(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        url, pid = valkey.url, valkey.pid
        assert pid is not None
        valkey.kill()
        assert gone(pid)
        assert valkey.start() == url
        with redis.Redis.from_url(url) as client:
            assert client.ping()


def test_when_its_parent_is_killed_it_stops(data_dir: Path) -> None:
    with python(HOLDER, data_dir) as parent:
        pid = int(line_with(parent, "started").split()[1])
        assert not gone(pid)
        parent.kill()
        wait_until(lambda: gone(pid), "valkey has followed its parent")


def accepts(url: str) -> bool:
    """Whether a server listens: its socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(url.removeprefix("unix://")) == 0


def test_a_live_leftover_of_a_killed_run_is_stopped_first_with_its_data_saved(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        argv = [str(part) for part in valkey._argv()]
        url = valkey.url
    leftover = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts(url), "the leftover is up")
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
        with EmbeddedValkey(data_dir):
            assert leftover.wait() == 0
            with redis.Redis.from_url(url) as client:
                assert client.get("kept") == b"yes"
    finally:
        leftover.kill()
        leftover.wait()


def test_a_stale_pid_and_socket_are_no_obstacle_and_no_reason_to_kill(data_dir: Path) -> None:
    (data_dir / "run").mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(data_dir / "run" / "valkey.sock"))
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (data_dir / "valkey.pid").write_text(f"{stranger.pid}\n")
    with EmbeddedValkey(data_dir) as valkey, redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
        assert stranger.poll() is None
    stranger.communicate(b"\n")


@pytest.mark.parametrize("name", ["x" * 120, "blank and ü"])
async def test_a_directory_no_socket_could_lie_in_gets_a_short_one(tmp_path: Path, name: str) -> None:
    with EmbeddedValkey(tmp_path / name) as valkey:
        url = valkey.url
        pool = await create_pool(RedisSettings.from_dsn(url))
        await pool.set("kept", "yes")
        await pool.aclose()
        assert valkey.restart() == url
        async with asynchronous(url) as client:
            assert await client.get("kept") == b"yes"
    assert not Path(url.removeprefix("unix://")).parent.exists()
