"""From sources to the questions of `Finders`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import LargeBinary, Row, Select, Text, TextClause, and_, bindparam, cast, func, select, text, tuple_
from sqlalchemy.orm import FromStatement, QueryableAttribute
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.types import NullType

from ...domain import Json
from ...errors import QueryError, RecordNotFound
from .answers import as_count, as_list, first, once, only_value
from .naming import subject
from .question import Question
from .statements import (
    Where,
    carried,
    entity_of,
    is_column,
    is_distinct_on,
    is_entity,
    is_multiplied,
    is_ordered,
    limited_to_one,
    mapper_of,
    narrowed,
    never_matches,
    primary_key,
    with_columns,
)


def load(source: Any, where: Where | None = None) -> Question[list[Any]]:
    """The rows of a statement, an entity or a column; where it selects one thing, a list of those."""
    statement = _selected(source, where)
    return Question(f"{subject(source)} Load", statement, as_list, never=never_matches(statement))


def pluck(source: Any, columns: Sequence[Any], where: Where | None) -> Question[list[Any]]:
    """The values of columns."""
    statement = _columns(source, columns, where)
    return Question(f"{subject(source)} Pluck", statement, as_list, never=never_matches(statement))


def pick(source: Any, columns: Sequence[Any], where: Where | None) -> Question[Any]:
    """The values of columns in one row, or None."""
    statement = limited_to_one(_columns(source, columns, where))
    return Question(f"{subject(source)} Pick", statement, first, never=never_matches(statement))


def ids(source: Any, where: Where | None) -> Question[list[Any]]:
    """The primary keys."""
    statement = _columns(source, primary_key(_entity(source)), where)
    # A join that fills collections has several rows for one object.
    finish = once if is_multiplied(source) else as_list
    return Question(f"{subject(source)} Ids", statement, finish, never=never_matches(statement))


def first_of(source: Any, where: Where | None) -> Question[Any]:
    """The first row, or None; without an order of its own, by the primary key if an entity is selected."""
    statement = _selected(source, where)
    entity = source if is_entity(source) else entity_of(statement)
    orderable = isinstance(statement, Select) and not is_ordered(statement) and not is_distinct_on(statement)
    if entity is not None and orderable:
        statement = statement.order_by(*primary_key(entity))
    statement = limited_to_one(statement)
    return Question(f"{subject(source)} Load", statement, first, never=never_matches(statement))


def find_by(source: Any, where: Where | None, values: Mapping[str, Any]) -> Question[Any]:
    """Any one row with these values, or None."""
    statement = _selected(source, where)
    if values:
        entity = _entity(source)
        attributes = {name: _attribute(entity, name) for name in values}
        statement = narrowed(statement, and_(*(attributes[name] == value for name, value in values.items())))
    statement = limited_to_one(statement)
    return Question(f"{subject(source)} Load", statement, first, never=never_matches(statement))


def find(source: Any, key: Any, where: Where | None) -> Question[Any]:
    """The row of a primary key, or those of several."""
    entity = _entity(source)
    columns = primary_key(entity)
    name = subject(source)
    many = isinstance(key, list | set | frozenset)
    keys = [_key(one, columns, name) for one in (key if many else [key])]
    wanted = list(dict.fromkeys(keys))
    if len(columns) == 1:
        matches = columns[0].in_([values[0] for values in wanted]) if many else columns[0] == keys[0][0]
    else:
        matches = tuple_(*columns).in_(wanted)
    statement = narrowed(_selected(source, where), matches)

    def finish(rows: list[Any]) -> Any:
        if not many:
            if not rows:
                raise RecordNotFound(f"there is no {name} {_shown(keys[0])}")
            return rows[0]
        found = {_identity(row, columns): row for row in rows}
        if missing := [values for values in wanted if values not in found]:
            raise RecordNotFound(f"there is no {name} {', '.join(map(_shown, missing))}")
        return [found[values] for values in keys]

    return Question(f"{name} Load", statement, finish, never=never_matches(statement))


def find_by_sql(source: Any, rest: tuple[Any, ...], values: Mapping[str, Any]) -> Question[list[Any]]:
    """The rows of a text, as an entity where one is given."""
    if isinstance(source, str | TextClause):
        return Question("SQL Load", _bound(source, _parameters(rest), values), as_list)
    if mapper_of(source) is None or not rest:
        raise QueryError("async_find_by_sql takes a mapped class, if any, then the SQL, then its parameters")
    text_ = _bound(rest[0], _parameters(rest[1:]), values)
    statement = carried(text_, select(source).from_statement(text_))
    return Question(f"{subject(source)} Load", statement, as_list)


def count_by_sql(sql: Any, parameters: Mapping[str, Any] | None, values: Mapping[str, Any]) -> Question[int]:
    """The first value of the first row."""

    def finish(rows: list[Any]) -> int:
        value = rows[0] if rows else None
        return as_count(value[0] if isinstance(value, Row) else value)

    return Question("SQL Count", _bound(sql, parameters, values), finish)


def json(source: Any, where: Where | None) -> Question[Json]:
    """The rows as a JSON array of objects, in UTF-8."""
    statement = _selected(source, where)
    if not isinstance(statement, SelectBase):
        raise QueryError(f"can't make JSON of {source!r}: it is no entity, column or select()")
    # In SQL, a column of the same name would stand in front of the row.
    rows = statement.subquery("pushsvc_rows")
    # json_agg puts spaces and line ends between the rows.
    joined = func.string_agg(cast(func.row_to_json(rows.table_valued()), Text), ",")
    array = func.concat("[", joined, "]", type_=Text)
    written = carried(statement, select(func.convert_to(array, "UTF8", type_=LargeBinary)))
    name = f"{subject(source)} JSON"
    return Question(name, written, only_value(_as_json), never=never_matches(statement))


# Sources


def _selected(source: Any, where: Where | None) -> Any:
    """The statement that selects the source."""
    if isinstance(source, SelectBase | FromStatement):
        statement: Any = source
    elif is_column(source) or is_entity(source):
        statement = select(source)
    else:
        raise QueryError(f"can't load {source!r}: it is no entity, column or select()")
    return narrowed(statement, where)


def _columns(source: Any, columns: Sequence[Any], where: Where | None) -> Any:
    """The statement that selects these columns of the source; the source is one itself, where it is a column."""
    for column in columns:
        if not is_column(column):
            raise QueryError(f"{column!r} is no column")
    if is_column(source):
        return narrowed(select(source, *columns), where)
    statement = _selected(source, where)
    if columns:
        if not isinstance(statement, Select):
            raise QueryError("columns can be taken of an entity or a select() only")
        return with_columns(statement, *columns)
    # A union's, or a text's, are columns anyway.
    if any(not is_column(described["expr"]) for described in getattr(statement, "column_descriptions", ())):
        raise QueryError(f"say which columns of {subject(source)}")
    return statement


def _entity(source: Any) -> Any:
    entity = source if is_entity(source) else entity_of(source)
    if entity is None:
        raise QueryError(f"{source!r} has no primary key: give a mapped class, or a select() of one")
    return entity


def _attribute(entity: Any, name: str) -> Any:
    columns = getattr(entity, "c", None) if mapper_of(entity) is None else None
    found = getattr(entity, name, None) if columns is None else columns.get(name)
    if not is_column(found):
        raise QueryError(f"{subject(entity)} has no attribute {name!r}")
    return found


# Keys


def _key(key: Any, columns: list[Any], name: str) -> tuple[Any, ...]:
    values = tuple(key) if isinstance(key, tuple | Row) else (key,)
    if len(values) != len(columns):
        raise QueryError(f"the primary key of {name} has {len(columns)} columns; {key!r} has {len(values)}")
    if not all(isinstance(value, Hashable) for value in values):
        raise QueryError(f"{key!r} is no primary key")
    return values


def _identity(row: Any, columns: list[Any]) -> tuple[Any, ...]:
    if isinstance(columns[0], QueryableAttribute):
        # Where more is selected, the entity comes first.
        entity = row[0] if isinstance(row, Row) else row
        return tuple(getattr(entity, column.key) for column in columns)
    return tuple(row._mapping[column] for column in columns) if isinstance(row, Row) else (row,)


def _shown(values: tuple[Any, ...]) -> str:
    return repr(values[0] if len(values) == 1 else values)


# Texts


def _parameters(rest: tuple[Any, ...]) -> Mapping[str, Any] | None:
    if len(rest) > 1:
        raise QueryError("the parameters of a SQL text come as keywords, or as one mapping")
    return rest[0] if rest else None


def _bound(sql: Any, parameters: Mapping[str, Any] | None, values: Mapping[str, Any]) -> TextClause:
    if not isinstance(sql, str | TextClause):
        raise QueryError(f"{sql!r} is no SQL text")
    if not isinstance(parameters, Mapping | None):
        raise QueryError("the parameters of a SQL text come as keywords, or as one mapping")
    clause = text(sql) if isinstance(sql, str) else sql
    given = {**(parameters or {}), **values}
    known = clause._bindparams  # there is no public way to ask; a test pins it
    if unknown := given.keys() - known.keys():
        raise QueryError(f"the SQL has no parameter {', '.join(f':{name}' for name in sorted(unknown))}")
    missing = [name for name, bind in known.items() if name not in given and bind.required]
    if missing:
        raise QueryError(f"the SQL needs a value for {', '.join(f':{name}' for name in sorted(missing))}")
    for name, value in list(given.items()):
        if isinstance(value, list | set | frozenset) and isinstance(known[name].type, NullType):
            # It goes where SQL has `IN :name`, unless the author says that it is an array.
            if value:
                clause = clause.bindparams(bindparam(name, expanding=True))
                given[name] = list(value)
            else:
                clause = _without_any(clause, name)
                del given[name]
    return clause.bindparams(**given)


def _without_any(clause: TextClause, name: str) -> TextClause:
    """The text with what is in an empty list for `IN :name`. Raises QueryError where the list stands elsewhere.

    What SQLAlchemy puts for an empty list are integers, which PostgreSQL does not compare with a text. What is
    put here takes the type of what it is compared with.
    """
    empty = re.compile(
        rf"(?P<not>\bnot\s+)?\bin\s*(?P<bracket>\()?\s*(?<![:\w\\]):{name}(?![:\w])(?(bracket)\s*\))", re.IGNORECASE
    )
    sql = empty.sub(lambda found: "<> ALL ('{}')" if found["not"] else "= ANY ('{}')", clause.text)
    if re.search(rf"(?<![:\w\\]):{name}(?![:\w])", sql):
        raise QueryError(f":{name} is an empty list outside of `IN :{name}`: say its type with bindparam()")
    changed: TextClause = clause._generate()
    changed.text = sql
    changed._bindparams = {known: bind for known, bind in clause._bindparams.items() if known != name}
    return changed


def _as_json(data: bytes | None) -> Json:
    return Json(b"[]" if data is None else data)
