"""examples/shop behind nginx as docs/operations.md configures it: TLS, a prefix, default buffering."""

from __future__ import annotations

import json
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pushsvc.dev.child import spawn
from pushsvc.wire import SUBPROTOCOL

from .conftest import cluster_on, temporary_directory
from .harness import ROOT, SECRET, Process, environment, wait_until
from .test_shop import _port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CERTIFICATE = ROOT / "tests" / "unit" / "webhook_tls.pem"
TARGET = "examples.shop.starlette_shop:service"

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx is installed")


@pytest.fixture(scope="module")
def url(postgres_url: str, _valkey_url: str) -> Iterator[str]:
    """The shop as it is found from outside."""
    with temporary_directory() as path, cluster_on(path, postgres_url, _valkey_url) as cluster:
        with _port() as inside, _port() as outside:
            settings = {"database_url": cluster.database_url, "redis_url": _valkey_url, "secret": SECRET}
            env = environment(path, **settings, root_path="/app") | {"SHOP_SECONDS": "2"}
            web = Process("web", ["serve", TARGET, "--port", str(inside)], env, path / "web")
            worker = Process("worker", ["worker", TARGET], env, path / "worker")
            nginx = _nginx(path, inside, outside)
            try:
                found = f"https://127.0.0.1:{outside}/app"
                wait_until(lambda: _ready(found), "the shop is open")
                yield found
            finally:
                nginx.terminate()
                web.terminate()
                worker.terminate()
                nginx.wait()
                web.wait()
                worker.wait()
                print((path / "nginx.log").read_text(), (path / "web").read_text())


def _nginx(path: Path, inside: int, outside: int) -> subprocess.Popen[bytes]:
    page = (ROOT / "docs" / "operations.md").read_text()
    block = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    assert block is not None
    configuration = block[1].replace("listen 443 ssl", f"listen 127.0.0.1:{outside} ssl")
    configuration = configuration.replace("127.0.0.1:8000", f"127.0.0.1:{inside}")
    configuration = re.sub(r"/etc/ssl/shop\.\w+", str(CERTIFICATE), configuration)
    places = "".join(
        f"{kind}_temp_path {path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off;\npid {path}/nginx.pid;\nerror_log {path}/nginx.log crit;\nevents {{}}\n"
    inner = configuration.replace("http {\n", f"http {{\naccess_log off;\n{places}", 1)
    (path / "nginx.conf").write_text(head + inner)
    assert NGINX is not None
    return spawn(
        [NGINX, "-e", f"{path}/nginx.log", "-p", str(path), "-c", f"{path}/nginx.conf"],
        death_signal=signal.SIGTERM,
        cwd=path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/push/readyz", verify=False, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def ann(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, verify=False, trust_env=False, timeout=30) as http:
        assert http.post("/login", data={"user": "ann"}).status_code == 303
        yield http


def test_the_waiting_page_and_its_answer_are_found(ann: httpx.Client) -> None:
    browser = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
    waiting = ann.get("/reports/JFK?over=1", headers=browser)
    assert waiting.status_code == 202
    for name in ("waiting.js", "waiting.css"):
        assert f'"/app/push/v1/{name}"' in waiting.text
        assert ann.get(f"/push/v1/{name}").status_code == 200
    page = str(waiting.url.join(waiting.text.partition('data-page="')[2].partition('"')[0].replace("&amp;", "&")))
    assert page.startswith(f"{ann.base_url}reports/JFK?over=1&pushsvc-job=")

    def shown() -> str | None:
        answer = ann.get(page, headers=browser)
        return answer.text if answer.status_code == 200 else None

    assert "JFK for ann" in wait_until(shown, "the answer is there")
    # What the endpoint itself links to: https, and with the prefix, as in the browser's own request.
    assert f'href="{ann.base_url}reports/JFK?over=5"' in ann.get("/", headers=browser).text


def test_links_and_events_hold_and_events_come_at_once(ann: httpx.Client) -> None:
    later = ann.get("/api/flights/JFK", headers={"Prefer": "respond-async"})
    assert later.status_code == 202
    location = later.headers["location"]
    assert location.startswith("/app/push/v1/jobs/")
    events = later.json()["links"]["events"].replace("/v1/events?", "/v1/events/stream?")
    with ann.stream(
        "GET", str(ann.base_url.join(events)), params={"channels": f"job:{later.json()['id']}"}
    ) as stream:
        lines = stream.iter_lines()
        assert _until(lines, '"value"')
        # Not held back until the stream is over: the job goes on.
        assert ann.get(str(ann.base_url.join(location))).json()["status"] == "running"
        assert _until(lines, "job.succeeded")


def _until(lines: Iterator[str], text: str) -> bool:
    """Whether a line with the text comes before the end."""
    return any(text in line for line in lines)


async def test_a_websocket_comes_through_with_the_login(ann: httpx.Client) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = str(ann.base_url).replace("https", "wss", 1) + "push/v1/ws"
    origin = str(ann.base_url).removesuffix("/app/")
    headers = {"Cookie": f"session={ann.cookies['session']}", "Origin": origin}
    async with connect(
        address, subprotocols=[Subprotocol(SUBPROTOCOL)], ssl=context, additional_headers=headers, proxy=None
    ) as websocket:
        await websocket.send(json.dumps({"id": 1, "op": "hello"}))
        assert json.loads(await websocket.recv())["ok"]["user"] == "ann"
