"""An EventSource in a real browser, on a page of another origin: it resumes whatever becomes of the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Response, async_playwright

from pushsvc.domain import Cursor
from pushsvc.settings import Settings
from pushsvc.transports import sse

from ..contract.kit import opened
from ..contract.node import serving
from .test_page import BROWSER, FLAGS

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed; CHROMIUM=/path/to/it names one")

PAGE = """
<script>
const heard = [], said = [];
let cursor = null, tickets = 0, opened = 0;
async function connect(service, token) {
  const answer = await fetch(`${service}/v1/tickets`, {method: "POST", headers: {Authorization: `Bearer ${token}`}})
    .catch(() => null);
  if (!answer) return setTimeout(connect, 50, service, token);
  const {ticket} = await answer.json();
  tickets += 1;
  // An EventSource tells its id with an event only: where it begins has to be known before.
  const headers = {Authorization: `Bearer ${token}`};
  cursor ??= (await (await fetch(`${service}/v1/events?wait=0`, {headers})).json()).cursor;
  const source = new EventSource(`${service}/v1/events/stream?ticket=${ticket}&cursor=${encodeURIComponent(cursor)}`);
  source.onopen = () => opened += 1;
  for (const name of ["event", "reset"]) source.addEventListener(name, ({data, lastEventId}) => {
    cursor = lastEventId;
    said.push(name);
    if (name === "event") heard.push(JSON.parse(data).event.data);
  });
  // It comes back by itself when the connection breaks, but its ticket has been used: then it gives up.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) connect(service, token); };
}
</script>
"""


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """An origin of its own, with nothing but the page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n{PAGE}".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_it_resumes_exactly_when_the_node_is_restarted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RETRY_MS", (50, 100))
    async with page_server() as origin, opened(settings) as kit, async_playwright() as playwright:
        settings = settings.model_copy(update={"allowed_origins": (origin,)})
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        page = await browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        refused: list[Response] = []
        page.on("response", lambda response: refused.append(response) if response.status == 401 else None)
        await page.goto(origin)
        async with serving(settings) as node:
            port = node.port
            await page.evaluate("([url, token]) => connect(url, token)", [node.http, node.token()])
            await page.wait_for_function("opened === 1")
            start = str(await page.evaluate("cursor"))
            assert [position.offset for position in Cursor.parse(start).positions.values()] == [0]
            await kit.finish({"ü": "🚀 \u2028"})
            await page.wait_for_function("heard.length === 1")
        await kit.finish(2)
        async with serving(settings, port=port) as node:
            await kit.finish(3)
            await page.wait_for_function("heard.length === 3")
            found: Any = await page.evaluate("({heard, said, tickets, opened})")
            assert found["heard"] == [{"ü": "🚀 \u2028"}, 2, 3]
            assert "reset" not in found["said"]
            assert found["tickets"] == found["opened"] == 2
            # By itself the browser asked for what follows the last event; its ticket, used already, kept it out.
            headers = await refused[0].request.all_headers()
            assert headers["last-event-id"] == start.replace(".0", ".1")
            await browser.close()
        assert problems == []
