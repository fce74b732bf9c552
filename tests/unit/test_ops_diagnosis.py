"""What the doctor found is judged: well, worth a look, wrong; and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pushsvc.ops.advice import OUTLIER
from pushsvc.ops.diagnosis import Diagnosis, Finding, diagnose
from pushsvc.ops.doctor import DatabaseFacts, Examination, RedisFacts, StoreFacts
from pushsvc.ops.probe import Probed
from pushsvc.ops.report import as_json, lines
from pushsvc.ops.row_security import RowSecurity
from pushsvc.ops.servers import STORE, ServerLimits, allotments, pools
from pushsvc.ops.slow_queries import JobTime, Queries, Source, Statement, Statistics
from pushsvc.settings import Settings

SERVER = ServerLimits("1/now", "18.6 (Debian)", "app", "app", 100, 3, -1, -1)
DATABASE = DatabaseFacts(
    ("primary", STORE), "postgresql://me:***@db/app", None, SERVER, 0.0003, 0.0, 5, Queries(Statistics.READY)
)
EVERYTHING = "1 × 5 + 1 × 4 + 1 × 10 + 1 × 4 + 1 × 4 + 1 × 5 + 1 × 1 = 33"
STATEMENTS = tuple(
    Statement(Source("job", "report"), f"SELECT {name} FROM flights", 10, mean * 10, mean * peak, 10)
    for name, mean, peak in (("a", 850.0, 1), ("b", 700.0, OUTLIER + 1), ("c", 0.5, 1))
)
WELL = Examination(
    settings={"PUSHSVC_SECRET": "***", "PUSHSVC_BUS_URL": ""},
    lacking=(),
    secret_length=32,
    executor_concurrency=4,
    databases=(DATABASE,),
    redis=(RedisFacts(("queue", "bus"), "redis://redis", None, "Valkey 8.1.8", 0.0002),),
    store=StoreFacts("0001", "0001", job_times={}),
    allotments=tuple(allotments(Settings.from_env({}), {"primary": SERVER, STORE: SERVER})),
    probed=Probed(0.001, 0.004, 0.012, 0.012),
)


def judged(section: str, **changes: Any) -> list[Finding]:
    """The findings of one section, with these changes to what is well."""
    return [each for each in diagnose(replace(WELL, **changes)).findings if each.section == section]


def shown(found: Examination, width: int = 120) -> str:
    return "\n".join(lines(found, diagnose(found), width))


def test_where_all_is_well_every_finding_says_so() -> None:
    diagnosis = diagnose(WELL)
    assert diagnosis.well
    assert {each.mark for each in diagnosis.findings} == {"ok"}
    assert {each.section for each in diagnosis.findings} == {
        "settings",
        "engines",
        "connections",
        "probe",
        "slow queries",
    }


def test_only_what_is_wrong_makes_it_unwell() -> None:
    assert Diagnosis((Finding("probe", "warning", ""), Finding("probe", "note", "")), ()).well
    assert not Diagnosis((Finding("probe", "ok", ""), Finding("probe", "wrong", "")), ()).well


# Settings and engines


def test_each_setting_that_is_lacking_is_wrong() -> None:
    found = judged("settings", lacking=("redis_url", "secret"), secret_length=0)
    assert [(each.mark, each.text) for each in found] == [
        ("wrong", "PUSHSVC_REDIS_URL is not set"),
        ("wrong", "PUSHSVC_SECRET is not set"),
    ]


@pytest.mark.parametrize(("length", "mark"), [(7, "wrong"), (8, "warning"), (31, "warning"), (32, "ok")])
def test_a_short_secret_is_warned_of_and_a_very_short_one_wrong(length: int, mark: str) -> None:
    assert judged("settings", secret_length=length)[0].mark == mark


def test_an_engine_that_does_not_answer_is_wrong_and_its_url_masked() -> None:
    away = replace(DATABASE, error="ConnectionRefusedError", limits=None)
    found = judged("engines", databases=(away,), redis=(RedisFacts(("queue",), "redis://:***@r", "TimeoutError"),))
    assert [each.mark for each in found] == ["wrong", "wrong", "ok"]
    assert "primary, the service's tables" in found[0].text
    assert found[0].todo == ("postgresql://me:***@db/app",)
    assert found[1].text == "Redis (queue) can't be asked: TimeoutError"


def test_an_engine_far_away_is_worth_a_look() -> None:
    far = judged("engines", databases=(replace(DATABASE, round_trip=0.03),))
    assert far[0].mark == "warning"
    assert "round trip 30 ms" in far[0].text


@pytest.mark.parametrize(("skew", "wrong"), [(0.4, False), (-0.4, False), (0.6, True), (-0.6, True)])
def test_a_clock_that_differs_is_wrong(skew: float, wrong: bool) -> None:
    found = judged("engines", databases=(replace(DATABASE, skew=skew),))
    assert any(each.mark == "wrong" for each in found) is wrong
    if wrong:
        assert f"600 ms {'ahead of' if skew > 0 else 'behind'} this machine's" in found[1].text


@pytest.mark.parametrize(
    ("secured", "superuser", "bypasses", "owned", "why"),
    [
        (0, True, True, (), None),
        (2, False, False, (), None),
        (2, True, False, (), "is a superuser"),
        (2, False, True, ("books",), "has BYPASSRLS"),
        (2, False, False, ("books", "authors"), "owns books, authors"),
    ],
)
def test_a_role_for_which_policies_do_not_hold_is_warned_of(
    secured: int, superuser: bool, bypasses: bool, owned: tuple[str, ...], why: str | None
) -> None:
    facts = RowSecurity("app", superuser, bypasses, secured, owned)
    warnings = [each for each in judged("engines", databases=(replace(DATABASE, row_security=facts),)) if each.todo]
    assert [each.mark for each in warnings] == ([] if why is None else ["warning"])
    assert why is None or warnings[0].text.endswith(f"{STORE} does not hold for app, which {why}")


def test_a_skew_within_a_slow_round_trip_is_no_skew() -> None:
    found = judged("engines", databases=(replace(DATABASE, skew=0.9, round_trip=1.0),))
    assert "wrong" not in {each.mark for each in found}


@pytest.mark.parametrize(
    ("store", "mark", "text"),
    [
        (StoreFacts("0002", None), "warning", "not there yet"),
        (StoreFacts("0002", "0001"), "wrong", "at version 0001, this code needs 0002"),
        (StoreFacts("0002", error="InsufficientPrivilegeError"), "wrong", "can't be read: Insufficient"),
    ],
)
def test_the_services_tables_must_be_of_this_codes_version(store: StoreFacts, mark: str, text: str) -> None:
    found = judged("engines", store=store)[-1]
    assert found.mark == mark
    assert text in found.text


# Connections


def test_over_budget_is_wrong_with_the_arithmetic_and_what_fits() -> None:
    much = allotments(Settings.from_env({}, web_processes=8), {"primary": SERVER, STORE: SERVER})
    found = judged("connections", allotments=tuple(much))[0]
    assert found.mark == "wrong"
    assert "8 × 5 + 8 × 4 + 1 × 10 + 1 × 4 + 8 × 4 + 1 × 5 + 1 × 1 = 124" in found.text
    assert found.todo[0] == "set PUSHSVC_MAX_JOBS to 2"
    assert found.todo[1].startswith("or ")


def test_a_pooler_is_noted() -> None:
    pooled = replace(DATABASE, limits=replace(SERVER, pooled=True))
    limits = {"primary": replace(SERVER, pooled=True), STORE: replace(SERVER, pooled=True)}
    seen = tuple(pools(Settings.from_env({}), limits))
    (found,) = judged("connections", databases=(pooled,), allotments=(), pools=seen)
    assert found.mark == "note"
    assert found.text.endswith(f"at once it may be asked for {EVERYTHING}")
    assert "PUSHSVC_POOLER_CONNECTIONS" in found.todo[0]
    told = tuple(pools(Settings.from_env({}, pooler="session", pooler_connections=33), limits))
    (found,) = judged("connections", databases=(pooled,), allotments=(), pools=told)
    assert found.text.endswith(f"each of our connections keeps one of the pooler's: {EVERYTHING}")
    assert found.todo == ()
    assert "behind a pooler" in judged("engines", databases=(pooled,))[0].text


# Probe


@pytest.mark.parametrize(
    ("probed", "store", "mark", "text"),
    [
        (Probed(0.001, 0.004, 0.012, 0.012), {}, "ok", "stored in 4.0 ms, its result was there 8.0 ms later"),
        (Probed(0.001, 0.004, 0.012), {}, "wrong", "its result was not pushed"),
        (Probed(0.001, 0.004, error="it failed: why"), {}, "wrong", "did not succeed: it failed: why"),
        (Probed(None), {}, "warning", "no worker is there"),
        (Probed(None), {"running": 10, "waiting": 3, "longest": 60.0}, "note", "10 jobs are running"),
        (Probed(None), {"waiting": 3, "longest": 60.0}, "wrong", "3 wait, the first for 60.0 s"),
        (Probed(None), {"waiting": 3, "longest": 1.0}, "warning", "no worker is there"),
        ("TimeoutError", {}, "wrong", "broke off: TimeoutError"),
        (None, {}, "note", "not sent"),
    ],
)
def test_the_probe_tells_whether_jobs_get_done(probed: Any, store: dict[str, Any], mark: str, text: str) -> None:
    found = judged("probe", probed=probed, store=replace(StoreFacts("0001", "0001"), **store))
    assert [each.mark for each in found] == [mark]
    assert text in found[0].text


# Slow queries


@pytest.mark.parametrize("state", [each for each in Statistics if each is not Statistics.READY])
def test_where_there_are_no_statistics_it_says_exactly_what_to_do(state: Statistics) -> None:
    found = judged("slow queries", databases=(replace(DATABASE, queries=Queries(state)),))
    assert [(each.mark, each.todo) for each in found] == [("note", (state.value,))]


def test_statistics_that_can_not_be_read_are_no_failure() -> None:
    found = judged("slow queries", databases=(replace(DATABASE, queries="InsufficientPrivilegeError"),))
    assert found[0].mark == "note"


def test_a_database_that_no_job_asks_is_not_mentioned() -> None:
    assert judged("slow queries", databases=(replace(DATABASE, queries=None),)) == []


def test_the_top_statements_come_with_advice_and_the_others_are_counted() -> None:
    found = replace(WELL, databases=(replace(DATABASE, queries=Queries(Statistics.READY, STATEMENTS)),))
    slow = diagnose(found, top=2).slow_queries[0]
    assert [each.statement.text[7] for each in slow.advice] == ["a", "b"]
    assert [each.verdict for each in slow.advice] == ["async", "async"]
    assert slow.left_out == 1
    times = replace(StoreFacts("0001", "0001"), job_times={"report": JobTime(10, 900.0)})
    assert diagnose(replace(found, store=times)).slow_queries[0].advice[0].verdict == "already"


# The report

SLOW = replace(WELL, databases=(replace(DATABASE, queries=Queries(Statistics.READY, STATEMENTS)),))


def test_the_report_has_every_section_and_aligned_columns() -> None:
    text = shown(SLOW)
    for section in ("Settings", "Engines", "Connections", "Probe", "Slow queries"):
        assert f"\033[1m{section}\033[0m" in text
    assert "  PUSHSVC_SECRET   ***\n  PUSHSVC_BUS_URL  (not set)\n" in text
    assert "\033[32m✓\033[0m PostgreSQL 18.6 (primary, the service's tables), round trip 0.3 ms" in text
    assert "     1 × 5   5  web: the endpoints' own, primary\n     1 × 4   4  web: executor, primary\n" in text
    plain = [line for line in text.splitlines() if "FROM flights" in line]
    assert len({line.index("SELECT") for line in plain}) == 1
    assert plain[0].split()[:6] == ["report", "10", "8.5", "s", "850", "ms"]
    assert ["‼" in line for line in plain] == [False, True, False]
    assert text.endswith("\033[32mall is well\033[0m")


def test_lines_with_statements_keep_within_the_width() -> None:
    text = shown(SLOW, width=60)
    assert [len(line) for line in text.splitlines() if "SELECT" in line] == [60, 60, 60]


def test_the_report_counts_what_is_wrong() -> None:
    assert "one thing is wrong" in shown(replace(WELL, lacking=("secret",)))
    assert "2 things are wrong" in shown(replace(WELL, lacking=("secret", "redis_url")))


def test_the_report_for_machines_is_plain_data() -> None:
    data = as_json(SLOW, diagnose(SLOW))
    assert data["well"] is True
    assert data["connections"][0]["arithmetic"] == "1 × 5 + 1 × 4 + 1 × 10 + 1 × 4 + 1 × 4 + 1 × 5 + 1 × 1 = 33"
    assert data["connections"][0]["takes"] == 97
    first = data["slow_queries"][0]
    assert first["databases"] == ["primary", STORE]
    assert first["source"] == {"kind": "job", "name": "report"}
    assert (first["verdict"], first["mean_ms"], first["outlier"]) == ("async", 850.0, False)
