"""The demo's page in a real browser, on a `pushsvc demo` started as a newcomer would start it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from .harness import Process

BROWSERS = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if name and (path := shutil.which(name))), None)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed; CHROMIUM=/path/to/it names one")


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC_")}
    log = tmp_path_factory.mktemp("demo") / "log"
    demo = Process("demo", ["demo", "--port", "0", "--data-dir", str(data_dir / "demo")], env, log)
    try:
        yield demo.line_with("ready http://").removeprefix("ready ")
    finally:
        demo.terminate()
        assert demo.wait() == 0


@pytest_asyncio.fixture
async def page(demo_url: str) -> AsyncIterator[Page]:
    """The page, live. A JavaScript error fails the test."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(demo_url)
        await expect(page.get_by_test_id("status")).to_contain_text("Live by WebSocket", timeout=20_000)
        yield page
        await browser.close()
        assert errors == []


async def test_a_report_is_drawn_when_it_is_pushed(page: Page) -> None:
    await page.locator("input[value=LGA]").check()
    await page.get_by_test_id("run").click()
    await expect(page.get_by_test_id("waterfall").locator("li")).to_have_count(18, timeout=20_000)
    await expect(page.get_by_test_id("charts")).to_contain_text("LaGuardia (LGA), 2013", timeout=20_000)
    await expect(page.get_by_test_id("charts").locator("svg").first).to_be_visible()
    await expect(page.get_by_test_id("events")).to_contain_text("succeeded")
    await expect(page.get_by_test_id("comparison")).to_be_visible()


@pytest.mark.parametrize(("way", "name"), [("longpoll", "long-poll"), ("stream", "server-sent events")])
async def test_the_same_result_comes_by_other_ways(page: Page, way: str, name: str) -> None:
    await page.locator(f"input[value={way}]").check()
    await expect(page.get_by_test_id("status")).to_contain_text(f"Live by {name}", timeout=20_000)
    await page.get_by_test_id("run").click()
    await expect(page.get_by_test_id("charts")).to_contain_text("(JFK), 2013", timeout=20_000)
    await expect(page.get_by_test_id("events")).to_contain_text(name)


async def test_what_was_missed_offline_arrives_on_coming_back(page: Page) -> None:
    await page.get_by_test_id("nap").click()
    await expect(page.get_by_test_id("outstanding")).to_have_text("1", timeout=20_000)
    await page.get_by_test_id("offline").click()
    await expect(page.get_by_test_id("status")).to_contain_text("Offline", ignore_case=True)
    await expect(page.get_by_test_id("received")).to_have_text("0")
    await page.get_by_test_id("offline").click()
    await expect(page.get_by_test_id("received")).to_have_text("1", timeout=20_000)
    await expect(page.get_by_test_id("recovered")).to_be_visible()
    await expect(page.get_by_test_id("outstanding")).to_have_text("0")


async def test_a_failing_job_shows_its_problem(page: Page) -> None:
    await page.get_by_test_id("fail").click()
    await expect(page.get_by_test_id("problem")).to_be_visible(timeout=20_000)
    await expect(page.get_by_test_id("events")).to_contain_text("failed")
