"""A job's return value to JSON: encoded once, here, and never parsed on its way out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import Row, inspect
from sqlalchemy.exc import NoInspectionAvailable

from ..domain import JobStatus, Outcome
from ..errors import JobFailed


def encode(value: Any, limit: int) -> bytes:
    """JSON of what JSON knows, and of dates, decimals, UUIDs, dataclasses, pydantic models, SQLAlchemy rows
    and their mappings (objects by column) and mapped entities (their loaded columns). NaN and Infinity become null.

    Raises JobFailed when a value has no JSON form, or when there are more than `limit` bytes.
    """
    try:
        data = to_json(value, inf_nan_mode="null", fallback=_plain)
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise JobFailed(f"the job's return value has no JSON form: {error}") from error
    if len(data) > limit:
        raise JobFailed(f"the job's result has {len(data)} bytes; PUSHSVC_RESULT_LIMIT is {limit}")
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return dict(value._mapping)
    if isinstance(value, Mapping):
        return dict(value)
    try:
        state = inspect(value)
        return {
            attribute.key: state.dict[attribute.key]
            for attribute in state.mapper.column_attrs
            if attribute.key in state.dict
        }
    except (NoInspectionAvailable, AttributeError):
        raise TypeError(f"{type(value).__name__} is not JSON") from None


def success(job: Any, version: int, result: bytes, inline_limit: int) -> Outcome:
    """The outcome of a job that succeeded; beyond `inline_limit` bytes, events carry a reference to it."""
    inline = len(result) <= inline_limit
    sha256 = None if inline else hashlib.sha256(result).hexdigest()
    return Outcome(job, version, JobStatus.SUCCEEDED, result=result, inline=inline, sha256=sha256)
