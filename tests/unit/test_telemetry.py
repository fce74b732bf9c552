"""Telemetry: what happened is told to whoever wants to know, and never felt by whom it happened to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pushsvc import telemetry

CODE = Path(telemetry.__file__).parent


def test_handlers_get_name_measures_and_labels_until_they_are_detached() -> None:
    seen: list[Any] = []
    detach = telemetry.attach(lambda *event: seen.append(event))
    telemetry.emit("job.submitted", {"count": 1}, {"job": "report"})
    telemetry.emit("hub.gap", {"events": 3})
    detach()
    detach()
    telemetry.emit("hub.gap", {"events": 4})
    assert seen == [("job.submitted", {"count": 1}, {"job": "report"}), ("hub.gap", {"events": 3}, {})]


def test_a_handler_that_raises_is_detached_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def broken(name: str, _measures: Mapping[str, float], _labels: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    detach_broken = telemetry.attach(broken)
    detach = telemetry.attach(lambda name, *_: seen.append(name))
    telemetry.emit("hub.gap", {"events": 1})
    telemetry.emit("hub.gap", {"events": 1})
    detach()
    detach_broken()
    assert seen == ["hub.gap", "hub.gap"]
    assert caplog.text.count("is detached") == 1


def test_a_handler_may_detach_itself_even_while_failing() -> None:
    def leaving(*_: Any) -> None:
        detach()
        raise ZeroDivisionError

    detach = telemetry.attach(leaving)
    telemetry.emit("hub.gap", {"events": 1})


def emitted() -> set[str]:
    return {
        name
        for path in CODE.rglob("*.py")
        for name in re.findall(r"""\bemit\(\s*"([a-z.]+)\"""", path.read_text(encoding="utf-8"))
    }


def test_every_event_that_the_code_emits_is_in_the_table() -> None:
    assert emitted() <= set(telemetry.EVENTS)


def test_every_event_in_the_table_is_emitted() -> None:
    assert set(telemetry.EVENTS) <= emitted()
