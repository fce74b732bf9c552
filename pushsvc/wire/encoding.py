"""JSON, as the wire has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from ..text import legible

SHOWN = 20
"""How many of the things that are wrong with a request are told."""


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON. NaN and Infinity, which JSON does not have, become null."""
    return to_json(value, inf_nan_mode="null")


def load(data: bytes | str) -> Any:
    """Parse JSON of our own. Raises ValueError on anything that is not (NaN and Infinity are not)."""
    return from_json(data, allow_inf_nan=False)


def read(data: bytes | str) -> Any:
    """Parse JSON that came from outside, where it has one meaning only.

    Raises ValueError beyond what `load` refuses on a name that an object has twice, and on a number that no double
    can hold: readers differ in what they make of those.
    """
    if isinstance(data, str):
        data = data.encode()
    # Refuses half surrogate pairs, and lists in lists in lists, which `json` would not.
    load(data)
    return _DECODER.decode(data.decode())


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise ValueError("an object has a name twice")
    return made


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)


def mistakes(error: ValidationError, member: str = "field") -> list[dict[str, str]]:
    """What is wrong with what, for whoever has sent it: what he sent is not repeated, and of many mistakes the first
    are told. `member` is what the place of a mistake is called."""
    found: Iterable[Any] = error.errors(include_input=False, include_url=False, include_context=False)[:SHOWN]
    return [
        {member: legible(".".join(str(part) for part in each["loc"]), 100), "message": legible(each["msg"], 300)}
        for each in found
    ]
