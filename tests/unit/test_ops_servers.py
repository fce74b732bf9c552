"""The check at start, against real servers: who is counted together, what is refused, what can't be asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from starlette.types import ASGIApp, Message

from pushsvc import Service
from pushsvc.errors import BudgetError
from pushsvc.ops.servers import STORE, ServerLimits, allotments, check_budget, connected, read_limits
from pushsvc.settings import Settings
from pushsvc.store import Postgres

from ..conftest import SECRET, _execute

SOME = ServerLimits("1/now", "18.6", "app", "app", 100, 3, -1, -1)
PASSWORD = "hunter2"


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """A role that may use the service's tables and is limited to 20 connections; its URL."""
    name = f'app {{0}} "{uuid4().hex[:8]}'
    quoted = '"' + name.replace('"', '""') + '"'
    created = f"CREATE ROLE {quoted} LOGIN CONNECTION LIMIT 20 PASSWORD '{PASSWORD}'; GRANT USAGE ON SCHEMA pushsvc"
    granted = f"{created} TO {quoted}; GRANT ALL ON ALL TABLES IN SCHEMA pushsvc TO {quoted}"
    asyncio.run(_execute(database_url, granted))
    url = make_url(database_url).set(username=name, password=PASSWORD)
    yield url.render_as_string(hide_password=False)
    asyncio.run(_execute(database_url, f"DROP OWNED BY {quoted}; DROP ROLE {quoted}"))


async def started(app: ASGIApp) -> None:
    """What a server does with the app before it accepts anything."""

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None: ...

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def check(settings: Settings, **urls: str) -> None:
    store_url = settings.need("database_url")
    postgres = Postgres(store_url, 1)
    try:
        await check_budget(settings, postgres, store_url, urls or {"primary": store_url})
    finally:
        await postgres.close()


# What is read


async def test_a_superusers_limits_are_the_servers(database_url: str) -> None:
    async with connected(database_url) as connection:
        found = await read_limits(connection)
        assert found.max_connections == int(await connection.fetchval("SHOW max_connections"))
        assert found.reserved == 3
    assert (found.role_limit, found.database_limit, found.pooled) == (-1, -1, False)
    assert found.version.startswith("1")


async def test_two_databases_of_one_server_are_recognised_as_such(database_url: str, empty_database_url: str) -> None:
    async with connected(database_url) as one, connected(empty_database_url) as other:
        first, second = await read_limits(one), await read_limits(other)
    assert first.server == second.server
    assert first.database != second.database


async def test_the_url_may_be_any_that_sqlalchemy_takes(database_url: str) -> None:
    url = make_url(database_url).set(drivername="postgresql+asyncpg").update_query_dict({"ssl": "disable"})
    async with connected(url.render_as_string(hide_password=False)) as connection:
        assert await connection.fetchval("SELECT 1") == 1


# What is counted together


def test_databases_on_one_server_add_up_and_others_do_not() -> None:
    limits = {"primary": SOME, "replica": replace(SOME, server="2/now"), "archive": SOME, STORE: SOME}
    settings = Settings.from_env({}, max_jobs=5, executor_concurrency=2, store_connections=3)
    one, other = allotments(settings, limits)
    assert (one.databases, one.store) == (("primary", "archive"), True)
    assert one.limit.name == f"the server (primary, archive, {STORE})"
    assert one.budget.total == 2 * 2 * (5 + 2) + 3 + 4 + 1
    assert (other.databases, other.store) == (("replica",), False)
    assert other.budget.total == 2 * (5 + 2)
    assert one.limit.connections == other.limit.connections == 97


def test_a_roles_limit_counts_all_its_databases_and_a_databases_limit_all_its_roles() -> None:
    limits = {
        "primary": replace(SOME, role_limit=30, database_limit=50),
        "archive": replace(SOME, database="old", role_limit=30),
        STORE: replace(SOME, role="store", database_limit=50),
    }
    found = {each.limit.name: each for each in allotments(Settings.from_env({}), limits)}
    assert found.keys() == {f"the server (primary, archive, {STORE})", "role app", "database app"}
    assert (found["role app"].databases, found["role app"].store) == (("primary", "archive"), False)
    assert (found["database app"].databases, found["database app"].store) == (("primary",), True)
    assert found["role app"].ways_out()[-1] == 'ALTER ROLE "app" CONNECTION LIMIT 46'
    assert found["database app"].ways_out()[-1] == 'ALTER DATABASE "app" CONNECTION LIMIT 33'


def test_a_limit_of_none_at_all_is_one() -> None:
    found = allotments(Settings.from_env({}), {"primary": replace(SOME, role_limit=0)})
    assert [each.limit.connections for each in found] == [97, 0]


def test_what_is_behind_a_pooler_counts_against_its_own_connections_if_they_are_known() -> None:
    pooled = {"primary": replace(SOME, pooled=True), "other": replace(SOME, pooled=True, database="other")}
    assert allotments(Settings.from_env({}), pooled) == []
    one, other = allotments(Settings.from_env({}, pooler_connections=22), pooled | {STORE: pooled["primary"]})
    assert (one.databases, one.store, one.budget.total, one.fits) == (("primary",), True, 33, False)
    assert (other.databases, other.store, other.budget.total, other.fits) == (("other",), False, 23, False)
    assert one.ways_out()[-1] == (
        "raise the pooler's own (PgBouncer: default_pool_size) and PUSHSVC_POOLER_CONNECTIONS to 33"
    )


# What is refused


async def test_what_fits_starts(settings: Settings) -> None:
    await check(settings)


async def test_what_the_server_could_not_bear_is_refused_with_the_arithmetic_and_what_fits(
    settings: Settings,
) -> None:
    much = settings.model_copy(update={"web_processes": 8})
    with pytest.raises(BudgetError) as caught:
        await check(much)
    said = str(caught.value)
    assert "8 × 5 + 8 × 4 + 1 × 10 + 1 × 4 + 8 × 4 + 1 × 5 + 1 × 1 = 124, more than what the server" in said
    assert "100 − 3 reserved = 97" in said
    assert "set PUSHSVC_MAX_JOBS to 2" in said
    assert "raise max_connections to 127" in said
    assert "PUSHSVC_WEB_PROCESSES" in said
    await check(much.model_copy(update={"max_jobs": 2}))
    with pytest.raises(BudgetError):
        await check(much.model_copy(update={"max_jobs": 3}))


async def test_a_role_with_too_low_a_limit_is_refused_and_what_is_advised_starts(
    role: str, settings: Settings
) -> None:
    mine = Settings.from_env({}, database_url=role, redis_url=settings.need("redis_url"), secret=SECRET)
    with pytest.raises(BudgetError) as caught:
        await Service(settings=mine).check()
    said = str(caught.value)
    assert "= 33, more than what role app {0}" in said
    assert "takes: 20" in said
    assert "set PUSHSVC_MAX_JOBS to 1" in said
    assert 'ALTER ROLE "app {0} ""' in said
    assert "the server (" not in said
    assert PASSWORD not in said
    await Service(settings=mine.model_copy(update={"max_jobs": 1})).check()


async def test_neither_a_worker_nor_an_app_of_the_authors_own_starts_over_budget(
    role: str, settings: Settings
) -> None:
    mine = Settings.from_env({}, database_url=role, redis_url=settings.need("redis_url"), secret=SECRET)
    with pytest.raises(BudgetError):
        await Service(settings=mine).work(asyncio.Event())
    with pytest.raises(BudgetError):
        await started(Service(settings=mine).asgi())


async def test_a_worker_with_secrets_for_webhooks_is_checked_without_the_one_it_does_not_need(
    settings: Settings,
) -> None:
    signing = (SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),)
    await Service(settings=settings.model_copy(update={"secret": None, "webhook_secrets": signing})).check(web=False)


# What can't be asked


async def test_a_database_that_is_away_is_no_reason_to_refuse_and_is_logged(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = f"postgresql://me:{PASSWORD}@/db?host={tmp_path}"
    await check(settings, primary=settings.need("database_url"), replica=away)
    assert "connections are not budgeted for replica: " in caplog.text
    assert PASSWORD not in caplog.text


async def test_behind_a_pooler_nothing_is_refused_and_the_log_says_so_once(
    settings: Settings, empty_database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    much = settings.model_copy(update={"web_processes": 1, "max_jobs": 40})
    store_url = settings.need("database_url")
    with caplog.at_level(logging.INFO, "pushsvc.ops"):
        async with pooler(empty_database_url, tmp_path) as pooled_url:
            async with connected(pooled_url) as connection:
                assert (await read_limits(connection)).pooled
            await check(much, primary=store_url, replica=pooled_url)
        with pytest.raises(BudgetError):
            await check(much, primary=store_url, replica=empty_database_url)
    assert caplog.text.count("connections are not budgeted for replica: there is a pooler") == 1


@asynccontextmanager
async def pooler(url: str, directory: Path) -> AsyncIterator[str]:
    """A way to the server that greets with a process id of its own, as PgBouncer does; its URL."""
    server = make_url(url)
    host, port = (
        str(server.query.get("host") or server.host),
        int(str(server.query.get("port") or server.port or 5432)),
    )

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greets: bool) -> None:
        while data := await reader.read(65536):
            at = data.find(b"K\x00\x00\x00\x0c") if greets else -1
            writer.write(data if at < 0 else data[: at + 5] + b"\x7f\xff\xff\xff" + data[at + 9 :])
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            theirs = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            theirs = await asyncio.open_connection(host, port)
        await asyncio.gather(carry(reader, theirs[1], False), carry(theirs[0], writer, True))

    async with await asyncio.start_unix_server(join, directory / ".s.PGSQL.5432"):
        query = {"host": str(directory), "port": "5432"}
        yield server.set(host=None, port=None, query=query).render_as_string(hide_password=False)
