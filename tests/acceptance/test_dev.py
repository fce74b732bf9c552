"""`pushsvc dev`: one command, nothing set up, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .clients import Client
from .harness import ROOT, TARGET, Process, environment, processes_of, wait_until

Start = Callable[[str], Process]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """`start(name)`: a `pushsvc dev` on the test's directory and a free port; killed after the test."""
    with ExitStack() as stack:

        def run(name: str) -> Process:
            arguments = ["dev", TARGET, "--port", "0", "--data-dir", str(directory / "data")]
            process = Process(name, arguments, environment(directory, lease=2, drain=0.2), directory / f"{name}.log")
            stack.callback(process.kill)
            return process

        stack.callback(wait_until, lambda: not processes_of(directory), "nothing is left behind")
        yield run


def url_of(dev: Process) -> str:
    """What it prints when it answers."""
    ready = dev.line_with("ready http")
    assert ready.startswith("ready http://127.0.0.1:")
    return ready.removeprefix("ready ")


def token(directory: Path, user: str) -> str:
    """What `pushsvc token` prints beside it, with no setting in the environment."""
    command = [sys.executable, "-m", "pushsvc", "token", "--sub", user, "--data-dir", str(directory / "data")]
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, cwd=ROOT, env=bare, check=True, capture_output=True, text=True).stdout.strip()


def left(directory: Path) -> bool:
    return bool(processes_of(directory))


async def test_one_command_takes_a_job_from_post_to_push_and_leaves_nothing(directory: Path, start: Start) -> None:
    dev = start("dev")
    url = await asyncio.to_thread(url_of, dev)
    async with Client(url, await asyncio.to_thread(token, directory, "alice")) as alice:
        async with alice.websocket() as live:
            assert live.hello["user"] == "alice"
            job = await alice.submit("nap", seconds=0.01)
            pushed = await live.take_final(job["id"])
            failing = await alice.submit("failing", message="out of paper")
            failed = await live.take_final(failing["id"])
        assert pushed.event["data"]["slept"] == [0, 1, 2]
        assert failed.event["error"]["detail"] == "ValueError: out of paper", "whoever develops sees all"
    dev.terminate()
    assert await asyncio.to_thread(dev.wait) == 0
    assert not left(directory), "it had ended everything before it went"


async def test_after_sigkill_the_next_start_goes_on_and_nothing_is_left(directory: Path, start: Start) -> None:
    """What was accepted is done by the next run, with the data, the secret and so the tokens of the first.

    The second is killed, too, at the end of the test, which waits until nothing of either is left.
    """
    killed = start("first")
    url = await asyncio.to_thread(url_of, killed)
    bearer = await asyncio.to_thread(token, directory, "alice")
    async with Client(url, bearer) as alice:
        done = await alice.submit("echo", value="kept")
        await alice.job(done["id"], wait=25)
        pending = await alice.submit("gated", gate="open")
        await alice.until_status(pending["id"], "running")
    killed.kill()
    url = await asyncio.to_thread(url_of, start("second"))
    (directory / "open").touch()
    async with Client(url, bearer) as alice:
        assert (await alice.get(done["links"]["result"])).json() == "kept"
        received = await alice.long_poll(done["cursor"]).take(2)
    assert [each.job for each in received] == [done["id"], pending["id"]]
    assert all(each.event["type"] == "job.succeeded" for each in received)
