"""The courier: what a job leaves to be sent is sent, again and again until it is taken, and by one at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from pushsvc import telemetry, verify_webhook, wire
from pushsvc.access import Targets
from pushsvc.domain import SERVICE_CALLBACK, JobStatus, Outcome
from pushsvc.settings import Settings
from pushsvc.store import JobStore, Retention, Viewer, Webhook, WebhookStore
from pushsvc.tasks import stop
from pushsvc.webhooks import SigningSecrets
from pushsvc.webhooks.courier import FACTOR, FIRST, JITTER, MOST, Courier, backoff, judged
from pushsvc.webhooks.sender import Answer, Sender

from ..conftest import SECRET
from ..contract.kit import Kit, opened, soon, submission, succeeded, until
from .webhook_receiver import Receiver, Reply, receiving

SECRETS = SigningSecrets([], SECRET)
PERIOD = 86400.0
MINE = Viewer("default", "me")


class Post:
    """The store and a courier on a test's own engines; what is due is moved by hand, never waited for."""

    def __init__(self, kit: Kit, **changes: Any) -> None:
        self.kit = kit
        self.settings = kit.settings.model_copy(
            update={"webhook_allow": ("127.0.0.0/8",), "sweep": 3600.0, **changes}
        )
        self.webhooks = WebhookStore(kit.postgres, PERIOD)

    def courier(self, secrets: SigningSecrets = SECRETS) -> Courier:
        settings = self.settings
        places = settings.webhook_concurrency
        sender = Sender(Targets(settings.webhook_allow), timeout=settings.webhook_timeout, places=places)
        return Courier(self.webhooks, sender, secrets, settings)

    async def due(self, url: str | None, value: Any = 1, **changes: Any) -> str:
        """A job of `me` that has just succeeded; the id of its webhook."""
        finished = await self.kit.finish(value, callback_url=url, **changes)
        return f"evt_{finished.job.id}_{finished.job.version}"

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        return list(await self.kit.postgres.fetch(statement, *values))

    async def make_due(self) -> None:
        await self.sql("UPDATE pushsvc.webhooks SET due_at = now() WHERE status = 'pending'")

    async def age(self, seconds: float) -> None:
        """All that is pending was made so long ago, and is due."""
        await self.sql(
            "UPDATE pushsvc.webhooks SET due_at = now(), since = since - make_interval(secs => $1::float)", seconds
        )

    async def webhook(self, webhook: str) -> Webhook:
        found = await self.webhooks.get(MINE, webhook)
        assert found is not None
        return found

    async def attempted(self, webhook: str, times: int) -> Webhook:
        """The webhook once its attempt of that number is in the log."""

        async def logged() -> bool:
            return [log.number for log in await self.webhooks.attempts(webhook)][-1:] == [times]

        await until(logged, f"attempt {times} is in the log")
        return await self.webhook(webhook)

    async def settled(self, webhook: str, status: str) -> Webhook:
        async def so() -> bool:
            return (await self.webhook(webhook)).status == status

        await until(so, f"{webhook} is {status}")
        return await self.webhook(webhook)


@pytest_asyncio.fixture
async def post(settings: Settings) -> AsyncIterator[Post]:
    async with opened(settings) as kit:
        yield Post(kit)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@asynccontextmanager
async def sending(post: Post, courier: Courier | None = None) -> AsyncIterator[Courier]:
    courier = courier or post.courier()
    task = asyncio.create_task(courier.run())
    try:
        yield courier
    finally:
        courier.stop()
        await soon(task)


async def test_the_terminal_change_and_its_webhook_are_one(post: Post, receiver: Receiver) -> None:
    job = await post.kit.store(submission(callback_url=receiver.url()))
    assert await post.webhooks.seen(MINE) == []
    finished = await post.kit.jobs.finish(succeeded(job.id, job.version))
    assert finished is not None
    assert finished.called
    [webhook] = await post.webhooks.seen(MINE)
    assert webhook.id == wire.load(wire.event(finished.job, b"1"))["id"]
    assert (webhook.job, webhook.status, webhook.attempts) == (job.id, "pending", 0)


async def test_a_job_that_names_no_url_makes_no_webhook(post: Post) -> None:
    assert not (await post.kit.finish(1)).called
    assert await post.webhooks.seen(MINE) == []


async def test_a_fenced_ending_makes_no_webhook(post: Post, receiver: Receiver) -> None:
    job = await post.kit.store(submission(callback_url=receiver.url()))
    assert await post.kit.jobs.finish(succeeded(job.id, job.version + 1)) is None
    assert await post.webhooks.seen(MINE) == []


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED])
async def test_every_end_of_a_job_is_sent_once_signed_and_byte_for_byte(
    post: Post, receiver: Receiver, status: JobStatus
) -> None:
    job = await post.kit.store(submission(callback_url=receiver.url("/hook?token=x")))
    result = '{"b": 1.50, "a": "Zürich"}'.encode() if status is JobStatus.SUCCEEDED else None
    error = None if result else '{"code": "x"}'
    finished = await post.kit.jobs.finish(Outcome(job.id, job.version, status, result=result, error=error))
    assert finished is not None
    event = wire.event(finished.job, result)
    async with sending(post):
        webhook = await post.settled(wire.load(event)["id"], "delivered")
    [received] = receiver.received
    assert (received.path, received.body) == ("/hook?token=x", event)
    assert received.headers["webhook-id"] == webhook.id
    assert received.headers["content-type"] == "application/json"
    [secret] = SECRETS.shown("default", "me")
    assert verify_webhook(received.headers, received.body, secret) == wire.load(event)
    assert (webhook.attempts, webhook.url) == (1, receiver.url("/hook?token=x"))
    assert webhook.last is not None
    assert webhook.last.code == 200


async def test_a_large_result_is_sent_as_a_reference(post: Post, receiver: Receiver) -> None:
    job = await post.kit.store(submission(callback_url=receiver.url()))
    await post.kit.jobs.finish(succeeded(job.id, job.version, b'"large"', inline=False, sha256="s"))
    async with sending(post):
        await until(lambda: receiver.received)
    event = wire.load(receiver.received[0].body)
    assert event["ref"] == {"href": f"/v1/jobs/{job.id}/result", "bytes": 7, "sha256": "s"}
    assert "data" not in event


async def test_it_is_sent_as_soon_as_the_courier_is_woken(post: Post, receiver: Receiver) -> None:
    first = await post.due(receiver.url())
    async with sending(post) as courier:
        await post.settled(first, "delivered")
        second = await post.due(receiver.url())
        courier.wake()
        await post.settled(second, "delivered")


async def test_a_lost_wake_up_is_made_up_for_at_the_next_look(settings: Settings, receiver: Receiver) -> None:
    async with opened(settings) as kit:
        post = Post(kit, sweep=0.02)
        async with sending(post):
            await post.settled(await post.due(receiver.url()), "delivered")


async def test_what_falls_due_is_sent_without_a_look_in_between(post: Post, receiver: Receiver) -> None:
    webhook = await post.due(receiver.url())
    await post.sql("UPDATE pushsvc.webhooks SET due_at = now() + interval '50 milliseconds'")
    async with sending(post):
        await post.settled(webhook, "delivered")


# Failures -----------------------------------------------------------------------------------------


async def test_failed_attempts_are_repeated_with_growing_delays_and_the_same_id(
    post: Post, receiver: Receiver
) -> None:
    receiver.replies.extend([Reply(500, body=b"oh"), Reply(404), Reply(302, {"location": "/elsewhere"})])
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        for number in (1, 2, 3):
            found = await post.attempted(webhook, number)
            [row] = await post.sql(
                """SELECT extract(epoch FROM w.due_at - a.at)::float AS since_attempt,
                    extract(epoch FROM w.due_at - now())::float AS from_now
                FROM pushsvc.webhooks w
                JOIN pushsvc.webhook_attempts a ON a.webhook = w.id AND a.number = w.attempts"""
            )
            expected = FIRST * FACTOR ** (number - 1)
            assert row["since_attempt"] >= expected * (1 - JITTER)
            assert row["from_now"] <= expected * (1 + JITTER)
            assert (found.status, found.attempts) == ("pending", number)
            await post.make_due()
            courier.wake()
        await post.settled(webhook, "delivered")
    assert receiver.ids == [webhook] * 4
    assert len({received.body for received in receiver.received}) == 1
    log = await post.webhooks.attempts(webhook)
    assert [(each.number, each.code, each.answer) for each in log[:2]] == [(1, 500, "oh"), (2, 404, "")]
    assert [each.code for each in log] == [500, 404, 302, 200]


async def test_a_receiver_that_is_not_there_yet_is_tried_again(post: Post) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    webhook = await post.due(f"http://127.0.0.1:{port}/")
    async with sending(post) as courier:
        found = await post.attempted(webhook, 1)
        assert found.last is not None
        assert (found.status, found.last.code, found.last.error) == ("pending", None, "connection refused")
        async with receiving(port=port) as late:
            await post.make_due()
            courier.wake()
            await post.settled(webhook, "delivered")
            assert late.ids == [webhook]


async def test_each_attempt_is_signed_with_its_own_time(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(500))
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        await post.attempted(webhook, 1)
        await post.make_due()
        courier.wake()
        await post.settled(webhook, "delivered")
    for received, attempt in zip(receiver.received, await post.webhooks.attempts(webhook), strict=True):
        assert int(received.headers["webhook-timestamp"]) == int(attempt.at.timestamp())
        verify_webhook(received.headers, received.body, SECRETS.shown("default", "me"))


async def test_the_receivers_retry_after_is_heeded(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(503, {"retry-after": "7000"}))
    webhook = await post.due(receiver.url())
    async with sending(post):
        await post.attempted(webhook, 1)
    [row] = await post.sql(
        "SELECT extract(epoch FROM due_at - now())::float AS s, due_at >= since + interval '7000 s' AS b"
        " FROM pushsvc.webhooks"
    )
    assert row["b"]
    assert row["s"] <= 7000 * (1 + JITTER)


async def test_retry_after_never_moves_an_attempt_beyond_the_period(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(429, {"retry-after": "999999999"}))
    webhook = await post.due(receiver.url())
    async with sending(post):
        await post.attempted(webhook, 1)
    [row] = await post.sql("SELECT due_at = since + interval '24 hours' AS last FROM pushsvc.webhooks")
    assert row["last"]


async def test_after_the_period_it_has_failed_and_is_in_the_log(
    post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.reply = Reply(500, body=b"never")
    webhook = await post.due(receiver.url("/secret-path?token=hunter2"))
    async with sending(post) as courier:
        await post.attempted(webhook, 1)
        await post.age(PERIOD - 5)
        courier.wake()
        assert (await post.attempted(webhook, 2)).status == "pending"
        [row] = await post.sql("SELECT due_at = since + interval '24 hours' AS last FROM pushsvc.webhooks")
        assert row["last"]
        await post.age(6)
        courier.wake()
        found = await post.settled(webhook, "failed")
        assert found.attempts == 3
        assert found.settled_at is not None
        courier.wake()
    assert len(receiver.received) == 3
    assert f"{webhook} to http://127.0.0.1:{receiver.port}, given up: status 500" in caplog.text
    assert "hunter2" not in caplog.text
    assert "secret-path" not in caplog.text


# 410 ----------------------------------------------------------------------------------------------


async def test_410_disables_the_endpoint_for_that_owner_until_it_is_enabled(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(410))
    url = receiver.url()
    first = await post.due(url)
    async with sending(post) as courier:
        await post.settled(first, "disabled")
        second, foreign, other = (
            await post.due(url), await post.due(url, owner="you"), await post.due(receiver.url("/other"))
        )  # fmt: skip
        courier.wake()
        await post.settled(second, "disabled")
        await post.settled(other, "delivered")
        await until(lambda: foreign in receiver.ids)
        assert sorted(receiver.ids) == sorted([first, foreign, other])
        assert [disabled for disabled, _ in await post.webhooks.disabled("default", "me")] == [url]
        assert await post.webhooks.disabled("default", "you") == []
        assert (await post.webhook(second)).attempts == 0

        assert await post.webhooks.enable("default", "you", url) is None
        assert await post.webhooks.enable("default", "me", url) == 2
        courier.wake()
        await post.settled(first, "delivered")
        await post.settled(second, "delivered")
    assert await post.webhooks.disabled("default", "me") == []
    assert await post.webhooks.enable("default", "me", url) is None


async def test_a_replay_enables_its_endpoint_again(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(410))
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        await post.settled(webhook, "disabled")
        assert await post.webhooks.replay(webhook)
        courier.wake()
        await post.settled(webhook, "delivered")
        following = await post.due(receiver.url())
        courier.wake()
        await post.settled(following, "delivered")
    assert await post.webhooks.disabled("default", "me") == []


# Replay -------------------------------------------------------------------------------------------


async def test_a_replay_is_a_new_round_of_attempts_even_of_what_was_delivered(post: Post, receiver: Receiver) -> None:
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        await post.settled(webhook, "delivered")
        receiver.replies.append(Reply(500))
        await post.age(2 * PERIOD)
        assert await post.webhooks.replay(webhook)
        courier.wake()
        assert (await post.attempted(webhook, 2)).status == "pending"
        await post.make_due()
        courier.wake()
        await post.settled(webhook, "delivered")
    assert receiver.ids == [webhook] * 3
    assert [each.code for each in await post.webhooks.attempts(webhook)] == [200, 500, 200]


async def test_a_replay_during_an_attempt_is_not_swallowed_by_its_end(post: Post, receiver: Receiver) -> None:
    held = asyncio.Event()
    receiver.replies.append(Reply(200, after=held))
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        await until(lambda: receiver.received)
        assert await post.webhooks.replay(webhook)
        held.set()
        await post.attempted(webhook, 1)
        assert (await post.webhook(webhook)).status == "pending"
        courier.wake()
        await post.settled(webhook, "delivered")
    assert receiver.ids == [webhook] * 2


# Several couriers, and dead ones ------------------------------------------------------------------


async def test_couriers_side_by_side_send_each_webhook_once(post: Post, receiver: Receiver) -> None:
    webhooks = [await post.due(receiver.url(), number) for number in range(30)]
    async with sending(post), sending(post), sending(post):
        for webhook in webhooks:
            await post.settled(webhook, "delivered")
    assert sorted(receiver.ids) == sorted(webhooks)


async def test_what_a_dead_courier_was_sending_is_sent_again_with_the_same_id(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(200, after=asyncio.Event()))
    webhook = await post.due(receiver.url())
    dead = post.courier()
    task = asyncio.create_task(dead.run())
    await until(lambda: receiver.received)
    # As kill -9 leaves it: nothing is settled, nothing handed back.
    await stop(task)
    async with sending(post) as courier:
        [row] = await post.sql("SELECT due_at > now() AS leased FROM pushsvc.webhooks")
        assert row["leased"]
        assert len(receiver.received) == 1
        await post.make_due()
        courier.wake()
        found = await post.settled(webhook, "delivered")
    assert receiver.ids == [webhook] * 2
    assert found.attempts == 2
    assert [each.number for each in await post.webhooks.attempts(webhook)] == [2]


async def test_an_attempt_that_ends_after_its_lease_changes_nothing_but_the_log(
    post: Post, receiver: Receiver
) -> None:
    held = asyncio.Event()
    receiver.replies.extend([Reply(500, after=held), Reply(200)])
    webhook = await post.due(receiver.url())
    async with sending(post):
        await until(lambda: receiver.received)
        await post.make_due()
        async with sending(post):
            await post.settled(webhook, "delivered")
        held.set()
        await until(lambda: _all_logged(post, webhook, [1, 2]))
        assert (await post.webhook(webhook)).status == "delivered"


async def _all_logged(post: Post, webhook: str, numbers: list[int]) -> bool:
    return [each.number for each in await post.webhooks.attempts(webhook)] == numbers


async def test_a_courier_that_stops_hands_back_what_it_could_not_end(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushsvc.webhooks.courier.LAST_CALL", 0.01)
    receiver.replies.append(Reply(200, after=asyncio.Event()))
    webhook = await post.due(receiver.url())
    async with sending(post):
        await until(lambda: receiver.received)
    [row] = await post.sql("SELECT status, due_at <= now() AS due FROM pushsvc.webhooks")
    assert (row["status"], row["due"]) == ("pending", True)
    async with sending(post):
        await post.settled(webhook, "delivered")


async def test_a_courier_that_stops_lets_attempts_end(post: Post, receiver: Receiver) -> None:
    held = asyncio.Event()
    receiver.replies.append(Reply(200, after=held))
    webhook = await post.due(receiver.url())
    courier = post.courier()
    task = asyncio.create_task(courier.run())
    await until(lambda: receiver.received)
    courier.stop()
    await until(lambda: not courier._look.is_set(), "it has heard that it is to stop")
    held.set()
    await soon(task)
    assert (await post.webhook(webhook)).status == "delivered"


async def test_what_goes_wrong_at_one_look_is_tried_again_at_the_next(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim, broken = post.webhooks.claim, [True]

    async def claims(*arguments: Any) -> Any:
        if broken.pop():
            raise ZeroDivisionError
        broken.append(False)
        return await claim(*arguments)

    monkeypatch.setattr(post.webhooks, "claim", claims)
    broken.insert(0, False)
    webhook = await post.due(receiver.url())
    async with sending(post) as courier:
        await until(lambda: "looking for due webhooks failed" in caplog.text)
        courier.wake()
        await post.settled(webhook, "delivered")


# Many at once -------------------------------------------------------------------------------------


async def test_a_slow_receiver_does_not_hold_up_others(settings: Settings, receiver: Receiver) -> None:
    async with opened(settings) as kit, receiving() as slow:
        post = Post(kit, webhook_concurrency=10, webhook_timeout=100.0)
        held = asyncio.Event()
        slow.reply = Reply(200, after=held)
        waiting = [await post.due(slow.url(), number) for number in range(20)]
        others = [await post.due(receiver.url(), number) for number in range(20)]
        async with sending(post):
            for webhook in others:
                await post.settled(webhook, "delivered")
            await until(lambda: len(slow.received) == 2)
            assert slow.open == 2
            held.set()
            for webhook in waiting:
                await post.settled(webhook, "delivered")
        assert slow.most_open == 2
        assert receiver.most_open <= 2


async def test_a_host_that_has_not_answered_gets_one_at_a_time_until_it_does(
    settings: Settings, receiver: Receiver
) -> None:
    async with opened(settings) as kit:
        post = Post(kit, webhook_concurrency=10)
        receiver.replies.extend([Reply(raw=b""), Reply(raw=b"")])
        webhooks = [await post.due(receiver.url(), number) for number in range(2)]
        async with sending(post) as courier:
            for webhook in webhooks:
                await post.attempted(webhook, 1)
            held = asyncio.Event()
            receiver.reply = Reply(200, after=held)
            receiver.most_open = receiver.open
            await post.make_due()
            courier.wake()
            await until(lambda: len(receiver.received) == 3)
            await courier._send_due()
            assert len(courier._running) == 1
            held.set()
            for webhook in webhooks:
                await post.settled(webhook, "delivered")
        assert receiver.most_open == 1


async def test_never_more_at_once_than_there_are_places_and_every_host_gets_its_turn(settings: Settings) -> None:
    async with opened(settings) as kit, receiving() as a, receiving() as b, receiving() as c:
        post = Post(kit, webhook_concurrency=2)
        held = asyncio.Event()
        for each in (a, b, c):
            each.reply = Reply(200, after=held)
        webhooks = [await post.due(each.url(), number) for number in range(5) for each in (a, b, c)]
        async with sending(post) as courier:
            await until(lambda: a.open + b.open + c.open == 2)
            await courier._send_due()
            assert len(courier._running) == 2
            held.set()
            for webhook in webhooks:
                await post.settled(webhook, "delivered")
        assert a.most_open == b.most_open == c.most_open == 1


async def test_hosts_take_turns_however_much_is_due_to_one(settings: Settings) -> None:
    async with opened(settings) as kit, receiving() as a, receiving() as b, receiving() as c:
        post = Post(kit, webhook_concurrency=1)
        a.received = b.received = c.received
        webhooks = [await post.due(each.url(), number) for each in (a, b, c) for number in range(2)]
        async with sending(post):
            for webhook in webhooks:
                await post.settled(webhook, "delivered")
        hosts = [received.headers["host"] for received in c.received]
        assert hosts == sorted(set(hosts)) * 2


# Retention ----------------------------------------------------------------------------------------


async def test_a_job_is_kept_past_its_retention_until_its_webhook_is_settled(post: Post, receiver: Receiver) -> None:
    receiver.replies.append(Reply(500))
    webhook = await post.due(receiver.url(), retention=1.0)
    retention = Retention(post.kit.postgres)
    async with sending(post) as courier:
        await post.attempted(webhook, 1)
        await post.sql("UPDATE pushsvc.jobs SET expires_at = now() - interval '1 hour'")
        assert await retention.purge(10) == 0
        await post.make_due()
        courier.wake()
        await post.settled(webhook, "delivered")
    assert await retention.purge(10) == 1
    assert await post.webhooks.get(MINE, webhook) is None
    assert await post.sql("SELECT 1 FROM pushsvc.webhook_attempts") == []


@pytest.mark.parametrize("reply", [Reply(500), Reply(410)], ids=["failed", "disabled"])
async def test_what_was_given_up_can_be_looked_at_and_replayed_for_a_retention(
    post: Post, receiver: Receiver, reply: Reply
) -> None:
    receiver.replies.append(reply)
    webhook = await post.due(receiver.url())
    await post.age(PERIOD)
    await post.sql("UPDATE pushsvc.jobs SET expires_at = now() - interval '1 hour'")
    async with sending(post) as courier:
        await post.settled(webhook, "failed" if reply.status == 500 else "disabled")
        assert await Retention(post.kit.postgres).purge(10) == 0
        await post.sql("UPDATE pushsvc.jobs SET expires_at = now() - interval '1 hour'")
        assert await post.webhooks.replay(webhook)
        assert await Retention(post.kit.postgres).purge(10) == 0
        courier.wake()
        await post.settled(webhook, "delivered")


async def test_a_purged_webhook_can_not_be_replayed(post: Post, receiver: Receiver) -> None:
    webhook = await post.due(receiver.url())
    await post.sql("DELETE FROM pushsvc.jobs")
    assert not await post.webhooks.replay(webhook)


# The service's own callback URL -------------------------------------------------------------------


async def test_the_services_own_url_is_that_of_the_moment_the_job_ends_and_is_nobodys_to_see(
    post: Post, receiver: Receiver
) -> None:
    jobs = JobStore(post.kit.postgres, receiver.url("/all?token=hunter2"))
    job = await post.kit.store(submission(callback_url=SERVICE_CALLBACK))
    finished = await jobs.finish(succeeded(job.id, job.version))
    assert finished is not None
    assert finished.called
    async with sending(post):
        await until(lambda: receiver.received)
    [received] = receiver.received
    assert received.path == "/all?token=hunter2"
    verify_webhook(received.headers, received.body, SECRETS.shown("", ""))
    assert await post.webhooks.seen(MINE) == []
    [seen] = await post.webhooks.seen(Viewer("default", None))
    assert not seen.own
    assert "hunter2" not in repr(seen)


async def test_its_410_disables_it_for_all_owners(post: Post, receiver: Receiver) -> None:
    jobs = JobStore(post.kit.postgres, receiver.url())
    receiver.replies.append(Reply(410))
    async with sending(post) as courier:
        for owner in ("me", "you"):
            job = await post.kit.store(submission(callback_url=SERVICE_CALLBACK, owner=owner))
            await jobs.finish(succeeded(job.id, job.version))
            courier.wake()
            await until(lambda: _none_pending(post))
    assert len(receiver.received) == 1
    assert [url for url, _ in await post.webhooks.disabled("", "")] == [receiver.url()]
    assert await post.webhooks.enable("", "", receiver.url()) == 2


async def _none_pending(post: Post) -> bool:
    return not await post.sql("SELECT 1 FROM pushsvc.webhooks WHERE status = 'pending'")


async def test_without_a_url_of_the_service_there_is_nothing_to_send(post: Post) -> None:
    job = await post.kit.store(submission(callback_url=SERVICE_CALLBACK))
    finished = await post.kit.jobs.finish(succeeded(job.id, job.version))
    assert finished is not None
    assert not finished.called


# Secrets and what is told -------------------------------------------------------------------------


async def test_while_secrets_are_rotated_old_and_new_verify(post: Post, receiver: Receiver) -> None:
    new, old = SECRETS.shown("x", "new")[0], SECRETS.shown("x", "old")[0]
    webhook = await post.due(receiver.url())
    async with sending(post, post.courier(SigningSecrets([new, old], None))):
        await post.settled(webhook, "delivered")
    [received] = receiver.received
    assert received.headers["webhook-signature"].count("v1,") == 2
    for secret in (new, old):
        verify_webhook(received.headers, received.body, secret)


async def test_neither_bodies_nor_answers_nor_secrets_are_logged(
    post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.replies.extend([Reply(500, body=b"answer7331"), Reply(410, body=b"answer7331")])
    webhook = await post.due(receiver.url("/path7331?token=7331"), "body7331")
    async with sending(post) as courier:
        await post.attempted(webhook, 1)
        await post.make_due()
        courier.wake()
        await post.settled(webhook, "disabled")
    assert webhook in caplog.text
    assert "7331" not in caplog.text
    assert "whsec_" not in caplog.text
    assert "v1," not in caplog.text


async def test_each_attempt_is_measured(post: Post, receiver: Receiver) -> None:
    seen: list[Any] = []
    detach = telemetry.attach(lambda name, measures, labels: seen.append((name, dict(labels), set(measures))))
    try:
        receiver.replies.append(Reply(503))
        webhook = await post.due(receiver.url())
        async with sending(post) as courier:
            await post.attempted(webhook, 1)
            await post.make_due()
            courier.wake()
            await post.settled(webhook, "delivered")
    finally:
        detach()
    told = [(labels, measures) for name, labels, measures in seen if name == "webhook.attempt"]
    assert told == [
        ({"status": "pending", "code": 503}, {"duration"}),
        ({"status": "delivered", "code": 200}, {"duration"}),
    ]


# The schedule -------------------------------------------------------------------------------------


@given(st.integers(1, 10_000), st.integers())
def test_delays_are_bounded_and_grow(tries: int, seed: int) -> None:
    random.seed(seed)
    base = min(FIRST * FACTOR ** (tries - 1), MOST) if tries < 100 else MOST
    assert base * (1 - JITTER) <= backoff(tries) <= base * (1 + JITTER)


def test_in_the_period_there_are_between_12_and_17_attempts() -> None:
    for early in (1 - JITTER, 1 + JITTER):
        at, attempts = 0.0, 1
        while at < PERIOD:
            at = min(at + min(FIRST * FACTOR ** (attempts - 1), MOST) * early, PERIOD)
            attempts += 1
        assert 12 <= attempts <= 17


@given(st.integers(0, 999), st.integers(1, 50), st.none() | st.floats(0, 1e9))
def test_an_answer_makes_one_of_three_things_of_a_webhook(status: int, tries: int, retry_after: float | None) -> None:
    verdict, delay = judged(Answer(status, retry_after=retry_after), tries)
    assert verdict == ("delivered" if 200 <= status < 300 else "disabled" if status == 410 else "pending")
    if verdict == "pending":
        assert delay >= (retry_after or 0)
        assert delay <= max(MOST, retry_after or 0) * (1 + JITTER)
