"""A PostgreSQL that is there, and not as it should be: read-only, full, closed, frozen.

Each time the same: what can't be accepted is refused within seconds and with a reason, readiness names it, what was
accepted waits and ends once, and when it is over all goes on by itself, in the same processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress

import asyncpg
import httpx
import psutil
import pytest

from .clients import Client, Json, until
from .conftest import LEASE, Engines, Join
from .harness import Cluster
from .test_faults import ends_of, running

ANSWERED_WITHIN = 5.0
"""Seconds: a promise about time, so here time decides."""


class Trouble(ABC):
    """What is wrong with the server, between `begin` and `end`; `cause` is what readiness says."""

    cause: str

    async def begin(self, cluster: Cluster, engines: Engines) -> None:
        await self.execute(cluster.database_url, *self.sql(await self.database(cluster), over=False))

    async def end(self, cluster: Cluster, engines: Engines) -> None:
        # A superuser is let in at all times, and may take its own session out of what holds for the others.
        await self.execute(
            cluster.database_url,
            "SET default_transaction_read_only = off",
            *self.sql(await self.database(cluster), over=True),
        )

    @abstractmethod
    def sql(self, database: str, *, over: bool) -> list[str]: ...

    @staticmethod
    async def database(cluster: Cluster) -> str:
        return cluster.database_url.partition("?")[0].rpartition("/")[2]

    @staticmethod
    async def execute(url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


class ReadOnly(Trouble):
    """As an operator fences a server that is being replaced: all sessions, those that are open too."""

    cause = "PostgreSQL is read-only right now"

    def sql(self, database: str, *, over: bool) -> list[str]:
        change = "RESET default_transaction_read_only" if over else "SET default_transaction_read_only = on"
        return [f"ALTER SYSTEM {change}", "SELECT pg_reload_conf()"]


class ReadOnlySessions(ReadOnly):
    """Only those that begin meanwhile: they stay so when it is over."""

    def sql(self, database: str, *, over: bool) -> list[str]:
        change = "RESET default_transaction_read_only" if over else "SET default_transaction_read_only = on"
        return [f"ALTER DATABASE {database} {change}", *([] if over else [CUT])]


class DiskFull(Trouble):
    """What needs room gets the server's own error."""

    cause = "PostgreSQL's disk is full right now"

    def sql(self, database: str, *, over: bool) -> list[str]:
        if over:
            return ["DROP FUNCTION public.no_room() CASCADE"]
        full = "CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS"
        full += " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        tables = ("jobs", "channels", "events", "beats")
        triggers = [
            f"CREATE TRIGGER full_{table} BEFORE INSERT OR UPDATE ON pushsvc.{table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.no_room()"
            for table in tables
        ]
        return [full, *triggers]


class NotLetIn(Trouble):
    """The role may log in no more, as when its password is being changed; those who are in are shown out."""

    cause = "PostgreSQL does not let the service in right now"

    def sql(self, database: str, *, over: bool) -> list[str]:
        return [f"ALTER ROLE author {'LOGIN' if over else 'NOLOGIN'}", *([] if over else [CUT])]


class Taken(Trouble):
    """Somebody else has all connections."""

    cause = "PostgreSQL takes no more connections right now"

    def sql(self, database: str, *, over: bool) -> list[str]:
        return [f"ALTER ROLE author CONNECTION LIMIT {-1 if over else 0}", *([] if over else [CUT])]


class Frozen(Trouble):
    """Every process of the server stands still for longer than a lease, and nobody is told."""

    cause = "PostgreSQL does not answer right now"

    def sql(self, database: str, *, over: bool) -> list[str]:
        return []

    async def begin(self, cluster: Cluster, engines: Engines) -> None:
        self._signal(engines, signal.SIGSTOP)

    async def end(self, cluster: Cluster, engines: Engines) -> None:
        await asyncio.sleep(2 * LEASE)  # the spell itself: what would have lapsed by then has
        self._signal(engines, signal.SIGCONT)

    @staticmethod
    def _signal(engines: Engines, number: signal.Signals) -> None:
        assert engines.postgres.pid is not None
        server = psutil.Process(engines.postgres.pid)
        for process in [server, *server.children()]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'author'"


async def as_author(cluster: Cluster) -> str:
    """A URL with a role that owns the service's tables, and is no superuser."""
    for statement in (
        "DO $$ BEGIN CREATE ROLE author LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER ROLE author LOGIN CONNECTION LIMIT -1",
        "GRANT USAGE ON SCHEMA pushsvc TO author",
        "GRANT ALL ON ALL TABLES IN SCHEMA pushsvc TO author",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA pushsvc TO author",
    ):
        await Trouble.execute(cluster.database_url, statement)
    return cluster.database_url.replace("postgres@", "author@", 1)


async def within(seconds: float, asking: Awaitable[httpx.Response]) -> httpx.Response:
    begun = time.monotonic()
    response = await asking
    took = time.monotonic() - begun
    assert took < seconds, f"{response.status_code} after {took:.1f} s"
    return response


TROUBLES = (ReadOnly, ReadOnlySessions, DiskFull, NotLetIn, Taken, Frozen)


@pytest.mark.timeout(300)
async def test_it_is_said_within_seconds_and_only_a_delay(fragile: Cluster, engines: Engines, join: Join) -> None:
    """One trouble after another, for one web process and two workers."""
    url = await as_author(fragile)
    web = await asyncio.to_thread(fragile.web, database_url=url)
    workers = [fragile.worker(database_url=url) for _ in range(2)]
    for worker in workers:
        await asyncio.to_thread(worker.line_with, "takes up to")
    alice = join(fragile, web, "alice")
    jobs: list[Json] = []
    async with alice.websocket() as live:
        for kind in TROUBLES:
            jobs += await through(kind(), fragile, engines, alice)
            print(f"through {kind.__name__}")
        await live.take(len(jobs))
    await ends_of(alice, *jobs)
    assert [fragile.executions(job["id"]) for job in jobs] == [[1]] * len(jobs)
    assert all(process.running for process in (web, *workers))


async def through(trouble: Trouble, cluster: Cluster, engines: Engines, alice: Client) -> list[Json]:
    """The jobs that were accepted before and after; the first of them has run all the while."""
    name = type(trouble).__name__
    held = await alice.submit("gated", gate=name)
    await running(cluster, held)
    # Of a request that nobody answered, only its key can tell whether it was carried out.
    key = {"Idempotency-Key": name}
    await trouble.begin(cluster, engines)
    try:
        refused = await within(ANSWERED_WITHIN, alice.post_job("counting", key))
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable"), f"{name}: {refused.text}"
        assert int(refused.headers["retry-after"]) > 0
        ready = await within(ANSWERED_WITHIN, alice.get("/readyz"))
        assert (ready.status_code, ready.json()["causes"]) == (503, {"postgres": trouble.cause}), name
    finally:
        await trouble.end(cluster, engines)

    async def accepted() -> Json | None:
        response = await alice.post_job("counting", key)
        return dict(response.json()) if response.status_code == 202 else None

    after: Json = await until(accepted, f"jobs are accepted again after {name}")
    # By the time that this has been run, whoever takes the first one's worker for lost would have started it again.
    await alice.until_status(after["id"], "succeeded")
    assert (await alice.get("/readyz")).status_code == 200
    cluster.open_gate(name)
    await alice.until_status(held["id"], "succeeded")
    return [held, after]


async def test_what_the_role_has_set_stops_nobody(fragile: Cluster, join: Join) -> None:
    url = await as_author(fragile)
    for setting in (
        "statement_timeout = 1",
        "lock_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "default_transaction_isolation = 'serializable'",
        "search_path = 'nowhere'",
    ):
        await Trouble.execute(fragile.database_url, f"ALTER ROLE author SET {setting}")
    try:
        web = await asyncio.to_thread(fragile.web, database_url=url)
        worker = fragile.worker(database_url=url)
        alice = join(fragile, web, "alice")
        jobs = [await alice.submit("counting") for _ in range(5)]
        for job in jobs:
            assert (await alice.job(job["id"], wait=25))["status"] == "succeeded"
        assert web.running
        assert worker.running
    finally:
        await Trouble.execute(fragile.database_url, "ALTER ROLE author RESET ALL")
