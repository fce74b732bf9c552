"""Questions whose answer is a number: count, sum, minimum, maximum, average; and whether there is anything at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import ColumnClause, ColumnElement, Select, exists, func, literal_column, select
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql import roles
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.selectable import SelectBase, TypedReturnsRows

from ...errors import QueryError
from ..promise import Promise
from .answers import as_average, as_count, as_is, as_sum, grouped, only_value
from .asking import Asking
from .naming import subject
from .question import Question
from .statements import (
    Where,
    as_table,
    carried,
    contradictory,
    entity_of,
    is_column,
    is_entity,
    is_grouped,
    is_multiplied,
    narrowed,
    never_matches,
    primary_key,
    with_columns,
)

T = TypeVar("T")
K = TypeVar("K")
E = TypeVar("E", bound=DeclarativeBase)
L = TypeVar("L")
Ks = TypeVarTuple("Ks")

Column = SQLCoreOperations[T] | roles.TypedColumnsClauseRole[T]
"""A column or an expression: what `select()` takes but an entity."""


if TYPE_CHECKING:

    class Counts(dict[K, int], int):  # type: ignore[misc]  # nothing is both
        """To type checkers, what a statement's count is: a number, or a dict of them where it has a GROUP BY.

        Whether it has one is not in the type of a `select()`. Code that takes it for either is right to them.
        """


class Calculations(Asking):
    """The part of `Database` that calculates. Where a statement can't match, nothing is asked: 0, or None.

    Each takes a column; a statement that selects one; or an entity or a statement, and the column of it:
    `async_sum(Post.score)`, `async_sum(select(Post.score).limit(9))`, `async_sum(select(Post).limit(9), Post.score)`.
    """

    @overload
    def async_count(
        self, source: type[Any] | Column[Any], column: Column[Any] | None = None, /, *, where: Where | None = None
    ) -> Promise[int]: ...

    @overload
    def async_count(  # type: ignore[overload-overlap]  # who selects objects does not group
        self, source: TypedReturnsRows[E], column: Column[Any] | None = None, /, *, where: Where | None = None
    ) -> Promise[int]: ...

    @overload
    def async_count(
        self, source: TypedReturnsRows[K], column: Column[Any] | None = None, /, *, where: Where | None = None
    ) -> Promise[Counts[K]]: ...

    @overload
    def async_count(
        self,
        source: TypedReturnsRows[K, L, *Ks],
        column: Column[Any] | None = None,
        /,
        *,
        where: Where | None = None,
    ) -> Promise[Counts[tuple[K, L, *Ks]]]: ...

    @overload
    def async_count(
        self, source: SelectBase, column: Column[Any] | None = None, /, *, where: Where | None = None
    ) -> Promise[Counts[Any]]: ...

    def async_count(self, source: Any, column: Any = None, /, *, where: Where | None = None) -> Promise[Any]:
        """How many rows the entity or the statement has, or how many values that are not NULL the column.

        A statement with GROUP BY is counted by group: the answer is a dict from what it selects (a tuple
        where that is several columns) to the group's count. A type can't tell that from a number, so that of a
        statement's count is both.
        """
        return self._ask(count(source, where, column))

    @overload
    def async_sum(self, source: Column[T | None], /, *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(
        self, source: type[Any] | TypedReturnsRows[E], column: Column[T | None], /, *, where: Where | None = None
    ) -> Promise[T]: ...

    @overload
    def async_sum(
        self, source: SelectBase, column: Column[Any], /, *, where: Where | None = None
    ) -> Promise[Any]: ...

    @overload
    def async_sum(self, source: TypedReturnsRows[T | None], /, *, where: Where | None = None) -> Promise[T]: ...

    @overload
    def async_sum(
        self, source: TypedReturnsRows[K, T | None], /, *, where: Where | None = None
    ) -> Promise[dict[K, T]]: ...

    @overload
    def async_sum(
        self, source: SelectBase, /, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_sum(self, source: Any, column: Any = None, /, *, where: Where | None = None) -> Promise[Any]:
        """The sum; 0 when there are no rows.

        A statement with GROUP BY that selects the columns it groups by and, last, the one to be summed gives
        a dict: key, or tuple of keys, to sum. So it is with the minimum, maximum and average.
        """
        return self._ask(aggregate("Sum", func.sum, source, column, where, as_sum))

    @overload
    def async_minimum(self, source: Column[T | None], /, *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: type[Any] | TypedReturnsRows[E], column: Column[T | None], /, *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: SelectBase, column: Column[Any], /, *, where: Where | None = None
    ) -> Promise[Any]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[T | None], /, *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_minimum(
        self, source: TypedReturnsRows[K, T | None], /, *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_minimum(
        self, source: SelectBase, /, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_minimum(self, source: Any, column: Any = None, /, *, where: Where | None = None) -> Promise[Any]:
        """The least value; None when there are no rows."""
        return self._ask(aggregate("Minimum", func.min, source, column, where, lambda _: as_is))

    @overload
    def async_maximum(self, source: Column[T | None], /, *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: type[Any] | TypedReturnsRows[E], column: Column[T | None], /, *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: SelectBase, column: Column[Any], /, *, where: Where | None = None
    ) -> Promise[Any]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[T | None], /, *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_maximum(
        self, source: TypedReturnsRows[K, T | None], /, *, where: Where | None = None
    ) -> Promise[dict[K, T | None]]: ...

    @overload
    def async_maximum(
        self, source: SelectBase, /, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], Any]]: ...

    def async_maximum(self, source: Any, column: Any = None, /, *, where: Where | None = None) -> Promise[Any]:
        """The greatest value; None when there are no rows."""
        return self._ask(aggregate("Maximum", func.max, source, column, where, lambda _: as_is))

    @overload
    def async_average(self, source: Column[Any], /, *, where: Where | None = None) -> Promise[float | None]: ...

    @overload
    def async_average(
        self, source: type[Any] | TypedReturnsRows[E], column: Column[Any], /, *, where: Where | None = None
    ) -> Promise[float | None]: ...

    @overload
    def async_average(
        self, source: SelectBase, column: Column[Any], /, *, where: Where | None = None
    ) -> Promise[Any]: ...

    @overload
    def async_average(
        self, source: TypedReturnsRows[T], /, *, where: Where | None = None
    ) -> Promise[float | None]: ...

    @overload
    def async_average(
        self, source: TypedReturnsRows[K, T], /, *, where: Where | None = None
    ) -> Promise[dict[K, float | None]]: ...

    @overload
    def async_average(
        self, source: SelectBase, /, *, where: Where | None = None
    ) -> Promise[dict[tuple[Any, ...], float | None]]: ...

    def async_average(self, source: Any, column: Any = None, /, *, where: Where | None = None) -> Promise[Any]:
        """The mean as a float, of intervals as a timedelta; None when there are no rows."""
        return self._ask(aggregate("Average", func.avg, source, column, where, lambda _: as_average))

    def async_exists(
        self,
        source: type[Any] | Column[Any] | SelectBase,
        column: Column[Any] | None = None,
        /,
        *,
        where: Where | None = None,
    ) -> Promise[bool]:
        """Whether the entity or the statement has any row, or the column any value that is not NULL."""
        return self._ask(existence(source, where, column))


def count(source: Any, where: Where | None, column: Any = None) -> Question[Any]:
    """How many rows an entity or a statement has, or how many values that are not NULL a column has."""
    name = f"{subject(source)} Count"
    counted: Any
    if isinstance(source, SelectBase):
        statement = narrowed(source, where)
        never = never_matches(statement)
        if is_grouped(statement):
            by_group = statement.add_columns(func.count() if column is None else func.count(column))
            several = len(statement.selected_columns) > 1
            return Question(name, by_group, grouped(as_count, name, several=several), never=never)
        if column is not None:
            counted = select(func.count(_values(_of_column(statement, column))))
        else:
            counted = select(func.count()).select_from(as_table(_rows_of_objects(statement)))
        return Question(name, carried(statement, counted), only_value(as_count), never=never)
    counted = narrowed(_counted(source, column), where)
    return Question(name, counted, only_value(as_count), never=contradictory(counted))


def existence(source: Any, where: Where | None, column: Any = None) -> Question[bool]:
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
    if column is not None:
        rows = _with_values(source, rows, column)
    rows = narrowed(rows, where)
    found = carried(rows, select(exists(rows)))
    return Question(f"{subject(source)} Exists", found, only_value(bool), never=never_matches(rows))


def aggregate(
    verb: str,
    function: Callable[[Any], ColumnElement[Any]],
    source: Any,
    column: Any,
    where: Where | None,
    converter: Callable[[ColumnElement[Any]], Callable[[Any], Any]],
) -> Question[Any]:
    """One value from one column; from several, the last one's value for each of the others."""
    name = f"{subject(source)} {verb}"
    if column is not None:
        if is_entity(source):
            source = select(source)
        if not isinstance(source, SelectBase):
            raise QueryError(f"can't take the {verb.lower()} of a column of {source!r}: it is no entity or select()")
        source = _of_column(source, column)
    if is_column(source):
        statement = narrowed(select(function(source)), where)
        return Question(name, statement, only_value(converter(source)), never=contradictory(statement))
    if not isinstance(source, SelectBase):
        raise QueryError(f"can't take the {verb.lower()} of {source!r}: it is no column or select()")
    statement = narrowed(source, where)
    never = never_matches(statement)
    columns = list(statement.selected_columns)
    if is_grouped(statement) and len(columns) > 1:
        *keys, last = [described["expr"] for described in statement.column_descriptions]
        by_key = with_columns(statement, *keys, function(last))
        return Question(name, by_key, grouped(converter(columns[-1]), name, several=len(columns) > 2), never=never)
    if is_grouped(statement) or len(columns) != 1:
        raise QueryError(
            f"the {verb.lower()} is of one column: select just that, or the columns to group by and it as the last; "
            "or give the column beside the select()"
        )
    value = carried(statement, select(function(_values(statement))))
    return Question(name, value, only_value(converter(columns[0])), never=never)


def _of_column(statement: Any, column: Any) -> Any:
    """The statement of this column; one that is grouped keeps what it selects in front of it."""
    if not is_column(column):
        raise QueryError(f"{column!r} is no column")
    if not isinstance(statement, Select):
        raise QueryError("a column can be taken of an entity or a select() only")
    keys = [described["expr"] for described in statement.column_descriptions] if is_grouped(statement) else []
    return with_columns(statement, *keys, column)


def _values(statement: Any) -> Any:
    """The only column of the statement, as the column of a subquery."""
    [column] = statement.selected_columns
    if isinstance(statement, Select) and isinstance(column, ColumnClause) and column.is_literal:
        # SQLAlchemy would take its text for its name.
        statement = with_columns(statement, column.label("value"))
    return as_table(statement).c[0]


def _with_values(source: Any, rows: Any, column: Any) -> Any:
    """The rows in which the column has a value."""
    if not is_column(column):
        raise QueryError(f"{column!r} is no column")
    if is_column(source) or not isinstance(rows, Select):
        raise QueryError("a column can be looked for in an entity or a select() only")
    if is_grouped(rows):
        raise QueryError("groups have no values of another column: say which are meant by having()")
    if rows._has_row_limiting_clause:
        values = _values(_of_column(rows, column))
        return carried(rows, select(values).where(values.is_not(None)))
    return rows.where(column.is_not(None))


def _rows_of_objects(statement: Any) -> Any:
    """The statement with a row for each object that would be loaded, if a join of its own has multiplied them."""
    if not is_multiplied(statement):
        return statement
    if len(statement.column_descriptions) != 1:
        raise QueryError("contains_eager() leaves open how many rows of several things there are: select one entity")
    keys = as_table(with_columns(statement, *primary_key(entity_of(statement))))
    return select(*keys.c).distinct()


def _counted(source: Any, column: Any) -> Any:
    if column is not None:
        if not is_column(column) or is_column(source) or not is_entity(source):
            raise QueryError(f"can't count the values of {column!r} in {source!r}: give an entity and a column of it")
        return select(func.count(column)).select_from(source)
    if is_column(source):
        return select(func.count(source))
    if is_entity(source):
        return _all_counted(source)
    raise QueryError(f"can't count {source!r}: it is no entity, column or select()")


@lru_cache(256)
def _all_counted(entity: Any) -> Any:
    """Making the statement takes longer than narrowing it, and there are few entities."""
    return select(func.count()).select_from(entity)
