"""What stands for each value of Python in JSON: docs/jobs.md has the table.

What would lose something is refused: keys that are one in JSON, columns of one name.
"""

from __future__ import annotations

import dataclasses
import inspect
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg
from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Row, RowMapping
from sqlalchemy.orm import InstanceState, Mapper

from .. import wire
from ..domain import Groups, Json
from ..queries import Promise


class Unfit(ValueError):
    """The value has no JSON form; the text says why, as in "is a promise; await it"."""


LEAVES: frozenset[type] = frozenset({str, int, float, bool, type(None), datetime, date, time, timedelta, UUID, Json})
"""What is written as it is."""

_STR = frozenset({str})
_SEQUENCES = (list, tuple, set, frozenset, deque, Iterator, KeysView, ValuesView)


def form(value: Any) -> Any:
    """The value as lists, dicts with text for keys, and what pydantic writes by itself. Raises Unfit.

    pydantic would ask for each row and each entity: ten times as long for a thousand of them.
    """
    kind = type(value)
    if kind in LEAVES:
        return value
    if kind is list or kind is tuple:
        return [part if type(part) in LEAVES else form(part) for part in value]
    if kind is dict:
        return _object(value)
    if isinstance(value, Row):
        return _columns(value._fields, value)
    if (state := entity_state(value)) is not None:
        return {key: form(part) for key, part in loaded(state)}
    convert = _FORMS.get(kind)
    return _other(value) if convert is None else convert(value)


def _object(value: Mapping[Any, Any]) -> Any:
    if not _STR.issuperset(map(type, value)):
        return _keyed(value)
    return {key: part if type(part) in LEAVES else form(part) for key, part in value.items()}


def _keyed(value: Mapping[Any, Any]) -> Any:
    """An object, its keys made text; of keys that are tuples, as a count by several columns has, a list."""
    if by_tuples(value):
        return _groups(value)
    made: dict[str, Any] = {}
    for key, part in value.items():
        name = key_form(key)
        if name in made:
            raise Unfit(f"has two keys that are {name[:60]!r} in JSON; give them different texts")
        made[name] = form(part)
    return made


def _groups(value: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [{"key": form(list(key)), "value": form(part)} for key, part in value.items()]


def by_tuples(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, tuple) for key in value)


def key_form(key: Any) -> str:
    """A key as text. Raises Unfit."""
    if isinstance(key, Enum):
        return key_form(key.value)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool | int):
        return to_json(key).decode()
    if (isinstance(key, float) and isfinite(key)) or (isinstance(key, Decimal) and key.is_finite()):
        return to_json(key).decode().strip('"')
    if isinstance(key, datetime | date | time | timedelta | UUID):
        return to_json(key).decode().strip('"')
    if isinstance(key, tuple):
        raise Unfit("has keys that are tuples beside others; let all of them be tuples, or none")
    raise Unfit(f"has a key that is {_article(key)}; make it text")


def _columns(names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    named = tuple(names)
    made = {name: part if type(part) in LEAVES else form(part) for name, part in zip(named, values, strict=True)}
    if len(made) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise Unfit(f"has two columns named {twice[:60]}; give one another name by label()")
    return made


def entity_state(value: Any) -> InstanceState[Any] | None:
    state = getattr(value, "_sa_instance_state", None)
    return state if isinstance(state, InstanceState) else None


def loaded(state: InstanceState[Any]) -> list[tuple[str, Any]]:
    """An entity's columns, but those that nobody has loaded."""
    keys = _column_keys.get(state.mapper)
    if keys is None:
        keys = _column_keys[state.mapper] = [attribute.key for attribute in state.mapper.column_attrs]
    there = state.dict
    return [(key, there[key]) for key in keys if key in there]


_column_keys: WeakKeyDictionary[Mapper[Any], list[str]] = WeakKeyDictionary()


def _other(value: Any) -> Any:
    """What is met less often; what pydantic knows by itself (a path, an IP address) is left to it."""
    if isinstance(value, Enum):
        return form(value.value)
    if isinstance(value, asyncpg.Record | RowMapping):
        return _columns(value.keys(), value.values())
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, _SEQUENCES):
        return [form(part) for part in value]
    if isinstance(value, BaseModel) or hasattr(type(value), "__pydantic_serializer__"):
        return _model(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: form(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Promise):
        raise Unfit("is a promise; await it")
    if inspect.iscoroutine(value):
        value.close()
        raise Unfit("is a coroutine; await it")
    return value


def _model(value: Any) -> Any:
    """A model writes itself, by its author's rules; but what it writes loses nothing either."""
    if _holds_objects(type(value)):
        try:
            wire.read(to_json(value, inf_nan_mode="null", fallback=lambda _part: None))
        except ValueError as error:
            if "twice" in str(error):
                raise Unfit("has two keys that are one in JSON; give them different texts") from None
            raise
    return value


def _holds_objects(kind: type) -> bool:
    """Whether a model could hold a dict whose keys are no text."""
    known = _models.get(kind)
    if known is None:
        schema = repr(getattr(kind, "__pydantic_core_schema__", None))
        known = _models[kind] = any(f"'type': '{word}'" in schema for word in ("dict", "any"))
    return known


_models: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _number(value: Decimal) -> Decimal | None:
    """As of a float, what is no number becomes null."""
    return value if value.is_finite() else None


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return b64encode(value).decode()


def _range(value: Any) -> dict[str, Any]:
    bounds = ("[" if value.lower_inc else "(") + ("]" if value.upper_inc else ")")
    return {"lower": form(value.lower), "upper": form(value.upper), "bounds": bounds, "empty": value.isempty}


_FORMS: Mapping[type, Callable[[Any], Any]] = {
    Decimal: _number,
    Groups: _groups,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    asyncpg.Range: _range,
    asyncpg.BitString: lambda value: value.as_string().replace(" ", ""),
}


def _article(value: Any) -> str:
    name = type(value).__name__[:60]
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def unknown(value: Any) -> Unfit:
    """Why a value has none that `form` leaves as it is."""
    if isinstance(value, str):
        return Unfit("is text that has half of a surrogate pair; decode it with errors='replace'")
    return Unfit(f"is {_article(value)}, which has no JSON form; return lists, dicts, text and numbers")
