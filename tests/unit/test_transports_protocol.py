"""`pushsvc.v1` beyond hello and subscribe: devices, refresh, revocation, submit, publishing, limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pushsvc import Service
from pushsvc.domain import Position
from pushsvc.errors import BadRequest
from pushsvc.settings import Settings

from ..contract.kit import Kit, opened, soon, submission, until
from ..contract.node import Node, serving
from .test_transports_websocket import client, greeted


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest_asyncio.fixture
async def node(settings: Settings) -> AsyncIterator[Node]:
    async with serving(settings) as made:

        @made.service.job
        async def report(origin: str, month: int = 1) -> str:
            return origin

        yield made


def http(node: Node, sub: str = "me", **claims: Any) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {node.token(sub, **claims)}"}
    return httpx.AsyncClient(base_url=node.http, headers=headers, timeout=60)


# Devices


async def test_a_device_without_a_cursor_goes_on_from_its_last_ack(kit: Kit, node: Node) -> None:
    await kit.finish_many(range(3))
    async with greeted(node, device="phone", cursor="start") as it:
        frames = [await it.next() for _ in range(3)]
        assert await it.ask(id=2, op="ack", cursor=f"user:me@{frames[1]['position']}") == {"id": 2, "ok": {}}
        # An older one is no error: acks may be sent again.
        assert (await it.ask(id=3, op="ack", cursor=f"user:me@{frames[0]['position']}"))["ok"] == {}
    async with client(node) as it:
        answer = await it.ask(id=1, op="hello", token=node.token(), device="phone")
        assert (answer["ok"]["cursor"], answer["ok"]["recovered"]) == (f"user:me@{frames[1]['position']}", True)
        assert await it.next() == frames[2]
    async with client(node) as it:
        answer = await it.ask(id=1, op="hello", token=node.token(), device="another")
        assert answer["ok"]["cursor"] == f"user:me@{frames[2]['position']}", "an unknown device begins now"
    async with client(node) as it:
        await it.ask(id=1, op="hello", token=node.token("you"), device="phone")
        assert await it.ask(id=2, op="unsubscribe", channels=[]) == {"id": 2, "ok": {}}, "another's phone"


async def test_a_cursor_counts_before_what_the_device_has_acknowledged(kit: Kit, node: Node) -> None:
    await kit.finish_many(range(2))
    async with greeted(node, device="phone", cursor="start") as it:
        first, last = [await it.next() for _ in range(2)]
        await it.ask(id=2, op="ack", cursor=f"user:me@{last['position']}")
    async with greeted(node, device="phone", cursor=f"user:me@{first['position']}") as it:
        assert await it.next() == last


async def test_polls_and_streams_go_on_from_an_ack_over_http(kit: Kit, node: Node) -> None:
    await kit.finish_many(range(3))
    async with http(node) as it:
        heard = (await it.get("/v1/events", params={"cursor": "start", "wait": 0})).json()
        cursor = f"user:me@{heard['events'][0]['position']}"
        assert (await it.post("/v1/ack", json={"cursor": cursor, "device": "phone"})).status_code == 204
        again = (await it.get("/v1/events", params={"device": "phone", "wait": 0})).json()
        assert again["events"] == heard["events"][1:]
        unknown = (await it.get("/v1/events", params={"device": "other", "wait": 0})).json()
        assert unknown["events"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"cursor": "user:me@k1.1"}, 400, "bad_request"),
        ({"cursor": "user:me@k1.1", "device": ""}, 400, "bad_request"),
        ({"cursor": "user:me@k1.1", "device": "a\nb"}, 400, "bad_request"),
        ({"cursor": "now", "device": "d"}, 400, "bad_cursor"),
        ({"cursor": "user:me", "device": "d"}, 400, "bad_cursor"),
        ({"cursor": "user:you@k1.1", "device": "d"}, 403, "forbidden"),
        ({"cursor": "group:ops@k1.1", "device": "d"}, 403, "forbidden"),
    ],
)
async def test_a_wrong_ack_over_http_is_refused(node: Node, body: Any, status: int, code: str) -> None:
    async with http(node) as it:
        response = await it.post("/v1/ack", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_wrong_ack_is_an_error_and_the_connection_goes_on(kit: Kit, node: Node) -> None:
    await kit.finish()
    async with greeted(node, device="phone", cursor="start") as it:
        epoch = (await it.next())["position"].partition(".")[0]
        for cursor in ("now", "start", "nonsense", f"user:me@{epoch}.2", f"user:you@{epoch}.1", ""):
            answer = await it.ask(id=2, op="ack", cursor=cursor)
            assert answer["error"]["code"] in ("bad_cursor", "bad_frame"), cursor
        assert (await it.ask(id=3, op="ack", cursor=f"user:me@{epoch}.1"))["ok"] == {}
    async with greeted(node) as it:
        answer = await it.ask(id=2, op="ack", cursor=f"user:me@{epoch}.1")
        assert answer["error"]["code"] == "bad_frame"
        assert "device" in answer["error"]["detail"]


async def test_a_device_too_many_is_refused(kit: Kit, settings: Settings) -> None:
    await kit.finish()
    async with serving(settings.model_copy(update={"device_limit": 1})) as node, http(node) as it:
        cursor = (await it.get("/v1/events", params={"wait": 0})).json()["cursor"]
        assert (await it.post("/v1/ack", json={"cursor": cursor, "device": "a"})).status_code == 204
        refused = await it.post("/v1/ack", json={"cursor": cursor, "device": "b"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_devices")
        assert "retry-after" not in refused.headers, "waiting does not help"


# Tokens


async def test_a_refreshed_token_carries_the_connection_on(kit: Kit, node: Node) -> None:
    short = node.token(ttl=2)
    async with greeted(node, token=short) as it:
        assert await it.ask(id=2, op="refresh", token=node.token()) == {"id": 2, "ok": {"unsubscribed": []}}
        expiry = time.time() + 2.5
        await kit.finish("heard")
        assert (await it.next())["event"]["data"] == "heard"
        # Past the first token's end, which is the condition itself.
        while time.time() < expiry:
            assert "ok" in await it.ask(id=3, op="unsubscribe", channels=[])
            await asyncio.sleep(0.2)


async def test_a_refresh_leaves_the_groups_that_the_new_token_does_not_name(kit: Kit, node: Node) -> None:
    groups = ["group:a", "group:b"]
    async with greeted(node, token=node.token(channels=groups), channels=groups) as it:
        answer = await it.ask(id=2, op="refresh", token=node.token(channels=["group:b"]))
        assert answer["ok"]["unsubscribed"] == ["group:a"]
        for group in groups:
            await node.service.publish(group, "said", group)
        assert (await it.next())["event"]["data"] == "group:b"


async def test_a_refresh_by_another_or_with_nonsense_changes_nothing(node: Node) -> None:
    async with greeted(node) as it:
        for token, code in ((node.token("you"), "forbidden"), ("x", "unauthorized")):
            answer = await it.ask(id=2, op="refresh", token=token)
            assert (answer["id"], answer["error"]["code"]) == (2, code)
        answer = await it.ask(id=2, op="refresh", token=node.token(scope=["submit"]))
        assert answer["error"]["code"] == "forbidden"
        assert "ok" in await it.ask(id=3, op="unsubscribe", channels=[])


async def test_revoking_a_subject_ends_its_connections_on_every_node_and_refuses_its_tokens(
    settings: Settings, node: Node
) -> None:
    old = node.token()
    async with serving(settings) as other, greeted(node, token=old) as here, greeted(other, token=old) as there:
        async with greeted(node, token=node.token("you")) as bystander:
            await node.service.revoke("me")
            for ended in (here, there):
                assert await ended.ended() == ([{"op": "bye", "code": 4401}], 4401)
            for each in (node, other):
                async with client(each) as it:
                    answer = await it.ask(id=1, op="hello", token=old)
                    assert (answer["error"]["code"], answer["error"]["detail"]) == (
                        "unauthorized",
                        "the token has been revoked",
                    )
                async with greeted(each, token=each.token()):
                    pass
            assert "ok" in await bystander.ask(id=2, op="unsubscribe", channels=[])


async def test_a_node_that_starts_later_knows_what_was_revoked_before(settings: Settings, node: Node) -> None:
    stolen, mine = node.token(), node.token()
    await node.service.revoke(token=stolen)
    async with serving(settings) as later:
        async with httpx.AsyncClient(base_url=later.http) as it:
            for token, status in ((stolen, 401), (mine, 200)):
                assert (await it.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})).status_code == status


async def test_a_poll_is_answered_when_its_token_is_revoked(node: Node) -> None:
    async with http(node) as it:
        waiting = asyncio.create_task(it.get("/v1/events", params={"wait": 60}))
        await until(lambda: node.listeners)
        await node.service.revoke("me")
        assert (await soon(waiting)).status_code == 200
        assert (await it.get("/v1/events")).status_code == 401


async def test_what_can_not_be_revoked_is_said(node: Node) -> None:
    for wrong in ({}, {"sub": "me", "token": node.token()}, {"sub": "\n"}):
        with pytest.raises(BadRequest):
            await node.service.revoke(**wrong)


# Submitting


async def test_a_job_submitted_by_a_frame_is_answered_like_a_request(node: Node) -> None:
    async with greeted(node) as it, http(node) as web:
        answer = await it.ask(id=2, op="submit", job="report", params={"origin": "JFK"})
        assert answer["id"] == 2
        job = answer["ok"]
        assert (job["job"], job["status"]) == ("report", "queued")
        assert job["cursor"].startswith(f"job:{job['id']}@1.1,user:me@")
        over_http = (await web.get(job["links"]["self"])).json()
        assert over_http | {"cursor": ""} == job | {"cursor": ""}


async def test_the_same_key_is_the_same_job_whichever_way_it_comes(node: Node) -> None:
    async with greeted(node) as it, http(node) as web:
        first = (await it.ask(id=2, op="submit", job="report", params={"origin": "JFK"}, key="k"))["ok"]["id"]
        assert (await it.ask(id=3, op="submit", job="report", params={"origin": "JFK"}, key="k"))["ok"]["id"] == first
        body = {"job": "report", "params": {"origin": "JFK"}}
        response = await web.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
        assert response.json()["id"] == first
        other = await it.ask(id=4, op="submit", job="report", params={"origin": "LGA"}, key="k")
        assert other["error"]["code"] == "key_reused"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"job": "nonesuch"}, "unknown_job"),
        ({"job": "report"}, "invalid_params"),
        ({"job": "report", "params": {"origin": "JFK", "month": "x"}}, "invalid_params"),
        ({"job": "report", "params": [1]}, "bad_frame"),
        ({"job": "report", "params": {"origin": "JFK"}, "key": ""}, "bad_frame"),
        ({}, "bad_frame"),
    ],
)
async def test_a_wrong_submission_is_an_error_and_stores_nothing(
    kit: Kit, node: Node, frame: dict[str, Any], code: str
) -> None:
    async with greeted(node) as it:
        answer = await it.ask(id=2, op="submit", **frame)
        assert (answer["id"], answer["error"]["code"]) == (2, code)
    assert await kit.jobs.of_owner("default", "me", None, None, None, 10) == []


async def test_submitting_needs_its_scope(node: Node) -> None:
    async with greeted(node, token=node.token(scope=["read"])) as it:
        answer = await it.ask(id=2, op="submit", job="report", params={"origin": "JFK"})
        assert answer["error"]["code"] == "forbidden"


async def test_many_frames_without_waiting_are_answered_in_order_and_none_is_lost(node: Node) -> None:
    """More than may wait: the rest stays in the socket until there is room."""
    async with greeted(node) as it:
        for n in range(300):
            await it.ws.send(json.dumps({"id": n, "op": "submit", "job": "report", "params": {"origin": "JFK"}}))
        answers = [await it.next() for _ in range(300)]
        assert [answer["id"] for answer in answers] == list(range(300))
        assert len({answer["ok"]["id"] for answer in answers}) == 300


# Publishing


async def test_what_an_app_publishes_is_heard_and_found_later(settings: Settings, node: Node) -> None:
    token = node.token(channels=["group:ops"])
    async with greeted(node, token=token, channels=["group:ops"]) as it:
        position = await node.service.publish("group:ops", "deploy.done", {"version": 7})
        assert isinstance(position, Position)
        frame = await it.next()
        assert (frame["channel"], frame["position"]) == ("group:ops", str(position))
        event = frame["event"]
        assert (event["type"], event["data"], event["final"]) == ("deploy.done", {"version": 7}, False)
    async with serving(settings) as other:
        async with greeted(other, token=token, channels=["group:ops"], cursor="start") as it:
            assert await it.next() == frame


async def test_publishing_to_an_inbox_and_for_a_tenant(node: Node) -> None:
    async with greeted(node) as mine, greeted(node, token=node.token(tenant="acme")) as theirs:
        await node.service.publish("user:me", "note", 1)
        await node.service.publish("user:me", "note", 2, tenant="acme")
        assert ((await mine.next())["event"]["data"], (await theirs.next())["event"]["data"]) == (1, 2)


async def test_what_can_not_be_published_is_said_and_nothing_is(kit: Kit, settings: Settings) -> None:
    service = Service(settings=settings)
    try:
        for channel, kind, data in (("nonsense", "x", 1), ("job:1", "x", 1), ("user:me", "job.x", 1)):
            with pytest.raises(BadRequest):
                await service.publish(channel, kind, data)
        assert (await kit.postgres.fetch("SELECT count(*) FROM pushsvc.events"))[0][0] == 0
    finally:
        await service.close()


# Limits


async def test_who_asks_too_often_is_told_when_to_come_again(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"rate_limit": 1.0})) as node:
        async with greeted(node) as it, http(node) as web, http(node, "you") as other:
            answers = [await it.ask(id=n, op="unsubscribe", channels=[]) for n in range(8)]
            refused = [answer["error"] for answer in answers if "error" in answer]
            assert {(error["code"], error["temporary"]) for error in refused} == {("rate_limited", True)}
            assert refused[0]["retry_after"] >= 1
            response = await web.get("/v1/jobs")
            assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
            assert int(response.headers["retry-after"]) >= 1
            assert (await other.get("/v1/jobs")).status_code == 200


async def test_each_limit_has_an_error_of_its_own(settings: Settings) -> None:
    small = settings.model_copy(update={"connection_limit": 1, "channel_limit": 2, "cursor_limit": 100})
    async with serving(small) as node, greeted(node, token=node.token(channels=["group:a", "group:b"])) as it:
        answer = await it.ask(id=2, op="subscribe", channels=["group:a", "group:b"])
        assert answer["error"]["code"] == "too_many_channels"
        answer = await it.ask(id=3, op="subscribe", channels=["group:a"], cursor="group:a@k1.1," * 20)
        assert answer["error"]["code"] == "bad_cursor"
        async with client(node) as second:
            answer = await second.ask(id=1, op="hello", token=node.token())
            assert answer["error"]["code"] == "too_many_connections"
            assert answer["error"]["temporary"]


# Resuming


async def test_a_hello_of_many_channels_says_where_all_stand_and_asks_the_store_once(kit: Kit, node: Node) -> None:
    groups = [f"group:{n}" for n in range(20)]
    jobs = [await kit.store(submission()) for _ in range(10)]
    await kit.finish("x", channels=tuple(groups[:5]))
    channels = [*groups, *(f"job:{job.id}" for job in jobs)]
    asked: list[str] = []
    fetch = node.service.parts.postgres.fetch

    async def counted(sql: str, *args: Any, **options: Any) -> Any:
        asked.append(sql)
        return await fetch(sql, *args, **options)

    async with greeted(node, token=node.token(channels=groups), channels=channels):
        pass
    node.service.parts.postgres.fetch = counted  # type: ignore[method-assign]  # to see what is asked
    async with client(node) as it:
        hello = {"token": node.token(channels=groups), "channels": channels}
        ok = (await it.ask(id=1, op="hello", **hello))["ok"]
        positions = dict(part.split("@") for part in ok["cursor"].split(","))
        assert set(positions) == {"user:me", *channels}
        assert await it.ask(id=2, op="unsubscribe", channels=[]) == {"id": 2, "ok": {}}
    # Whose the jobs are; where the logs stand, and where the jobs do.
    assert len(asked) == 3
