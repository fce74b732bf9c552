"""examples/shop in a real browser and with curl's manners: Starlette and FastAPI, our server and plain uvicorn."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import FilePayload, Page, async_playwright, expect

from pushsvc.dev.child import spawn

from .conftest import cluster_on, temporary_directory
from .harness import ROOT, SECRET, Process, environment, wait_until
from .test_page import BROWSER, FLAGS

SECONDS = 1.6
SHOPS = {"starlette": "examples.shop.starlette_shop", "fastapi": "examples.shop.fastapi_shop"}


@dataclass
class Shop:
    """`later` says whether anything is answered later."""

    url: str
    orders: Path
    later: bool

    @contextmanager
    def client(self, user: str | None = None) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as http:
            if user is not None:
                assert http.post("/login", data={"user": user}).status_code == 303
            yield http


@pytest.fixture(
    scope="module",
    params=[
        *((shop, server, "arq") for shop in SHOPS for server in ("pushsvc", "uvicorn")),
        ("starlette", "uvicorn", "inline"),
        ("fastapi", "pushsvc", "inline"),
    ],
    ids=lambda param: "-".join(param),
)
def shop(request: Any, postgres_url: str, _valkey_url: str) -> Iterator[Shop]:
    name, server, backend = request.param
    module = SHOPS[name]
    with temporary_directory() as path, cluster_on(path, postgres_url, _valkey_url) as cluster, _port() as port:
        settings = {"database_url": cluster.database_url, "secret": SECRET}
        if backend == "arq":
            settings["redis_url"] = _valkey_url
        env = environment(path, **settings, backend=backend)
        env |= {"SHOP_SECONDS": str(SECONDS), "SHOP_ORDERS": str(path / "orders")}
        url = f"http://127.0.0.1:{port}"
        processes: list[Any] = []
        try:
            if server == "pushsvc":
                serve = ["serve", f"{module}:service", "--port", str(port)]
                processes.append(Process("web", serve, env, path / "web"))
            else:
                processes.append(_uvicorn(module, port, env, path / "web"))
            if backend == "arq":
                processes.append(Process("worker", ["worker", f"{module}:service"], env, path / "worker"))
            wait_until(lambda: _ready(url), "the shop is open")
            yield Shop(url, path / "orders", backend == "arq")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            for log in path.glob("w*"):
                print(log.read_text())


@contextmanager
def _port() -> Iterator[int]:
    """A free port, reserved: bound but not listening, which lets nobody in but who sets SO_REUSEADDR."""
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(("127.0.0.1", 0))
        yield placeholder.getsockname()[1]


def _uvicorn(module: str, port: int, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return spawn(
            [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)],
            death_signal=signal.SIGKILL,
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/push/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_json_for_programs(shop: Shop) -> None:
    with shop.client("ann") as ann, shop.client("bob") as bob:
        assert bob.get("/api/flights/JFK").status_code == (202 if shop.later else 200)
        patient = ann.get("/api/flights/JFK?over=5", headers={"Prefer": "wait=20"})
        assert patient.status_code == 200
        assert patient.json() == {"user": "ann", "code": "JFK", "flights": 111_279, "over": 5}
        with shop.client() as stranger:
            assert stranger.get("/api/flights/JFK", headers={"Prefer": "wait=20"}).status_code == 401
        later = ann.get("/api/flights/LGA", headers={"Prefer": "respond-async"})
        if not shop.later:
            assert (later.status_code, later.json()["code"]) == (200, "LGA")
            return
        assert (later.status_code, later.json()["job"]) == (202, "flights")
        assert later.elapsed.total_seconds() < SECONDS
        done = ann.get(later.headers["location"], headers={"Prefer": "wait=20"})
        assert done.json()["status"] == "succeeded"
        result = later.json()["links"]["result"]
        assert ann.get(result).json()["code"] == "LGA"
        assert bob.get(result).status_code == 404


def test_two_users_with_two_filters_have_two_urls_and_two_answers(shop: Shop) -> None:
    browser = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
    if not shop.later:
        with shop.client("ann") as ann, shop.client("bob") as bob:
            for http, over in ((ann, 1), (bob, 2)):
                assert f"{over} minutes late" in http.get(f"/reports/JFK?over={over}", headers=browser).text
        return
    with shop.client("ann") as ann, shop.client("bob") as bob:
        pages = {}
        for http, over in ((ann, 1), (bob, 2)):
            waiting = http.get(f"/reports/JFK?over={over}", headers=browser)
            assert waiting.status_code == 202
            page = waiting.text.partition('data-page="')[2].partition('"')[0].replace("&amp;", "&")
            pages[over] = str(waiting.url.join(page))
        assert len(set(pages.values())) == 2
        for http, over, other in ((ann, 1, 2), (bob, 2, 1)):
            shown = wait_until(partial(_shown, http, pages[over], browser), "the answer is there")
            assert f"{over} minutes late" in shown
            assert http.get(pages[other], headers=browser).status_code == 404


def _shown(http: httpx.Client, url: str, headers: dict[str, str]) -> str | None:
    answer = http.get(url, headers=headers)
    return answer.text if answer.status_code == 200 else None


# In a browser


@pytest.fixture
async def page(shop: Shop) -> AsyncIterator[Page]:
    """A JavaScript error fails the test."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed; CHROMIUM=/path/to/it names one")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        page = await browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        await browser.close()
        assert errors == []


async def test_in_a_browser_the_answer_comes_under_the_endpoints_own_url(shop: Shop, page: Page) -> None:
    """Log in, click, see progress and the answer; its relative link, back, reload work; no order is sent twice."""
    await page.goto(shop.url)
    await page.get_by_label("Name").fill("ann")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("link", name="Flights from JFK").click()
    if not shop.later:
        await expect(page.get_by_role("heading")).to_have_text("JFK for ann", timeout=20_000)
        assert page.url == f"{shop.url}/reports/JFK?over=5"
        return
    await expect(page.get_by_role("status")).to_contain_text("counting flights from JFK, step", timeout=20_000)
    await expect(page.get_by_role("heading")).to_have_text("JFK for ann", timeout=20_000)
    assert page.url.startswith(f"{shop.url}/reports/JFK?over=5&pushsvc-job=")
    await page.reload()
    await expect(page.get_by_role("heading")).to_have_text("JFK for ann")
    await page.get_by_role("link", name="LaGuardia").click()
    await expect(page.get_by_role("heading")).to_have_text("LGA for ann", timeout=20_000)
    assert page.url.startswith(f"{shop.url}/reports/LGA?over=5&pushsvc-job=")
    await page.go_back()
    await expect(page.get_by_role("heading")).to_have_text("JFK for ann", timeout=20_000)

    await page.goto(shop.url)
    picture = FilePayload(name="tëa.png", mimeType="image/png", buffer=b"x" * 300_000)
    await page.get_by_label("Picture").set_input_files(picture)
    await page.get_by_role("button", name="Order").click()
    await expect(page.get_by_role("status")).to_contain_text("ordering tea", timeout=20_000)
    await page.reload()
    await expect(page.get_by_role("heading")).to_have_text("tea for ann", timeout=20_000)
    await expect(page.get_by_text("with tëa.png, 300000 bytes")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading")).to_have_text("tea for ann")
    assert page.url.startswith(f"{shop.url}/orders?pushsvc-job=")
    assert await asyncio.to_thread(shop.orders.read_text) == "ann tea\n"
