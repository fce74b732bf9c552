"""The commands `doctor`, `serve` and `worker`: exit status, what is said, and what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pushsvc import cli
from pushsvc.ops import probe
from pushsvc.settings import Settings
from pushsvc.transports import REVOCATIONS

from ..contract.kit import me, opened

PASSWORD = "hunter2"
EX_CONFIG = 78
Run = Callable[..., int]


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`run("doctor", …)`: the exit status of the command for a service of its own, on the test's engines."""
    target = f"service_{uuid4().hex}"
    (tmp_path / f"{target}.py").write_text("from pushsvc import Service\nservice = Service()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(probe, "WORKER_PATIENCE", 0.05)
    for name in list(os.environ):
        if name.startswith("PUSHSVC_"):
            monkeypatch.delenv(name)
    for setting in ("database_url", "redis_url", "secret"):
        monkeypatch.setenv(f"PUSHSVC_{setting.upper()}", settings.need(setting))
    # What the commands set, too, is as before after the test.
    for setting in ("web_processes", "worker_processes"):
        monkeypatch.setenv(f"PUSHSVC_{setting.upper()}", "1")

    def running(command: str, *arguments: str) -> int:
        targets = [f"{target}:service"] if command in ("doctor", "serve", "worker") else []
        monkeypatch.setattr(sys, "argv", ["pushsvc", command, *targets, *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    logger = logging.getLogger("pushsvc")
    level = logger.level
    yield running
    logger.setLevel(level)
    sys.modules.pop(target, None)


def test_the_doctors_exit_status_is_0_where_nothing_is_wrong(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    output = capsys.readouterr().out
    assert "✓ all that is needed is set" in output
    assert "! not sent: no worker is there" in output
    assert output.endswith("all is well\n")


def test_what_is_wrong_makes_its_exit_status_1_and_machines_can_read_why(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUSHSVC_SECRET")
    monkeypatch.setenv("PUSHSVC_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:1")
    monkeypatch.setenv("PUSHSVC_WEB_PROCESSES", "9")
    assert run("doctor", "--json") == 1
    output = capsys.readouterr().out
    assert PASSWORD not in output
    found = json.loads(output)
    assert found["well"] is False
    wrong = [finding["text"] for finding in found["findings"] if finding["mark"] == "wrong"]
    assert len(wrong) == 3
    assert wrong[0] == "PUSHSVC_SECRET is not set"
    assert wrong[1].startswith("Redis (queue, bus) can't be asked: ConnectionError")
    assert "= 137, more than what the server" in wrong[2]
    assert found["connections"][0]["budget"] == 137


@pytest.mark.parametrize(
    ("command", "arithmetic"),
    [
        ("serve --workers 9 --port 0", "9 × 5 + 9 × 4 + 1 × 10 + 1 × 4 + 9 × 4 + 1 × 5 + 1 × 1 = 137"),
        ("worker --processes 9", "1 × 5 + 1 × 4 + 9 × 10 + 9 × 4 + 1 × 4 + 9 × 5 + 9 × 1 = 193"),
    ],
)
def test_more_processes_than_the_server_could_bear_are_refused_once_before_any_starts(
    command: str, arithmetic: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command.split()) == EX_CONFIG
    errors = capsys.readouterr().err
    assert errors.startswith("pushsvc: all processes together may open ")
    assert errors.count("all processes together may open") == 1
    assert arithmetic in errors
    assert "set PUSHSVC_MAX_JOBS " in errors


def test_a_setting_counts_where_it_says_more_than_the_command(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHSVC_WORKER_PROCESSES", "12")
    assert run("serve", "--port", "0") == EX_CONFIG
    assert "12 × 10" in capsys.readouterr().err
    assert run("worker", "--processes", "2") == EX_CONFIG
    assert "12 × 10" in capsys.readouterr().err
    assert os.environ["PUSHSVC_WORKER_PROCESSES"] == "12"


def test_after_a_restore_every_channel_begins_a_new_history(
    run: Run, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def epochs() -> set[str]:
        async with opened(settings) as kit:
            channels = [me(), me("group:ops")]
            return {state.epoch for state in (await kit.events.states(channels)).values()}

    before = asyncio.run(epochs())
    assert run("migrate") == 0
    assert asyncio.run(epochs()) == before
    assert run("migrate", "--restored") == 0
    assert "2 channels begin a new history" in capsys.readouterr().out
    assert not asyncio.run(epochs()) & before


def test_revoking_by_command_is_logged_for_every_node(
    run: Run, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def logged() -> list[dict[str, Any]]:
        async with opened(settings) as kit:
            page = await kit.events.read(REVOCATIONS, "start")
            assert page is not None
            return [json.loads(event)["data"] for _, event in page.events]

    assert run("revoke", "--sub", "alice", "--tenant", "acme") == 0
    assert "alice" in capsys.readouterr().out
    (data,) = asyncio.run(logged())
    assert (data["tenant"], data["subject"], data["token"]) == ("acme", "alice", None)
    assert run("revoke", "--sub", "\n") == 78
    assert "a subject is text" in capsys.readouterr().err
