"""Two web processes are one service: any of them serves any cursor."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle

import pytest

from .clients import Client, Received, Stream
from .conftest import Join
from .harness import Cluster, Web


@pytest.fixture(scope="module")
def webs(cluster: Cluster) -> tuple[Web, Web]:
    """Two web processes; a worker is there, too."""
    cluster.worker()
    return cluster.web(), cluster.web()


async def test_a_job_submitted_at_one_is_pushed_by_the_other(
    cluster: Cluster, webs: tuple[Web, Web], join: Join
) -> None:
    here, there = (join(cluster, web, "alice") for web in webs)
    async with there.websocket() as live:
        job = await here.submit("echo", value="across")
        pushed = await live.take_final(job["id"])
    assert pushed.event["data"] == "across"
    assert await there.long_poll(job["cursor"]).take_final(job["id"]) == pushed


async def test_whoever_comes_back_to_the_other_gets_exactly_what_was_missed(
    cluster: Cluster, webs: tuple[Web, Web], join: Join
) -> None:
    here, there = (join(cluster, web, "bob") for web in webs)
    async with here.websocket() as before:
        seen = await here.submit("echo", value="seen")
        await before.take_final(seen["id"])
        cursor = before.cursor
    missed = [await here.submit("echo", value=number) for number in range(5)]
    for job in missed:
        await here.job(job["id"], wait=25)
    async with there.websocket(cursor) as after:
        assert after.hello["recovered"] is True
        assert after.hello["cursor"] == cursor, "it goes on where it was"
        received = await after.take(5)
        live = await here.submit("echo", value="live")
        (last,) = await after.take(1)
    first = int(cursor.rpartition(".")[2]) + 1
    assert [each.offset for each in received] == list(range(first, first + 5))
    assert {each.job for each in received} == {job["id"] for job in missed}
    assert (last.job, last.offset) == (live["id"], first + 5)
    assert await there.long_poll(cursor).take(6) == [*received, last]
    assert after.resets == []


@asynccontextmanager
async def attached(transport: str, client: Client, cursor: str) -> AsyncIterator[Stream]:
    if transport == "websocket":
        async with client.websocket(cursor) as stream:
            assert stream.hello["recovered"] is True
            yield stream
    else:
        yield client.long_poll(cursor)


async def test_a_hopping_subscriber_sees_every_event_once_and_in_order(
    cluster: Cluster, webs: tuple[Web, Web], join: Join
) -> None:
    """Fifty jobs come in through both nodes while it changes node and transport every few events."""
    nodes = [join(cluster, web, "carol") for web in webs]
    async with nodes[0].websocket() as first:
        cursor = first.hello["cursor"]
    submitting = asyncio.gather(*(nodes[number % 2].submit("echo", value=number) for number in range(50)))
    received: list[Received] = []
    hops = cycle([(t, n, k) for k in (3, 1, 4) for n in nodes for t in ("websocket", "long-poll")])
    while len(received) < 50:
        transport, node, some = next(hops)
        async with attached(transport, node, cursor) as stream:
            received += await stream.take(min(some, 50 - len(received)))
            cursor = stream.cursor
    jobs = await submitting
    assert [each.offset for each in received] == list(range(1, 51))
    assert sorted(each.event["data"] for each in received) == list(range(50))
    assert {each.job for each in received} == {job["id"] for job in jobs}
    assert [each.text for each in await nodes[1].log()] == [each.text for each in received]


async def test_all_subscribers_at_both_nodes_hear_the_same(
    cluster: Cluster, webs: tuple[Web, Web], join: Join
) -> None:
    here, there = (join(cluster, web, "dave") for web in webs)
    async with here.websocket() as one, here.websocket() as two, there.websocket() as three:
        jobs = await asyncio.gather(*(node.submit("echo") for node in (here, there) * 5))
        heard = [await each.take(10) for each in (one, two, three)]
    assert heard[0] == heard[1] == heard[2] == await there.long_poll("start").take(len(jobs))


async def test_one_attached_to_a_node_that_stops_is_told_to_come_back(cluster: Cluster, join: Join) -> None:
    """A `bye` with the time to wait, then a close code that means: reconnect."""
    leaving = await asyncio.to_thread(cluster.web)
    erin = join(cluster, leaving, "erin")
    async with erin.websocket() as live:
        leaving.terminate()
        bye = json.loads(await live.connection.recv())
        await live.connection.wait_closed()
    assert (bye["op"], bye["code"]) == ("bye", 4001)
    assert 0 < bye["retry_ms"][0] < bye["retry_ms"][1]
    assert live.connection.close_code == 4001
    assert await asyncio.to_thread(leaving.wait) in (0, -signal.SIGTERM)
