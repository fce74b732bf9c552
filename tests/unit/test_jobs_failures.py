"""Subscribers are told what an author meant for them; the log is told the rest; both within bounds."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from pushsvc import JobError, wire
from pushsvc.errors import DETAIL, JobTimedOut, NotFound, PushsvcError, RecordNotFound, SettingsError, Unavailable
from pushsvc.jobs.failures import TRACE, Failure

SECRET = "sk_live_hunter2"


class NoFlights(JobError):
    """There are no flights."""

    code = "no_flights"
    status = 409


def raised(error: BaseException) -> BaseException:
    """As it comes out of a job, with a traceback."""
    try:
        try:
            raise error
        except BaseException as caught:
            raise caught from ValueError(SECRET)
    except BaseException as caught:
        return caught


WITHHELD: dict[str, Callable[[], BaseException]] = {
    "text": lambda: ValueError(SECRET),
    "SQL": lambda: IntegrityError(f"INSERT INTO keys VALUES ('{SECRET}')", {"key": SECRET}, Exception(SECRET)),
    "group": lambda: ExceptionGroup("several", [ValueError(SECRET), KeyError(SECRET)]),
    "group of one": lambda: ExceptionGroup("one", [ValueError(SECRET)]),
    "query": lambda: RecordNotFound(f"there is no Key with {SECRET}"),
    "settings": lambda: SettingsError(SECRET),
    "ours": lambda: PushsvcError(SECRET, hint=SECRET),
    "away": lambda: Unavailable(SECRET),
    "exit": lambda: SystemExit(SECRET),
    "of a name": lambda: type("E" * 500, (Exception,), {})(SECRET),
}


@pytest.mark.parametrize("kind", WITHHELD)
def test_of_an_error_that_was_not_meant_for_them_clients_get_class_code_and_an_id(kind: str) -> None:
    failure = Failure.of(raised(WITHHELD[kind]()))
    problem = failure.problem.problem()
    assert SECRET not in json.dumps(problem)
    assert problem["error_id"] in problem["detail"]
    assert problem["error_id"] in failure.said, "the log has it"
    assert SECRET in failure.trace
    assert problem["code"]
    assert 0 < len(problem["error"]) <= 100


def test_a_retry_is_decided_by_the_error_and_not_by_what_is_told_of_it() -> None:
    assert Failure.of(Unavailable()).temporary
    assert Failure.of(ExceptionGroup("tasks", [Unavailable()])).temporary
    assert not Failure.of(ValueError()).temporary


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (JobError("no flights in May"), {"detail": "no flights in May", "code": "job_failed", "status": 500}),
        (NoFlights("in May"), {"title": "There are no flights.", "code": "no_flights", "status": 409}),
        (JobError("x", code="no_flights", status=409, month=5), {"code": "no_flights", "status": 409, "month": 5}),
        (ExceptionGroup("a TaskGroup's", [NoFlights("in May")]), {"detail": "in May", "code": "no_flights"}),
        (NotFound("no such airport"), {"detail": "no such airport", "status": 404}),
        (JobTimedOut("the job may take 3 s"), {"detail": "the job may take 3 s", "status": 504}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_author_meant_for_clients_is_told(error: BaseException, told: dict[str, Any]) -> None:
    problem = Failure.of(raised(error)).problem.problem()
    assert problem | told == problem
    assert "error_id" not in problem
    assert SECRET not in json.dumps(problem), "nor what had caused it"


def test_in_development_the_text_of_every_error_is_told() -> None:
    problem = Failure.of(ValueError("it broke"), shown=True).problem.problem()
    assert problem["detail"] == "ValueError: it broke"


HUGE = "é" * 10_000_000


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(
    "error",
    [ValueError(HUGE), JobError(HUGE), NotFound(HUGE), ExceptionGroup(HUGE, [ValueError(HUGE), JobError(HUGE)])],
)
def test_a_text_of_20_mb_is_neither_sent_nor_logged(error: BaseException, shown: bool) -> None:
    failure = Failure.of(raised(error), shown=shown)
    problem = failure.problem.problem()
    assert len(problem.get("detail", "").encode()) <= DETAIL
    assert len(wire.dump(problem)) < DETAIL + 1000
    assert len(failure.said.encode()) < 5000
    assert len(failure.trace.encode()) < TRACE + 1000


class Odd(Exception):
    def __init__(self, act: Callable[[], str]) -> None:
        self.act = act

    def __str__(self) -> str:
        return self.act()


def leave() -> str:
    raise SystemExit


def cancel() -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize("act", [leave, cancel, lambda: 1 / 0, lambda: None, lambda: "a\ud800\x00"])
def test_whatever_an_error_says_of_itself_ends_nothing(act: Callable[[], str]) -> None:
    failure = Failure.of(raised(Odd(act)), shown=True)
    wire.dump(failure.problem.problem())
    (failure.said + failure.trace).encode()
    assert "Odd" in failure.said


# Problem objects that authors fill


@pytest.mark.parametrize(
    "members",
    [
        {"status": math.nan},
        {"status": 200},
        {"status": 600},
        {"status": "404"},
        {"status": 404.0},
        {"status": True},
        {"code": "two words"},
        {"code": ""},
        {"code": 7},
        {"code": "a\ud800"},
        {"title": 7},
        {"title": "a\nb"},
        {"type": None},
        {"ratio": math.nan},
        {"ratio": [1, {"a": math.inf}]},
        {"thing": Ellipsis},
        {"text": "a\ud800"},
        {"a\ud800": 1},
        {"x" * 65: 1},
        {"much": "x" * 2100},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_could_not_stand_in_a_problem_is_refused_when_it_is_made(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JobError"):
        JobError("x", **members)


@pytest.mark.parametrize(
    "attributes", [{"status": 200}, {"status": math.nan}, {"code": "No Flights"}, {"code": None}]
)
def test_what_could_not_stand_in_a_problem_is_refused_when_its_class_is_made(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Bad"):
        type("Bad", (JobError,), attributes)


def test_members_are_what_json_makes_of_them() -> None:
    error = JobError("x", day=date(2026, 11, 22), price=Decimal("1.10"), tags={"a"}, text="two\nlines")
    assert error.extra == {"day": "2026-11-22", "price": "1.10", "tags": ["a"], "text": "two\nlines"}
    assert error.problem()["type"] == "urn:pushsvc:error:job_failed"


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "null",
        "[]",
        "7",
        "not JSON",
        '{"status":NaN,"code":"x"}',
        '{"status":200,"code":"x"}',
        '{"status":"500","code":7,"title":null}',
        '{"type":"a","title":"b","code":"c","status":409,"ratio":NaN}',
        '{"type":"a","title":"b","code":"c","status":409.5}',
    ],
)
def test_whatever_is_stored_is_read_as_a_problem(stored: str) -> None:
    problem = wire.problem_of(stored)
    assert 400 <= problem["status"] <= 599
    assert {type(problem[name]) for name in ("type", "title", "code")} == {str}
    assert json.loads(wire.problem_bytes(stored), parse_constant=pytest.fail) == problem


def test_a_stored_problem_that_is_whole_is_sent_byte_for_byte() -> None:
    stored = '{"type": "a", "title":"b","code":"c","status":409, "x":1.0}'
    assert wire.problem_bytes(stored) == stored.encode()
