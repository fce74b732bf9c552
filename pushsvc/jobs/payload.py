"""What makes two submissions the same: the canonical form of what was asked for, and its digest.

The order of keys, white space, the way a number or an instant is written say nothing: as RFC 8785 has it, but that
integers beyond 2^53 stay exact. An instant is told from other text by the job's schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Schema = Mapping[str, Any]


def digest(*parts: Any) -> str:
    """SHA-256 of JSON values, and moments, in their canonical form."""
    plain = [_utc(part) if isinstance(part, datetime) else part for part in parts]
    return hashlib.sha256(canonical(plain)).hexdigest()


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


class Instants:
    """Finds the instants in a job's parameters, by their JSON Schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._definitions: Mapping[str, Schema] = schema.get("$defs", {})
        self._any = '"date-time"' in json.dumps(schema)

    def in_utc(self, params: Any) -> Any:
        """The parameters with every instant that has an offset in UTC."""
        return self._read(params, self._schema) if self._any else params

    def _read(self, value: Any, schema: Schema) -> Any:
        if isinstance(value, str):
            return _instant(value) if self._is_instant(schema) else value
        if isinstance(value, list):
            return self._read_list(value, self._only(schema, "array"))
        if isinstance(value, dict):
            return self._read_object(value, self._only(schema, "object"))
        return value

    def _read_list(self, value: list[Any], schema: Schema) -> list[Any]:
        first, rest = schema.get("prefixItems", ()), _schema(schema.get("items"))
        return [self._read(each, first[n] if n < len(first) else rest) for n, each in enumerate(value)]

    def _read_object(self, value: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
        named, rest = schema.get("properties", {}), _schema(schema.get("additionalProperties"))
        return {name: self._read(each, named.get(name, rest)) for name, each in value.items()}

    def _choices(self, schema: Schema) -> Sequence[Schema]:
        """What a value may be, without references."""
        if (reference := schema.get("$ref")) is not None:
            return self._choices(_schema(self._definitions.get(str(reference).rpartition("/")[2])))
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                return [choice for each in schema[word] for choice in self._choices(each)]
        return (schema,)

    def _only(self, schema: Schema, kind: str) -> Schema:
        """The one choice of this kind; nothing is known of a value that may be several."""
        found = [choice for choice in self._choices(schema) if choice.get("type") == kind]
        return found[0] if len(found) == 1 else {}

    def _is_instant(self, schema: Schema) -> bool:
        """Text that may be something else, too, is compared as it is."""
        text = [choice for choice in self._choices(schema) if choice.get("type", "string") == "string"]
        return bool(text) and all(choice.get("format") == "date-time" for choice in text)


def _schema(value: Any) -> Schema:
    return value if isinstance(value, dict) else {}


def _instant(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if moment.tzinfo is None else _utc(moment)


def _utc(moment: datetime) -> str:
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        # Before the year 1, or after 9999.
        return moment.isoformat()
