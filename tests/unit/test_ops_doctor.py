"""The doctor looks at real engines, at broken ones, and at none; and never says a secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from redis.exceptions import AuthenticationError

from pushsvc import Service
from pushsvc.errors import Unavailable
from pushsvc.ops import diagnose, probe
from pushsvc.ops.doctor import Doctor, said
from pushsvc.ops.row_security import RowSecurity
from pushsvc.ops.servers import STORE
from pushsvc.ops.slow_queries import Queries, Statistics
from pushsvc.settings import Settings

PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "WORKER_PATIENCE", 0.05)


async def test_all_engines_are_found_each_once(settings: Settings, empty_database_url: str) -> None:
    urls = {"primary": settings.need("database_url"), "archive": empty_database_url}
    found = await Doctor(settings, Service(settings=settings).jobs, urls).examine()
    primary, archive = found.databases
    assert (primary.names, archive.names) == (("primary", STORE), ("archive",))
    assert primary.limits is not None
    assert archive.limits is not None
    assert primary.limits.server == archive.limits.server
    assert 0 < primary.round_trip < 1
    assert abs(primary.skew) < 0.1
    assert primary.in_use > 0
    assert archive.queries == Queries(Statistics.NOT_CREATED)
    assert [each.names for each in found.redis] == [("queue", "bus")]
    assert found.redis[0].version.startswith(("Valkey", "Redis"))
    assert found.store is not None
    assert found.store.version == found.store.needed
    assert (found.store.waiting, found.store.running) == (0, 0)
    assert [each.databases for each in found.allotments] == [("primary", "archive")]
    assert diagnose(found).well


async def test_a_database_without_the_services_tables_is_only_warned_of(
    settings: Settings, empty_database_url: str
) -> None:
    mine = Settings.from_env({}, database_url=empty_database_url, redis_url=settings.need("redis_url"))
    found = await Service(settings=mine).examine()
    assert found.store is not None
    assert found.store.version is None
    assert found.probed is None
    assert found.lacking == ("secret",)
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT to_regnamespace('pushsvc')") is None, "it looks and makes nothing"
    finally:
        await connection.close()


async def test_engines_that_are_away_are_facts_and_no_password_is_said(tmp_path: Path) -> None:
    mine = Settings.from_env(
        {},
        database_url=f"postgresql://me:{PASSWORD}@/db?host={tmp_path}",
        redis_url=f"redis://:{PASSWORD}@127.0.0.1:1/0",
        bus_url=f"nonsense://me:{PASSWORD}@host",
        secret=PASSWORD * 5,
    )
    service = Service(settings=mine, databases={"primary": f"postgresql://me:{PASSWORD}@localhost:no/db"})
    found = await service.examine()
    assert all(each.error for each in found.databases)
    assert all(each.error for each in found.redis)
    assert (len(found.databases), len(found.redis)) == (2, 2)
    diagnosis = diagnose(found)
    assert not diagnosis.well
    assert PASSWORD not in repr(found)
    assert PASSWORD not in repr(diagnosis)


async def test_with_nothing_set_it_says_what_is_missing() -> None:
    found = await Service(settings=Settings.from_env({})).examine()
    assert found.lacking == ("database_url", "redis_url", "secret")
    assert (found.databases, found.redis, found.store) == ((), (), None)
    assert not diagnose(found).well


async def test_jobs_that_wait_with_nobody_to_take_them_are_found(settings: Settings, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO pushsvc.jobs (deployment, id, tenant, name, params, timeout, retention, max_attempts,"
            " digest, status, version, run_at) VALUES ('arq:queue', '1', 'default', 'r', '{}', 1, 1, 1, '', 'queued',"
            " 1, now() - interval '1 min')"
        )
    finally:
        await connection.close()
    found = await Service(settings=settings).examine()
    assert found.store is not None
    assert found.store.waiting == 1
    assert 60 <= found.store.longest < 90
    assert not diagnose(found).well
    assert diagnose(replace(found, store=replace(found.store, waiting=0))).well


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (asyncpg.InvalidPasswordError('password authentication failed for user "me"'), "InvalidPasswordError: pass"),
        (AuthenticationError("invalid username-password pair"), "AuthenticationError: invalid"),
        (ConnectionRefusedError(111, "Connection refused"), "ConnectionRefusedError: Connection refused"),
        (TimeoutError(), "TimeoutError: no answer in time"),
        (Unavailable("PostgreSQL can't be\nreached"), "Unavailable: PostgreSQL can't be reached"),
        (ValueError(f"bad port in postgresql://me:{PASSWORD}@h"), "ValueError"),
    ],
)
def test_what_an_error_says_is_one_line_and_never_a_url(error: BaseException, text: str) -> None:
    assert said(error).startswith(text)
    assert "\n" not in said(error)
    assert PASSWORD not in said(error)


async def test_whether_policies_hold_is_found_for_the_role_of_the_url(
    settings: Settings, empty_database_url: str
) -> None:
    async def found(url: str) -> RowSecurity | None:
        return (
            (await Doctor(settings, Service(settings=settings).jobs, {"primary": url}).examine())
            .databases[0]
            .row_security
        )

    connection = await asyncpg.connect(empty_database_url)
    role = f"doctor_{uuid4().hex[:8]}"
    url = empty_database_url.replace("postgres@", f"{role}@", 1)
    try:
        before = await found(empty_database_url)
        assert before is not None
        assert before.why_not is None  # there are no policies yet
        await connection.execute(
            f"CREATE ROLE {role} LOGIN; CREATE TABLE mine (id int); ALTER TABLE mine ENABLE ROW LEVEL SECURITY"
        )
        facts = {"a superuser": await found(empty_database_url), "another": await found(url)}
        await connection.execute(f"ALTER TABLE mine OWNER TO {role}")
        facts["the owner"] = await found(url)
        await connection.execute("ALTER TABLE mine FORCE ROW LEVEL SECURITY")
        facts["the owner, too"] = await found(url)
        await connection.execute(f"ALTER ROLE {role} BYPASSRLS")
        facts["bypassing"] = await found(url)
    finally:
        await connection.execute(f"DROP TABLE IF EXISTS mine; DROP ROLE IF EXISTS {role}")
        await connection.close()
    assert {name: each and each.why_not for name, each in facts.items()} == {
        "a superuser": "is a superuser",
        "another": None,
        "the owner": "owns mine",
        "the owner, too": None,
        "bypassing": "has BYPASSRLS",
    }
