"""Rows and what is related to them: each relationship is loaded by queries of its own, side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any

from sqlalchemy import inspect, select, tuple_
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Load, QueryableAttribute, RelationshipProperty, aliased, selectinload
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.interfaces import LoaderOption

from ...errors import QueryError
from ..promise import Promise
from .question import Question
from .schemas import options_of
from .statements import entity_of

Ask = Callable[[Question[Any]], Promise[Any]]

BATCH = 500
"""For how many rows one query loads what is related to them, as SQLAlchemy's `selectinload` does."""

_SELECTIN = (("lazy", "selectin"),)
_EAGER = (_SELECTIN, (("lazy", "joined"),), (("lazy", "subquery"),), (("lazy", "immediate"),))


class Preloading:
    """The work behind rows that come with their relationships: first the rows, then what is related to them.

    Unlike in Rails, what is related is asked for as soon as the rows are there, not when they are awaited.
    """

    def __init__(self, rows: Promise[Any], relationships: Sequence[QueryableAttribute[Any]], ask: Ask) -> None:
        self.promise: Promise[Any] = Promise(self)
        self._rows = rows
        self._relationships = relationships
        self._ask = ask
        self._instances: list[Any] = []
        self._parts: list[Promise[Any]] = []
        self._open = 0
        self._wanted: Context | None = None
        rows.watch(self._rows_came)

    def needed(self, promise: Promise[Any]) -> None:
        """Await: what has not started is taken."""
        self._wanted = copy_context()
        for part in [self._rows, *self._parts]:
            _want(part)

    def abandoned(self, promise: Promise[Any]) -> None:
        """Cancel: so are all its queries."""
        for part in [self._rows, *self._parts]:
            part.cancel("what it was a part of was cancelled")

    def answered(self, promise: Promise[Any], waited: float) -> None:
        """Tell of each of its queries."""
        for part in [self._rows, *self._parts]:
            part.tell(waited)

    def _rows_came(self, rows: Promise[Any]) -> None:
        if self._failed(rows) or self.promise.settled:
            return
        self.promise.begin()
        self._instances = rows.answer
        try:
            for relationship in self._relationships:
                # An outer join has rows with None.
                missing = [row for row in self._instances if row is not None and not _has(row, relationship)]
                for alike in _loaded_alike(missing):
                    for first in range(0, len(alike), BATCH):
                        self._parts.append(self._ask(related(relationship, alike[first : first + BATCH])))
        except Exception as error:
            self.abandoned(self.promise)
            self.promise.reject(error)
            return
        self._open = len(self._parts)
        if not self._parts:
            self.promise.resolve(self._instances)
        for part in list(self._parts):
            part.awaited = True
            part.watch(self._part_came)
            if self._wanted is not None:
                # For whoever awaits, who may have the job's connection in a transaction.
                self._wanted.run(_want, part)

    def _part_came(self, part: Promise[Any]) -> None:
        self._open -= 1
        if not self._failed(part) and self._open == 0:
            self.promise.resolve(self._instances)

    def _failed(self, part: Promise[Any]) -> bool:
        if part.error is not None:
            self.promise.reject(part.error)
            self.abandoned(self.promise)
        return part.error is not None


def _want(part: Promise[Any]) -> None:
    part.awaited = True
    part.need()


def _loaded_alike(instances: Sequence[Any]) -> list[list[Any]]:
    """The rows, apart by the criteria and the schemas that they were loaded with: these hold for what is related."""
    alike: defaultdict[Any, list[Any]] = defaultdict(list)
    for instance in instances:
        state = inspect(instance)
        alike[tuple(map(id, state.load_options)), id(options_of(state).get("schema_translate_map"))].append(instance)
    return list(alike.values())


def related(relationship: QueryableAttribute[Any], instances: Sequence[Any]) -> Question[None]:
    """What is related to these, which were loaded alike, and is set on them when it has come."""
    mapper = relationship.parent.mapper
    target = relationship.property.entity.entity
    source = aliased(mapper.class_)
    keys = [getattr(source, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
    by_key = {tuple(mapper.primary_key_from_instance(instance)): instance for instance in instances}
    wanted = keys[0].in_([key for (key,) in by_key]) if len(keys) == 1 else tuple_(*keys).in_(by_key)
    statement: Any = _joined(select(*keys, target), source, relationship.property).where(wanted)
    if relationship.property.order_by:
        statement = statement.order_by(*relationship.property.order_by)
    state: Any = inspect(instances[0])
    criteria = [option for option in state.load_options if not isinstance(option, LoaderOption)]
    statement = statement.options(*criteria).execution_options(**options_of(state))

    def finish(rows: list[Any]) -> None:
        found: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)
        for row in rows:
            found[tuple(row[:-1])].append(row[-1])
        for instance in instances:
            values = found[tuple(mapper.primary_key_from_instance(instance))]
            value = values if relationship.property.uselist else next(iter(values), None)
            set_committed_value(instance, relationship.key, value)

    return Question(f"{mapper.class_.__name__} {relationship.key} Preload", statement, finish)


def _joined(statement: Any, source: Any, relationship: Any) -> Any:
    """The statement from the source to what is related to it."""
    if relationship.secondary is None or not relationship.order_by:
        return statement.join(getattr(source, relationship.key))
    # A join by the attribute gives the table between an alias, and the order may be by its columns.
    from_source = inspect(source)._adapter.traverse(relationship.primaryjoin)
    target = relationship.entity.entity
    return (
        statement.select_from(source)
        .join(relationship.secondary, from_source)
        .join(target, relationship.secondaryjoin)
    )


def taken_over(statement: Any) -> tuple[Any, list[QueryableAttribute[Any]]]:
    """The statement without the `selectinload` options that can run side by side, and what those load.

    Options that go deeper than one level, or narrow what is loaded, stay with SQLAlchemy, which carries them
    out one after another on the statement's own connection.
    """
    options: tuple[Any, ...] = getattr(statement, "_with_options", ())
    # One that is of another kind, such as `with_loader_criteria`, may hold for what is related too, and so may an
    # option of execution.
    if not options or any(type(option) is not Load for option in options) or statement.get_execution_options():
        return statement, []
    entity = only_entity_of(statement)
    mentioned = Counter(first for option in options for first in {(*load.path, None)[1] for load in option.context})
    taken: list[QueryableAttribute[Any]] = []
    left: list[Any] = []
    for option in options:
        attribute = _loaded_by(option, entity)
        # Another option may say how to load what is related to it.
        if attribute is not None and mentioned[attribute.property] == 1:
            taken.append(attribute)
        else:
            left.append(option)
    if taken:
        # There is no public way to look into options, nor to take one off; tests pin both.
        statement = statement._generate()
        statement._with_options = tuple(left)
    return statement, taken


def with_related(statement: Any, relationships: Sequence[Any]) -> Any:
    """The statement, which has SQLAlchemy load these relationships, as its options say where they say it already."""
    elements = [load for option in getattr(statement, "_with_options", ()) for load in getattr(option, "context", ())]
    loaded = {load.path[1] for load in elements if len(load.path) > 1 and load.strategy in _EAGER}
    missing = [selectinload(each) for each in relationships if each.property not in loaded]
    return statement.options(*missing) if missing else statement


def only_entity_of(statement: Any) -> Any:
    """The entity that the statement selects, if that is all; else None."""
    descriptions = getattr(statement, "column_descriptions", ())
    return entity_of(statement) if len(descriptions) == 1 else None


def check(relationships: Sequence[Any], entity: Any) -> None:
    """Raises QueryError for what is no relationship of the entity's."""
    mapper = getattr(_inspected(entity), "mapper", None)
    for relationship in relationships:
        if not is_relationship(relationship):
            named = relationship if isinstance(relationship, QueryableAttribute) else repr(relationship)
            raise QueryError(f"{named} is no relationship of a mapped class")
        if mapper is None or not mapper.isa(relationship.parent.mapper):
            raise QueryError(f"{relationship} is no relationship of what is loaded")


def is_relationship(source: Any) -> bool:
    """Whether it is a mapped class' relationship."""
    return isinstance(source, QueryableAttribute) and isinstance(source.property, RelationshipProperty)


def _loaded_by(option: Any, entity: Any) -> QueryableAttribute[Any] | None:
    """The relationship of this entity that the option, and nothing more, loads by `selectinload`."""
    if entity is None or len(option.context) != 1:
        return None
    element: Any = option.context[0]
    path = list(element.path)
    plain = element.strategy == _SELECTIN and not element._extra_criteria and element._of_type is None
    if not plain or any(element.local_opts.values()) or len(path) != 3 or path[0] is not _inspected(entity):
        return None
    attribute: QueryableAttribute[Any] = getattr(entity, path[1].key)
    return attribute


def _has(instance: Any, relationship: QueryableAttribute[Any]) -> bool:
    state = _inspected(instance)
    if not isinstance(state, InstanceState) or not state.mapper.isa(relationship.parent.mapper):
        raise QueryError(f"{instance!r} has no relationship {relationship}")
    return relationship.key in state.dict


def _inspected(thing: Any) -> Any:
    try:
        return inspect(thing)
    except NoInspectionAvailable:
        return None
