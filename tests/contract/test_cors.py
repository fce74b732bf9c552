"""What pages of other origins may do: nothing, but for those that PUSHSVC_ALLOWED_ORIGINS names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from pushsvc.settings import Settings
from pushsvc.transports import Gate

from .node import serving
from .world import ORIGIN, World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def page(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks as a browser does for a page of the allowed origin."""
    node = world.nodes["direct"]
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {node.token(tenant=world.kit.tenant)}"}
    async with httpx.AsyncClient(base_url=node.http, headers=headers, verify=False, trust_env=False) as http:
        yield http


def readable(answer: httpx.Response) -> bool:
    """Whether a browser lets the page see it, and no cache gives it to another's."""
    return answer.headers.get("access-control-allow-origin") == ORIGIN and "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/events?wait=0", 200),
        ("HEAD", "/v1/events?wait=0", 200),
        ("POST", "/v1/tickets", 201),
        ("GET", "/v1/events?cursor=nonsense", 400),
        ("GET", "/v1/events?channels=group:ops", 403),
        ("GET", "/v1/events/stream?channels=job:01J9ZZ8QG5V0000000000000AB", 404),
        ("GET", "/v1/jobs/none", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/events", 405),
        ("GET", "/healthz", 200),
    ],
)
async def test_an_allowed_page_can_read_every_answer(
    page: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await page.request(method, path)
    assert answer.status_code == status
    assert readable(answer)


async def test_it_can_read_that_it_is_nobody(page: httpx.AsyncClient) -> None:
    answer = await page.get("/v1/events", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert readable(answer)
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"]


async def test_it_can_read_that_something_broke(page: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr(Gate, "channels", broken)
    answer = await page.get("/v1/events")
    assert answer.status_code == 500
    assert readable(answer)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


async def test_a_stream_is_readable_as_it_comes(page: httpx.AsyncClient) -> None:
    async with page.stream("GET", "/v1/events/stream") as answer:
        assert answer.status_code == 200
        assert readable(answer)
        assert (await anext(answer.aiter_raw())).startswith(b": recovered\n")


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/stream", "/v1/tickets", "/v1/jobs", "/v1/ack"])
async def test_a_preflight_allows_what_clients_send(page: httpx.AsyncClient, path: str) -> None:
    wanted = "authorization,cache-control,content-type,idempotency-key,if-none-match,last-event-id,prefer"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    answer = await page.options(path, headers=asked)
    assert answer.status_code == 200
    assert readable(answer)
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in wanted.split(","))
    refused = await page.options(path, headers=asked | {"Access-Control-Request-Headers": "x-other"})
    assert refused.status_code == 400


async def test_a_page_of_another_origin_reads_nothing(page: httpx.AsyncClient) -> None:
    for origin in ("https://evil.example", f"{ORIGIN}.evil.example", "null", "http://app.example"):
        answer = await page.get("/v1/events?wait=0", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
        assert "Origin" in answer.headers["vary"]
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        preflight = await page.options("/v1/events", headers=asked)
        assert preflight.status_code == 400
        assert "access-control-allow-origin" not in preflight.headers


async def test_without_the_setting_no_page_reads_anything(world: World, shared_settings: Settings) -> None:
    async with serving(shared_settings.model_copy(update={"allowed_origins": ()})) as node:
        headers = {"Origin": ORIGIN, "Authorization": f"Bearer {node.token()}"}
        async with httpx.AsyncClient(base_url=node.http, headers=headers, verify=False) as http:
            answer = await http.get("/v1/events?wait=0")
            assert answer.status_code == 200
            preflight = await http.options("/v1/events", headers={"Access-Control-Request-Method": "GET"})
            assert preflight.status_code == 405
            for each in (answer, preflight):
                assert not [name for name in each.headers if name.startswith("access-control")]


async def test_answers_with_events_are_never_kept_by_a_cache(page: httpx.AsyncClient) -> None:
    assert (await page.get("/v1/events?wait=0")).headers["cache-control"] == "no-store"
