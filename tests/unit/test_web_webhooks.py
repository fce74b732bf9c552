"""`/v1/webhooks`, and a job's way from its submission to the receiver of its callback URL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from pushsvc import Service, verify_webhook
from pushsvc.access import Targets
from pushsvc.errors import SettingsError
from pushsvc.settings import Settings
from pushsvc.store import JobStore
from pushsvc.webhooks.courier import Courier
from pushsvc.webhooks.sender import Sender

from ..contract.drivers import WebSocketSubscriber
from ..contract.kit import opened, soon, submission, succeeded, until
from ..contract.node import Node, serving
from .webhook_receiver import Receiver, Reply, receiving

OFFICIAL = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_allow": ("127.0.0.0/8",), "sweep": 0.05})


@pytest_asyncio.fixture
async def node(settings: Settings) -> AsyncIterator[Node]:
    async with serving(settings) as made:

        @made.service.job
        async def report(value: Any = None) -> Any:
            return value

        yield made


class Caller:
    """A subject at a node."""

    def __init__(self, node: Node, sub: str = "me", **claims: Any) -> None:
        headers = {"Authorization": f"Bearer {node.token(sub, **claims)}"}
        self.http = httpx.AsyncClient(base_url=node.http, headers=headers, timeout=60)

    async def __call__(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        response = await soon(self.http.request(method, path, json=body))
        assert response.status_code == expect, response.text
        if expect >= 400:
            assert response.headers["content-type"] == "application/problem+json"
        return response.json()


@asynccontextmanager
async def calling(node: Node, sub: str = "me", **claims: Any) -> AsyncIterator[Caller]:
    caller = Caller(node, sub, **claims)
    try:
        yield caller
    finally:
        await caller.http.aclose()


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A worker process' parts, in this process."""
    service = Service(settings=settings)

    @service.job
    async def report(value: Any = None) -> Any:
        return value

    until_then = asyncio.Event()
    work = asyncio.create_task(service.work(until_then))
    try:
        yield
    finally:
        until_then.set()
        await soon(work)


@asynccontextmanager
async def couriers(node: Node) -> AsyncIterator[Courier]:
    settings, parts = node.service.settings, node.service.parts
    sender = Sender(Targets(settings.webhook_allow), timeout=5, places=5)
    courier = Courier(parts.webhooks, sender, parts.signing_secrets, settings)
    task = asyncio.create_task(courier.run())
    try:
        yield courier
    finally:
        courier.stop()
        await soon(task)


async def a_webhook(node: Node, receiver: Receiver, *, settled: str | None = "delivered", **job: Any) -> str:
    """The id of a webhook of `me`, once it has this status."""
    store: JobStore = node.service.parts.store
    made = (await store.insert(submission(callback_url=receiver.url("/hook?token=x"), **job))).job
    finished = await store.finish(succeeded(made.id, made.version))
    assert finished is not None
    webhook = f"evt_{made.id}_2"
    if settled is not None:
        async with couriers(node):

            async def so() -> bool:
                rows = await node.service.parts.postgres.fetch(
                    "SELECT 1 FROM pushsvc.webhooks WHERE id = $1 AND status = $2", webhook, settled
                )
                return bool(rows)

            await until(so, f"it is {settled}")
    return webhook


async def test_a_submissions_callback_gets_the_same_bytes_as_every_other_subscriber(
    node: Node, settings: Settings, receiver: Receiver
) -> None:
    socket = WebSocketSubscriber(node)
    await socket.open([], None)
    async with working(settings.model_copy(update={"sweep": 3600.0})), calling(node) as me:
        body = {"job": "report", "params": {"value": {"é": 1.5}}, "callback_url": receiver.url("/hook?token=x")}
        job = await me("POST", "/v1/jobs", body, 202)
        assert job["links"]["webhooks"] == f"/v1/webhooks?job={job['id']}"
        pushed = await socket.next_event()
        await until(lambda: receiver.received)
        polled = await soon(me.http.get(f"/v1/events?channels=job:{job['id']}&cursor=start&wait=0"))
        [received] = receiver.received
        assert received.body == pushed.event
        assert received.body in polled.content
        [secret] = (await me("GET", "/v1/webhooks/secret"))["secrets"]
        assert verify_webhook(received.headers, received.body, secret) == json.loads(pushed.event or b"")
        [webhook] = (await me("GET", job["links"]["webhooks"]))["webhooks"]
        assert webhook["id"] == received.headers["webhook-id"] == json.loads(received.body)["id"]
    await socket.close()


async def test_a_job_that_is_cancelled_before_it_runs_is_sent_too(
    node: Node, settings: Settings, receiver: Receiver
) -> None:
    async with calling(node) as me:
        job = await me("POST", "/v1/jobs", {"job": "report", "callback_url": receiver.url()}, 202)
        await me("POST", job["links"]["cancel"], expect=202)
        async with working(settings):
            await until(lambda: receiver.received)
    assert json.loads(receiver.received[0].body)["type"] == "job.cancelled"


async def test_the_services_url_is_called_for_jobs_that_name_none(settings: Settings, receiver: Receiver) -> None:
    own = settings.model_copy(update={"callback_url": SecretStr(receiver.url("/all?token=hunter2"))})
    async with serving(own) as node, calling(node) as me, calling(node, "boss", scope=["admin"]) as boss:
        node.service.job(name="report")(lambda: None)
        named = {"job": "report", "callback_url": receiver.url("/mine")}
        async with working(own):
            for body in ({"job": "report"}, named):
                job = await me("POST", "/v1/jobs", body, 202)
                assert ("webhooks" in job["links"]) is ("callback_url" in body)
            await until(lambda: len(receiver.received) == 2)
            await until(lambda: _count(boss, "delivered", 2))
        assert sorted(received.path for received in receiver.received) == ["/all?token=hunter2", "/mine"]
        assert [each["url"] for each in (await me("GET", "/v1/webhooks"))["webhooks"]] == [receiver.url("/mine")]
        origin = receiver.url("")
        assert [each["url"] for each in (await boss("GET", "/v1/webhooks"))["webhooks"]] == [origin, origin]


async def _count(caller: Caller, status: str, count: int) -> bool:
    return len((await caller("GET", f"/v1/webhooks?status={status}"))["webhooks"]) == count


# Submission ---------------------------------------------------------------------------------------


UNCALLABLE = [
    "http://hooks.example/",
    "https://10.0.0.1/",
    "https://localhost/",
    "https://me:hunter2@hooks.example/",
    "ftp://hooks.example/",
    "https://hooks.example/" + "x" * 3000,
    "",
    7,
]


async def test_a_url_that_can_not_be_called_is_refused_and_nothing_is_stored(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"webhook_allow": ()})) as node, calling(node) as me:
        node.service.job(name="report")(lambda: None)
        for url in UNCALLABLE:
            problem = json.dumps(await me("POST", "/v1/jobs", {"job": "report", "callback_url": url}, 400))
            assert "callback_url" in problem
            assert "hunter2" not in problem
        assert (await me("GET", "/v1/jobs"))["jobs"] == []


async def test_the_url_is_part_of_what_an_idempotency_key_stands_for(node: Node, receiver: Receiver) -> None:
    async with calling(node) as me:
        me.http.headers["Idempotency-Key"] = "k"
        body = {"job": "report", "callback_url": receiver.url("/a")}
        first = await me("POST", "/v1/jobs", body, 202)
        assert (await me("POST", "/v1/jobs", body, 202))["id"] == first["id"]
        await me("POST", "/v1/jobs", {**body, "callback_url": receiver.url("/b")}, 422)
        await me("POST", "/v1/jobs", {"job": "report"}, 422)


# The log ------------------------------------------------------------------------------------------


async def test_the_log_shows_each_attempt_to_its_owner(node: Node, receiver: Receiver) -> None:
    receiver.replies.append(Reply(410, body=b"go away"))
    webhook = await a_webhook(node, receiver, settled="disabled")
    async with calling(node) as me:
        [listed] = (await me("GET", "/v1/webhooks"))["webhooks"]
        shown = await me("GET", f"/v1/webhooks/{webhook}")
    log = shown.pop("log")
    assert listed == shown
    assert [(each["number"], each["status"], each["error"], each["answer"]) for each in log] == [
        (1, 410, None, "go away")
    ]
    assert shown["last_attempt"] == log[0]
    assert (shown["id"], shown["status"], shown["attempts"]) == (webhook, "disabled", 1)
    assert shown["url"] == receiver.url("/hook?token=x")
    assert shown["next_attempt_at"] is None
    assert shown["settled_at"] is not None
    assert shown["links"]["replay"] == f"/v1/webhooks/{webhook}/replay"


async def test_it_is_filtered_and_comes_in_pages_newest_first(node: Node, receiver: Receiver) -> None:
    waiting = [await a_webhook(node, receiver, settled=None) for _ in range(3)]
    async with calling(node) as me:
        first = await me("GET", "/v1/webhooks?limit=2")
        assert [each["id"] for each in first["webhooks"]] == [waiting[2], waiting[1]]
        second = await me("GET", f"/v1/webhooks?limit=2&after={first['next']}")
        assert ([each["id"] for each in second["webhooks"]], second["next"]) == ([waiting[0]], None)
        job = second["webhooks"][0]["job"]
        assert [each["id"] for each in (await me("GET", f"/v1/webhooks?job={job}"))["webhooks"]] == [waiting[0]]
        assert (await me("GET", "/v1/webhooks?status=failed"))["webhooks"] == []
        assert len((await me("GET", "/v1/webhooks?status=pending"))["webhooks"]) == 3


async def test_a_query_that_means_nothing_is_refused(node: Node) -> None:
    async with calling(node) as me:
        for query in ("status=lost", "job=x", "after=x", "limit=0", "limit=x"):
            await me("GET", f"/v1/webhooks?{query}", expect=400)


async def test_foreign_and_unknown_webhooks_are_404(node: Node, receiver: Receiver) -> None:
    webhook = await a_webhook(node, receiver)
    async with calling(node, "you") as you, calling(node, tenant="other", scope=["admin"]) as other:
        for who in (you, other):
            for key in (webhook, "evt_01J9ZZ8QG5V0000000000000AB_2", "evt_x", "nonsense"):
                await who("GET", f"/v1/webhooks/{key}", expect=404)
                await who("POST", f"/v1/webhooks/{key}/replay", expect=404)
            assert (await who("GET", "/v1/webhooks"))["webhooks"] == []
            body = {"url": receiver.url("/hook?token=x")}
            await who("POST", "/v1/webhooks/endpoints/enable", body, 404)
    assert len(receiver.received) == 1


async def test_what_may_be_done_is_what_the_token_says(node: Node, receiver: Receiver) -> None:
    webhook = await a_webhook(node, receiver)
    async with calling(node, scope=["read"]) as reader:
        await reader("GET", f"/v1/webhooks/{webhook}")
        await reader("POST", f"/v1/webhooks/{webhook}/replay", expect=403)
        await reader("POST", "/v1/webhooks/endpoints/enable", {"url": receiver.url()}, 403)
        await reader("GET", "/v1/webhooks/secret", expect=403)
        reader.http.headers["Authorization"] = "Bearer x"
        await reader("GET", "/v1/webhooks", expect=401)


async def test_an_admin_sees_its_tenants_but_not_the_secrets_in_others_urls(node: Node, receiver: Receiver) -> None:
    webhook = await a_webhook(node, receiver)
    async with calling(node, "boss", scope=["admin"]) as boss:
        shown = await boss("GET", f"/v1/webhooks/{webhook}")
        assert shown["url"] == receiver.url("")
        assert (await boss("POST", f"/v1/webhooks/{webhook}/replay", expect=202))["status"] == "pending"


# Replay, endpoints, secrets -----------------------------------------------------------------------


async def test_a_replay_sends_it_again_with_the_same_id(node: Node, receiver: Receiver) -> None:
    webhook = await a_webhook(node, receiver)
    async with calling(node) as me, couriers(node):
        again = await me("POST", f"/v1/webhooks/{webhook}/replay", expect=202)
        assert (again["id"], again["status"], again["settled_at"]) == (webhook, "pending", None)
        await until(lambda: len(receiver.received) == 2)
    assert receiver.ids == [webhook] * 2
    assert receiver.received[0].body == receiver.received[1].body


async def test_a_disabled_endpoint_is_listed_and_enabled_by_its_url(node: Node, receiver: Receiver) -> None:
    receiver.replies.append(Reply(410))
    webhook = await a_webhook(node, receiver, settled="disabled")
    url = receiver.url("/hook?token=x")
    async with calling(node) as me, calling(node, "you") as you, couriers(node):
        [endpoint] = (await me("GET", "/v1/webhooks/endpoints"))["endpoints"]
        assert (endpoint["url"], endpoint["own"]) == (url, True)
        assert (await you("GET", "/v1/webhooks/endpoints"))["endpoints"] == []
        assert await me("POST", "/v1/webhooks/endpoints/enable", {"url": url}) == {"resumed": 1}
        await until(lambda: receiver.ids == [webhook] * 2)
        assert (await me("GET", "/v1/webhooks/endpoints"))["endpoints"] == []
        await me("POST", "/v1/webhooks/endpoints/enable", {"url": url}, 404)
        for bad in ({}, {"url": "x"}, {"url": url, "more": 1}):
            await me("POST", "/v1/webhooks/endpoints/enable", bad, 400)


async def test_the_services_endpoint_is_an_admins_to_enable_and_not_to_see(node: Node, receiver: Receiver) -> None:
    url = receiver.url("/all?token=hunter2")
    await node.service.parts.postgres.fetch(
        "INSERT INTO pushsvc.disabled_endpoints (deployment, id, tenant, owner, url)"
        " VALUES ('arq:queue', md5($1), '', '', $2)",
        f"\n\n{url}",
        url,
    )
    async with calling(node) as me, calling(node, "boss", scope=["admin"]) as boss:
        assert (await me("GET", "/v1/webhooks/endpoints"))["endpoints"] == []
        [endpoint] = (await boss("GET", "/v1/webhooks/endpoints"))["endpoints"]
        assert (endpoint["url"], endpoint["own"]) == (receiver.url(""), False)
        for named in (receiver.url(""), url):
            await me("POST", "/v1/webhooks/endpoints/enable", {"url": named}, 404)
        assert await boss("POST", "/v1/webhooks/endpoints/enable", {"url": endpoint["url"]}) == {"resumed": 0}
        assert (await boss("GET", "/v1/webhooks/endpoints"))["endpoints"] == []


async def test_each_subject_gets_the_secret_of_its_own_webhooks_and_no_other(node: Node) -> None:
    async with calling(node) as me, calling(node, "you") as you, calling(node, tenant="other") as other:
        secrets = [(await who("GET", "/v1/webhooks/secret"))["secrets"] for who in (me, you, other)]
    assert len({secret for [secret] in secrets}) == 3
    assert secrets[0] == node.service.parts.signing_secrets.shown("default", "me")


async def test_secrets_that_all_share_are_not_given_out(settings: Settings) -> None:
    shared = settings.model_copy(update={"webhook_secrets": (SecretStr(OFFICIAL),)})
    async with serving(shared) as node, calling(node) as me:
        await me("GET", "/v1/webhooks/secret", expect=403)


# Settings -----------------------------------------------------------------------------------------


async def test_a_service_takes_its_callback_url_from_the_code_or_the_environment(settings: Settings) -> None:
    set_so = settings.model_copy(update={"callback_url": SecretStr("https://a.example/x")})
    assert Service(settings=set_so).parts.callback_url == "https://a.example/x"
    assert Service(settings=set_so, callback_url="https://B.example").parts.callback_url == "https://b.example/"
    assert Service(settings=settings).parts.callback_url is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("PUSHSVC_CALLBACK_URL", {"callback_url": SecretStr("http://hunter2.example/")}),
        ("PUSHSVC_WEBHOOK_SECRETS", {"webhook_secrets": (SecretStr("whsec_hunter2"),)}),
        ("PUSHSVC_SECRET", {"secret": None}),
    ],
)
async def test_a_worker_that_could_not_send_does_not_start(
    settings: Settings, name: str, change: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        await Service(settings=settings.model_copy(update={"webhook_allow": (), **change})).check(web=False)
    assert "hunter2" not in str(caught.value)


async def test_what_is_shown_of_the_settings_holds_no_secret(settings: Settings) -> None:
    url = "https://hooks.example:8443/services/hunter2?token=hunter2"
    change = {"callback_url": SecretStr(url), "webhook_secrets": (SecretStr(OFFICIAL), SecretStr(OFFICIAL))}
    masked = settings.model_copy(update=change).masked()
    assert masked["PUSHSVC_CALLBACK_URL"] == "https://hooks.example:8443/***"
    assert masked["PUSHSVC_WEBHOOK_SECRETS"] == "***, ***"


async def test_a_log_line_of_a_job_holds_no_url(settings: Settings) -> None:
    async with opened(settings) as kit:
        job = await kit.store(submission(callback_url="https://hooks.example/hunter2"))
    assert job.callback_url == "https://hooks.example/hunter2"
    assert "hunter2" not in repr(job)
