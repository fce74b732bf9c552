"""docs/endpoints.md: every snippet is run, and what the page says of options and headers is what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import pushsvc
from pushsvc import Service
from pushsvc.endpoints.record import HOP_BY_HOP, INCIDENTAL, OF_DELIVERY
from pushsvc.settings import Settings

from ..endpoints.conftest import opened

PAGE = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(block: str, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """The snippet, with the test's settings for those of the environment."""
    monkeypatch.setattr(pushsvc, "Service", lambda **options: Service(settings=settings, **options))
    # As a module of its own: what is annotated in it is looked up there.
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(block, "docs/endpoints.md", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["starlette", "fastapi"])
async def test_the_first_apps_answer_in_time_and_later(
    block: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    names = run(block, monkeypatch, settings)

    def login(request: Any) -> Any:
        from starlette.responses import PlainTextResponse

        request.session["user"] = "ann"
        return PlainTextResponse("welcome")

    names["app"].router.add_route("/login", login, methods=["POST"])
    async with opened(names["service"], names["app"]) as site, site.client() as http:
        await http.post("/login")
        path = "/airports/JFK/report"
        assert (await http.get(path, headers={"Prefer": "wait=20"})).json() == {"code": "JFK", "for": "ann"}
        assert (await http.get(path, headers={"Prefer": "respond-async"})).status_code == 202


def test_the_other_snippets_are_python(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    page = run("from __future__ import annotations\n" + BLOCKS[2], monkeypatch, settings)["waiting_page"]

    class Page:
        def html(self, **texts: str) -> str:
            return str(texts)

    assert "cup of tea" in page(None, Page())
    assert len(BLOCKS) == 4
    assert "limit_rate" in run("from __future__ import annotations\n" + BLOCKS[3], monkeypatch, settings)


def test_the_table_has_every_option() -> None:
    table = PAGE[PAGE.index("| `service.respond_async(…)`") :]
    shown = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row)))
    assert shown == set(inspect.signature(Service.respond_async).parameters) - {"self"}


def test_what_is_not_recorded_or_makes_no_difference_is_said() -> None:
    text = PAGE.lower()
    assert [name for name in OF_DELIVERY if name.decode() not in text] == [b"if-range"]
    assert b"connection" in HOP_BY_HOP
    for name in ("user-agent", "referer", "cache-control", "pragma", "dnt", "priority"):
        assert name in text
        assert name.encode() in INCIDENTAL
