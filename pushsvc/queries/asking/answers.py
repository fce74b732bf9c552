"""From rows to answers: what each kind of question makes of what the database gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement

T = TypeVar("T")


def only_value(convert: Callable[[Any], T]) -> Callable[[list[Any]], T]:
    """The only value, converted; None is converted where there is no row."""

    def finish(rows: list[Any]) -> T:
        return convert(rows[0] if rows else None)

    return finish


def grouped(convert: Callable[[Any], T]) -> Callable[[list[Any]], dict[Any, T]]:
    """The last value, converted, by the first; by the tuple of all others where they are several."""

    def finish(rows: list[Any]) -> dict[Any, T]:
        return {row[0] if len(row) == 2 else tuple(row[:-1]): convert(row[-1]) for row in rows}

    return finish


def as_list(rows: list[Any]) -> list[Any]:
    """The rows."""
    return rows


def first(rows: list[Any]) -> Any:
    """The first row, or None."""
    return rows[0] if rows else None


def as_is(value: Any) -> Any:
    """The value."""
    return value


def as_count(value: Any) -> int:
    """The number; 0 of nothing."""
    return int(value or 0)


def as_average(value: Any) -> float | None:
    """The mean as a float; None of nothing."""
    return None if value is None else float(value)


def as_sum(column: ColumnElement[Any]) -> Callable[[Any], Any]:
    """To the column's own type: PostgreSQL sums `bigint` to `numeric`, and nothing to NULL."""
    try:
        kind = column.type.python_type
        zero = kind()
    except (NotImplementedError, TypeError):
        kind, zero = object, 0

    def convert(value: Any) -> Any:
        if value is None:
            return zero
        return int(value) if kind is int else value

    return convert
