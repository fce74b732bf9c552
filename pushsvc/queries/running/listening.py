"""Whether anybody would notice how a query runs: listeners of SQLAlchemy's events, Session classes of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.orm import Mapper, Session

_SESSION = (
    "do_orm_execute", "after_begin", "after_transaction_create", "after_transaction_end", "after_rollback",
    "after_soft_rollback",
)  # fmt: skip
"""What a Session tells of when it executes a statement that only reads."""

_BUILDING = ("loaded_as_persistent", "persistent_to_detached")
"""What a Session tells of besides, when it builds objects of rows."""

_LOADING = ("load", "refresh")
"""What a mapped class tells of when objects of it are built."""

_CONNECTION = (
    "before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute", "begin", "rollback",
)  # fmt: skip
"""What an engine or a connection tells of."""

_DIALECT = ("handle_error", "do_execute", "do_execute_no_params", "do_setinputsizes")
"""What an engine's dialect tells of."""

_at_engine = attrgetter(*_CONNECTION)
_at_dialect = attrgetter(*_DIALECT)

_HOUSEKEEPING = frozenset(
    """
    __module__ __qualname__ __doc__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __dict__
    __weakref__ __slots__ __firstlineno__ __static_attributes__ __orig_bases__ __parameters__
    """.split()  # noqa: SIM905 - a line for each would fill a screen
)


class Listeners:
    """Those who listen to one engine, or to Sessions of one class; not the engine's own, there from the start.

    SQLAlchemy has no public way to ask for listeners; tests pin the one taken here. It is asked for every query,
    so it has to be cheap: the collections that belong to classes are looked up once, as they stay the same.
    """

    def __init__(self, engine: Engine, session_class: type[Session]) -> None:
        sessions: Any = session_class.dispatch
        connections: Any = Connection.dispatch
        self._custom = _has_ways_of_its_own(session_class)
        self._building = _of_class(sessions, session_class, _BUILDING)
        self._engine: Any = engine.dispatch
        self._dialect: Any = engine.dialect.dispatch
        self._to_sessions = _of_class(sessions, session_class, _SESSION)
        self._to_classes = (
            *self._to_sessions,
            *_of_class(connections, Connection, _CONNECTION),
            *[each.parent_listeners for each in self._at_engine()],
        )
        self._unheard = self._at_engine()
        self._with_ours = [each for each in self._unheard if each.listeners]
        self._ours = self._of_engine()

    def any(self) -> bool:
        """Whether somebody is told of a query that only reads, or may do it in another way."""
        return (
            self._custom
            or any(self._to_classes)
            # A collection that nobody had listened at is replaced by the first who does.
            or self._at_engine() != self._unheard
            or self._of_engine() != self._ours
        )

    def of_sessions(self) -> bool:
        """Whether somebody is told of what a Session executes, or may do it in another way."""
        return self._custom or any(self._to_sessions)

    def of_loading(self, mappers: Iterable[Mapper[Any]]) -> bool:
        """Whether somebody is told when objects of these classes are built."""
        return any(self._building) or any(
            getattr(mapper.class_manager.dispatch, name) for mapper in mappers for name in _LOADING
        )

    def _at_engine(self) -> tuple[Any, ...]:
        return (*_at_engine(self._engine), *_at_dialect(self._dialect))

    def _of_engine(self) -> int:
        """How many listen at this very engine where we do."""
        return sum([len(each.listeners) for each in self._with_ours])


def built_by(statement: Any) -> set[Mapper[Any]]:
    """The mappers of all objects that may be built when the statement's rows are loaded."""
    descriptions = getattr(statement, "column_descriptions", ())
    waiting = [mapper for described in descriptions if (mapper := _mapper(described.get("entity"))) is not None]
    optional = bool(getattr(statement, "_with_options", ()))
    found: set[Mapper[Any]] = set()
    while waiting:
        for mapper in waiting.pop().self_and_descendants:
            if mapper not in found:
                found.add(mapper)
                waiting += (each.mapper for each in mapper.relationships if optional or _is_eager(each))
    return found


def _is_eager(relationship: Any) -> bool:
    return relationship.lazy in (False, "joined", "selectin", "subquery", "immediate")


def _mapper(entity: Any) -> Mapper[Any] | None:
    return None if entity is None else getattr(inspect(entity, raiseerr=False), "mapper", None)


def _of_class(dispatch: Any, cls: type, names: Iterable[str]) -> tuple[Any, ...]:
    """The live collections of those who listen to all objects of a class."""
    of_class = dispatch._for_class(cls)
    return tuple(getattr(of_class, name).parent_listeners for name in names)


def _has_ways_of_its_own(session_class: type[Session]) -> bool:
    return any(vars(cls).keys() - _HOUSEKEEPING for cls in _above_session(session_class))


def _above_session(session_class: type[Session]) -> Iterator[type]:
    for cls in session_class.__mro__:
        if cls is Session:
            return
        yield cls
