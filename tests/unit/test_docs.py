"""What the documents say is checked against what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_readmes_job_is_the_example() -> None:
    block = re.search(r"```python\n# report\.py\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert block[1] == (ROOT / "examples" / "report.py").read_text()


def test_the_readmes_one_line_is_the_shops() -> None:
    """What is added stands in the example, and without it the rest of the example stays as it is."""
    shops = "\n".join(
        (ROOT / "examples" / "shop" / f"{kind}_shop.py").read_text() for kind in ("starlette", "fastapi")
    )
    diffs = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    assert len(diffs) == 2
    for diff in diffs:
        after = "".join(f"{line[1:]}\n" for line in diff.splitlines() if not line.startswith("-"))
        assert after in shops
        assert sum(line.startswith("+") for line in diff.splitlines()) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_links_to_is_there(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for document in DOCUMENTS for name in re.findall(r"[`$] ?make ([a-z]+)", document.read_text())}
    assert named <= targets


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"pushsvc\.(\w+)", layer) for layer in contracts[0]["layers"]]
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = re.search(r"```\n(cli \| testing .*?)```", text, re.DOTALL)
    assert block is not None
    shown = [re.split(r"\s{2,}", line)[0].split(" | ") for line in block[1].splitlines()]
    assert shown == layers


def test_what_was_tested_is_pinned_and_names_no_registry() -> None:
    pins = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin) for pin in pins)
