"""A job's return value to JSON: encoded once, here, and never parsed on its way out."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import Row
from sqlalchemy.orm import InstanceState, Mapper

from ..domain import JobStatus, Json, Outcome
from ..errors import JobFailed
from ..queries import Promise


def encode(value: Any, limit: int) -> bytes:
    """JSON of what JSON knows, and of dates, decimals, UUIDs, dataclasses, pydantic models, SQLAlchemy rows
    and their mappings (objects by column) and mapped entities (their loaded columns).
    NaN and Infinity become null. What is `Json` already goes in as it is.

    Raises JobFailed when a value has no JSON form, or when there are more than `limit` bytes.
    """
    ready: list[bytes] = []
    # Where a Json goes, its place is kept by a text that nobody can have written before.
    mark = secrets.token_hex(16)

    def plain(part: Any) -> Any:
        if isinstance(part, Json):
            ready.append(part.data)
            return mark
        return _plain(part)

    try:
        data = to_json(_ready(value), inf_nan_mode="null", fallback=plain)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise JobFailed(f"the job's return value has no JSON form: {error}") from error
    if ready:
        pieces = data.split(f'"{mark}"'.encode())
        if any(piece.startswith(b":") for piece in pieces[1:]):
            raise JobFailed("the job's return value has no JSON form: Json can't be a key")
        data = b"".join(part for pair in zip(pieces, [*ready, b""], strict=True) for part in pair)
    if len(data) > limit:
        raise JobFailed(f"the job's result has {len(data)} bytes; PUSHSVC_RESULT_LIMIT is {limit}")
    return data


_LEAVES: frozenset[type] = frozenset(
    {str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID, Json}
)


def _ready(value: Any) -> Any:
    """The value with rows and entities in its lists and dicts made dicts.

    pydantic would ask `_plain` for each: ten times as long for a thousand of them.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is list or kind is tuple:
        return [part if type(part) in _LEAVES else _ready(part) for part in value]
    if kind is dict:
        items = value.items()
    elif isinstance(value, Row):
        items = zip(value._fields, value, strict=True)
    elif isinstance(state := getattr(value, "_sa_instance_state", None), InstanceState):
        items = _columns(state)
    else:
        return value
    return {key: part if type(part) in _LEAVES else _ready(part) for key, part in items}


def _columns(state: InstanceState[Any]) -> Iterable[tuple[str, Any]]:
    keys = _column_keys.get(state.mapper)
    if keys is None:
        keys = _column_keys[state.mapper] = [attribute.key for attribute in state.mapper.column_attrs]
    loaded = state.dict
    return [(key, loaded[key]) for key in keys if key in loaded]


_column_keys: WeakKeyDictionary[Mapper[Any], list[str]] = WeakKeyDictionary()


def _plain(value: Any) -> Any:
    """What is in no list or dict: in a dataclass, a model, a set."""
    if isinstance(value, Mapping):
        return dict(value)
    plain = _ready(value)
    if plain is not value:
        return plain
    if isinstance(value, Promise):
        raise TypeError("a promise is not JSON: await it")
    raise TypeError(f"{type(value).__name__} is not JSON")


class Answered(Exception):
    """The job has failed with `error`, and yet has a result, which is kept: an endpoint's own error page."""

    def __init__(self, error: BaseException, result: bytes) -> None:
        super().__init__(str(error))
        self.error = error
        self.result = result


def success(job: Any, version: int, result: bytes, inline_limit: int) -> Outcome:
    """The outcome of a job that succeeded; beyond `inline_limit` bytes, events carry a reference to it."""
    inline = len(result) <= inline_limit
    sha256 = None if inline else hashlib.sha256(result).hexdigest()
    return Outcome(job, version, JobStatus.SUCCEEDED, result=result, inline=inline, sha256=sha256)
