"""Which queries would gain from running side by side, judged from what `pg_stat_statements` has counted."""

from __future__ import annotations

import heapq
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .slow_queries import JobTime, Source, Statement

TINY_MS = 2.0
"""Milliseconds on average below which handing a query over costs about as much as it could save."""

OUTLIER = 10.0
"""How many times the mean the slowest call takes to be worth a look."""

WORTH = 0.1
"""The share of the time in turn that has to be saved for a gain to be one."""

_MOST_PARTS = 1000

Verdict = Literal["async", "already", "leave"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about one statement, and why. `outlier`: its slowest call was far from its mean."""

    statement: Statement
    verdict: Verdict
    reason: str
    outlier: bool


def advise(statements: Iterable[Statement], places: int, times: Mapping[str, JobTime] | None = None) -> list[Advice]:
    """Advice for each statement, those first that took longest in all.

    `places` is how many queries of a job run at once (`executor_concurrency`); `times` tells how long jobs
    really take, and so whether theirs run side by side already.
    """
    groups: defaultdict[Source, list[Statement]] = defaultdict(list)
    for each in statements:
        groups[each.source].append(each)
    advice = []
    for source, group in groups.items():
        time = (times or {}).get(source.name) if source.kind == "job" else None
        run = Run(group, places, time)
        advice += [Advice(each, *run.judge(each), is_outlier(each)) for each in group]
    return sorted(advice, key=lambda each: -each.statement.total_ms)


def is_outlier(statement: Statement) -> bool:
    """Whether the slowest call took more than OUTLIER times the mean, and not just a moment."""
    return statement.max_ms > OUTLIER * statement.mean_ms and statement.max_ms > TINY_MS


class Run:
    """One run of a job, or one request, as its statements' counters have it on average.

    How often it ran is not counted; the median of its statements' calls stands for that: most are asked once
    a run, some are repeated, some are not always needed.
    """

    def __init__(self, statements: Sequence[Statement], places: int, time: JobTime | None) -> None:
        self._statements = statements
        self._runs = max(statistics.median_low(each.calls for each in statements), 1)
        self._time = time
        self._subject = statements[0].source.kind
        worth_it = [each for each in statements if each.mean_ms >= TINY_MS]
        self._queries = sum(self.repeats(each) for each in worth_it)
        self.in_turn_ms = sum(each.total_ms for each in statements) / self._runs
        rest_ms = sum(each.total_ms for each in statements if each.mean_ms < TINY_MS) / self._runs
        self.side_by_side_ms = rest_ms + makespan([task for each in worth_it for task in self._tasks(each)], places)

    def repeats(self, statement: Statement) -> int:
        """How often a run asks it, at least once."""
        return max(round(statement.calls / self._runs), 1)

    def _tasks(self, statement: Statement) -> list[float]:
        """What a run spends on it, in as many parts as it can be spread over."""
        parts = min(self.repeats(statement), _MOST_PARTS)
        return [statement.total_ms / self._runs / parts] * parts

    @property
    def gains(self) -> bool:
        return self._queries > 1 and self.in_turn_ms - self.side_by_side_ms > WORTH * self.in_turn_ms

    @property
    def is_parallel(self) -> bool:
        """Whether it takes closer to the time side by side than to that in turn, as it is."""
        middle = (self.in_turn_ms + self.side_by_side_ms) / 2
        return self._time is not None and self._time.mean_ms < middle

    def judge(self, statement: Statement) -> tuple[Verdict, str]:
        """What to do about one of its statements, and why."""
        mean = f"mean {duration(statement.mean_ms)}"
        if statement.mean_ms < TINY_MS:
            return "leave", f"{mean}: handing it over would cost about as much"
        if self._queries == 1:
            return "leave", f"{mean}, but nothing in this {self._subject} to run beside it: make the query faster"
        repeats = self.repeats(statement)
        share = f"one of {self._queries}" if repeats == 1 else f"{repeats} of {self._queries}"
        beside = f"{mean}, {share} in this {self._subject} that could run side by side"
        again = "; one statement for all its repetitions would be better still" if repeats > 1 else ""
        if not self.gains:
            return "leave", f"{beside}, but the longest of them takes nearly all the time{again}"
        took, turn = duration(self.side_by_side_ms), duration(self.in_turn_ms)
        if self.is_parallel:
            assert self._time is not None
            now = duration(self._time.mean_ms)
            return "already", f"{mean}, side by side already: {now} a run, where in turn it would be {turn}{again}"
        return "async", f"{beside}: the {self._subject} would take about {took} instead of {turn}{again}"


def makespan(tasks: Iterable[float], places: int) -> float:
    """How long tasks of these lengths take on so many places, the longest begun first."""
    ends = [0.0] * max(places, 1)
    for task in sorted(tasks, reverse=True):
        heapq.heapreplace(ends, ends[0] + task)
    return max(ends)


def duration(ms: float) -> str:
    """Milliseconds as people read them: `0.3 ms`, `850 ms`, `2.1 s`, `12 min`."""
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 90_000 else f"{ms / 60_000:.0f} min"
