"""The auditor finds what is wrong: journals and records doctored by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from pushsvc.domain import Position

from .auditor import Account, Promise, Publishing, audit, audit_promises, audit_runs
from .journal import Arrival, Journal, Resumption
from .record import Kept, Log, Record

INBOX = "user:alice"


def event(number: int) -> str:
    return json.dumps({"id": f"evt_{number}", "data": number})


def ended(job: str, status: str = "succeeded", **members: object) -> Kept:
    text = json.dumps({"id": f"evt_{job}_3", "final": True} | members)
    return Kept(job, f"key of {job}", "alice", status, 3, (), text)


def record(*jobs: Kept, events: int = 5) -> Record:
    """An inbox with that many published events, and then the ends of the jobs."""
    texts = [event(number) for number in range(1, events + 1)] + [job.event for job in jobs if job.ended]
    log = Log("k1", dict(enumerate(texts, 1)), len(texts))
    return Record({INBOX: log}, {job.id: job for job in jobs})


def journal(*connections: list[int], start: int = 0, channel: str = INBOX) -> Journal:
    """One that got these offsets, connection by connection."""
    made = Journal("someone", {channel: Position("k1", start)})
    made.arrivals = [
        Arrival(number, channel, Position("k1", offset), event(offset))
        for number, offsets in enumerate(connections, 1)
        for offset in offsets
    ]
    return made


def wrong(account: Account) -> dict[str, int]:
    found = {name: getattr(account, name) for name in Account.WRONG}
    assert account.clean == (not any(found.values()))
    assert bool(account.problems) == any(found.values()), "each problem is told"
    return {name: count for name, count in found.items() if count}


def test_all_events_once_and_in_order_are_clean() -> None:
    account = audit([journal([1, 2, 3], [4, 5]), journal([3, 4, 5], start=2)], record())
    assert wrong(account) == {}
    assert (account.delivered, account.repeated) == (8, 0)


def test_what_comes_again_on_another_connection_is_dropped_and_counted() -> None:
    account = audit([journal([1, 2, 3], [2, 3, 4, 5])], record())
    assert wrong(account) == {}
    assert account.repeated == 2


@pytest.mark.parametrize(
    ("connections", "found"),
    [
        ([[1, 2, 4, 5]], {"lost": 1}),
        ([[2, 3, 4, 5]], {"lost": 1}),
        ([[1, 2, 3, 4]], {"lost": 1}),
        ([[1, 2], [5]], {"lost": 2}),
        ([[]], {"lost": 5}),
        ([[1, 2, 2, 3, 4, 5]], {"duplicated": 1}),
        ([[1, 2, 3, 3, 4, 5, 5]], {"duplicated": 2}),
        ([[1, 3, 2, 4, 5]], {"disordered": 1}),
        ([[1, 3], [2, 4, 5]], {"disordered": 1}),
        ([[1, 2, 3, 1, 4, 5]], {"disordered": 1}),
        ([[1, 2, 5, 4]], {"disordered": 1, "lost": 1}),
    ],
)
def test_lost_duplicated_and_swapped_events_are_found(connections: list[list[int]], found: dict[str, int]) -> None:
    assert wrong(audit([journal(*connections)], record())) == found


def test_one_wrong_subscriber_among_right_ones_is_found() -> None:
    right, wrong_one = journal([1, 2, 3, 4, 5]), journal([1, 2, 4, 5])
    wrong_one.name = "unlucky"
    account = audit([right, wrong_one, right], record())
    assert wrong(account) == {"lost": 1}
    assert account.problems == ["lost: unlucky on user:alice: 3 of 1 to 5"]


def other_bytes(arrival: Arrival) -> Arrival:
    return replace(arrival, event=arrival.event.replace(": ", ":"))


def other_epoch(arrival: Arrival) -> Arrival:
    return replace(arrival, position=Position("k2", arrival.position.offset))


def other_event(arrival: Arrival) -> Arrival:
    return replace(arrival, event=event(arrival.position.offset + 1))


@pytest.mark.parametrize("doctor", [other_bytes, other_epoch, other_event])
def test_an_event_that_is_not_the_stores_is_found(doctor: Callable[[Arrival], Arrival]) -> None:
    doctored = journal([1, 2, 3, 4, 5])
    doctored.arrivals[2] = doctor(doctored.arrivals[2])
    assert wrong(audit([doctored], record())) == {"altered": 1}


def test_an_event_that_the_store_does_not_have_is_found() -> None:
    assert wrong(audit([journal([1, 2, 3, 4, 5, 6])], record())) == {"altered": 1}


def test_events_of_a_channel_that_nobody_asked_for_are_found() -> None:
    doctored = journal([1, 2, 3, 4, 5])
    doctored.arrivals.append(Arrival(1, "user:bob", Position("k1", 1), event(1)))
    assert wrong(audit([doctored], record())) == {"altered": 1}


def test_resets_and_refusals_are_told() -> None:
    doctored = journal([1, 2, 3, 4, 5])
    doctored.resets.append("of user:alice")
    doctored.refusals.append("404")
    assert wrong(audit([doctored], record())) == {"resets": 1, "refused": 1}


@pytest.mark.parametrize(("told", "found"), [(2, {}), (3, {}), (4, {}), (1, {"forgotten": 1}), (5, {"forgotten": 1})])
def test_a_device_goes_on_from_what_it_has_acknowledged(told: int, found: dict[str, int]) -> None:
    doctored = journal([1, 2, 3, 4, 5])
    doctored.resumptions.append(Resumption(INBOX, confirmed=2, sent=4, told=told))
    assert wrong(audit([doctored], record())) == found


# A job's own channel


def watcher(job: Kept, *versions: int, start: int = 1) -> Journal:
    made = journal(list(versions), start=start, channel=f"job:{job.id}")
    made.arrivals = [replace(each, event=job.event if each.position.offset == 3 else "{}") for each in made.arrivals]
    return made


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ([2, 3], {}),
        ([3], {}),
        ([2], {"lost": 1}),
        ([], {"lost": 1}),
        ([3, 3], {"duplicated": 1}),
        ([3, 2], {"disordered": 1}),
        ([2, 3, 4], {"altered": 1}),
    ],
)
def test_a_jobs_channel_may_pass_over_versions_but_not_its_end(versions: list[int], found: dict[str, int]) -> None:
    job = ended("J")
    assert wrong(audit([watcher(job, *versions)], record(job))) == found


def test_who_began_at_a_jobs_end_is_owed_nothing() -> None:
    job = ended("J")
    assert wrong(audit([watcher(job, start=3)], record(job))) == {}


def test_two_who_get_a_version_in_different_bytes_are_found() -> None:
    job = ended("J")
    one, other = watcher(job, 2, 3), watcher(job, 2, 3)
    other.arrivals[0] = replace(other.arrivals[0], event='{"other":1}')
    assert wrong(audit([one, other], record(job))) == {"altered": 1}


def test_the_end_of_a_job_is_the_stores() -> None:
    job = ended("J")
    doctored = watcher(job, 2, 3)
    doctored.arrivals[1] = replace(doctored.arrivals[1], event="{}")
    assert wrong(audit([doctored], record(job))) == {"altered": 1}


# What was promised


def promised(job: Kept, *ends: str, data: object = None) -> Promise:
    return Promise(f"key of {job.id}", job.id, ends or ("succeeded",), data)


def test_promises_that_were_kept_are_clean() -> None:
    job = ended("J", data=7)
    account = audit_promises([promised(job, data=7)] * 2, [Publishing(INBOX, 2, 2)], record(job))
    assert wrong(account) == {}


def test_a_job_without_an_end_is_found() -> None:
    job = ended("J", "running")
    assert wrong(audit_promises([promised(job)], [], record(job))) == {"unkept": 1}


def test_an_accepted_job_that_is_gone_is_found() -> None:
    assert wrong(audit_promises([promised(ended("J"))], [], record())) == {"unkept": 1}


def test_an_end_that_is_logged_twice_or_nowhere_is_found() -> None:
    job = ended("J")
    whole = record(job)
    events = dict(whole.logs[INBOX].events)
    twice = Record({INBOX: Log("k1", events | {7: job.event}, 7)}, whole.jobs)
    never = Record({INBOX: Log("k1", events | {6: event(6)}, 6)}, whole.jobs)
    for doctored in (twice, never):
        assert wrong(audit_promises([promised(job)], [], doctored)) == {"unkept": 1}


def test_an_end_that_is_missing_in_a_named_channel_is_found() -> None:
    job = replace(ended("J"), channels=("group:ops",))
    assert wrong(audit_promises([promised(job)], [], record(job))) == {"unkept": 1}


def test_a_log_with_a_gap_is_found() -> None:
    events = {1: event(1), 3: event(3)}
    assert wrong(audit_promises([], [], Record({INBOX: Log("k1", events, 3)}))) == {"unkept": 1}


def test_one_key_with_two_jobs_is_found() -> None:
    one, other = ended("J"), replace(ended("K"), key="key of J")
    promises = [promised(one), replace(promised(other), key="key of J")]
    assert wrong(audit_promises(promises, [], record(one, other))) == {"unkept": 1}


def test_a_job_that_ended_otherwise_is_found_unless_its_workers_died() -> None:
    failed = ended("J", "failed", error={"code": "job_failed"})
    assert wrong(audit_promises([promised(failed)], [], record(failed))) == {"unkept": 1}
    assert wrong(audit_promises([promised(failed, "failed")], [], record(failed))) == {}
    lost = ended("J", "failed", error={"code": "worker_lost"})
    assert wrong(audit_promises([promised(lost)], [], record(lost))) == {}


def test_another_result_than_the_jobs_is_found() -> None:
    job = ended("J", data=8)
    assert wrong(audit_promises([promised(job, data=7)], [], record(job))) == {"unkept": 1}
    digests = hashlib.sha256(b"7").hexdigest(), hashlib.sha256(b"8").hexdigest()
    for digest, found in zip(digests, ({}, {"unkept": 1}), strict=True):
        large = ended("J", ref={"href": "/v1/jobs/J/result", "bytes": 1, "sha256": digest})
        assert wrong(audit_promises([promised(large, data=7)], [], record(large))) == found


def test_a_published_event_is_where_it_was_said_to_be() -> None:
    for doctored in (Publishing(INBOX, 2, 3), Publishing(INBOX, 6, 6), Publishing("group:ops", 1, 1)):
        assert wrong(audit_promises([], [doctored], record())) == {"unkept": 1}


def test_a_subscriber_that_went_wrong_itself_is_told_apart_from_what_was_lost() -> None:
    """What it never heard is not lost by the service, unless it lies before something that it did hear."""
    dead = journal([1, 2, 4])
    dead.over = True
    dead.broken.append("websocket: KeyError('op') in _frame")
    account = audit([dead, journal([1, 2, 3, 4, 5])], record())
    assert (account.lost, account.broken, account.whole) == (1, 1, False)
    assert account.problems == [
        "broken: someone: websocket: KeyError('op') in _frame",
        "lost: someone on user:alice: 3 of 1 to 5",
    ]


def test_one_that_went_wrong_and_went_on_hears_everything_as_the_others_do() -> None:
    torn = journal([1, 2], [3, 4])
    torn.broken.append("polling: ValueError")
    account = audit([torn], record())
    assert (account.lost, account.broken) == (1, 1)


def test_a_job_that_is_begun_again_while_its_process_lives_is_found() -> None:
    runs = [("J", 1), ("K", 1), ("J", 2), ("K", 2), ("K", 3)]
    assert wrong(audit_runs(runs, {1, 2})) == {}
    assert wrong(audit_runs(runs, {1})) == {"doubled": 1}
    assert wrong(audit_runs(runs, ())) == {"doubled": 3}
    assert wrong(audit_runs([("J", 1), ("J", 1)], ())) == {"doubled": 1}
