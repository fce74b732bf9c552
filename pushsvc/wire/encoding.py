"""JSON, as the wire has it."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON."""
    return to_json(value)


def load(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError on anything that is not (NaN and Infinity are not)."""
    return from_json(data, allow_inf_nan=False)
