"""The budget of connections: arithmetic, limits, and what would fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.ops.budget import Allotment, Limit, Processes, budget, deployment
from pushsvc.settings import Settings

WEB = Processes("web", 8, own=5, executor=4)
WORKER = Processes("worker", 1, own=10, executor=4)
SERVER = Limit("the server", 97, "raise max_connections to {n}", reserved=3)


def allotment(*processes: Processes, limit: int = 97, databases: tuple[str, ...] = ("primary",)) -> Allotment:
    return Allotment(Limit("the server", limit, "raise it to {n}"), processes, databases, store=True)


def test_the_articles_own_case_comes_to_86_and_the_workers_pool_to_14() -> None:
    found = budget([WEB, WORKER])
    assert str(found) == "8 × 5 + 8 × 4 + 1 × 10 + 1 × 4 = 86"
    assert found.total == 86
    assert WORKER.pool == 14


def test_the_services_own_tables_come_last_and_once_for_several_databases() -> None:
    processes = [Processes("web", 2, 5, 4, store=3), Processes("worker", 1, 10, 4, store=3)]
    found = budget(processes, ["primary", "replica"])
    assert str(found) == "2 × 5 + 2 × 4 + 1 × 10 + 1 × 4 + 2 × 5 + 2 × 4 + 1 × 10 + 1 × 4 + 2 × 3 + 1 × 3 = 73"
    assert [term.what for term in found.terms[4:6]] == ["web: the endpoints' own, replica", "web: executor, replica"]
    assert found.terms[-1].what == "worker: the service's tables"
    assert budget(processes, ["primary"], store=False).total == 2 * 9 + 14
    assert budget(processes, [], store=True).total == 9


def test_nothing_is_no_term_of_the_sum() -> None:
    assert str(budget([Processes("web", 0, 5, 4), WORKER])) == "1 × 10 + 1 × 4 = 14"
    assert str(budget([])) == "0 = 0"


def test_the_deployment_is_what_the_settings_say() -> None:
    assert deployment(Settings.from_env({})) == (
        Processes("web", 1, own=5, executor=4, store=4),
        Processes("worker", 1, own=10, executor=4, store=5, keeper=1),
    )
    environ = {"PUSHSVC_WEB_PROCESSES": "8", "PUSHSVC_WORKER_PROCESSES": "3", "PUSHSVC_MAX_JOBS": "4"}
    assert deployment(Settings.from_env(environ)) == (
        Processes("web", 8, own=4, executor=4, store=4),
        Processes("worker", 3, own=4, executor=4, store=5, keeper=1),
    )


def test_a_deployment_fits_up_to_the_limit_and_not_beyond() -> None:
    assert allotment(WEB, WORKER, limit=86).fits
    assert not allotment(WEB, WORKER, limit=85).fits


def test_an_allotment_says_the_arithmetic_and_the_limit() -> None:
    fitting = Allotment(SERVER, (WEB, WORKER), ("primary",), store=False)
    arithmetic = "8 × 5 + 8 × 4 + 1 × 10 + 1 × 4 = 86"
    assert str(fitting) == f"{arithmetic}, within what the server takes: 100 − 3 reserved = 97"
    assert str(allotment(WEB, WORKER, limit=20)) == f"{arithmetic}, more than what the server takes: 20"


def test_the_ways_out_are_settings_that_fit_fewer_processes_and_the_limit_itself() -> None:
    over = allotment(Processes("web", 8, 10, 4, 4), Processes("worker", 2, 10, 4, 4), limit=97)
    assert str(over.budget).endswith("= 180")
    assert over.ways_out() == [
        "set PUSHSVC_MAX_JOBS to 1",
        "run 5 processes instead of 10",
        "raise it to 180",
    ]
    assert allotment(Processes("web", 4, 10, 4, 4), limit=64).ways_out() == [
        "set PUSHSVC_MAX_JOBS to 8",
        "set PUSHSVC_EXECUTOR_CONCURRENCY to 2",
        "run 3 processes instead of 4",
        "raise it to 72",
    ]


def test_reserved_connections_are_on_top_of_the_number_for_the_server() -> None:
    over = Allotment(SERVER, (Processes("worker", 10, 10, 4),), ("primary",), store=False)
    assert over.ways_out()[-1] == "raise max_connections to 143"


def test_where_one_setting_is_not_enough_both_are_named_and_then_the_third() -> None:
    one = Processes("worker", 1, own=10, executor=10, store=4)
    assert allotment(one, limit=10).ways_out()[0] == ("set PUSHSVC_MAX_JOBS and PUSHSVC_EXECUTOR_CONCURRENCY to 3")
    assert allotment(one, limit=5).ways_out()[0] == (
        "set PUSHSVC_MAX_JOBS and PUSHSVC_EXECUTOR_CONCURRENCY to 1, PUSHSVC_STORE_CONNECTIONS to 2"
    )


def test_where_nothing_of_ours_fits_only_the_limit_is_left() -> None:
    assert allotment(Processes("worker", 1, 10, 4, 4), limit=1).ways_out() == ["raise it to 18"]


_processes = st.builds(
    Processes, st.just("web"), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60), st.integers(2, 9)
)


@given(st.lists(_processes, min_size=1, max_size=2), st.integers(0, 500))
def test_every_number_that_is_advised_fits_and_the_next_one_does_not(processes: list[Processes], limit: int) -> None:
    over = allotment(*processes, limit=limit)
    if over.fits:
        return
    for attribute, change in (("own", "_own"), ("executor", "_executor"), ("count", "_fewer")):
        changing = getattr(__import__("pushsvc.ops.budget", fromlist=[change]), change)
        value = over._largest(attribute, changing)
        if value is not None:
            assert over._changed(changing, value).fits
            assert not over._changed(changing, value + 1).fits


@pytest.mark.parametrize("count", [10**6])
def test_numbers_beyond_reason_are_judged_at_once(count: int) -> None:
    over = allotment(Processes("web", count, count, count, 4))
    assert over.ways_out()[-1] == f"raise it to {2 * count * count + 4 * count}"
