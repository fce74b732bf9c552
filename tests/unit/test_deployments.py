"""Two services on one database or one Redis: neither has anything of the other's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import redis

from pushsvc.domain import Channel, Position, Progress
from pushsvc.jobs import Sweeper
from pushsvc.settings import Settings
from pushsvc.store import (
    Beats,
    Device,
    PositionStore,
    Postgres,
    Published,
    TicketStore,
    Viewer,
    WebhookStore,
    device_statements,
    migrate,
    retention_statements,
    start_statements,
    statements,
    submission_statements,
    tick_statements,
    wakeup_statements,
    webhook_statements,
)
from pushsvc.store.webhooks import Attempted

from ..contract.drivers import LongPollSubscriber, StreamSubscriber, WebSocketSubscriber
from ..contract.kit import Kit, me, opened, soon, succeeded
from ..contract.node import serving

OTHER = "other deployment"
OPS = me("group:ops")


def changed(settings: Settings, **changes: Any) -> Settings:
    return Settings.model_validate(settings.model_dump() | changes)


# One database -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What one deployment has, by what its rows are called."""

    jobs: list[str]
    webhooks: list[str]
    channels: list[int]
    marks: list[str]
    epoch: str
    url: str = "https://receiver.example/hook"


async def populate(kit: Kit) -> Facts:
    """Something for each statement to find: jobs in every state, events, devices, tickets, webhooks."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    await kit.submit()
    await kit.submit(key="k", digest="d1", parent="p")
    await kit.submit(coalesce=True, digest="d2", mark="m1")
    await kit.submit(deadline=past)
    doomed = await kit.submit()
    await kit.jobs.cancel("default", doomed.id)
    lapsed, held, stopping = [(await kit.submit()).id for _ in range(3)]
    await kit.jobs.start([lapsed, stopping], "dead", -1)
    await kit.jobs.start([held], "alive", 60)
    await kit.jobs.cancel("default", stopping)
    await kit.finish(1, channels=("group:ops",), callback_url=Facts.url)
    await kit.finish(2, channels=("group:ops",), callback_url=Facts.url)
    await kit.finish(3, channels=("group:ops",), retention=0.0)
    for retention in (0.0, 3600.0):
        await kit.events.publish(Published(f"evt_{retention}", OPS, b"{}", retention))
    epoch = (await kit.events.states([OPS]))[OPS].epoch
    await PositionStore(kit.postgres).ack(Device("default", "me", "d1"), {"group:ops": Position(epoch, 1)})
    await TicketStore(kit.postgres).put("ticket", "{}", 60)
    await TicketStore(kit.postgres).put("old ticket", "{}", -1)
    hooks = WebhookStore(kit.postgres, 3600)
    due, _ = await hooks.claim("", 1, 1, {}, 60)
    await hooks.settle(Attempted(due[0].id, due[0].version, 1, past, 0.1, 410, None, None, "disabled"))
    waking = (
        "INSERT INTO pushsvc.wakeups SELECT id, deployment FROM pushsvc.jobs WHERE deployment = $1 AND parent = 'p'"
    )
    await kit.postgres.fetch(waking, kit.postgres.deployment)
    await Beats(kit.postgres, kit.postgres.deployment, 8).beat()
    rows = await kit.postgres.fetch("SELECT id FROM pushsvc.jobs ORDER BY created_at")
    webhooks = [
        row["id"]
        for row in await kit.postgres.fetch("SELECT id FROM pushsvc.webhooks ORDER BY settled_at NULLS LAST")
    ]
    channels = [row["id"] for row in await kit.postgres.fetch("SELECT id FROM pushsvc.channels")]
    return Facts([row["id"] for row in rows], webhooks, channels, ["m1"], epoch)


TABLES = (
    "jobs",
    "audiences",
    "channels",
    "events",
    "positions",
    "tickets",
    "webhooks",
    "webhook_attempts",
    "disabled_endpoints",
    "beats",
    "keys",
    "wakeups",
    "ticks",
)


async def everything(kit: Kit, theirs: str) -> dict[str, list[str]]:
    """Every row but those that `theirs` stands in."""
    found = {}
    for table in TABLES:
        rows = await kit.postgres.fetch(f"SELECT t::text AS row FROM pushsvc.{table} t ORDER BY 1")
        found[table] = [row["row"] for row in rows if theirs not in row["row"]]
    return found


def calls(facts: Facts) -> dict[str, tuple[Any, ...]]:
    """Each statement, with arguments that would find and change rows of the deployment that the facts are of."""
    jobs, hooks = facts.jobs, facts.webhooks
    n = len(jobs)
    now = datetime.now(UTC)
    ones = [1] * n
    spread = (jobs * 8, [version for version in range(1, 9) for _ in jobs])
    channel = (["default"] * 2, ["user:me", "group:ops"])
    offsets = ([c for c in facts.channels for _ in range(1, 6)], [o for _ in facts.channels for o in range(1, 6)])
    texts: list[str] = [""] * (8 * n)
    return {
        "JOBS_OF_KEYS": (["x"], ["default"], ["me"], ["k"]),
        "JOIN_JOBS": (["x"], ["default"], ["me"], ["d2"], ["m9"]),
        "QUEUED_COUNT": (10,),
        "JOB_BY_ID": ("default", jobs[0]),
        "JOB_WITH_RESULT": ("default", jobs[0]),
        "JOBS_THAT_MAY_BE_SEEN": ("default", "me", jobs),
        "JOBS_OF_OWNER": ("default", "me", None, None, None, 100),
        "JOBS_BY_IDS": ("default", "me", jobs),
        "CHILDREN_IN_FLIGHT": ("p", 10),
        "TAKE_WAKEUPS": (10,),
        "FORGET_KEYS": (10,),
        "TICK_STATES": (["report every 60 s"],),
        "FORGET_TICKS": (10,),
        "START_JOBS": (jobs, "w", 10.0, 3, []),
        "LOCK_LIMITS": (jobs, ["report"]),
        "START_LIMITED": (jobs, "w", 10.0, 3, ["report"], [None], [None]),
        "RUNNING": (["report"],),
        "WAITING_BY_QUEUE": (100,),
        "UNSTARTED": (jobs,),
        "RENEW_LEASES": (*spread, 10.0),
        "REQUEUE_JOBS": (*spread, [0.0] * 8 * n, ["failed"] * 8 * n, texts),
        "FINISH_JOBS": (*spread, ["failed"] * 8 * n, texts, texts, [True] * 8 * n, texts, facts.url),
        "FINISH_RECORDED_JOBS": (*spread, ["failed"] * 8 * n, texts, texts, [True] * 8 * n, texts, facts.url),
        "PLACES_OF_JOBS": (jobs,),
        "CANCEL_JOB": ("default", jobs[0]),
        "CANCEL_FOR_ONE": ("default", jobs[2], "m1"),
        "QUEUED_PAGE": (now - timedelta(days=1), "", 100),
        "LAPSED": (100,),
        "UNENDED_CANCELS": (100,),
        "OVERDUE": (100,),
        "BEAT": (8.0, 1.0, 1.0),
        "CHANNEL_STATES": channel,
        "CHANNELS_WITH_GAPS": (*channel, [0, 0]),
        "JOB_VERSIONS": (["default"] * n, jobs),
        "READ_LOG": ("default", "group:ops", "start", 0, 10),
        "RENEW_EPOCHS": (),
        "ACK": (
            [1] * (n + 1),
            ["default"] * (n + 1),
            ["me"] * (n + 1),
            ["d1"] * (n + 1),
            ["group:ops", *(f"job:{job}" for job in jobs)],
            [facts.epoch, *(["1"] * n)],
            [2, *ones],
        ),
        "ACKED": ("default", "me", "d1"),
        "DEVICES_OF": ("default", "me", "d1"),
        "TAKE_TICKET": ("ticket",),
        "CLAIM_WEBHOOKS": ("", 10, 10, [], [], 60.0),
        "NEXT_DUE": (0.0,),
        "HAND_BACK_WEBHOOKS": (hooks * 5, [v for v in range(1, 6) for _ in hooks]),
        "SETTLE_WEBHOOKS": (
            hooks * 5,
            [v for v in range(1, 6) for _ in hooks],
            [9] * 5 * len(hooks),
            [now] * 5 * len(hooks),
            [0.1] * 5 * len(hooks),
            [200] * 5 * len(hooks),
            [None] * 5 * len(hooks),
            [None] * 5 * len(hooks),
            ["disabled"] * 5 * len(hooks),
            [0.0] * 5 * len(hooks),
            60.0,
        ),
        "WEBHOOK_BY_ID": (hooks[0], "default", "me"),
        "WEBHOOKS_OF_OWNER": ("default", "me", None, None, None, 10),
        "WEBHOOKS_OF_TENANT": ("default", None, None, None, None, 10),
        "ATTEMPTS_OF": (hooks[0],),
        "REPLAY_WEBHOOK": (hooks[0],),
        "DISABLED_ENDPOINTS": ("default", "me", 10),
        "ENABLE_ENDPOINT": ("default", "me", facts.url),
        "EXPIRED_JOBS": (100,),
        "DELETE_JOBS": (jobs,),
        "EXPIRED_EVENTS": (100,),
        "DELETE_EXPIRED_EVENTS": offsets,
        "LEAVE_GAPS": offsets,
        "TRIM_CHANNELS": (0, 1000, 0),
        "DELETE_BELOW_FLOORS": (facts.channels, 100),
        "FORGET_POSITIONS": (0.0, 100),
        "FORGET_TICKETS": (100,),
    }


COUNTS = {
    "QUEUED_COUNT": [(0,)],
    "DEVICES_OF": [(0, False)],
    "NEXT_DUE": [(None,)],
    "ENABLE_ENDPOINT": [(0, 0)],
}
"""Answers that say nothing by a row of their own."""

COLUMNS = {"JOB", "J", "CLAIM", "WAITING", "LAPSED_LEASE"}
WRITING = {
    "INSERT_JOBS",
    "INSERT_PLAIN_JOBS",
    "PUT_TICK",
    "OPEN_CHANNELS",
    "PUBLISH_EVENTS",
    "PUT_TICKET",
    "FIRST_BEAT",
    "SWEEP_LOCK",
}
"""They make something: tests of their own show that it is apart from what others have."""


def all_statements() -> Iterator[tuple[str, str]]:
    yield "TAKE_WAKEUPS", wakeup_statements.TAKE_WAKEUPS
    modules = (
        statements,
        start_statements,
        submission_statements,
        tick_statements,
        webhook_statements,
        retention_statements,
        device_statements,
    )
    found = {name: value for module in modules for name, value in vars(module).items()}
    for name, value in found.items():
        if name.isupper() and not name.startswith("_") and name not in COLUMNS and isinstance(value, str):
            yield name, value


async def test_no_statement_sees_or_changes_a_row_of_another_deployment(settings: Settings) -> None:
    async with opened(settings) as kit:
        facts = await populate(kit)
        before = await everything(kit, OTHER)
        asked = calls(facts)
        for name, statement in all_statements():
            if name in WRITING:
                continue
            rows = [tuple(row) for row in await kit.postgres.fetch(statement, OTHER, *asked.pop(name))]
            if name == "TRIM_CHANNELS":
                assert [row[2] for row in rows] == [[]]
            elif name == "TICK_STATES":
                assert [row[2:] for row in rows] == [(None, None, False)]
            else:
                assert rows == COUNTS.get(name, []), name
            assert await everything(kit, OTHER) == before, name
        assert not asked, "every one has been tried"


PREPARED = {
    "OVERDUE": "UPDATE pushsvc.jobs SET deadline = now() - interval '1 s' WHERE parent = 'p'",
    "FORGET_TICKS": "INSERT INTO pushsvc.ticks"
    " SELECT deployment, 'report every 60 s', now() - n * interval '1 day', NULL"
    " FROM pushsvc.beats, generate_series(0, 2) n",
    "FORGET_KEYS": "UPDATE pushsvc.keys SET expires_at = now() - interval '1 s', job = 'gone'",
    "FORGET_POSITIONS": "UPDATE pushsvc.positions SET acked_at = now() - interval '1 day'",
    "NEXT_DUE": "UPDATE pushsvc.webhooks SET due_at = now() + interval '1 day'",
    "CHANNELS_WITH_GAPS": "DELETE FROM pushsvc.events e USING pushsvc.jobs j WHERE j.id = e.job AND j.retention = 0;"
    " UPDATE pushsvc.channels SET gone = 3",
    "DELETE_BELOW_FLOORS": "UPDATE pushsvc.channels SET floor = top",
}
"""What has to happen before a statement finds something."""

SILENT = {"HAND_BACK_WEBHOOKS", "LEAVE_GAPS", "ACK"}
"""They answer nothing that tells."""


async def test_the_same_arguments_find_rows_of_the_deployment_itself(settings: Settings) -> None:
    """So the test above can fail."""
    async with opened(settings) as kit:
        asked = calls(await populate(kit))
        pool = await kit.postgres.pool()
        for name, statement in all_statements():
            if name in WRITING | SILENT:
                continue
            async with pool.acquire() as connection:
                trial = connection.transaction()
                await trial.start()
                await connection.execute(PREPARED.get(name, "SELECT 1"))
                found = await connection.fetch(statement, kit.postgres.deployment, *asked[name])
                rows = [tuple(row) for row in found]
                await trial.rollback()
            assert rows, name
            assert rows != COUNTS.get(name), name


SWEEPING = {
    "QUEUED_COUNT",
    "RUNNING",
    "START_LIMITED",
    "WAITING_BY_QUEUE",
    "TAKE_WAKEUPS",
    "FORGET_KEYS",
    "FORGET_TICKS",
    "LAPSED",
    "UNENDED_CANCELS",
    "OVERDUE",
    "RENEW_EPOCHS",
    "BEAT",
    "CLAIM_WEBHOOKS",
    "NEXT_DUE",
    "ENABLE_ENDPOINT",
    "REPLAY_WEBHOOK",
    "WEBHOOKS_OF_OWNER",
    "WEBHOOKS_OF_TENANT",
    "DISABLED_ENDPOINTS",
}
"""They look through what a deployment has, by an index that holds only what they look for, or little."""


def conditions(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        if plan.get("Index Name") != "beats_pkey" and "Index Cond" in plan:
            yield plan["Index Cond"]
        for part in plan.values():
            yield from conditions(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from conditions(part)


async def test_who_names_rows_does_not_go_through_all_of_the_deployment(empty_database_url: str) -> None:
    """The planner knows nothing of a new table, and plans are kept."""
    await migrate(empty_database_url)
    reader = await asyncpg.connect(empty_database_url)
    try:
        await reader.execute("SET plan_cache_mode = force_generic_plan")
        wrong = []
        for name, statement in all_statements():
            if name in SWEEPING or name == "SWEEP_LOCK":
                continue
            nothing = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d+)", statement)))
            await reader.execute(f"PREPARE asked AS {statement}")
            plan = json.loads(await reader.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({nothing})"))
            await reader.execute("DEALLOCATE asked")
            if any(re.fullmatch(r"\(\w*\.?deployment = \$1\)", condition) for condition in conditions(plan)):
                wrong.append(name)
        assert wrong == []
    finally:
        await reader.close()


async def test_what_both_submit_publish_and_keep_under_the_same_names_stands_apart(settings: Settings) -> None:
    theirs = changed(settings, deployment=OTHER)
    async with opened(settings) as here, opened(theirs) as there:
        await populate(here)
        facts = await populate(there)
        assert len(facts.jobs) == 22
        assert len(facts.channels) == 4
        for kit in (here, there):
            page = await kit.events.read(OPS, "start")
            assert page is not None
            assert [position.offset for position, _ in page.events] == [1, 2, 3, 4, 5]
            assert len(await kit.jobs.of_owner("default", "me", None, None, None, 100)) == 11
            assert len(await WebhookStore(kit.postgres, 60).seen(Viewer("default", None))) == 2
            acked = await PositionStore(kit.postgres).acked(Device("default", "me", "d1"))
            assert [position.offset for position in acked.values()] == [1]
        # The same ticket is not kept twice: its name is the hash of a secret that nobody draws again.
        assert await TicketStore(here.postgres).take("ticket") == "{}"


async def test_a_sweeper_leaves_jobs_of_others_to_their_own_and_waits_for_no_other_sweeper(
    settings: Settings,
) -> None:
    theirs = changed(settings, deployment=OTHER)
    async with opened(settings) as here, opened(theirs) as there:
        facts = await populate(here)
        before = await everything(here, OTHER)
        locked = asyncio.Event()

        async def hold(connection: Any) -> None:
            async with connection.transaction():
                assert await connection.fetchval(statements.SWEEP_LOCK, here.postgres.deployment)
                assert (await there.postgres.fetch(statements.SWEEP_LOCK, OTHER))[0][0]
                locked.set()

        await here.postgres.run(hold)
        assert locked.is_set()
        sweeper = Sweeper(there.postgres, there.jobs, there.retention, there.queue, there.announcer, there.settings)
        await sweeper.sweep()
        assert await everything(here, OTHER) == before
        assert await there.queue.missing(facts.jobs) == facts.jobs
        assert await here.queue.missing(facts.jobs) == facts.jobs
        assert (await there.queue.claim(100, 60, "w")).ids == []


# One Redis ----------------------------------------------------------------------------------------


@asynccontextmanager
async def copied(database_url: str) -> AsyncIterator[str]:
    """A copy of the database, rows and all, on the same server."""
    parts = urlsplit(database_url)
    name = f"copy_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {parts.path[1:]}")
        yield urlunsplit(parts._replace(path=f"/{name}"))
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def numbered(redis_url: str, number: int) -> str:
    """The same server's other database."""
    if redis_url.startswith("unix:"):
        return f"{redis_url}?db={number}"
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{number}"))


def names_in(url: str) -> set[str]:
    """Every key, and every topic that somebody listens to."""
    found: set[str] = set()
    for number in (0, 1):
        with redis.Redis.from_url(numbered(url, number)) as client:
            found |= {key.decode() for key in client.scan_iter()}
            found |= {topic.decode() for topic in client.pubsub_channels()}
    return found


@pytest.fixture(params=["another database", "another name", "a copy"])
async def pair(request: Any, settings: Settings) -> AsyncIterator[tuple[Settings, Settings]]:
    """Two deployments that share a Redis, and what else they may; jobs of theirs may have the same ids."""
    async with opened(settings) as kit:
        await kit.submit(owner="alice")
    if request.param == "another name":
        yield settings, changed(settings, deployment=OTHER)
        return
    async with copied(settings.need("database_url")) as url:
        changes = {"database_url": url}
        if request.param == "another database":
            changes["redis_url"] = numbered(settings.need("redis_url"), 1)
        yield settings, changed(settings, **changes)


async def test_alice_there_hears_nothing_of_alice_here_on_any_transport(
    pair: tuple[Settings, Settings], redis_url: str
) -> None:
    here, there = pair
    async with opened(here) as kit, opened(there) as other, serving(here) as first, serving(there) as node:
        with redis.Redis.from_url(redis_url) as client:
            tapped = client.pubsub()
            tapped.psubscribe("*")
            tapped.get_message(timeout=5)
            subscribers = [
                kind(node, "alice") for kind in (WebSocketSubscriber, StreamSubscriber, LongPollSubscriber)
            ]
            for subscriber in subscribers:
                await subscriber.open([], None)
            job = await kit.submit(owner="alice")
            inbox = Channel("default", "user:alice")
            await kit.publisher.progress([inbox], Progress(job.id, 0.5))
            await kit.publisher.cancel(job.id)
            await kit.finish("not for you", owner="alice")
            await first.service.publish("user:alice", "note", "not for you")
            await first.service.revoke("alice")
            await other.finish("for you", owner="alice")
            for subscriber in subscribers:
                assert (await soon(subscriber.next_event())).data == "for you"
            said: dict[str, int] = {}
            while message := tapped.get_message(timeout=0.2):
                said[message["channel"].decode()] = said.get(message["channel"].decode(), 0) + 1
            tapped.close()
        for subscriber in subscribers:
            await subscriber.close()
        assert any(topic.startswith(kit.scope.key("")) for topic in said)
        assert all(kit.scope.id in topic or other.scope.id in topic for topic in said)
        assert kit.scope.id != other.scope.id


async def test_no_key_and_no_topic_is_of_two_deployments(pair: tuple[Settings, Settings], redis_url: str) -> None:
    found: list[set[str]] = []
    for settings in pair:
        async with opened(settings) as kit, serving(settings):
            job = await kit.submit(owner="alice")
            sweeper = Sweeper(kit.postgres, kit.jobs, kit.retention, kit.queue, kit.announcer, kit.settings)
            await sweeper.sweep()
            claimed = await kit.queue.claim(10, 60, "w")
            assert job.id in claimed.ids
            assert len(claimed.ids) == len(await kit.jobs.of_owner("default", "alice", None, None, None, 10))
            await kit.publisher.progress([], Progress(job.id, 0.5))
            finished = await kit.finish(1, owner="alice")
            await kit.announcer.finished(finished, b"1")
            await kit.queue.check()
            await kit.publisher.check()
            mine = {name for name in names_in(redis_url) if kit.scope.id in name}
            assert len(mine) > 6
            assert names_in(redis_url) <= mine.union(*found), "every name says whose it is"
            found.append(mine)
    assert not found[0] & found[1]


async def test_a_copy_of_a_job_is_another_job_in_the_queue(settings: Settings) -> None:
    async with opened(settings) as kit:
        job = await kit.submit()
    async with copied(settings.need("database_url")) as url:
        async with opened(settings) as kit, opened(changed(settings, database_url=url)) as copy:
            for each in (kit, copy):
                sweeper = Sweeper(each.postgres, each.jobs, each.retention, each.queue, each.announcer, each.settings)
                await sweeper.sweep()
            assert (await kit.queue.claim(9, 60, "w")).ids == [job.id]
            assert (await copy.queue.claim(9, 60, "w")).ids == [job.id]
            await kit.jobs.start([job.id], "w", 60)
            finished = await kit.jobs.finish(succeeded(job.id, 2))
            assert finished is not None
            await kit.announcer.finished(finished, b"1")
            assert await copy.queue.missing([job.id]) == []
            assert (await copy.jobs.start([job.id], "w", 60)).keys() == {job.id}


# Who they are -------------------------------------------------------------------------------------


def test_a_deployment_is_called_as_its_queue_unless_it_is_told() -> None:
    assert Settings.from_env({}).deployment == "arq:queue"
    assert Settings.from_env({"PUSHSVC_QUEUE": "reports"}).deployment == "reports"
    told = Settings.from_env({"PUSHSVC_QUEUE": "reports", "PUSHSVC_DEPLOYMENT": "blue"})
    assert (told.queue, told.deployment) == ("reports", "blue")
    assert told.masked()["PUSHSVC_DEPLOYMENT"] == "blue"


async def test_a_role_that_may_not_ask_for_the_servers_identity_still_tells_databases_apart(
    empty_database_url: str, database_url: str
) -> None:
    role, urls = f"role_{uuid4().hex[:8]}", (empty_database_url, database_url)
    async with Postgres(empty_database_url) as postgres:
        await postgres.fetch("SELECT 1")
        assert postgres.identity().split()[0].isdecimal()
        await postgres.fetch(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        identities = []
        try:
            for url in urls:
                await execute(url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
                parts = urlsplit(url)
                as_role = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.netloc.rpartition('@')[2]}"))
                for _ in range(2):
                    async with Postgres(as_role) as limited:
                        await limited.fetch("SELECT 1")
                        identities.append(limited.identity())
        finally:
            for url in urls:
                await execute(url, "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
            await postgres.fetch(f"DROP ROLE {role}")
    assert identities[0] == identities[1] != identities[2] == identities[3]
    assert all(identity.startswith("oid ") for identity in identities)


async def execute(url: str, sql: str) -> None:
    async with Postgres(url, 1) as postgres:
        await postgres.fetch(sql)
