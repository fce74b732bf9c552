"""The whole way of the data, over real processes: from the POST to the push, and what is refused on it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from .clients import Client, until
from .conftest import Join
from .harness import Cluster, Web

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Web:
    """A web process; a worker is there, too."""
    cluster.worker()
    return cluster.web()


_users = (f"user-{number}" for number in count(1))


@pytest.fixture
def alice(cluster: Cluster, web: Web, join: Join) -> Client:
    """A user whom no other test knows."""
    return join(cluster, web, next(_users))


@pytest.fixture
def mallory(cluster: Cluster, web: Web, join: Join) -> Client:
    """Somebody else."""
    return join(cluster, web, "mallory")


def tomorrow() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


def is_problem(response: Any, status: int, code: str) -> bool:
    """Whether it is this error, as a problem object of RFC 9457."""
    body = response.json()
    assert (response.status_code, body.get("code")) == (status, code), response.text
    assert response.headers["content-type"] == PROBLEM
    assert body["status"] == status
    assert body["title"]
    return True


# Accepted, done, pushed


async def test_a_submission_is_accepted_with_links_and_a_cursor(alice: Client) -> None:
    response = await alice.post_job("gated", params={"gate": "accepted"}, run_at=tomorrow())
    assert response.status_code == 202
    job = response.json()
    path = f"/v1/jobs/{job['id']}"
    assert response.headers["location"] == path
    assert int(response.headers["retry-after"]) > 0
    assert job["links"] == {
        "self": path,
        "result": f"{path}/result",
        "cancel": f"{path}/cancel",
        "events": f"/v1/events?channels=job:{job['id']}",
    }
    assert (job["job"], job["status"], job["attempt"]) == ("gated", "queued", 0)
    assert sorted(part.partition("@")[0] for part in job["cursor"].split(",")) == [f"job:{job['id']}", alice.inbox]


async def test_websocket_and_long_poll_bring_the_same_event_bytes(alice: Client) -> None:
    value = {"text": "ünïcødé \u2028 \x7f", "numbers": [1, 1.5, -0.0, 1e300], "nothing": None}
    async with alice.websocket() as live:
        job = await alice.submit("echo", value=value)
        pushed = await live.take_final(job["id"])
    polled = await alice.long_poll(job["cursor"]).take_final(job["id"])
    of_the_job = await alice.long_poll(job["cursor"], f"job:{job['id']}").take_final(job["id"])
    async with alice.websocket(job["cursor"]) as later:
        resumed = await later.take_final(job["id"])
    assert pushed == polled == resumed
    assert of_the_job.text == pushed.text
    event = pushed.event
    assert (event["type"], event["job"], event["name"], event["final"]) == ("job.succeeded", job["id"], "echo", True)
    assert event["data"] == value
    assert list(event) == ["id", "type", "job", "name", "version", "at", "final", "data"]


async def test_the_cursor_of_the_202_brings_exactly_what_comes_after_it(alice: Client) -> None:
    before = await alice.submit("echo", value="before")
    await alice.job(before["id"], wait=20)
    job = await alice.submit("echo", value="after")
    await alice.job(job["id"], wait=20)
    assert [received.job for received in await alice.long_poll(job["cursor"]).ask()] == [job["id"]]


async def test_the_result_url_gives_the_events_data_verbatim(alice: Client) -> None:
    job = await alice.submit("echo", value={"b": 1, "a": [2.50, "ü"]})
    received = await alice.long_poll(job["cursor"]).take_final(job["id"])
    result = await alice.get(job["links"]["result"])
    assert result.status_code == 200
    assert result.headers["content-type"] == "application/json"
    assert received.text.endswith(f',"data":{result.text}}}')


async def test_the_jobs_channel_tells_when_it_starts(cluster: Cluster, alice: Client) -> None:
    job = await alice.submit("gated", gate="starts")
    poll = alice.long_poll(job["cursor"], f"job:{job['id']}")
    (started,) = await poll.take(1)
    assert (started.event["type"], started.event["final"]) == ("job.started", False)
    cluster.open_gate("starts")
    (ended,) = await poll.take(1)
    assert ended.event["type"] == "job.succeeded"


async def test_a_plain_function_runs_as_a_job(alice: Client) -> None:
    job = await alice.submit("shout", text="plain")
    received = await alice.long_poll(job["cursor"]).take_final(job["id"])
    assert received.event["data"] == "PLAIN"


async def test_a_result_that_is_not_there_yet_is_202(cluster: Cluster, alice: Client) -> None:
    job = await alice.submit("gated", gate="unfinished")
    result = await alice.get(job["links"]["result"])
    assert (result.status_code, result.headers["location"]) == (202, job["links"]["self"])
    assert "retry-after" in result.headers
    cluster.open_gate("unfinished")


async def test_status_with_wait_answers_when_the_job_has_finished(cluster: Cluster, alice: Client) -> None:
    job = await alice.submit("gated", gate="status")
    await alice.until_status(job["id"], "running")
    waiting = asyncio.create_task(alice.job(job["id"], wait=25))
    short = await alice.job(job["id"], wait=0.05)
    assert short["status"] == "running", "it had not finished by then"
    assert not waiting.done()
    cluster.open_gate("status")
    found = await waiting
    assert (found["status"], found["attempt"], found["error"]) == ("succeeded", 1, None)
    assert found["started_at"] <= found["finished_at"] < found["expires_at"]


async def test_an_unchanged_status_is_304(alice: Client) -> None:
    job = await alice.submit("echo")
    await alice.job(job["id"], wait=20)
    first = await alice.get(job["links"]["self"])
    again = await alice.get(job["links"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_prefer_wait_answers_200_with_the_finished_job(alice: Client) -> None:
    response = await alice.post_job("echo", {"Prefer": "wait=20"}, params={"value": 7})
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=20"
    assert response.json()["status"] == "succeeded"


async def test_prefer_wait_that_is_too_short_answers_202(alice: Client) -> None:
    response = await alice.post_job("echo", {"Prefer": "wait=1"}, run_at=tomorrow())
    assert (response.status_code, response.json()["status"]) == (202, "queued")


async def test_a_big_result_is_a_reference_whose_hash_is_right(alice: Client) -> None:
    job = await alice.submit("big", size=70_000)
    event = (await alice.long_poll(job["cursor"]).take_final(job["id"])).event
    assert "data" not in event
    body = (await alice.get(event["ref"]["href"])).content
    assert event["ref"]["bytes"] == len(body) == 70_002
    assert event["ref"]["sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_failing_jobs_event_carries_a_problem(alice: Client) -> None:
    job = await alice.submit("failing", message="out of paper")
    event = (await alice.long_poll(job["cursor"]).take_final(job["id"])).event
    assert event["type"] == "job.failed"
    assert "data" not in event
    assert (event["error"]["code"], event["error"]["status"]) == ("job_failed", 500)
    assert event["error"]["error"] == "ValueError"
    assert "out of paper" not in str(event), "what no author meant for clients"
    result = await alice.get(job["links"]["result"])
    assert is_problem(result, 500, "job_failed")
    assert result.json() == event["error"] == (await alice.job(job["id"]))["error"]


async def test_own_jobs_are_listed_newest_first(alice: Client) -> None:
    jobs = [(await alice.submit("echo", value=number))["id"] for number in range(3)]
    first = (await alice.get("/v1/jobs", params={"limit": 2})).json()
    assert [job["id"] for job in first["jobs"]] == [jobs[2], jobs[1]]
    rest = (await alice.get("/v1/jobs", params={"limit": 2, "after": first["next"]})).json()
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == ([jobs[0]], None)


# Refused


@pytest.mark.parametrize(
    "params", [{}, {"text": 5}, {"text": "a", "more": 1}], ids=["missing", "of the wrong type", "unknown"]
)
async def test_invalid_params_are_refused_and_nothing_is_stored(cluster: Cluster, alice: Client, params: Any) -> None:
    response = await alice.post_job("shout", params=params)
    assert is_problem(response, 422, "invalid_params")
    assert response.json()["errors"]
    assert await jobs_of(cluster, alice) == 0


async def test_an_unknown_job_is_404_and_nothing_is_stored(cluster: Cluster, alice: Client) -> None:
    assert is_problem(await alice.post_job("no_such_job"), 404, "unknown_job")
    assert await jobs_of(cluster, alice) == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"params":{}}', b'{"job":"echo","surprise":1}'])
async def test_a_malformed_body_is_400(alice: Client, body: bytes) -> None:
    assert is_problem(await alice.post("/v1/jobs", content=body), 400, "bad_request")


async def test_a_foreign_job_is_404_on_every_route(alice: Client, mallory: Client) -> None:
    job = await alice.submit("echo", value="private")
    await alice.job(job["id"], wait=20)
    for id in (job["id"], "01J00000000000000000000000", "nonsense"):
        path = f"/v1/jobs/{id}"
        assert is_problem(await mallory.get(path), 404, "not_found")
        assert is_problem(await mallory.get(f"{path}/result"), 404, "not_found")
        assert is_problem(await mallory.post(f"{path}/cancel"), 404, "not_found")
        assert is_problem(await mallory.get("/v1/events", params={"channels": f"job:{id}"}), 404, "not_found")
        async with mallory.websocket() as websocket:
            with pytest.raises(AssertionError, match="'not_found'"):
                await websocket.ask("subscribe", channels=[f"job:{id}"])
    assert all(each["id"] != job["id"] for each in (await mallory.get("/v1/jobs")).json()["jobs"])


async def test_a_user_of_the_same_name_in_another_tenant_is_a_stranger(
    cluster: Cluster, web: Web, join: Join, alice: Client
) -> None:
    job = await alice.submit("echo", value="private")
    await alice.job(job["id"], wait=20)
    stranger = join(cluster, web, alice.user, tenant="other")
    assert is_problem(await stranger.get(job["links"]["self"]), 404, "not_found")
    assert await stranger.log() == []


async def test_without_a_token_every_route_is_401(web: Web, alice: Client) -> None:
    job = await alice.submit("echo")
    async with Client(web.url) as nobody, Client(web.url, "not.a.token") as somebody:
        for client in (nobody, somebody):
            assert is_problem(await client.post_job("echo"), 401, "unauthorized")
            for path in ("/v1/jobs", "/v1/events?wait=0", job["links"]["self"], job["links"]["result"]):
                response = await client.get(path)
                assert is_problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
            assert is_problem(await client.post(job["links"]["cancel"]), 401, "unauthorized")


async def test_a_websocket_without_a_token_is_closed_with_4401(web: Web) -> None:
    async with Client(web.url) as nobody, nobody.handshake() as connection:
        await connection.send(json.dumps({"id": 1, "op": "hello"}))
        answer = json.loads(await connection.recv())
        assert (answer["id"], answer["error"]["code"]) == (1, "unauthorized")
        await connection.wait_closed()
        assert connection.close_code == 4401


async def test_a_foreign_inbox_is_forbidden(alice: Client, mallory: Client) -> None:
    assert is_problem(await mallory.get("/v1/events", params={"channels": alice.inbox}), 403, "forbidden")
    async with mallory.websocket() as websocket:
        with pytest.raises(AssertionError, match="'forbidden'"):
            await websocket.ask("subscribe", channels=[alice.inbox])
    with pytest.raises(AssertionError, match="'forbidden'"):
        async with mallory.websocket(None, alice.inbox):
            pass


async def test_a_foreign_origin_is_refused_and_our_own_is_not(web: Web, alice: Client) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with alice.handshake(origin="https://elsewhere.example"):
            pass
    assert refused.value.response.status_code == 403
    async with alice.handshake(origin=web.url) as connection:
        assert connection.subprotocol == "pushsvc.v1"


# Idempotency


async def test_the_same_key_with_the_same_payload_is_the_same_job(cluster: Cluster, alice: Client) -> None:
    key = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(alice.post_job("counting", key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    (job,) = {answer.json()["id"] for answer in answers}
    await alice.job(job, wait=20)
    later = await alice.post_job("counting", key)
    assert later.json()["id"] == job
    assert cluster.executions(job) == [1]
    assert len(await alice.log()) == 1


async def test_the_same_key_with_another_payload_is_422(cluster: Cluster, alice: Client) -> None:
    key = {"Idempotency-Key": "once"}
    await alice.post_job("echo", key, params={"value": 1})
    assert is_problem(await alice.post_job("echo", key, params={"value": 2}), 422, "key_reused")
    assert await jobs_of(cluster, alice) == 1


# Cancelling


async def test_a_queued_job_is_cancelled_at_once(cluster: Cluster, alice: Client) -> None:
    job = (await alice.post_job("counting", run_at=tomorrow())).json()
    response = await alice.post(job["links"]["cancel"])
    assert (response.status_code, response.json()["status"]) == (202, "cancelled")
    received = await alice.long_poll(job["cursor"]).take_final(job["id"])
    assert received.event["type"] == "job.cancelled"
    assert is_problem(await alice.get(job["links"]["result"]), 410, "job_cancelled")
    assert cluster.executions(job["id"]) == []


async def test_cancelling_a_running_job_ends_its_sql(cluster: Cluster, alice: Client) -> None:
    job = await alice.submit("nap", seconds=600, times=3)

    async def queries_run() -> bool:
        return await cluster.running_queries(job["id"]) == 3

    await until(queries_run, "the three queries run")
    assert (await alice.post(job["links"]["cancel"])).status_code == 202
    received = await alice.long_poll(job["cursor"]).take_final(job["id"])
    assert received.event["type"] == "job.cancelled"
    assert await cluster.running_queries(job["id"]) == 0
    assert is_problem(await alice.get(job["links"]["result"]), 410, "job_cancelled")


async def test_a_finished_job_can_not_be_cancelled(alice: Client) -> None:
    job = await alice.submit("echo")
    await alice.job(job["id"], wait=20)
    assert is_problem(await alice.post(job["links"]["cancel"]), 409, "already_finished")
    assert (await alice.job(job["id"]))["status"] == "succeeded"


async def jobs_of(cluster: Cluster, client: Client) -> int:
    """How many jobs of the client's user PostgreSQL holds."""
    (row,) = await cluster.fetch("SELECT count(*) FROM pushsvc.jobs WHERE owner = $1", client.user)
    return int(row[0])
