"""From an entity, a column or a `select()` to the statement that answers, and how its answer is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Executable,
    Select,
    TextClause,
    func,
    inspect,
    select,
)
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import FromStatement, QueryableAttribute, Session
from sqlalchemy.sql import ColumnExpressionArgument
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CompoundSelect, FromClause, GenerativeSelect, SelectBase
from sqlalchemy.sql.visitors import iterate

from ..errors import QueryError

T = TypeVar("T")

Where = ColumnExpressionArgument[bool]

_WRITING = re.compile(r"\s*(insert|update|delete|merge|with|call|do|truncate)\b", re.IGNORECASE)


class Question(Generic[T]):
    """A statement and how to read its answer.

    Called with a connection it answers, with values that need the connection no longer.
    """

    __slots__ = ("_read", "name", "statement")

    def __init__(self, name: str, statement: Executable, read: Callable[[Connection, Any], T]) -> None:
        self.name = name
        self.statement = statement
        self._read = read

    def __call__(self, connection: Connection) -> T:
        return self._read(connection, self.statement)

    def reads_only(self) -> bool:
        """Whether it may run twice: there is no INSERT, UPDATE, DELETE or MERGE in it, nor a text that may be one.

        What a function does that it calls can't be seen from here.
        """
        return not any(map(_may_write, iterate(self.statement)))  # type: ignore[arg-type]  # every one is traversible


def _may_write(element: Any) -> bool:
    return isinstance(element, UpdateBase) or (
        isinstance(element, TextClause) and _WRITING.match(element.text) is not None
    )


def load(source: Any) -> Question[list[Any]]:
    """The rows of a statement, an entity or a column; where it selects one thing, a list of those."""
    if isinstance(source, SelectBase | FromStatement):
        statement: Any = source
    elif _is_column(source) or _is_entity(source):
        statement = select(source)
    else:
        raise QueryError(f"can't load {source!r}: it is no entity, column or select()")
    return Question(f"{_subject(source)} Load", statement, _read_rows)


def count(source: Any, where: Where | None) -> Question[Any]:
    """How many rows an entity or a statement has, or how many values that are not NULL a column has."""
    name = f"{_subject(source)} Count"
    if isinstance(source, SelectBase):
        statement = _narrowed(source, where)
        if _is_grouped(statement):
            return Question(name, statement.add_columns(func.count()), _read_groups(int))
        return Question(name, select(func.count()).select_from(_as_table(statement)), _read_value(int))
    if _is_column(source):
        counted = select(func.count(source))
    elif _is_entity(source):
        counted = select(func.count()).select_from(source)
    else:
        raise QueryError(f"can't count {source!r}: it is no entity, column or select()")
    return Question(name, _narrowed(counted, where), _read_value(int))


def total(source: Any, where: Where | None) -> Question[Any]:
    """The sum of a column's values; of none, the zero of the column's type."""
    return _aggregate("Sum", func.sum, source, where, _as_sum)


def minimum(source: Any, where: Where | None) -> Question[Any]:
    """The least of a column's values; of none, None."""
    return _aggregate("Minimum", func.min, source, where, lambda _: _as_is)


def maximum(source: Any, where: Where | None) -> Question[Any]:
    """The greatest of a column's values; of none, None."""
    return _aggregate("Maximum", func.max, source, where, lambda _: _as_is)


def average(source: Any, where: Where | None) -> Question[Any]:
    """The mean of a column's values as a float; of none, None."""
    return _aggregate("Average", func.avg, source, where, lambda _: _as_average)


def _aggregate(
    verb: str,
    function: Callable[[Any], ColumnElement[Any]],
    source: Any,
    where: Where | None,
    converter: Callable[[ColumnElement[Any]], Callable[[Any], Any]],
) -> Question[Any]:
    """One value from one column; from several, the last one's value for each of the others."""
    name = f"{_subject(source)} {verb}"
    if _is_column(source):
        return Question(name, _narrowed(select(function(source)), where), _read_value(converter(source)))
    if not isinstance(source, SelectBase):
        raise QueryError(f"can't take the {verb.lower()} of {source!r}: it is no column or select()")
    statement = _narrowed(source, where)
    columns = list(statement.selected_columns)
    if _is_grouped(statement) and len(columns) > 1:
        *keys, column = [described["expr"] for described in statement.column_descriptions]
        grouped = statement.with_only_columns(*keys, function(column), maintain_column_froms=True)
        return Question(name, grouped, _read_groups(converter(columns[-1])))
    if _is_grouped(statement) or len(columns) != 1:
        raise QueryError(
            f"the {verb.lower()} is of one column: select just that, or the columns to group by and it as the last"
        )
    table = _as_table(statement)
    return Question(name, select(function(table.c[0])), _read_value(converter(columns[0])))


# Statements


def _narrowed(statement: Any, where: Where | None) -> Any:
    if where is None:
        return statement
    if not isinstance(statement, Select):
        raise QueryError("`where` needs an entity, a column or a select()")
    return statement.where(where)


def _as_table(statement: Any) -> Any:
    """The statement as a subquery.

    PostgreSQL plans a simple one as if it were not there, so this form serves LIMIT, DISTINCT, UNION and
    the rest alike. An ORDER BY would be carried out, though, and changes nothing where no rows are cut off.
    """
    # SQLAlchemy has no public way to ask for either clause; tests pin both.
    if isinstance(statement, GenerativeSelect) and not statement._has_row_limiting_clause:
        statement = statement.order_by(None)
    return statement.subquery()


def _is_grouped(statement: Any) -> bool:
    return isinstance(statement, Select) and bool(statement._group_by_clauses)


def _is_column(source: Any) -> bool:
    return isinstance(source, ColumnElement | QueryableAttribute)


def _is_entity(source: Any) -> bool:
    """Whether it is a mapped class, an alias of one, or a table."""
    try:
        inspected = inspect(source)
    except NoInspectionAvailable:
        return False
    return any(getattr(inspected, flag, False) for flag in ("is_mapper", "is_aliased_class", "is_selectable"))


# Names


def _subject(source: Any) -> str:
    """What it is about, for people: the entity's name, the table's, or SQL."""
    if isinstance(source, CompoundSelect):
        return _subject(source.selects[0])
    if isinstance(source, Select | FromStatement):
        descriptions = source.column_descriptions
        subjects = (_name_of(described.get("entity"), described["expr"]) for described in descriptions)
        return next(filter(None, subjects), None) or _table_of(source) or "SQL"
    return _name_of(getattr(source, "parent", None), source) or "SQL"


def _name_of(entity: Any, expression: Any) -> str | None:
    for candidate in (entity, expression):
        try:
            mapper = getattr(inspect(candidate), "mapper", None)
        except NoInspectionAvailable:
            continue
        if mapper is not None:
            return str(mapper.class_.__name__)
    table = getattr(expression, "table", None) if _is_column(expression) else expression
    name = getattr(table, "name", None) if isinstance(table, FromClause) else None
    # An anonymous subquery's name is a template for the compiler, `%(… anon)s`.
    return None if name is None or name.startswith("%(") else str(name)


def _table_of(source: Any) -> str | None:
    froms = source.get_final_froms() if isinstance(source, Select) else ()
    return next((_name_of(None, table) for table in froms), None)


# Reading


def _read_rows(connection: Connection, statement: Any) -> list[Any]:
    if not _has_entities(statement):
        result: CursorResult[Any] = connection.execute(statement)
        rows: list[Any] = list(result.all())
        return [row[0] for row in rows] if len(result.keys()) == 1 else rows
    # A session of its own for each query, as an AsyncSession serves one task at a time.
    with Session(connection, autoflush=False, expire_on_commit=False) as session:
        loaded: Any = session.execute(statement)
        if len(loaded.keys()) == 1:
            loaded = loaded.scalars()
        # Set by the ORM where a joined eager load has multiplied the rows; reading them is an error then,
        # unless asked to be unique. There is no public way to ask; a test pins it.
        if (getattr(loaded, "_real_result", None) or loaded)._unique_filter_state:
            loaded = loaded.unique()
        rows = list(loaded.all())
        session.expunge_all()
        return rows


def _has_entities(statement: Any) -> bool:
    """Whether the ORM must make objects from the rows; if not, Core reads them in half the time."""
    descriptions = getattr(statement, "column_descriptions", ())
    return any(not _is_column(described["expr"]) for described in descriptions)


def _read_value(convert: Callable[[Any], T]) -> Callable[[Connection, Any], T]:
    def read(connection: Connection, statement: Any) -> T:
        return convert(connection.execute(statement).scalar())

    return read


def _read_groups(convert: Callable[[Any], T]) -> Callable[[Connection, Any], dict[Any, T]]:
    def read(connection: Connection, statement: Any) -> dict[Any, T]:
        rows = connection.execute(statement).all()
        return {row[0] if len(row) == 2 else tuple(row[:-1]): convert(row[-1]) for row in rows}

    return read


def _as_is(value: Any) -> Any:
    return value


def _as_average(value: Any) -> float | None:
    return None if value is None else float(value)


def _as_sum(column: ColumnElement[Any]) -> Callable[[Any], Any]:
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
