"""The plain values: ids, states, channels."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from pushsvc.domain import Channel, JobStatus, check_channel, is_job_id, new_job_id, timestamp
from pushsvc.errors import BadRequest


def test_job_ids_are_ulids_that_sort_by_age_and_do_not_repeat() -> None:
    ids = [new_job_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(is_job_id(job) and len(job) == 26 for job in ids)
    assert [job[:10] for job in ids] == sorted(job[:10] for job in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "01J9ZZ8QG5V0000000000000A",
        "01J9ZZ8QG5V0000000000000ABC",
        "01j9zz8qg5v0000000000000ab",
        "81J9ZZ8QG5V0000000000000AB",
        "01J9ZZ8QG5V0000000000000AI",
        "01J9ZZ8QG5V0000000000000AB\n",
        "01J9ZZ8QG5V0000000000000A٣",
    ],
)
def test_what_is_no_job_id_is_known(text: str) -> None:
    assert not is_job_id(text)


def test_four_states_are_the_last() -> None:
    assert {status.value for status in JobStatus if status.terminal} == {
        "succeeded",
        "failed",
        "cancelled",
        "expired",
    }


@pytest.mark.parametrize(
    "name", ["job:1", "user:me", "group:a:b", "user:a,b@c%d", "group:Zürich 🚀", "user:" + "x" * 200]
)
def test_a_channel_has_a_kind_and_a_key(name: str) -> None:
    channel = Channel("default", check_channel(name))
    assert f"{channel.kind}:{channel.key}" == name


@pytest.mark.parametrize(
    "name",
    ["", "user", "user:", ":me", "User:me", "topic:x", "user:a\nb", "user:\x00", "user:" + "x" * 201, None, 7, []],
)
def test_what_is_no_channel_is_refused_in_few_words(name: object) -> None:
    with pytest.raises(BadRequest) as caught:
        check_channel(name)
    assert len(str(caught.value)) < 200


def test_times_are_written_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 11, 22, 10, 0, 0, 123999, tzinfo=timezone(timedelta(hours=1)))
    assert timestamp(moment) == "2026-11-22T09:00:00.123Z"
    assert timestamp(moment.replace(microsecond=0)) == "2026-11-22T09:00:00.000Z"
