"""A call of a job's function, as it is written in Python, and what that makes of parameters and result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from .. import wire
from ..errors import InvalidParams, ResultMismatch
from .registry import JobSpec


def options_among(spec: JobSpec, kwargs: Mapping[str, Any], options: frozenset[str]) -> dict[str, Any]:
    """What of the keywords is said of the job, rather than to it: `options` that the job has no parameters of."""
    return {
        name: kwargs[name] for name in (kwargs.keys() & options) - inspect.signature(spec.function).parameters.keys()
    }


def params_of(spec: JobSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by the names that they have in JSON. Raises InvalidParams where the function could not be called
    like this."""
    signature = inspect.signature(spec.function)
    without = [each for each in signature.parameters.values() if each.name != spec.context]
    try:
        bound = signature.replace(parameters=without).bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidParams(f"{spec.name} does not take these parameters: {error}") from None
    return {_name_in_json(spec, name): value for name, value in bound.arguments.items()}


def _name_in_json(spec: JobSpec, name: str) -> str:
    field = spec.params.model_fields[name]
    alias = field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name


def result_of(spec: JobSpec, result: bytes | None) -> Any:
    """The result as what the function's signature says that it returns; as plain JSON, where it says nothing that
    pydantic can read. Raises ResultMismatch."""
    text = b"null" if result is None else result
    adapter = _adapter(spec.function)
    if adapter is None:
        return wire.load(text)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        mistakes = wire.mistakes(error)
        raise ResultMismatch(
            f"what {spec.name} returned can't be read as what its signature says", errors=mistakes
        ) from None


@cache
def _adapter(function: Any) -> TypeAdapter[Any] | None:
    try:
        found = get_type_hints(inspect.unwrap(function), include_extras=True).get("return", Any)
        return None if found is Any else TypeAdapter(found)
    except (NameError, TypeError, PydanticUserError, PydanticSchemaGenerationError):
        return None
