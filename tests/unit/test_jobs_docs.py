"""`docs/jobs.md` says what is so: its code runs and prints what is shown, its table is what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects.postgresql import Range

from pushsvc.jobs import encode
from pushsvc.jobs.failures import Failure

TEXT = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```\n)?", TEXT, re.DOTALL)
ROWS = re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", TEXT, re.MULTILINE)


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


NAMES: dict[str, Any] = {
    each.__name__: each
    for each in (date, datetime, time, timedelta, Decimal, UUID, IPv4Address, Path, Range, Colour, Point)
} | {"UTC": UTC}


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=lambda text: text.strip().splitlines()[-1:])
def test_each_block_runs_and_prints_what_is_shown(code: str, printed: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        # What is annotated in it is looked up where it was defined.
        exec(code, {"__name__": "docs"})
    if not printed.startswith("POST"):
        assert out.getvalue() == printed


@pytest.mark.parametrize(("value", "text"), ROWS)
def test_each_row_of_the_table_is_what_comes_out(value: str, text: str) -> None:
    assert encode(eval(value, dict(NAMES)), 1000).decode() == text


def test_the_table_is_there() -> None:
    assert len(ROWS) > 20


def test_the_problem_shown_is_what_an_error_that_was_not_meant_for_clients_becomes() -> None:
    class IntegrityError(Exception): ...

    [shown] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    problem = Failure.of(IntegrityError("INSERT …")).problem.problem()
    made = json.loads(json.dumps(problem).replace(problem["error_id"], shown["error_id"]))
    assert made == shown
