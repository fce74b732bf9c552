"""What a query is about and where it was asked for, for people: in log lines and with errors."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Select, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import FromStatement
from sqlalchemy.sql.selectable import CompoundSelect, FromClause
from sqlalchemy.util import LRUCache

from .statements import is_column

_PACKAGE = __name__.rsplit(".", 2)[0]

_subjects: LRUCache[Any, str] = LRUCache(1000)


def subject(source: Any) -> str:
    """What it is about, for people: the entity's name, the table's, or SQL."""
    key = source._generate_cache_key() if isinstance(source, Select) else None
    if key is None:
        return _subject(source)
    # Statements of one shape have one subject, and finding it takes as long as making the statement did.
    name = _subjects.get(key.key)
    if name is None:
        name = _subjects[key.key] = _subject(source)
    return name


def _subject(source: Any) -> str:
    if isinstance(source, CompoundSelect):
        return subject(source.selects[0])
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
    table = getattr(expression, "table", None) if is_column(expression) else expression
    name = getattr(table, "name", None) if isinstance(table, FromClause) else None
    # An anonymous subquery's name is a template for the compiler, `%(… anon)s`.
    return None if name is None or name.startswith("%(") else str(name)


def _table_of(source: Any) -> str | None:
    froms = source.get_final_froms() if isinstance(source, Select) else ()
    return next((_name_of(None, table) for table in froms), None)


class Caller:
    """Where in the author's code something was asked for: a line, put into words only when needed."""

    __slots__ = ("_code", "_line")

    def __init__(self, code: Any, line: int) -> None:
        self._code = code
        self._line = line

    def __str__(self) -> str:
        return f"in {self._code.co_qualname}, {self._code.co_filename}:{self._line}"


def caller() -> Caller:
    """The line that has called this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return Caller(frame.f_code, frame.f_lineno)
