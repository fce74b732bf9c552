"""Which queries would gain from running side by side, and which would not."""

from __future__ import annotations

import pytest

from pushsvc.ops.advice import Advice, advise, duration, is_outlier, makespan
from pushsvc.ops.slow_queries import JobTime, Source, Statement

REPORT = Source("job", "report")


def statement(mean: float, calls: int = 10, *, source: Source = REPORT, peak: float | None = None) -> Statement:
    return Statement(source, f"SELECT {mean}", calls, mean * calls, mean if peak is None else peak, calls)


def judged(*statements: Statement, took: float | None = None, places: int = 4) -> list[Advice]:
    times = {} if took is None else {"report": JobTime(10, took)}
    return advise(statements, places, times)


def test_three_long_ones_would_gain_and_the_reason_has_the_figures() -> None:
    first, *_ = judged(statement(850), statement(700), statement(550))
    assert first.verdict == "async"
    assert first.reason == (
        "mean 850 ms, one of 3 in this job that could run side by side: "
        "the job would take about 850 ms instead of 2.1 s"
    )


def test_a_tiny_one_is_left_as_it_is_and_counts_as_in_turn() -> None:
    long, other, tiny = judged(statement(850), statement(700), statement(1.9))
    assert (tiny.verdict, tiny.reason) == ("leave", "mean 1.9 ms: handing it over would cost about as much")
    assert long.verdict == other.verdict == "async"
    assert "about 852 ms instead of 1.6 s" in long.reason
    assert "one of 2" in long.reason


def test_a_long_one_with_nothing_beside_it_is_to_be_made_faster() -> None:
    alone, tiny = judged(statement(850), statement(0.5))
    assert alone.verdict == "leave"
    assert "nothing in this job to run beside it" in alone.reason
    assert tiny.verdict == "leave"


def test_where_one_takes_nearly_all_the_time_there_is_nothing_to_gain() -> None:
    for each in judged(statement(1000), statement(3), statement(3)):
        assert each.verdict == "leave"
        assert "the longest of them takes nearly all the time" in each.reason


def test_a_job_that_really_takes_as_long_as_its_longest_query_is_parallel_already() -> None:
    first, *_ = judged(statement(850), statement(700), statement(550), took=900)
    assert first.verdict == "already"
    assert first.reason == "mean 850 ms, side by side already: 900 ms a run, where in turn it would be 2.1 s"
    assert judged(statement(850), statement(700), statement(550), took=2200)[0].verdict == "async"


def test_one_that_is_asked_many_times_a_run_is_to_become_one_statement() -> None:
    repeated, other, _ = judged(statement(20, 120), statement(100), statement(100))
    assert repeated.verdict == "async"
    assert "12 of 14 in this job" in repeated.reason
    assert repeated.reason.endswith("one statement for all its repetitions would be better still")
    assert "one of 14" in other.reason


def test_one_that_not_every_run_asks_counts_by_its_share() -> None:
    found = judged(statement(100, 10), statement(100, 10), statement(100, 1))
    assert "about 100 ms instead of 210 ms" in found[0].reason


def test_more_queries_than_places_take_more_than_one_round() -> None:
    found = judged(*(statement(100 + n / 1000) for n in range(5)), places=2)
    assert "about 300 ms instead of 500 ms" in found[0].reason


def test_with_one_place_there_is_nothing_to_gain() -> None:
    assert {each.verdict for each in judged(statement(100), statement(101), places=1)} == {"leave"}


def test_an_endpoint_is_judged_like_a_job_and_apart_from_it() -> None:
    endpoint = Source("endpoint", "report")
    found = judged(statement(300, source=endpoint), statement(200, source=endpoint), statement(250), took=10)
    assert [each.verdict for each in found] == ["async", "leave", "async"]
    assert "the endpoint would take about 300 ms instead of 500 ms" in found[0].reason


def test_what_took_longest_in_all_comes_first() -> None:
    found = judged(statement(10, 10), statement(3, 1000), statement(500, 1))
    assert [each.statement.total_ms for each in found] == [3000, 500, 100]


@pytest.mark.parametrize(
    ("mean", "peak", "outlier"), [(10, 100, False), (10, 101, True), (0.1, 1.9, False), (0.1, 2.1, True)]
)
def test_an_outlier_is_ten_times_the_mean_and_more_than_a_moment(mean: float, peak: float, outlier: bool) -> None:
    assert is_outlier(statement(mean, 100, peak=peak)) is outlier
    assert judged(statement(mean, 100, peak=peak))[0].outlier is outlier


@pytest.mark.parametrize(
    ("tasks", "places", "expected"),
    [([], 4, 0), ([5], 4, 5), ([5, 5, 5], 0, 15), ([5, 5, 5], 2, 10), ([3, 3, 2, 2, 2], 2, 7), ([1] * 8, 4, 2)],
)
def test_tasks_share_the_places(tasks: list[float], places: int, expected: float) -> None:
    assert makespan(tasks, places) == expected


def test_a_hundred_thousand_repetitions_are_judged_as_what_they_take() -> None:
    found = judged(statement(2, 1_000_000), statement(10, 10), statement(10, 10))
    assert "about 50.0 s instead of 3 min" in found[0].reason


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0.0 ms"), (0.26, "0.3 ms"), (9.94, "9.9 ms"), (12.4, "12 ms"), (999.4, "999 ms"), (999.6, "1.0 s")],
)
def test_durations_read_well(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_long_durations_read_well() -> None:
    assert [duration(ms) for ms in (2100, 89_000, 120_000)] == ["2.1 s", "89.0 s", "2 min"]
