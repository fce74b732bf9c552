"""Queries are led back to the jobs that asked them, from what a real `pg_stat_statements` keeps."""

from __future__ import annotations

import asyncpg
import pytest

from pushsvc.domain import DEFAULT_DEPLOYMENT
from pushsvc.ops.servers import connected
from pushsvc.ops.slow_queries import (
    Source,
    Statement,
    Statistics,
    grouped,
    read_job_times,
    read_queries,
    shown,
    source_of,
)

from ..conftest import _execute

JOB = "/*job='airport_report',job_id='01J'*/"


@pytest.mark.parametrize(
    ("query", "source"),
    [
        (f"{JOB} SELECT 1", Source("job", "airport_report")),
        (f"SELECT {JOB} 1", Source("job", "airport_report")),
        (f"SELECT 1 {JOB}", Source("job", "airport_report")),
        (f"/* a remark */ SELECT 1 -- another\n{JOB}", Source("job", "airport_report")),
        ("SELECT 1 /*endpoint='%2Fairports%2F%7Bcode%7D'*/", Source("endpoint", "/airports/{code}")),
        ("SELECT 1 /* job='r%C3%A9sum%C3%A9' , x='1' */", Source("job", "résumé")),
        ("SELECT 1 /*job='it\\'s'*/", Source("job", "it\\'s")),
        ("SELECT 1 /*job='one'*/ /*job='two'*/", Source("job", "one")),
        ("SELECT 1", None),
        ("SELECT 1 /* job = nothing */", None),
        ("SELECT 1 /*job='open", None),
        ("", None),
    ],
)
def test_the_first_tag_of_the_first_comment_tells_who_asked(query: str, source: Source | None) -> None:
    assert source_of(query) == source


def test_a_source_reads_as_its_job_or_as_what_it_is() -> None:
    assert str(Source("job", "report")) == "report"
    assert str(Source("endpoint", "/a")) == "endpoint /a"


def test_a_statement_is_shown_on_one_line_without_comments() -> None:
    assert shown(f"{JOB} SELECT a,\n\t b /* why */ FROM t\n") == "SELECT a, b FROM t"


def test_equal_statements_of_one_source_are_one() -> None:
    report, other = Source("job", "report"), Source("job", "other")
    found = grouped(
        [
            Statement(report, "SELECT 1", 1, 10.0, 10.0, 1),
            Statement(other, "SELECT 1", 1, 25.0, 25.0, 1),
            Statement(report, "SELECT 1", 3, 20.0, 12.0, 4),
        ]
    )
    assert found == (
        Statement(report, "SELECT 1", 4, 30.0, 12.0, 5),
        Statement(other, "SELECT 1", 1, 25.0, 25.0, 1),
    )
    assert found[0].mean_ms == 7.5


async def test_a_real_server_tells_what_each_job_asked_in_this_database(
    empty_database_url: str, database_url: str
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    elsewhere = await asyncpg.connect(database_url)
    try:
        await connection.execute('CREATE SCHEMA "Stats"; CREATE EXTENSION pg_stat_statements SCHEMA "Stats"')
        await connection.execute("CREATE TABLE flights AS SELECT n FROM generate_series(1, 3) n")
        for number in range(3):
            await connection.fetch(f"SELECT n FROM flights WHERE n > $1 /*job='report',job_id='{number}'*/", number)
        await connection.fetch("SELECT /*job='report'*/ count(*), pg_sleep(0.02) FROM flights")
        await connection.fetch("SELECT sum(n) FROM flights /*endpoint='%2Fflights'*/")
        await connection.fetch("SELECT avg(n) FROM flights /*job='of_another_service'*/")
        await connection.fetch("SELECT max(n) FROM flights")
        await elsewhere.fetch("SELECT 1 + 2 + 3 /*job='report'*/")
        found = await read_queries(connection, {"report", "idle"})
    finally:
        await connection.close()
        await elsewhere.close()
    assert found.statistics is Statistics.READY
    by_text = {each.text: each for each in found.statements}
    assert by_text.keys() == {
        "SELECT n FROM flights WHERE n > $1",
        "SELECT count(*), pg_sleep($1) FROM flights",
        "SELECT sum(n) FROM flights",
    }
    several = by_text["SELECT n FROM flights WHERE n > $1"]
    assert (several.source, several.calls, several.rows) == (Source("job", "report"), 3, 3 + 2 + 1)
    assert 0 < several.mean_ms <= several.max_ms <= several.total_ms
    slow = found.statements[0]
    assert slow.text == "SELECT count(*), pg_sleep($1) FROM flights"
    assert slow.mean_ms > 20
    assert by_text["SELECT sum(n) FROM flights"].source == Source("endpoint", "/flights")


async def test_a_database_without_the_extension_says_how_to_have_it(empty_database_url: str) -> None:
    async with connected(empty_database_url) as connection:
        found = await read_queries(connection, {"report"})
    assert found.statistics is Statistics.NOT_CREATED
    assert "CREATE EXTENSION pg_stat_statements" in found.statistics.value
    assert found.statements == ()


async def test_an_extension_too_old_to_tell_the_time_is_to_be_updated(empty_database_url: str) -> None:
    await _execute(empty_database_url, "CREATE EXTENSION pg_stat_statements VERSION '1.4'")
    async with connected(empty_database_url) as connection:
        assert (await read_queries(connection, {"report"})).statistics is Statistics.TOO_OLD


@pytest.mark.parametrize("statistics", [Statistics.NOT_INSTALLED, Statistics.NOT_LOADED])
def test_a_server_without_the_library_is_told_of_the_setting_the_restart_and_the_extension(
    statistics: Statistics,
) -> None:
    for step in ("shared_preload_libraries = 'pg_stat_statements'", "restart PostgreSQL", "CREATE EXTENSION"):
        assert step in statistics.value


async def test_how_long_jobs_took_is_known_of_those_that_succeeded_at_once(database_url: str) -> None:
    async with connected(database_url) as connection:
        assert await read_job_times(connection, DEFAULT_DEPLOYMENT) == {}
    setting = await asyncpg.connect(database_url)
    try:
        await setting.execute(
            """
            INSERT INTO pushsvc.jobs (deployment, id, tenant, name, params, timeout, retention, max_attempts, digest,
                status, version, attempt, run_at, started_at, finished_at)
            SELECT 'arq:queue', n::text, 'default', 'report', '{}', 1, 1, 1, '', status, 3, attempt, now(), now(),
                now() + make_interval(secs => n)
            FROM (VALUES (1, 'succeeded', 1), (3, 'succeeded', 1), (50, 'failed', 1), (90, 'succeeded', 2))
                t (n, status, attempt)
            """
        )
        times = await read_job_times(setting, DEFAULT_DEPLOYMENT)
    finally:
        await setting.close()
    assert times.keys() == {"report"}
    assert (times["report"].runs, times["report"].mean_ms) == (2, 2000)
