"""`/asyncapi.json`: whole, and of the very types that the wire is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pushsvc import wire
from pushsvc.web.asyncapi import ANSWERS, document

DOCUMENT: Any = json.loads(wire.dump(document("/push")))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 40
    for reference in found:
        at = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
        assert isinstance(at, dict)


def test_it_describes_every_frame_that_is_understood_and_where() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == {
        "/push/v1/ws",
        "/push/v1/events/stream",
    }
    operations = {name for name, each in DOCUMENT["operations"].items() if each["action"] == "receive"}
    assert operations == {"hello", "subscribe", "unsubscribe", "ack", "refresh", "submit"}
    assert {model.__name__.lower() for model in ANSWERS} == operations
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Hello"]["properties"]["op"]["const"] == "hello"
    assert schemas["Ack"]["required"] == ["op", "cursor"]
    assert schemas["ByeFrame"]["properties"]["code"]["type"] == "integer"
    # All that a client has to understand has a sentence of its own.
    assert all(message["summary"] for message in DOCUMENT["components"]["messages"].values())
