"""`docs/submitting.md` says what is so: its code runs, against a worker, and prints what is shown."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from pushsvc import Service, Settings

from ..contract.kit import soon
from .test_submit import working

TEXT = (Path(__file__).parents[2] / "docs" / "submitting.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```\n", TEXT, re.DOTALL)


async def test_each_example_runs_and_prints_what_is_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("database_url", "redis_url", "secret"):
        monkeypatch.setenv(f"PUSHSVC_{name.upper()}", settings.need(name))
    monkeypatch.setenv("PUSHSVC_DEPLOYMENT", settings.deployment)
    assert len(BLOCKS) == TEXT.count("```python") == 4
    shared: dict[str, Any] = {"__name__": "docs"}
    stack = contextlib.AsyncExitStack()
    async with stack:
        for code, printed in BLOCKS:
            before = shared.get("service")
            exec(code, shared)
            service = shared["service"]
            assert isinstance(service, Service)
            if before is None:
                await stack.enter_async_context(working(service))
                await asyncio.sleep(0)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                await soon(shared["main"]())
            assert out.getvalue() == printed
