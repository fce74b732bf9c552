"""In which schemas loaded objects were found, so that what is related to them is looked for in the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.orm import InstanceState

_OPTION = "schema_translate_map"

_found_in: MutableMapping[InstanceState[Any], Mapping[Any, Any]] = WeakKeyDictionary()


def note(statement: Any, states: Iterable[InstanceState[Any]]) -> None:
    """These were loaded by that statement. Nothing is kept unless it named other schemas than the tables do."""
    schemas = statement.get_execution_options().get(_OPTION)
    if schemas:
        for state in states:
            _found_in[state] = schemas


def options_of(state: InstanceState[Any]) -> dict[str, Any]:
    """The execution options by which a statement looks where this one was found."""
    schemas = _found_in.get(state)
    return {} if schemas is None else {_OPTION: schemas}
