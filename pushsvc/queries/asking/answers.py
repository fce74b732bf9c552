"""From rows to answers: what each kind of question makes of what the database gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Integer

from ...domain import Groups
from ...errors import QueryError

T = TypeVar("T")


def only_value(convert: Callable[[Any], T]) -> Callable[[list[Any]], T]:
    """The only value, converted; None is converted where there is no row."""

    def finish(rows: list[Any]) -> T:
        return convert(rows[0] if rows else None)

    return finish


def grouped(convert: Callable[[Any], T], name: str, *, several: bool) -> Callable[[list[Any]], dict[Any, T]]:
    """The last value, converted, by the first; by the tuple of all others where they are `several`.

    Raises QueryError at `await` for keys that a dict can't hold apart, or not at all.
    """

    def finish(rows: list[Any]) -> dict[Any, T]:
        answer: dict[Any, T] = Groups() if several else {}
        for row in rows:
            key = row[0] if len(row) == 2 else tuple(row[:-1])
            try:
                known = key in answer
            except TypeError:
                raise QueryError(
                    f"{name}: {key!r} can't be a key of a dict: group by a text of it, such as cast(column, Text)"
                ) from None
            if known:
                raise QueryError(
                    f"{name}: there are several groups {key!r}: select all columns it groups by; of a ROLLUP, "
                    "func.grouping() of them too"
                )
            answer[key] = convert(row[-1])
        return answer

    return finish


def as_list(rows: list[Any]) -> list[Any]:
    """The rows."""
    return rows


def once(rows: list[Any]) -> list[Any]:
    """The rows, each once."""
    return list(dict.fromkeys(rows))


def first(rows: list[Any]) -> Any:
    """The first row, or None."""
    return rows[0] if rows else None


def as_is(value: Any) -> Any:
    """The value."""
    return value


def as_count(value: Any) -> int:
    """The number; 0 of nothing. Raises QueryError for what is no whole number."""
    if value is None:
        return 0
    if not isinstance(value, int | float | Decimal) or not math.isfinite(value) or value != int(value):
        raise QueryError(f"{value!r} is no count: it takes a whole number")
    return int(value)


def as_average(value: Any) -> Any:
    """The mean as a float where it is a number; None of nothing."""
    return float(value) if isinstance(value, Decimal) else value


def as_sum(column: ColumnElement[Any]) -> Callable[[Any], Any]:
    """As PostgreSQL answers, which sums `bigint` to `numeric` and nothing to NULL: an int of whole numbers, and 0.

    What SQLAlchemy takes for integers may have a fraction, as `extract("epoch", …)` has. A numeric of the server's
    that was summed of integers has no places after its point; any that has them stays as it is.
    """
    try:
        zero = column.type.python_type()
    except (NotImplementedError, TypeError):
        zero = 0
    whole = isinstance(column.type, Integer)

    def convert(value: Any) -> Any:
        if value is None:
            return zero
        return int(value) if whole and isinstance(value, Decimal) and not _has_places(value) else value

    return convert


def _has_places(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return not isinstance(exponent, int) or exponent < 0
