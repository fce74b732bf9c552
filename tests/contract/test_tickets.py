"""Tickets: one use, at any node, for whoever can send neither header nor frame."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pushsvc.access import claims_of, new_ticket, ticket_holder, ticket_id
from pushsvc.domain import Principal
from pushsvc.errors import Unauthorized
from pushsvc.store import TicketStore
from pushsvc.wire import SUBPROTOCOL

from .kit import soon
from .node import Node
from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def client(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.http, verify=False, trust_env=False) as http:
        yield http


async def ticket(world: World, **claims: Any) -> str:
    """One that the API has given for a token with these claims."""
    async with client(world.nodes["direct"]) as http:
        answer = await ask_for(http, world, **claims)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"ticket": answer.json()["ticket"], "expires_in": 30}
    return str(answer.json()["ticket"])


async def ask_for(http: httpx.AsyncClient, world: World, **claims: Any) -> httpx.Response:
    token = world.nodes["direct"].token(**({"tenant": world.kit.tenant} | claims))
    return await http.post("/v1/tickets", headers={"Authorization": f"Bearer {token}"})


async def status(node: Node, ticket: str, **query: str) -> int:
    async with client(node) as http:
        answer = await http.get("/v1/events", params={"ticket": ticket, "wait": "0"} | query)
    return answer.status_code


async def test_a_ticket_is_good_for_one_use_at_one_node(world: World) -> None:
    made = await ticket(world)
    used = await asyncio.gather(*(status(node, made) for node in [*world.nodes.values()] * 4))
    assert sorted(used) == [200] + [401] * 7


async def test_a_ticket_carries_all_that_the_token_names(world: World) -> None:
    node = world.nodes["asgi"]
    assert await status(node, await ticket(world, channels=["group:ops"]), channels="group:ops") == 200
    assert await status(node, await ticket(world), channels="group:ops") == 403
    await world.kit.finish("mine", owner="you")
    async with client(node) as http:
        made = await ticket(world, sub="you")
        answer = await http.get("/v1/events", params={"ticket": made, "wait": 0, "cursor": "start"})
    assert [item["event"]["data"] for item in answer.json()["events"]] == ["mine"]


async def test_a_principal_comes_back_as_it_went_in() -> None:
    whole = Principal(
        "Zoë",
        "t",
        frozenset({"group:a,b", "group:ü"}),
        frozenset({"read", "submit:any"}),
        datetime.now(UTC) + timedelta(hours=1),
        datetime.now(UTC),
        "7f",
    )
    assert ticket_holder(claims_of(whole)) == whole
    assert ticket_holder(claims_of(Principal("me"))) == Principal("me")


async def test_a_websocket_by_ticket_needs_no_token_in_hello(world: World) -> None:
    for node in world.nodes.values():
        url = f"{node.ws}?ticket={await ticket(world)}"
        async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None) as socket:
            await socket.send('{"id":1,"op":"hello"}')
            assert json.loads(await soon(socket.recv()))["ok"]["user"] == "me"
            await world.kit.finish(1)
            assert json.loads(await soon(socket.recv()))["op"] == "event"
        async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None) as socket:
            assert json.loads(await soon(socket.recv())) == {"op": "bye", "code": 4401}
            with pytest.raises(ConnectionClosed) as closed:
                await soon(socket.recv())
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401


async def test_a_token_in_the_header_counts_and_leaves_the_ticket_unused(world: World) -> None:
    node, made = world.nodes["direct"], await ticket(world)
    async with client(node) as http:
        bearer = {"Authorization": f"Bearer {node.token(tenant=world.kit.tenant)}"}
        assert (await http.get("/v1/events", params={"ticket": made, "wait": 0}, headers=bearer)).status_code == 200
        wrong = {"Authorization": "Bearer nonsense"}
        assert (await http.get("/v1/events", params={"ticket": made, "wait": 0}, headers=wrong)).status_code == 401
    assert await status(node, made) == 200


@pytest.mark.parametrize("wrong", ["", "x", "x" * 43, "x" * 44, "ü" * 43])
async def test_what_is_no_ticket_is_refused(world: World, wrong: str) -> None:
    assert await status(world.nodes["direct"], wrong) == 401


async def test_a_ticket_that_is_too_old_is_refused(world: World) -> None:
    made, store = new_ticket(), TicketStore(world.kit.postgres)
    await store.put(ticket_id(made), claims_of(Principal("me", world.kit.tenant)), -0.001)
    assert await status(world.nodes["direct"], made) == 401
    assert await store.take(ticket_id(made)) is None


async def test_a_ticket_ends_with_its_token(world: World) -> None:
    over = Principal("me", world.kit.tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    made, store = new_ticket(), TicketStore(world.kit.postgres)
    await store.put(ticket_id(made), claims_of(over), 30)
    assert await status(world.nodes["direct"], made) == 401
    with pytest.raises(Unauthorized, match="expired"):
        ticket_holder(claims_of(over))


async def test_a_ticket_of_a_revoked_token_is_refused(world: World) -> None:
    made = await ticket(world)
    await world.nodes["direct"].service.revoke("me", tenant=world.kit.tenant)
    assert await status(world.nodes["direct"], made) == 401


async def test_only_a_token_that_may_read_buys_a_ticket(world: World) -> None:
    async with client(world.nodes["direct"]) as http:
        assert (await ask_for(http, world, scope=["submit"])).status_code == 403
        assert (await http.post("/v1/tickets")).status_code == 401
        made = await ticket(world)
        assert (await http.post("/v1/tickets", params={"ticket": made})).status_code == 401
    assert await status(world.nodes["direct"], made) == 200


async def test_a_ticket_is_neither_stored_nor_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # At DEBUG it logs whole requests; `pushsvc serve` never lets it.
    caplog.set_level(logging.INFO, "uvicorn.error")
    node = world.nodes["direct"]
    made = await ticket(world)
    of_tenant = "SELECT t::text FROM pushsvc.tickets t WHERE claims LIKE $1"
    rows = await world.kit.postgres.fetch(of_tenant, f"%{world.kit.tenant}%")
    assert len(rows) == 1
    assert re.match(r"\(\"?[0-9a-f]{64}", rows[0][0])
    assert made not in rows[0][0]
    assert await status(node, made) == 200
    assert await status(node, made) == 401
    other = await ticket(world)
    async with connect(f"{node.ws}?x=1&ticket={other}", proxy=None) as socket:
        await socket.send('{"id":1,"op":"hello"}')
        assert "ok" in json.loads(await soon(socket.recv()))
    # Servers' own logs of requests are among them: pytest listens to those, too.
    records = [record for record in caplog.records if record.name.startswith(("pushsvc", "uvicorn", "asyncio"))]
    logged = "".join(record.getMessage() + str(record.exc_text) for record in records)
    assert "/v1/events?ticket=***" in logged
    assert made not in logged
    assert other not in logged
