"""What can be said of a statement, and the statements that are made of others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import BinaryExpression, BindParameter, ColumnClause, ColumnElement, Select, TextClause, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.orm.interfaces import LoaderOption
from sqlalchemy.sql import ColumnExpressionArgument, operators
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BooleanClauseList, False_
from sqlalchemy.sql.functions import FunctionElement, cube, grouping_sets, rollup
from sqlalchemy.sql.selectable import GenerativeSelect, SelectBase
from sqlalchemy.sql.visitors import iterate

from ...errors import QueryError

Where = ColumnExpressionArgument[bool]

_WRITING = re.compile(r"\b(insert|update|delete|merge|call|do|truncate)\b", re.IGNORECASE)


def is_column(source: Any) -> bool:
    """Whether it is a column or an expression."""
    return isinstance(source, ColumnElement | QueryableAttribute)


def is_entity(source: Any) -> bool:
    """Whether it is a mapped class, an alias of one, or a table."""
    if isinstance(source, SelectBase) or is_column(source):
        return False
    try:
        inspected = inspect(source)
    except NoInspectionAvailable:
        return False
    return any(getattr(inspected, flag, False) for flag in ("is_mapper", "is_aliased_class", "is_selectable"))


def mapper_of(entity: Any) -> Any:
    """The mapper of a mapped class or of an alias of one; None of anything else."""
    try:
        return getattr(inspect(entity), "mapper", None)
    except NoInspectionAvailable:
        return None


def entity_of(statement: Any) -> Any:
    """The entity that the statement selects first, if that is one; else None."""
    for described in getattr(statement, "column_descriptions", ()):
        return described["expr"] if mapper_of(described["expr"]) is not None else None
    return None


def has_entities(statement: Any) -> bool:
    """Whether the ORM must make objects from the rows; if not, Core reads them in half the time."""
    columns = getattr(statement, "_raw_columns", None)
    if columns is not None:
        # What an entity leaves in a select() is its table, marked; a Bundle leaves a list. So much is known
        # without asking for `column_descriptions`, which takes as long as making the statement did.
        return any(
            "bundle" in column._annotations or ("parententity" in column._annotations and not is_column(column))
            for column in columns
        )
    descriptions = getattr(statement, "column_descriptions", ())
    return any(not is_column(described["expr"]) for described in descriptions)


def narrowed(statement: Any, where: Where | None) -> Any:
    """The statement with one more condition. Raises QueryError where it can't have one."""
    if where is None:
        return statement
    if not isinstance(statement, Select):
        raise QueryError("`where` needs an entity, a column or a select()")
    return statement.where(where)


def carried(source: Any, derived: Any) -> Any:
    """The derived statement with what the source's author has said of it: criteria, and options of execution.

    Options for loading stay behind: nothing of that kind is loaded by a statement of other columns.
    """
    if criteria := _criteria(source):
        derived = derived.options(*criteria)
    execution = source.get_execution_options()
    return derived.execution_options(**execution) if execution else derived


def with_columns(statement: Any, *columns: Any) -> Any:
    """The statement, a select(), with these columns in place of its own; without options for loading, as above."""
    # SQLAlchemy puts options aside with the columns that they were given for, and they hold for subqueries no more.
    bare = statement._generate()
    bare._with_options = ()
    chosen = bare.with_only_columns(*columns, maintain_column_froms=True)
    return chosen.options(*_criteria(statement))


def _criteria(statement: Any) -> list[Any]:
    """The options that are none for loading. There is no public way to look into options; tests pin this one."""
    given = [*getattr(statement, "_with_options", ())]
    given += [
        option for aside in getattr(statement, "_memoized_select_entities", ()) for option in aside._with_options
    ]
    return [option for option in given if not isinstance(option, LoaderOption)]


def is_multiplied(statement: Any) -> bool:
    """Whether it fills collections from the rows of its own join, so that several rows make one object."""
    options = getattr(statement, "_with_options", ())
    elements = (element for option in options for element in getattr(option, "context", ()))
    return any("eager_from_alias" in getattr(element, "local_opts", ()) for element in elements)


def as_table(statement: Any) -> Any:
    """The statement as a subquery.

    PostgreSQL plans a simple one as if it were not there, so this form serves LIMIT, DISTINCT, UNION and
    the rest alike. An ORDER BY would be carried out, though, and changes nothing where no rows are cut off.
    """
    # SQLAlchemy has no public way to ask for either clause; tests pin both.
    if isinstance(statement, GenerativeSelect) and not statement._has_row_limiting_clause:
        statement = statement.order_by(None)
    return statement.subquery()


def is_grouped(statement: Any) -> bool:
    """Whether it has a GROUP BY."""
    return isinstance(statement, Select) and bool(statement._group_by_clauses)


def is_ordered(statement: Any) -> bool:
    """Whether it has an ORDER BY."""
    return isinstance(statement, GenerativeSelect) and bool(statement._order_by_clauses)


def limited_to_one(statement: Any) -> Any:
    """The statement with no more than its first row, where that can be said without lifting a limit of its own."""
    if not isinstance(statement, Select) or statement._fetch_clause is not None or is_multiplied(statement):
        return statement
    limit = statement._limit_clause
    if limit is None or (isinstance(limit, BindParameter) and limit.callable is None and limit.effective_value):
        return statement.limit(1)
    return statement


def is_distinct_on(statement: Any) -> bool:
    """Whether it has a DISTINCT ON, whose columns PostgreSQL wants to order by first."""
    return bool(statement._distinct_on) or statement._pre_columns_clause is not None


def primary_key(entity: Any) -> list[Any]:
    """The attributes, or columns, that tell the rows of an entity apart. Raises QueryError where there are none."""
    mapper = mapper_of(entity)
    if mapper is not None:
        return [getattr(entity, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
    columns = list(getattr(entity, "primary_key", ()))
    if not columns:
        raise QueryError(f"{entity!r} has no primary key")
    return columns


def never_matches(statement: Any) -> bool:
    """Whether it can be seen that there will be no row."""
    if not contradictory(statement):
        return False
    # Without groups, an aggregate makes one row of none; so does ROLLUP for the group of all.
    if is_grouped(statement):
        return not any(map(_may_be_rollup, _parts(statement._group_by_clauses)))
    made_of = (*statement._raw_columns, *statement._order_by_clauses)
    return not (statement._having_criteria or any(map(_may_be_aggregate, _parts(made_of))))


def contradictory(statement: Any) -> bool:
    """Whether nothing can satisfy its condition: one that is false, `IN ()`, or LIMIT 0 of what is no aggregate."""
    if not isinstance(statement, Select):
        return False
    limit = statement._limit_clause
    none = isinstance(limit, BindParameter) and limit.callable is None and limit.effective_value == 0
    return (none or any(map(_is_false, statement._where_criteria))) and only_reads(statement)


def only_reads(statement: Any) -> bool:
    """Whether there is no INSERT, UPDATE, DELETE or MERGE in it, nor a text that may be one.

    What a function does that it calls can't be seen from here.
    """
    return not any(map(_may_write, iterate(statement)))


def _is_false(condition: Any) -> bool:
    if isinstance(condition, BooleanClauseList):
        return condition.operator is operators.and_ and any(map(_is_false, condition.clauses))
    if isinstance(condition, BinaryExpression) and condition.operator is operators.in_op:
        values = condition.right
        if isinstance(values, BindParameter) and values.expanding and values.callable is None:
            return not values.required and not values.effective_value
    return isinstance(condition, False_)


def _parts(elements: Iterable[Any]) -> Iterator[Any]:
    return (part for element in elements for part in iterate(element))


def _may_be_aggregate(part: Any) -> bool:
    return isinstance(part, FunctionElement) or _has_call(part)


def _may_be_rollup(part: Any) -> bool:
    return isinstance(part, rollup | cube | grouping_sets) or _has_call(part)


def _has_call(part: Any) -> bool:
    """Whether it is SQL of the author's own with a bracket in it."""
    if isinstance(part, ColumnClause):
        return part.is_literal and "(" in part.name
    return isinstance(part, TextClause) and "(" in part.text


def _may_write(element: Any) -> bool:
    return isinstance(element, UpdateBase) or (
        isinstance(element, TextClause) and _WRITING.search(element.text) is not None
    )
