"""Who may get a token of the demo, and what is refused."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from pushsvc.demo.session import BODY_LIMIT, Sessions
from pushsvc.errors import PushsvcError
from pushsvc.web.problems import on_error

VISITOR = "0123456789abcdef"


class Minter:
    """Tokens that say what they stand for."""

    def token(self, sub: str, *, channels: tuple[str, ...], scope: tuple[str, ...], ttl: float) -> str:
        return f"{sub}|{' '.join(channels)}|{' '.join(scope)}|{ttl}"


@pytest.fixture
def client() -> httpx.AsyncClient:
    routes = [Route("/demo/session", Sessions(Minter()).create, methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={PushsvcError: on_error})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://demo.test")


async def test_a_visitor_is_a_guest_who_may_submit_and_read_and_hear_the_group(client: httpx.AsyncClient) -> None:
    answer = await client.post("/demo/session", json={"visitor": VISITOR}, headers={"Origin": "http://demo.test"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    user = f"guest-{VISITOR}"
    assert answer.json() == {"token": f"{user}|group:flights|submit read|3600", "user": user, "expires_in": 3600}


async def test_without_an_id_every_session_is_another_guest(client: httpx.AsyncClient) -> None:
    users = [(await client.post("/demo/session", json={})).json()["user"] for _ in range(2)]
    assert users[0] != users[1]
    assert all(len(user) == len("guest-") + 32 for user in users)


@pytest.mark.parametrize(
    "visitor", ["short", "A" * 20, "x" * 65, "../../etc/passwd-xx", 7, ["a" * 20], f"{VISITOR}\n"]
)
async def test_an_id_of_another_shape_is_refused(client: httpx.AsyncClient, visitor: object) -> None:
    answer = await client.post("/demo/session", json={"visitor": visitor})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


async def test_another_site_gets_no_token(client: httpx.AsyncClient) -> None:
    for origin in ("http://evil.test", "null", "http://demo.test:81", "http://demo.test.evil.test"):
        answer = await client.post("/demo/session", json={}, headers={"Origin": origin})
        assert answer.status_code == 403, origin


async def test_only_json_is_taken(client: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        answer = await client.post("/demo/session", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 400, kind
    for body in (b"{", b"[]", b"\xff", b"null"):
        answer = await client.post("/demo/session", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body
    assert (await client.post("/demo/session", json={"x": "y" * BODY_LIMIT})).status_code == 413
