"""Questions whose answer is rows, or values of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row, TextClause
from sqlalchemy.sql.selectable import ExecutableReturnsRows, SelectBase, TypedReturnsRows

from ...domain import Json
from ..promise import Promise
from . import lookups
from .asking import Asking
from .calculations import Column
from .statements import Where

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")


class Finders(Asking):
    """The part of `Database` that finds. Where a statement can't match, nothing is asked: there are no rows."""

    @overload
    def async_pluck(self, source: Column[T], /, *, where: Where | None = None) -> Promise[list[T]]: ...

    @overload
    def async_pluck(
        self, source: Column[T], second: Column[U], /, *, where: Where | None = None
    ) -> Promise[list[Row[T, U]]]: ...

    @overload
    def async_pluck(
        self, source: Column[T], second: Column[U], third: Column[V], /, *, where: Where | None = None
    ) -> Promise[list[Row[T, U, V]]]: ...

    @overload
    def async_pluck(
        self, source: type[Any] | SelectBase, column: Column[T], /, *, where: Where | None = None
    ) -> Promise[list[T]]: ...

    @overload
    def async_pluck(
        self, source: type[Any] | SelectBase, column: Column[T], second: Column[U], /, *, where: Where | None = None
    ) -> Promise[list[Row[T, U]]]: ...

    @overload
    def async_pluck(self, source: TypedReturnsRows[T], /, *, where: Where | None = None) -> Promise[list[T]]: ...

    @overload
    def async_pluck(
        self, source: TypedReturnsRows[T, U, *Ts], /, *, where: Where | None = None
    ) -> Promise[list[Row[T, U, *Ts]]]: ...

    @overload
    def async_pluck(self, source: Any, /, *columns: Any, where: Where | None = None) -> Promise[list[Any]]: ...

    def async_pluck(self, source: Any, /, *columns: Any, where: Where | None = None) -> Promise[list[Any]]:
        """The values of columns, in all rows: a list of values, or of Row where there are several columns.

        The columns alone, or an entity or a statement and the columns of it: `async_pluck(Flight.origin)`,
        `async_pluck(select(Flight).limit(9), Flight.origin, Flight.carrier)`.
        """
        return self._ask(lookups.pluck(source, columns, where))

    @overload
    def async_pick(self, source: Column[T], /, *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_pick(
        self, source: Column[T], second: Column[U], /, *, where: Where | None = None
    ) -> Promise[Row[T, U] | None]: ...

    @overload
    def async_pick(
        self, source: type[Any] | SelectBase, column: Column[T], /, *, where: Where | None = None
    ) -> Promise[T | None]: ...

    @overload
    def async_pick(self, source: TypedReturnsRows[T], /, *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_pick(self, source: Any, /, *columns: Any, where: Where | None = None) -> Promise[Any]: ...

    def async_pick(self, source: Any, /, *columns: Any, where: Where | None = None) -> Promise[Any]:
        """What `async_pluck` would give first; None when there are no rows."""
        return self._ask(lookups.pick(source, columns, where))

    def async_ids(self, source: type[Any] | SelectBase, *, where: Where | None = None) -> Promise[list[Any]]:
        """The primary keys of all rows; a key of several columns as Row."""
        return self._ask(lookups.ids(source, where))

    @overload
    def async_first(self, source: type[T] | Column[T], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_first(self, source: TypedReturnsRows[T], *, where: Where | None = None) -> Promise[T | None]: ...

    @overload
    def async_first(
        self, source: TypedReturnsRows[T, U, *Ts], *, where: Where | None = None
    ) -> Promise[Row[T, U, *Ts] | None]: ...

    def async_first(self, source: Any, *, where: Where | None = None) -> Promise[Any]:
        """The first row, in the order of the statement, else of the primary key; None when there is none."""
        return self._ask(lookups.first_of(source, where))

    @overload
    def async_find(
        self, source: type[T] | TypedReturnsRows[T], key: list[Any] | set[Any], *, where: Where | None = None
    ) -> Promise[list[T]]: ...

    @overload
    def async_find(
        self, source: type[T] | TypedReturnsRows[T], key: Any, *, where: Where | None = None
    ) -> Promise[T]: ...

    def async_find(self, source: Any, key: Any, *, where: Where | None = None) -> Promise[Any]:
        """The row with this primary key, which is a tuple where it has several columns.

        Of a list of keys, the list of their rows, in that order. RecordNotFound is raised at `await` where
        one is missing.
        """
        return self._ask(lookups.find(source, key, where))

    def async_find_by(
        self, source: type[T] | TypedReturnsRows[T], where: Where | None = None, /, **values: Any
    ) -> Promise[T | None]:
        """Any one row in which attributes have these values and the condition holds; None when there is none."""
        return self._ask(lookups.find_by(source, where, values))

    @overload
    def async_find_by_sql(
        self, source: type[T], sql: str | TextClause, parameters: Mapping[str, Any] | None = None, /, **values: Any
    ) -> Promise[list[T]]: ...

    @overload
    def async_find_by_sql(
        self, source: str | TextClause, parameters: Mapping[str, Any] | None = None, /, **values: Any
    ) -> Promise[list[Any]]: ...

    def async_find_by_sql(self, source: Any, /, *rest: Any, **values: Any) -> Promise[list[Any]]:
        """The rows of a SQL text: as entities where one comes before it, else as values or Row.

        `async_find_by_sql(Flight, "SELECT * FROM flights WHERE origin = :origin", origin="JFK")`. Parameters,
        `:name` in the text, come as keywords or as a mapping; a colon of SQL's own before a name is `\\:`.
        """
        return self._ask(lookups.find_by_sql(source, rest, values))

    def async_count_by_sql(
        self, sql: str | TextClause, parameters: Mapping[str, Any] | None = None, /, **values: Any
    ) -> Promise[int]:
        """The number that a SQL text gives, in its first row and column; 0 where it gives none."""
        return self._ask(lookups.count_by_sql(sql, parameters, values))

    def async_json(
        self, source: type[Any] | Column[Any] | ExecutableReturnsRows, *, where: Where | None = None
    ) -> Promise[Json]:
        """The rows as a JSON array of objects, written by PostgreSQL and parsed by nobody.

        The fast way for large results: return it from a job, alone or as a part, and its bytes go into the
        result as they are. Keys are the names of the columns.
        """
        return self._ask(lookups.json(source, where))
