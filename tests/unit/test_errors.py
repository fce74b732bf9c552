"""The table of errors: each row whole, and consistent with what the codes promise."""

from __future__ import annotations

import json

import pytest

from pushsvc import errors
from pushsvc.errors import JobFailed, PushsvcError, QueueFull, RequestError

ROWS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PushsvcError)]


@pytest.mark.parametrize("row", ROWS)
def test_a_rows_docstring_is_its_message(row: type[PushsvcError]) -> None:
    assert row.__doc__ is not None
    assert row.title() == row.__doc__.strip()
    assert row.title().endswith(".")
    assert str(row()) == row.title()
    assert str(row("in detail")) == "in detail"


@pytest.mark.parametrize("row", ROWS)
def test_close_codes_say_whether_to_come_again(row: type[PushsvcError]) -> None:
    """4000 to 4399 reconnect, 4400 to 4999 stop."""
    assert 4000 <= row.close_code <= 4999
    assert 400 <= row.status <= 599
    if row.temporary:
        assert row.close_code < 4400
    elif issubclass(row, RequestError):
        assert row.close_code >= 4400
        assert row.status < 500


@pytest.mark.parametrize("row", ROWS)
def test_the_tree_is_drawn_as_it_is(row: type[PushsvcError]) -> None:
    assert errors.__doc__ is not None
    assert row.__name__ in errors.__doc__


def test_codes_tell_errors_apart_that_a_client_may_treat_differently() -> None:
    shared: dict[str, set[tuple[int, int, bool]]] = {}
    for row in ROWS:
        shared.setdefault(row.code, set()).add((row.status, row.close_code, row.temporary))
    assert {code: len(kinds) for code, kinds in shared.items() if len(kinds) > 1} == {}


def test_a_problem_is_a_problem_object_with_whatever_the_error_carries() -> None:
    assert QueueFull("7 jobs wait", retry_after=5).problem() == {
        "type": "urn:pushsvc:error:queue_full",
        "title": "The queue is full.",
        "status": 429,
        "code": "queue_full",
        "detail": "7 jobs wait",
        "retry_after": 5,
    }
    assert "detail" not in JobFailed().problem()
    json.dumps(JobFailed("é").problem())


def test_a_frames_error_says_whether_to_try_again() -> None:
    assert QueueFull(retry_after=5).frame() == {
        "code": "queue_full",
        "title": "The queue is full.",
        "temporary": True,
        "retry_after": 5,
    }
