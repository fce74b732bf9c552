"""Single flight: which queries are equal, and which of them may be run once for all who ask."""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import Context, copy_context
from datetime import time
from decimal import Decimal
from typing import Any, Protocol

from sqlalchemy import ColumnClause, TextClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import GenerativeSelect
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import TypeDecorator, UserDefinedType
from sqlalchemy.util import LRUCache

from ..asking.question import Question
from ..asking.statements import only_reads
from .listening import Listeners, built_by

STABLE = frozenset(
    """
    abs array_agg avg bool_and bool_or ceil ceiling char_length coalesce concat convert_to corr count
    cube cume_dist current_date current_time current_timestamp current_user date_part date_trunc
    dense_rank every extract first_value floor greatest grouping_sets json_agg jsonb_agg lag last_value
    lead least length localtime localtimestamp lower ltrim max min mod mode now ntile nullif
    percent_rank percentile_cont percentile_disc power rank replace rollup round row_number row_to_json
    rtrim session_user sign sqrt stddev stddev_pop stddev_samp string_agg substr substring sum to_char
    to_json to_jsonb trim trunc unnest upper var_pop var_samp variance width_bucket
    """.split()  # noqa: SIM905 - a line for each would fill two screens
)
"""Functions that answer the same within one moment, and do nothing else.

PostgreSQL takes a function for volatile unless it was told otherwise, and so do we: `random()` asked for twice
is two numbers, `nextval()` two steps, `pg_sleep(1)` twice a second. Functions an author has written count as
volatile.
"""

_TEXTS = ("_prefixes", "_suffixes", "_statement_hints")
"""Where a statement may have SQL of the author's own, such as a lock, that is not found by iterating."""


class _Shape:
    """Stands for all statements that differ in their arguments only: their common key takes long to hash."""

    __slots__ = ("custom", "stable")

    def __init__(self, statement: Any) -> None:
        parts = list(iterate(statement))
        self.stable = only_reads(statement) and all(map(_part_is_stable, parts))
        self.custom = any(_is_custom(getattr(part, "type", None)) for part in parts)


_NOTHING = object()

_shapes: LRUCache[Hashable, _Shape] = LRUCache(1000)


def key_of(question: Question[Any]) -> Hashable | None:
    """Equal for questions that ask the database the same; None of one that is asked each time anew.

    That is one with a function that is not known to be stable, with a lock, a text, options of execution, or an
    argument that can't be compared.
    """
    cache_key = question.statement._generate_cache_key()
    # Options of execution are not in the key, and may say which schema is asked.
    if cache_key is None or question.statement.get_execution_options():
        return None
    try:
        shape = _shapes.get(cache_key.key)
        if shape is None:
            shape = _shapes[cache_key.key] = _Shape(question.statement)
        if not shape.stable:
            return None
        arguments = tuple([_comparable(bind.effective_value) for bind in cache_key.bindparams])
        hash(arguments)
    except TypeError:
        return None
    return shape, arguments


class Asked(Protocol):
    """A query that was asked for."""

    @property
    def question(self) -> Question[Any]:
        """What it asks."""

    @property
    def context(self) -> Context:
        """Where it was asked for."""


def told_apart(question: Question[Any], other: Asked, listeners: Listeners) -> bool:
    """Whether code of the author's may give this question another answer than that equal one gets.

    Such code runs while a query does: listeners, and types that convert values. It may read what differs between the
    two, such as a context variable.
    """
    if listeners.any():
        return True
    mappers = built_by(question.statement) if question.entities else set()
    if listeners.of_loading(mappers):
        return True
    key = question.statement._generate_cache_key()
    shape = _shapes.get(key.key)
    custom = (
        shape is None or shape.custom or any(_is_custom(column.type) for each in mappers for column in each.columns)
    )
    return custom and not _same(copy_context(), other.context)


def _same(context: Context, other: Context) -> bool:
    return len(context) == len(other) and all(other.get(key, _NOTHING) is value for key, value in context.items())


def _is_custom(kind: Any) -> bool:
    return isinstance(kind, TypeDecorator | UserDefinedType)


def _part_is_stable(part: Any) -> bool:
    if isinstance(part, FunctionElement):
        return getattr(part, "name", "").lower() in STABLE and not getattr(part, "packagenames", ())
    if any(getattr(part, name, ()) for name in _TEXTS):
        return False
    if isinstance(part, GenerativeSelect):
        return part._for_update_arg is None
    if isinstance(part, ColumnClause):
        return not (part.is_literal and "(" in part.name)
    return not isinstance(part, TextClause)


def _comparable(value: Any) -> Hashable:
    """Equal only for what PostgreSQL gives the same answers to: not for 1 and True, nor 1.0 and 1.00, nor
    12:00+00 and 13:00+01."""
    if isinstance(value, list | tuple):
        return tuple(map(_comparable, value))
    return (type(value), repr(value) if isinstance(value, Decimal | float | time) else value)
