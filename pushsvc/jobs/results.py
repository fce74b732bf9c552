"""A job's return value to JSON: encoded once, here, and never parsed on its way out."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import Row

from ..domain import JobStatus, Json, Outcome
from ..errors import JobFailed
from ..text import legible
from .json_form import LEAVES, Unfit, by_tuples, entity_state, form, key_form, loaded, unknown

DEEPEST = 200
"""Lists and objects in one another: as many as readers of JSON can be trusted with."""


def encode(value: Any, limit: int) -> bytes:
    """JSON of what docs/jobs.md lists. What is `Json` already goes in as it is.

    Raises JobFailed, saying where in the value the cause stands, when something in it has no JSON form; and when
    there are more than `limit` bytes.
    """
    ready: list[bytes] = []
    # Where a Json goes, its place is kept by a text that nobody can have written before.
    mark = secrets.token_hex(16)

    def written(part: Any) -> Any:
        if isinstance(part, Json):
            ready.append(part.data)
            return mark
        return _written(part)

    try:
        data = to_json(form(value), inf_nan_mode="null", fallback=written)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        place, why = _fault(value, "", ()) or ("", str(error) if isinstance(error, Unfit) else str(unknown(value)))
        raise JobFailed(f"the job's return value has no JSON form: {place or 'it'} {why}") from error
    if ready:
        pieces = data.split(f'"{mark}"'.encode())
        if any(piece.startswith(b":") for piece in pieces[1:]):
            raise JobFailed("the job's return value has no JSON form: Json can't be a key")
        data = b"".join(part for pair in zip(pieces, [*ready, b""], strict=True) for part in pair)
    if len(data) > limit:
        raise JobFailed(f"the job's result has {len(data)} bytes; PUSHSVC_RESULT_LIMIT is {limit}")
    return data


def _written(part: Any) -> Any:
    """What is in no list or dict, but in a model."""
    made = form(part)
    if made is not part:
        return made
    if isinstance(part, Json):
        return ""
    raise unknown(part)


# Where a value can't be written --------------------------------------------------------------------


def _fault(value: Any, place: str, above: tuple[int, ...]) -> tuple[str, str] | None:
    """The innermost part of the value that can't be written: where it stands, as `rows[3].v`, and why."""
    if type(value) in LEAVES and not isinstance(value, str):
        return None
    if id(value) in above:
        return place, "contains itself"
    if len(above) > DEEPEST:
        return legible(place, 60), f"stands in more than {DEEPEST} lists and objects"
    why = _why(value)
    if why is None:
        return None
    for step, part in _parts(value):
        found = _fault(part, place + step if place else step.removeprefix("."), (*above, id(value)))
        if found is not None:
            return found
    return legible(place, 500), why


def _why(value: Any) -> str | None:
    try:
        to_json(
            form(value), inf_nan_mode="null", fallback=lambda part: "" if isinstance(part, Json) else _written(part)
        )
    except Unfit as error:
        return str(error)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return str(unknown(value))
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, and the step that leads to each."""
    if (state := entity_state(value)) is not None:
        yield from ((_step(key), part) for key, part in loaded(state))
    elif isinstance(value, Row):
        yield from ((_step(name), part) for name, part in zip(value._fields, value, strict=True))
    elif isinstance(value, Mapping):
        keyed = bool(value) and by_tuples(value)
        for number, (key, part) in enumerate(value.items()):
            yield f"[{number}].value" if keyed else _step(key), part
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, BaseModel):
        yield from ((_step(name), part) for name, part in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((_step(field.name), getattr(value, field.name)) for field in dataclasses.fields(value))


def _step(key: Any) -> str:
    try:
        name = key_form(key)
    except Unfit:
        return "[…]"
    return f".{name}" if name.isidentifier() else f"[{legible(name, 60)!r}]"


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
