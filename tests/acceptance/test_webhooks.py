"""Webhooks from real worker processes, which die while they send."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc import verify_webhook

from ..unit.webhook_receiver import Reply, receiving
from .clients import until
from .conftest import Join, cluster_on
from .harness import SECRET, Cluster


@pytest.fixture
def allowing(directory: Path, postgres_url: str, _valkey_url: str) -> Iterator[Cluster]:
    """A cluster that may call receivers on this machine."""
    with cluster_on(directory, postgres_url, _valkey_url, webhook_allow="127.0.0.0/8") as cluster:
        yield cluster


async def test_what_a_killed_worker_was_sending_is_sent_by_another_and_verifies(
    allowing: Cluster, join: Join
) -> None:
    async with receiving() as receiver:
        receiver.replies.append(Reply(200, after=asyncio.Event()))
        first = allowing.worker()
        alice = join(allowing, await asyncio.to_thread(allowing.web), "alice")
        url = receiver.url("/hook?token=hunter2")
        job = (await alice.post_job("echo", params={"value": "é"}, callback_url=url)).json()

        async def sent_once() -> bool:
            return len(receiver.received) == 1

        await until(sent_once, "the first worker sends it")
        first.kill()
        await allowing.fetch("UPDATE pushsvc.webhooks SET due_at = now()")  # its lease is over
        second = allowing.worker()

        async def delivered() -> bool:
            [webhook] = (await alice.get(job["links"]["webhooks"])).json()["webhooks"]
            return bool(webhook["status"] == "delivered" and webhook["attempts"] == 2)

        await until(delivered, "the second worker delivers it")
        one, other = receiver.received
        assert one.headers["webhook-id"] == other.headers["webhook-id"]
        [logged] = await alice.log()
        assert one.body == other.body == logged.text.encode()
        [secret] = (await alice.get("/v1/webhooks/secret")).json()["secrets"]
        for received in receiver.received:
            assert verify_webhook(received.headers, received.body, secret) == logged.event
        second.terminate()
        assert await asyncio.to_thread(second.wait) == 0
        for process in (first, second):
            assert not any(word in process.log.read_text() for word in ("hunter2", SECRET, secret))
