"""`docs/operations.md` says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from pushsvc.ops.budget import Processes, budget
from pushsvc.settings import PREFIX, Settings

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_every_setting_is_listed_in_order_with_its_default() -> None:
    rows = re.findall(r"^\| `(PUSHSVC_\w+)` \| (?:`(\S+)`)? ?\| \S", TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [PREFIX + name.upper() for name in Settings.model_fields]
    documented = {name: default for name, default in rows if default}
    assert Settings.from_env(documented) == Settings.from_env({})


def test_the_arithmetic_shown_is_what_comes_out() -> None:
    shown = budget([Processes("web", 8, own=5, executor=4), Processes("worker", 1, own=10, executor=4)])
    assert f"```\n{shown}\n```" in TEXT
