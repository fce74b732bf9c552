"""A diagnosis as lines for a terminal, and as plain data for machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from .advice import Advice, duration
from .budget import Allotment
from .diagnosis import Diagnosis, Finding, Mark
from .doctor import Examination

MARKS: Mapping[Mark, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "blue"),
    "warning": ("!", "yellow"),
    "wrong": ("✗", "red"),
}
SECTIONS = ("settings", "engines", "connections", "probe", "slow queries")
VERDICTS = {"async": ("side by side", "yellow"), "already": ("already", "green"), "leave": ("leave", "")}
NO_LIMIT = 1 << 20


def lines(found: Examination, diagnosis: Diagnosis, width: int = 120) -> Iterable[str]:
    """The report, line by line; statements are cut so that their lines keep within `width` columns."""
    for section in SECTIONS:
        yield _paint(section.capitalize(), "bold")
        if section == "settings":
            yield from _columns([(name, value or "(not set)") for name, value in found.settings.items()], "  ")
        if section == "connections":
            for allotment in found.allotments:
                yield from _terms(allotment)
        for finding in diagnosis.findings:
            if finding.section == section:
                yield from _finding(finding)
        if section == "slow queries":
            for slow in diagnosis.slow_queries:
                yield from _queries(slow.advice, width)
                if slow.left_out:
                    yield f"  … and {slow.left_out} more; --top shows more of them"
        yield ""
    yield _summary(diagnosis)


def _finding(finding: Finding) -> Iterable[str]:
    mark, colour = MARKS[finding.mark]
    yield f"  {_paint(mark, colour)} {finding.text}"
    for todo in finding.todo:
        yield f"      {todo}"


def _terms(allotment: Allotment) -> Iterable[str]:
    yield f"  {allotment.limit.name}"
    rows = [(str(term), str(term.total), term.what) for term in allotment.budget.terms]
    yield from _columns(rows, "    ", right=frozenset((0, 1)))


def _queries(advice: Sequence[Advice], width: int) -> Iterable[str]:
    rows = [("asked by", "calls", "total", "mean", "max", "rows", "")]
    for each in advice:
        statement = each.statement
        rows.append(
            (
                str(statement.source),
                str(statement.calls),
                duration(statement.total_ms),
                duration(statement.mean_ms),
                duration(statement.max_ms) + (" ‼" if each.outlier else ""),
                str(statement.rows),
                statement.text,
            )
        )
    head, *table = _columns(rows, "    ", right=frozenset(range(1, 6)), width=width)
    yield _paint(head, "dim")
    for line, each in zip(table, advice, strict=True):
        verdict, colour = VERDICTS[each.verdict]
        yield line
        yield f"      → {_paint(verdict, colour)}: {each.reason}"
    if any(each.outlier for each in advice):
        yield "    ‼ its slowest call took more than ten times the mean: look for locks, cold caches, rare parameters"
    if any(each.verdict == "async" for each in advice):
        yield "    side by side: schedule all of them with ctx.db before the first await"


def _columns(
    rows: Sequence[Sequence[str]], indent: str, right: frozenset[int] = frozenset(), width: int = NO_LIMIT
) -> Iterable[str]:
    """The rows with their columns aligned, cut at `width`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(size) if number in right else cell.ljust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = (indent + "  ".join(cells)).rstrip()
        yield line if len(line) <= width else f"{line[: width - 1]}…"


def _summary(diagnosis: Diagnosis) -> str:
    wrong = sum(finding.mark == "wrong" for finding in diagnosis.findings)
    if not wrong:
        return _paint("all is well", "green")
    return _paint("one thing is wrong" if wrong == 1 else f"{wrong} things are wrong", "red")


def _paint(text: str, style: str) -> str:
    """The text in a colour, bold or dim; `click.echo` takes that away again where no terminal shows it."""
    if style in ("bold", "dim"):
        return click.style(text, **{style: True})
    return click.style(text, fg=style) if style else text


def as_json(found: Examination, diagnosis: Diagnosis) -> dict[str, Any]:
    """The report as plain data: times of queries in milliseconds, all else in seconds."""
    return {
        "well": diagnosis.well,
        "settings": dict(found.settings),
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "connections": [
            {
                "limit": each.limit.name,
                "takes": each.limit.connections,
                "budget": each.budget.total,
                "arithmetic": str(each.budget),
                "terms": [asdict(term) for term in each.budget.terms],
                "fits": each.fits,
            }
            for each in found.allotments
        ],
        "slow_queries": [
            {"databases": list(slow.databases), **_advice(each)}
            for slow in diagnosis.slow_queries
            for each in slow.advice
        ],
    }


def _advice(each: Advice) -> dict[str, Any]:
    statement = each.statement
    return {
        "source": asdict(statement.source),
        "statement": statement.text,
        "calls": statement.calls,
        "total_ms": statement.total_ms,
        "mean_ms": statement.mean_ms,
        "max_ms": statement.max_ms,
        "rows": statement.rows,
        "outlier": each.outlier,
        "verdict": each.verdict,
        "reason": each.reason,
    }
