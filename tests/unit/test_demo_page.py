"""The demo's page, as far as it can be judged without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

import pushsvc.demo
from pushsvc.demo.reports import Report
from pushsvc.queries import Database

PAGE = Path(pushsvc.demo.__file__).parent / "page"
FILES = sorted(PAGE.iterdir())


class Asked:
    """Stands for a database that is never asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_comes_from_another_host(file: Path) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", file.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".js"], ids=lambda file: file.name)
def test_every_module_it_imports_is_there(file: Path) -> None:
    for name in re.findall(r'from "\./([^"]+)"', file.read_text()):
        assert (PAGE / name).is_file(), name


def test_every_asset_of_the_page_is_there() -> None:
    assets = re.findall(r'"/assets/([^"]+)"', (PAGE / "index.html").read_text())
    assert sorted(assets) == ["app.js", "style.css"]
    assert all((PAGE / name).is_file() for name in assets)


def test_the_page_allows_what_its_policy_forbids_nowhere() -> None:
    text = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", text)


def test_the_readme_shows_a_picture_of_the_page_that_is_no_burden() -> None:
    root = Path(__file__).parents[2]
    (name,) = re.findall(r"!\[[^\]]+\]\((docs/demo\.png)\)", (root / "README.md").read_text())
    picture = (root / name).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 300_000


def test_the_controls_can_be_found_by_browser_tests() -> None:
    found = set(re.findall(r'data-testid="([^"]+)"', (PAGE / "index.html").read_text()))
    wanted = (
        "airport month run transport offline status events waterfall charts nap fail compare inspector recovered "
    )
    wanted += "share delay loss blocked network shared outbox others"
    assert set(wanted.split()) <= found


def test_the_page_names_the_queries_in_the_order_in_which_they_are_asked() -> None:
    source = (PAGE / "report.js").read_text()
    listed = re.search(r"QUERIES = (\[.*?\]);", source, re.DOTALL)
    assert listed is not None
    names = json.loads(re.sub(r",\s*\]", "]", listed[1]))
    assert names == list(Report("JFK", None).asks(cast(Database, Asked())))
