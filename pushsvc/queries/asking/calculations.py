"""Questions whose answer is a number: count, sum, minimum, maximum, average; and whether there is anything at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, overload

from sqlalchemy import ColumnElement, exists, func, literal_column, select
from sqlalchemy.sql import roles
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.selectable import SelectBase, TypedReturnsRows

from ...errors import QueryError
from ..promise import Promise
from .answers import as_average, as_count, as_is, as_sum, grouped, only_value
from .asking import Asking
from .naming import subject
from .question import Question
from .statements import Where, as_table, contradictory, is_column, is_entity, is_grouped, narrowed, never_matches

T = TypeVar("T")
K = TypeVar("K")

Column = SQLCoreOperations[T] | roles.TypedColumnsClauseRole[T]
"""A column or an expression: what `select()` takes but an entity."""


class Calculations(Asking):
    """The part of `Database` that calculates. Where a statement can't match, nothing is asked: 0, or None."""

    def async_count(
        self, source: type[Any] | Column[Any] | SelectBase, *, where: Where | None = None
    ) -> Promise[int]:
        """How many rows the entity or the statement has, or how many values that are not NULL the column.

        A statement with GROUP BY is counted by group: the answer is a dict from what it selects (a tuple
        where that is several columns) to the group's count. The types can't tell that; `cast` it.
        """
        return self._ask(count(source, where))

    @overload
    def async_sum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(self, source: TypedReturnsRows[T | None], *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T]]: ...

    @overload
    def async_sum(self, source: SelectBase, *, where: Where | None = None) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_sum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The sum of a column, or of a statement's only one; 0 when there are no rows.

        A statement with GROUP BY that selects the columns it groups by and, last, the one to be summed gives
        a dict: key, or tuple of keys, to sum. So it is with the minimum, maximum and average.
        """
        return self._ask(aggregate("Sum", func.sum, source, where, as_sum))

    @overload
    def async_minimum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[T | None], *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_minimum(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_minimum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The least value of a column, or of a statement's only one; None when there are no rows."""
        return self._ask(aggregate("Minimum", func.min, source, where, lambda _: as_is))

    @overload
    def async_maximum(self, source: Column[T | None], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[T | None], *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[K, T | None], *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_maximum(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_maximum(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The greatest value of a column, or of a statement's only one; None when there are no rows."""
        return self._ask(aggregate("Maximum", func.max, source, where, lambda _: as_is))

    @overload
    def async_average(self, source: Column[Any], *, where: Where | None = None) -> Promise[float | None]: ...

    @overload
    def async_average(self, source: TypedReturnsRows[T], *, where: Where | None = None) -> Promise[float | None]: ...

    @overload
    def async_average(
        self, source: TypedReturnsRows[K, T], *, where: Where | None = None
    ) -> Promise[dict[K, float | None]]: ...

    @overload
    def async_average(
        self, source: SelectBase, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], float | None]]: ...

    def async_average(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The mean of a column, or of a statement's only one, as a float; None when there are no rows."""
        return self._ask(aggregate("Average", func.avg, source, where, lambda _: as_average))

    def async_exists(
        self, source: type[Any] | Column[Any] | SelectBase, *, where: Where | None = None
    ) -> Promise[bool]:
        """Whether the entity or the statement has any row, or the column any value that is not NULL."""
        return self._ask(existence(source, where))


def count(source: Any, where: Where | None) -> Question[Any]:
    """How many rows an entity or a statement has, or how many values that are not NULL a column has."""
    name = f"{subject(source)} Count"
    if isinstance(source, SelectBase):
        statement = narrowed(source, where)
        never = never_matches(statement)
        if is_grouped(statement):
            return Question(name, statement.add_columns(func.count()), grouped(as_count), never=never)
        counted = select(func.count()).select_from(as_table(statement))
        return Question(name, counted, only_value(as_count), never=never)
    counted = narrowed(_counted(source), where)
    return Question(name, counted, only_value(as_count), never=contradictory(counted))


def existence(source: Any, where: Where | None) -> Question[bool]:
    """Whether there is a row, or a value that is not NULL."""
    rows: Any
    if is_column(source):
        rows = select(literal_column("1")).where(source.is_not(None))
    elif is_entity(source):
        rows = select(literal_column("1")).select_from(source)
    elif isinstance(source, SelectBase):
        rows = source
    else:
        raise QueryError(f"can't look for {source!r}: it is no entity, column or select()")
    rows = narrowed(rows, where)
    return Question(f"{subject(source)} Exists", select(exists(rows)), only_value(bool), never=never_matches(rows))


def aggregate(
    verb: str,
    function: Callable[[Any], ColumnElement[Any]],
    source: Any,
    where: Where | None,
    converter: Callable[[ColumnElement[Any]], Callable[[Any], Any]],
) -> Question[Any]:
    """One value from one column; from several, the last one's value for each of the others."""
    name = f"{subject(source)} {verb}"
    if is_column(source):
        statement = narrowed(select(function(source)), where)
        return Question(name, statement, only_value(converter(source)), never=contradictory(statement))
    if not isinstance(source, SelectBase):
        raise QueryError(f"can't take the {verb.lower()} of {source!r}: it is no column or select()")
    statement = narrowed(source, where)
    never = never_matches(statement)
    columns = list(statement.selected_columns)
    if is_grouped(statement) and len(columns) > 1:
        *keys, column = [described["expr"] for described in statement.column_descriptions]
        by_key = statement.with_only_columns(*keys, function(column), maintain_column_froms=True)
        return Question(name, by_key, grouped(converter(columns[-1])), never=never)
    if is_grouped(statement) or len(columns) != 1:
        raise QueryError(
            f"the {verb.lower()} is of one column: select just that, or the columns to group by and it as the last"
        )
    table = as_table(statement)
    return Question(name, select(function(table.c[0])), only_value(converter(columns[0])), never=never)


def _counted(source: Any) -> Any:
    if is_column(source):
        return select(func.count(source))
    if is_entity(source):
        return _all_counted(source)
    raise QueryError(f"can't count {source!r}: it is no entity, column or select()")


@lru_cache(256)
def _all_counted(entity: Any) -> Any:
    """Making the statement takes longer than narrowing it, and there are few entities."""
    return select(func.count()).select_from(entity)
