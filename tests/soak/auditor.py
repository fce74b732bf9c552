"""Compares what subscribers wrote down with what the store holds, and what was promised with what was kept.

It knows neither the clients nor the service: journals and a record in, an account out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .journal import Arrival, Journal
from .record import Kept, Log, Record

SHOWN = 40
"""Problems that are told one by one; all of them are counted."""


@dataclass
class Account:
    """The counts. What is wrong comes first; the rest is told, and proves nothing either way."""

    lost: int = 0
    """Events that a subscriber should have got, and did not."""
    duplicated: int = 0
    """Events that a client would have handled twice, though it drops what is not after its position."""
    disordered: int = 0
    """Events that came after a later one."""
    altered: int = 0
    """Events that are not, byte for byte, what the store holds there."""
    resets: int = 0
    refused: int = 0
    """Answers that no fault explains."""
    forgotten: int = 0
    """Acknowledgements of a device that the server did not go by."""
    doubled: int = 0
    """Jobs that were run again though the process that ran them had not ended."""
    unkept: int = 0
    """Promises broken: accepted jobs and published events without exactly one end, or another one than due."""

    broken: int = 0
    """Where the auditor itself went wrong, or one of its subscribers: what it says then is not to be relied on."""

    delivered: int = 0
    repeated: int = 0
    """Events that came again and were dropped, because their client came back with an older cursor."""
    problems: list[str] = field(default_factory=list)

    WRONG = ("lost", "duplicated", "disordered", "altered", "resets", "refused", "forgotten", "doubled", "unkept")

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong with the service, as far as the auditor can tell."""
        return not any(getattr(self, name) for name in self.WRONG)

    @property
    def whole(self) -> bool:
        """Whether the auditor can tell."""
        return not self.broken

    def wrong(self, what: str, problem: str, count: int = 1) -> None:
        setattr(self, what, getattr(self, what) + count)
        if len(self.problems) < SHOWN:
            self.problems.append(f"{what}: {problem}")

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


# What subscribers got -----------------------------------------------------------------------------


def audit(journals: Iterable[Journal], record: Record) -> Account:
    """Every subscriber, channel by channel."""
    account = Account()
    versions: dict[tuple[str, int], str] = {}
    for journal in journals:
        _oddities(account, journal)
        arrivals: dict[str, list[Arrival]] = {channel: [] for channel in journal.starts}
        for arrival in journal.arrivals:
            arrivals.setdefault(arrival.channel, []).append(arrival)
        for channel, some in arrivals.items():
            who = f"{journal.name} on {channel}"
            start = journal.starts.get(channel)
            if start is None:
                account.wrong("altered", f"{who}: events of a channel that was not asked for", len(some))
            elif channel.startswith("job:"):
                job = record.jobs.get(channel[4:])
                _audit_job(account, who, start.offset, some, job, versions, over=journal.over)
            elif channel not in record.logs:
                account.wrong("altered", f"{who}: there is no such channel", len(some))
            elif start.epoch != record.logs[channel].epoch:
                account.wrong("lost", f"{who}: it began in epoch {start.epoch}, which the store does not know")
            else:
                _audit_log(account, who, start.offset, some, record.logs[channel], over=journal.over)
    return account


def _oddities(account: Account, journal: Journal) -> None:
    for reset in journal.resets:
        account.wrong("resets", f"{journal.name}: {reset}")
    for breach in journal.broken:
        account.wrong("broken", f"{journal.name}: {breach}")
    for refusal in journal.refusals:
        account.wrong("refused", f"{journal.name}: {refusal}")
    for each in journal.resumptions:
        if not each.confirmed <= each.told <= each.sent:
            account.wrong("forgotten", f"{journal.name}: {each}")


class _Order:
    """The offsets of one channel as they come, and how a client that drops what it has had takes them."""

    def __init__(self, account: Account, who: str, start: int) -> None:
        self._account = account
        self._who = who
        self._last: dict[int, int] = {}
        self.high = start
        """The last offset that the client has dealt with."""
        self.skipped: set[int] = set()

    def takes(self, arrival: Arrival) -> bool:
        """Whether the client has not had it. Counts what is wrong with when it comes."""
        account, at = self._account, arrival.position.offset
        last = self._last.get(arrival.connection, 0)
        self._last[arrival.connection] = max(at, last)
        account.delivered += 1
        if at > self.high:
            self.skipped.update(range(self.high + 1, at))
            self.high = at
            return True
        if at in self.skipped:
            self.skipped.discard(at)
            account.wrong("disordered", f"{self._who}: {at} came after {self.high}")
            return True
        if at == last:
            account.wrong("duplicated", f"{self._who}: {at} came twice on connection {arrival.connection}")
        elif at < last:
            account.wrong("disordered", f"{self._who}: {at} came after {last} on connection {arrival.connection}")
        else:
            account.repeated += 1
        return False


def _audit_log(account: Account, who: str, start: int, arrivals: Sequence[Arrival], log: Log, *, over: bool) -> None:
    """An inbox or a group: all of its events, each at its offset, in order, byte for byte. One whose life was over
    could not hear the last of them."""
    order = _Order(account, who, start)
    for arrival in arrivals:
        at = arrival.position
        if at.epoch != log.epoch or log.events.get(at.offset) != arrival.event:
            account.wrong("altered", f"{who}: {at} is {arrival.event[:200]!r}, not {_shown(log, at.offset)}")
        order.takes(arrival)
    missed = set() if over else set(range(order.high + 1, log.top + 1))
    lost = sorted(order.skipped | missed)
    if lost:
        account.wrong("lost", f"{who}: {_spans(lost)} of {start + 1} to {log.top}", len(lost))


def _audit_job(
    account: Account,
    who: str,
    start: int,
    arrivals: Sequence[Arrival],
    job: Kept | None,
    versions: dict[tuple[str, int], str],
    *,
    over: bool,
) -> None:
    """A job's channel, whose offsets are the job's versions: they rise, some may be passed over, and the last one
    comes. All who get a version get the same bytes."""
    if job is None:
        account.wrong("altered", f"{who}: there is no such job", len(arrivals) or 1)
        return
    order = _Order(account, who, start)
    for arrival in arrivals:
        at = arrival.position.offset
        same = versions.setdefault((job.id, at), job.event if at == job.version else arrival.event)
        if arrival.event != same or at > job.version:
            account.wrong("altered", f"{who}: {at} is {arrival.event[:200]!r}, not {same[:200]!r}")
        order.takes(arrival)
    if job.ended and order.high < job.version and not over:
        account.wrong("lost", f"{who}: its end, {job.version}; the last that came is {order.high}")


def _shown(log: Log, offset: int) -> str:
    return repr(log.events[offset][:200]) if offset in log.events else f"in the store, whose top is {log.top}"


def _spans(offsets: Sequence[int]) -> str:
    """`3–5, 9` of 3, 4, 5 and 9."""
    found: list[list[int]] = []
    for offset in offsets:
        if found and offset == found[-1][-1] + 1:
            found[-1] = [found[-1][0], offset]
        else:
            found.append([offset])
    return ", ".join("–".join(map(str, span)) for span in found)


# What was promised --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """A job that was accepted, under its key, with how it may end; `data` is what it returns, unless None."""

    key: str
    job: str
    ends: tuple[str, ...]
    data: Any = None


@dataclass(frozen=True)
class Publishing:
    """Where `publish` said that it put an event, and the data it was given."""

    channel: str
    offset: int
    data: Any


def audit_promises(promises: Iterable[Promise], published: Iterable[Publishing], record: Record) -> Account:
    """Each job has one end, logged once wherever it should be; each published event is where it was said to be."""
    account = Account()
    places = _places(account, record)
    for job in record.jobs.values():
        _audit_end(account, job, places)
    by_key: dict[str, str] = {}
    for promise in promises:
        if by_key.setdefault(promise.key, promise.job) != promise.job:
            account.wrong("unkept", f"{promise.key} is two jobs, {by_key[promise.key]} and {promise.job}")
        _audit_promise(account, promise, record.jobs.get(promise.job))
    for each in published:
        event = record.logs[each.channel].events.get(each.offset) if each.channel in record.logs else None
        if event is None or json.loads(event)["data"] != each.data:
            account.wrong("unkept", f"{each.channel} at {each.offset}: {each.data!r:.100} was published there")
    return account


def audit_runs(runs: Iterable[tuple[str, int]], ended: Collection[int]) -> Account:
    """`runs` are jobs that ask nothing of anybody, with the process that began each, in order; `ended` the processes
    that were killed, or told to end and so handed back what they ran."""
    account = Account()
    last: dict[str, int] = {}
    for job, process in runs:
        before = last.get(job)
        if before is not None and before not in ended:
            account.wrong("doubled", f"job {job} was begun in process {process}, and {before} lives that ran it")
        last[job] = process
    return account


def _places(account: Account, record: Record) -> Mapping[str, Counter[str]]:
    """By event id, in which channels it is logged how often. The logs have no gaps."""
    places: dict[str, Counter[str]] = {}
    for name, log in record.logs.items():
        if list(log.events) != list(range(1, log.top + 1)):
            account.wrong("unkept", f"the log of {name} has gaps, or its top is not {log.top}")
        for event in log.events.values():
            places.setdefault(json.loads(event)["id"], Counter())[name] += 1
    for event_id, counts in places.items():
        for name, count in counts.items():
            if count > 1:
                account.wrong("unkept", f"{event_id} is in the log of {name} {count} times")
    return places


def _audit_end(account: Account, job: Kept, places: Mapping[str, Counter[str]]) -> None:
    if not job.ended:
        account.wrong("unkept", f"job {job.id} ({job.key}) has not ended: {job.status}")
        return
    due = {f"user:{job.owner}", *job.channels}
    logged = places.get(json.loads(job.event)["id"], Counter())
    if set(logged) != due:
        account.wrong("unkept", f"the end of job {job.id} is logged in {set(logged)}, not in {due}")


def _audit_promise(account: Account, promise: Promise, job: Kept | None) -> None:
    if job is None:
        account.wrong("unkept", f"{promise.key}: {promise.job} was accepted, and is not in the store")
    elif job.key != promise.key:
        account.wrong("unkept", f"{promise.key}: {promise.job} has the key {job.key}")
    elif job.ended and job.status not in promise.ends and not _given_up(job):
        account.wrong("unkept", f"{promise.key}: {promise.job} ended otherwise: {job.event[:300]}")
    elif job.status == "succeeded" and promise.data is not None and not _returned(promise.data, job.event):
        account.wrong("unkept", f"{promise.key}: {promise.data!r:.100} is not its result: {job.event[:300]}")


def _returned(data: Any, event: str) -> bool:
    """Whether the event says that the job returned this: itself, or by size and digest of its JSON."""
    parsed = json.loads(event)
    if (ref := parsed.get("ref")) is None:
        return bool(parsed["data"] == data)
    encoded = json.dumps(data).encode()
    return bool((ref["bytes"], ref["sha256"]) == (len(encoded), hashlib.sha256(encoded).hexdigest()))


def _given_up(job: Kept) -> bool:
    """Whether so many workers and databases died under it that it failed, as it is to in the end."""
    error = json.loads(job.event).get("error") or {}
    return job.status == "failed" and error.get("code") in ("worker_lost", "unavailable")
