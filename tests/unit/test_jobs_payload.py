"""Which submissions are the same: whatever way their JSON and their instants are written."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from pushsvc.jobs import params_model
from pushsvc.jobs.payload import Instants, canonical, digest

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1900, 1, 1), datetime(2900, 1, 1), timezones=st.just(UTC))


def rewritten(value: Any, draw: random.Random) -> Any:
    """The same, its keys in another order and its whole numbers written in another way."""
    if isinstance(value, dict):
        items = [(name, rewritten(each, draw)) for name, each in value.items()]
        draw.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [rewritten(each, draw) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value) if draw.random() < 0.5 else value
    return value


@given(values, st.randoms(use_true_random=False))
def test_equal_json_has_one_form_however_it_is_written(value: Any, draw: random.Random) -> None:
    other = json.loads(json.dumps(rewritten(value, draw), indent=draw.choice([None, 2])))
    assert canonical(other) == canonical(value)
    assert digest("job", other) == digest("job", value)


def told_apart(value: Any) -> Any:
    """As Python compares it, but that true is no 1 to JSON."""
    if isinstance(value, dict):
        return {name: told_apart(each) for name, each in value.items()}
    if isinstance(value, list):
        return [told_apart(each) for each in value]
    return (isinstance(value, bool), value)


@given(values, values)
def test_what_differs_has_another_form(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (told_apart(one) == told_apart(other))


@given(moments, offsets, offsets)
def test_an_instant_is_the_same_in_every_offset(moment: datetime, here: timezone, there: timezone) -> None:
    assert digest(moment.astimezone(here)) == digest(moment.astimezone(there))
    assert digest(moment) != digest(moment + timedelta(microseconds=1))


class Span(BaseModel):
    begin: datetime
    end: datetime | None = None
    inner: list[Span] = []


def job(
    at: datetime,
    spans: list[Span],
    pairs: dict[str, tuple[datetime, str]],
    either: datetime | str,
    maybe: datetime | int | None = None,
    day: date = date(2026, 1, 1),
    text: str = "",
) -> None: ...


INSTANTS = Instants(params_model("job", job)[0].model_json_schema())


def params(moment: datetime, offset: timezone) -> dict[str, Any]:
    at = moment.astimezone(offset).isoformat()
    return {
        "at": at,
        "spans": [{"begin": at, "end": at, "inner": [{"begin": at}]}],
        "pairs": {"a": [at, "text"]},
        "maybe": at,
    }


@given(moments, offsets, offsets)
def test_instants_among_parameters_are_found_by_the_schema(moment: datetime, one: timezone, two: timezone) -> None:
    assert INSTANTS.in_utc(params(moment, one)) == INSTANTS.in_utc(params(moment, two))
    later = INSTANTS.in_utc(params(moment + timedelta(seconds=1), two))
    assert INSTANTS.in_utc(params(moment, one)) != later


def test_text_that_only_looks_like_an_instant_stays_as_it_is() -> None:
    at = "2026-01-01T01:00:00+01:00"
    given = {"text": at, "either": at, "pairs": {"a": [at, at]}, "unknown": at, "day": "2026-01-01"}
    found = INSTANTS.in_utc(given)
    assert found == given | {"pairs": {"a": ["2026-01-01T00:00:00+00:00", at]}}
    naive = {"at": "2026-01-01T01:00:00", "maybe": None}
    assert INSTANTS.in_utc(naive) == naive


@given(values)
def test_whatever_is_sent_is_read_without_an_error(value: Any) -> None:
    assert isinstance(canonical(INSTANTS.in_utc({"at": value, "spans": value, "pairs": value})), bytes)
    anything = Instants(TypeAdapter(Any).json_schema())
    assert anything.in_utc(value) == value


def test_the_ends_of_time_are_instants_too() -> None:
    for text in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert INSTANTS.in_utc({"at": text}) == {"at": text}
        assert digest(datetime.fromisoformat(text)) != digest(None)
