"""`GET /v1/me`, and the frame by which a client asks whether its socket is alive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pushsvc.wire import SUBPROTOCOL

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_says_who_the_token_stands_for_and_until_when(world: World) -> None:
    node = world.nodes["direct"]
    token = node.token("zoë", tenant="t1", channels=["group:ops", "group:a"], ttl=90)
    async with httpx.AsyncClient(base_url=node.http, trust_env=False) as http:
        answer = await http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert (await http.get("/v1/me")).status_code == 401
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    left = datetime.fromisoformat(body.pop("expires_at")) - parsedate_to_datetime(answer.headers["date"])
    assert timedelta(seconds=80) < left <= timedelta(seconds=92)
    assert body == {"tenant": "t1", "user": "zoë", "channels": ["group:a", "group:ops"]}
    assert datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"]) < timedelta(seconds=30)


@pytest.mark.parametrize("kind", ["direct", "asgi"])
async def test_leaving_no_channel_is_answered_and_changes_nothing(world: World, kind: str) -> None:
    """A page hears no pings: it asks like this."""
    node = world.nodes[kind]
    async with connect(node.ws, subprotocols=[Subprotocol(SUBPROTOCOL)]) as socket:
        await socket.send(json.dumps({"id": 1, "op": "hello", "token": node.token(tenant=world.kit.tenant)}))
        assert "ok" in json.loads(await socket.recv())
        await socket.send('{"id":7,"op":"unsubscribe","channels":[]}')
        assert await socket.recv() == '{"id":7,"ok":{}}'
        await world.kit.finish("heard")
        while "event" not in (heard := json.loads(await socket.recv())):
            pass
        assert heard["event"]["data"] == "heard"
