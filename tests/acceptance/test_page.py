"""The demo's page in a real browser, on a `pushsvc demo` started as a newcomer would start it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, async_playwright, expect

from .harness import ROOT, Process

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
        for step in ("PostgreSQL 18: ready", "rows are loaded"):  # on busy cores each has patience of its own
            demo.line_with(step)
        yield demo.line_with("ready http://").removeprefix("ready ")
    finally:
        demo.terminate()
        assert demo.wait() == 0


class Visitors:
    """One browser for each visitor, with as many windows as they open. A JavaScript error fails the test."""

    def __init__(self, contexts: Callable[..., Awaitable[BrowserContext]], url: str) -> None:
        self._contexts = contexts
        self._url = url
        self.errors: list[str] = []

    async def visitor(self, **options: Any) -> BrowserContext:
        """Another visitor."""
        return await self._contexts(**{"viewport": {"width": 1280, "height": 1000}, **options})

    async def window(self, visitor: BrowserContext, path: str = "/") -> Page:
        """Another window of a visitor, as soon as it is live."""
        page = await visitor.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        await page.goto(self._url + path)
        await expect(page.get_by_test_id("status")).to_contain_text("Live by", timeout=20_000)
        return page


@pytest_asyncio.fixture
async def visitors(demo_url: str) -> AsyncIterator[Visitors]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        visitors = Visitors(browser.new_context, demo_url)
        yield visitors
        await browser.close()
        assert visitors.errors == []


@pytest_asyncio.fixture
async def page(visitors: Visitors) -> Page:
    """A first visitor's window, live."""
    page = await visitors.window(await visitors.visitor())
    await expect(page.get_by_test_id("status")).to_contain_text("Live by WebSocket")
    return page


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


async def test_a_reload_still_shows_what_came_before(page: Page) -> None:
    await page.locator("input[value=EWR]").check()
    await page.get_by_test_id("run").click()
    await expect(page.get_by_test_id("charts")).to_contain_text("(EWR), 2013", timeout=20_000)
    await page.goto(page.url.partition("#")[0].rstrip("/") + "/?again")  # without the link to the report
    await expect(page.get_by_test_id("events")).to_contain_text("earlier", timeout=20_000)
    await expect(page.get_by_test_id("events").locator("li")).to_have_count(1)
    await expect(page.get_by_test_id("charts")).to_contain_text("(EWR), 2013", timeout=20_000)
    await expect(page.get_by_test_id("received")).to_have_text("0")


async def test_a_link_leads_to_a_job_that_is_still_running_and_to_what_it_gave(visitors: Visitors) -> None:
    visitor = await visitors.visitor()
    page = await visitors.window(visitor)
    await page.get_by_test_id("nap").click()
    link = page.get_by_test_id("outbox").get_by_role("link", name="nap")
    path = str(await link.get_attribute("href"))
    other = await visitors.window(visitor, "/" + path)
    await expect(other.get_by_test_id("waterfall").locator("li.complete")).to_have_count(3, timeout=20_000)
    stranger = await visitors.window(await visitors.visitor(), "/" + path)
    await expect(stranger.get_by_test_id("problem")).to_contain_text("another visitor's", timeout=20_000)


async def test_two_windows_share_one_connection_and_the_other_takes_over(visitors: Visitors) -> None:
    visitor = await visitors.visitor()
    first = await visitors.window(visitor)
    await expect(first.get_by_test_id("shared")).to_contain_text("This window holds")
    second = await visitors.window(visitor)
    await expect(second.get_by_test_id("shared")).to_contain_text("Another window holds", timeout=20_000)

    await second.get_by_test_id("nap").click()
    for page in (first, second):
        await expect(page.get_by_test_id("received")).to_have_text("1", timeout=20_000)
        await expect(page.get_by_test_id("outstanding")).to_have_text("0")
    await expect(second.get_by_test_id("events")).to_contain_text("another window")

    await first.close()
    await expect(second.get_by_test_id("shared")).to_contain_text("This window holds", timeout=20_000)
    await second.get_by_test_id("nap").click()
    await expect(second.get_by_test_id("received")).to_have_text("2", timeout=20_000)


async def test_a_window_sends_what_another_one_left_when_it_was_closed_offline(visitors: Visitors) -> None:
    visitor = await visitors.visitor()
    first, second = [await visitors.window(visitor) for _ in range(2)]
    await first.get_by_test_id("offline").click()
    await expect(second.get_by_test_id("status")).to_contain_text("Offline")
    await second.get_by_test_id("nap").click()
    await expect(first.get_by_test_id("outbox")).to_contain_text("waiting to be sent")
    await second.close()
    await first.get_by_test_id("offline").click()
    await expect(first.get_by_test_id("received")).to_have_text("1", timeout=20_000)
    await expect(first.get_by_test_id("outstanding")).to_have_text("0")


async def test_what_is_submitted_offline_waits_over_a_reload_and_runs_once(page: Page) -> None:
    await page.get_by_test_id("offline").click()
    await expect(page.get_by_test_id("status")).to_contain_text("Offline")
    await page.get_by_test_id("run").click()
    await page.get_by_test_id("nap").click()
    outbox = page.get_by_test_id("outbox").locator("li")
    await expect(outbox).to_have_count(2)
    await expect(outbox.first).to_contain_text("waiting to be sent")
    await outbox.first.get_by_role("button", name="Cancel nap").click()
    await expect(outbox).to_have_count(1)
    await page.reload()
    await expect(page.get_by_test_id("status")).to_contain_text("Offline")
    await expect(outbox).to_contain_text("JFK, whole year")
    await expect(outbox).to_contain_text("waiting to be sent")
    await page.get_by_test_id("offline").click()
    await expect(page.get_by_test_id("charts")).to_contain_text("(JFK), 2013", timeout=30_000)
    await expect(page.get_by_test_id("outstanding")).to_have_text("0")
    await expect(page.get_by_test_id("events").locator("li")).to_have_count(1)


async def test_everybody_hears_what_others_run_unless_they_would_not_tell(visitors: Visitors) -> None:
    one, other = [await visitors.window(await visitors.visitor()) for _ in range(2)]
    secret = one.get_by_test_id("share")
    await secret.uncheck()
    await one.locator("input[name=month][value='2']").check()
    await one.get_by_test_id("run").click()
    await expect(one.get_by_test_id("charts")).to_contain_text("Feb 2013", timeout=20_000)
    await secret.check()
    await one.locator("input[name=month][value='3']").check()
    await one.get_by_test_id("run").click()
    heard = other.get_by_test_id("others").locator("li", has_text="JFK, Mar")
    await expect(heard).to_contain_text("flights", timeout=20_000)
    await expect(heard).to_contain_text("guest")
    await expect(other.get_by_test_id("others")).not_to_contain_text("Feb")
    await expect(one.get_by_test_id("others").locator("li", has_text="JFK, Mar")).to_contain_text("you")


@pytest.mark.timeout(300)  # it loses at random: most are done in 10 s, one in a hundred takes a minute
async def test_nothing_is_lost_on_a_slow_network_that_loses_frames_and_lets_no_websocket_through(page: Page) -> None:
    for switch in ("blocked", "loss", "delay"):
        await page.get_by_test_id(switch).check()
    for count in (1, 2):
        await page.get_by_test_id("run").click()
        await expect(page.get_by_test_id("received")).to_have_text(str(count), timeout=120_000)
    await expect(page.get_by_test_id("outstanding")).to_have_text("0")
    await expect(page.get_by_test_id("charts")).to_contain_text("(JFK), 2013", timeout=20_000)
    await expect(page.get_by_test_id("events")).not_to_contain_text("WebSocket")


async def test_the_labels_of_the_map_do_not_lie_on_each_other(page: Page) -> None:
    for origin in ("JFK", "LGA", "EWR"):
        await page.locator(f"input[value={origin}]").check()
        await page.get_by_test_id("run").click()
        await expect(page.get_by_test_id("charts")).to_contain_text(f"({origin}), 2013", timeout=20_000)
        for width in (1280, 390):
            await page.set_viewport_size({"width": width, "height": 900})
            plot = page.locator("section:has-text('Where they flew') .plot")
            room = await plot.evaluate("plot => String(plot.clientWidth)")
            await expect(plot.locator("svg")).to_have_attribute("width", room)
            boxes = await plot.locator(".place-name").evaluate_all(
                "all => all.map(one => { const {x, y, width, height} = one.getBoundingClientRect();"
                " return [one.textContent, x, x + width, y + 2, y + height - 2]; })"
            )
            assert len(boxes) >= 4
            for index, (name, left, right, top, bottom) in enumerate(boxes):
                for other, left2, right2, top2, bottom2 in boxes[:index]:
                    assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, (name, other)


AXE = ROOT / "client_js" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed; `make client` installs it")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_screen_reader_and_a_keyboard_find_their_way(visitors: Visitors, scheme: str) -> None:
    page = await visitors.window(await visitors.visitor(color_scheme=scheme, reduced_motion="reduce"))
    await page.get_by_test_id("run").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("charts")).to_contain_text("(JFK), 2013", timeout=20_000)
    await page.get_by_test_id("inspector").locator("summary").press("Enter")
    await page.get_by_test_id("offline").press("Space")
    await page.get_by_test_id("nap").press("Enter")
    await expect(page.get_by_test_id("outbox").locator("li")).to_have_count(1)
    for width in (1280, 390):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.evaluate(AXE.read_text() + ";0")
        found = await page.evaluate("axe.run().then(({violations}) => violations)")
        serious = [
            (violation["id"], [node["html"][:120] for node in violation["nodes"]])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
