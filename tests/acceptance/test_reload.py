"""`pushsvc dev` while the code is being written: it starts anew at a change, and a mistake is told once, readably."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from .clients import Client
from .harness import ROOT, Process, environment, nothing_left, processes_of

APP = """
from pushsvc import Service

service = Service()


@service.job
async def hello() -> str:
    return {answer!r}
"""
BROKEN = APP.replace("service.job", "service.jobb")


def dev(directory: Path, *arguments: str) -> Process:
    env = environment(directory) | {"PYTHONPATH": str(ROOT)}
    command = ["dev", "app:service", "--port", "0", "--data-dir", str(directory / "data"), *arguments]
    return Process("dev", command, env, directory / "dev.log", cwd=directory)


def write(directory: Path, text: str) -> None:
    """At once, as editors do."""
    (directory / "new").write_text(text)
    (directory / "new").rename(directory / "app.py")


def engines_of(directory: Path) -> set[int]:
    """The servers themselves: backends come and go with their connections."""
    return {process.pid for process in processes_of(directory) if _is_server(process)}


def _is_server(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
        return process.name() == "valkey-server" or (process.name() == "postgres" and "-D" in command)
    except psutil.Error:
        return False


def token(directory: Path) -> str:
    command = [sys.executable, "-m", "pushsvc", "token", "--sub", "alice", "--data-dir", str(directory / "data")]
    env = environment(directory) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True, text=True).stdout.strip()


async def answers(alice: Client, expected: str) -> None:
    """Until a job of now gives this."""
    while True:
        job: dict[str, Any] = await alice.submit("hello")
        await alice.job(job["id"], wait=25)
        if (await alice.get(job["links"]["result"])).json() == expected:
            return


@pytest.mark.timeout(240)
async def test_web_and_worker_start_anew_at_a_change_and_a_mistake_leaves_what_was_there(directory: Path) -> None:
    with nothing_left(directory):
        write(directory, BROKEN.format(answer="none"))
        process = dev(directory, "--reload")
        try:
            await asyncio.to_thread(process.line_with, "waiting for a change")
            write(directory, APP.format(answer="one"))
            ready = await asyncio.to_thread(process.line_with, "ready http")
            engines = engines_of(directory)
            async with Client(ready.split()[1], await asyncio.to_thread(token, directory)) as alice:
                await answers(alice, "one")
                write(directory, APP.format(answer="two"))
                await asyncio.to_thread(process.line_with, "the code has changed")
                await answers(alice, "two")
                write(directory, BROKEN.format(answer="three"))
                await asyncio.to_thread(process.line_with, "the code from before goes on")
                await answers(alice, "two")
            assert engines_of(directory) == engines != set(), "the engines stay"
            process.terminate()
            assert await asyncio.to_thread(process.wait) == 0
        finally:
            if process.running:
                process.kill()
            print(repr(process))


def test_without_reload_a_mistake_is_told_once_and_ends_it(directory: Path) -> None:
    with nothing_left(directory):
        write(directory, BROKEN.format(answer="one"))
        process = dev(directory)
        assert process.wait() == 78
        said = process.log.read_text()
        assert said.count("app can't be imported") == 1
        assert "app.py, line 7, in <module>" in said
        assert "Traceback" not in said
