"""What a function's signature makes of a job: its parameters as a model, or a sentence why it can't be one.

Everything here is found when the module loads, rather than when the first job fails.
"""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..errors import SettingsError
from ..text import legible
from .context import JobContext

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=False, validate_default=True, allow_inf_nan=False)


def params_model(name: str, function: Any) -> tuple[type[BaseModel], str | None]:
    """A model of the function's parameters, and which of them takes the JobContext.

    Raises SettingsError, in one sentence, when a job can't be made of it: it is no plain function, or one of its
    parameters can't be filled from JSON by its name.
    """
    check_function(name, function)
    fields: dict[str, Any] = {}
    context: str | None = None
    for parameter in _parameters(name, function):
        kind = _hint(name, function, parameter)
        if _is_context(kind) or (parameter.name == "ctx" and kind is Any):
            if context is not None:
                raise SettingsError(f"job {name}: {context} and {parameter.name} both take the JobContext; keep one")
            context = parameter.name
        elif parameter.default is parameter.empty:
            fields[parameter.name] = kind
        else:
            fields[parameter.name] = (kind, parameter.default)
    model = _model(name, fields)
    _check_defaults(name, fields)
    return model, context


# The function -------------------------------------------------------------------------------------


def check_function(name: str, function: Any) -> None:
    """Raises SettingsError unless it is a function that a worker can call, and that returns one result."""
    if wrong := _unfit(function):
        raise SettingsError(f"job {name}: it {wrong}")


def _unfit(function: Any) -> str | None:
    if isinstance(function, functools.partial | functools.partialmethod):
        return "is a functools.partial; write a function that calls it"
    if isinstance(function, staticmethod | classmethod):
        return "is a method; write it outside of the class"
    if isinstance(function, type):
        return "is a class; write a function that makes one and returns its result"
    if not callable(function):
        return "is no function; put @service.job right above a def or an async def"
    if not hasattr(function, "__code__"):
        return "is an object with __call__; write a function that calls it"
    if inspect.isasyncgenfunction(function):
        return "is an async generator; return one result, such as a list, and tell progress by ctx.progress"
    if inspect.isgeneratorfunction(function):
        return "is a generator; return one result, such as a list, and tell progress by ctx.progress"
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner) and not inspect.iscoroutinefunction(function):
        return "is an async def inside a plain wrapper, which would return without awaiting it; make it async too"
    within = getattr(function, "__qualname__", "").rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    if within and not within.endswith("<locals>") and first in ("self", "cls") and not inspect.ismethod(function):
        return f"is a method, and nobody gives it {first}; write it outside of the class"
    return None


# Its parameters -----------------------------------------------------------------------------------


def _parameters(name: str, function: Any) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SettingsError(f"job {name}: {parameter} can't be given by name; name each parameter")
        yield parameter


def _hint(name: str, function: Any, parameter: inspect.Parameter) -> Any:
    """The parameter's type, resolved where it was written: what it returns may be of a type that is not there."""
    if parameter.annotation is parameter.empty:
        return Any
    inner = inspect.unwrap(function)
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    scope = getattr(inner, "__globals__", {})
    local = {each.__name__: each for each in getattr(inner, "__type_params__", ())}
    try:
        return get_type_hints(alone, scope, local, include_extras=True)[parameter.name]
    except NameError as error:
        raise SettingsError(
            f"job {name}: the type of {parameter.name}, {legible(str(parameter.annotation), 100)}, is not known when "
            f"the module runs ({error.name}); define it in the module, or import it outside of `if TYPE_CHECKING:`"
        ) from None
    except Exception as error:
        raise SettingsError(
            f"job {name}: the type of {parameter.name}, {legible(str(parameter.annotation), 100)}, can't be read "
            f"({type(error).__name__}); write a type that pydantic knows"
        ) from None


def _is_context(kind: Any) -> bool:
    """JobContext, also as one of a union with None."""
    if get_origin(kind) is Annotated:
        return _is_context(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_context(each) for each in get_args(kind))
    return kind is JobContext


def _model(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """Raises SettingsError, naming the parameter at fault."""
    try:
        model = _made(name, fields)
    except Exception as error:
        for parameter, field in fields.items():
            try:
                _made(name, {parameter: field})
            except Exception as wrong:
                raise SettingsError(
                    f"job {name}: the type of {parameter} has no JSON Schema; write one that pydantic makes of JSON "
                    f"({_first_line(wrong)})"
                ) from wrong
        raise SettingsError(f"job {name}: its parameters have no JSON Schema ({_first_line(error)})") from error
    if unnamed := fields.keys() - model.model_fields.keys():
        raise SettingsError(f"job {name}: {min(unnamed)} can't be the name of a parameter; write another")
    return model


def _made(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    with _without_warnings():
        model: type[BaseModel] = create_model(name, __config__=_CONFIG, **fields)
    schema_of(model)
    return model


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of parameters. Raises pydantic's errors on a type that has none."""
    with _without_warnings():
        return model.model_json_schema()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """pydantic warns of a parameter with the name of one of a model's methods, and of a default without a JSON form:
    neither is of consequence here, nor could an author always help it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _first_line(error: Exception) -> str:
    return legible(str(error).strip().partition("\n")[0], 200)


def _check_defaults(name: str, fields: Mapping[str, Any]) -> None:
    """Raises SettingsError on a default that the parameter's own type refuses: each job that uses it would fail."""
    given = {parameter: field for parameter, field in fields.items() if _has_default(field)}
    if not given:
        return
    try:
        _made(name, given)()
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)[0]
        parameter = next((p for p in given if p in map(str, wrong["loc"])), str(wrong["loc"][0]))
        field = given[parameter]
        if isinstance(field, tuple) and field[1] is None:
            kind = inspect.formatannotation(field[0])
            raise SettingsError(
                f"job {name}: the default of {parameter} is None, which its type {kind} is not; "
                f"write {parameter}: {kind} | None = None"
            ) from None
        raise SettingsError(
            f"job {name}: the default of {parameter} does not fit its type; write one that does ({wrong['msg']})"
        ) from None


def _has_default(field: Any) -> bool:
    """One that stands in the code. What a factory makes is made, and checked, each time anew."""
    if not isinstance(field, tuple):
        return False
    default = field[1]
    if isinstance(default, FieldInfo):
        return default.default_factory is None and default.default not in (PydanticUndefined, ...)
    return True
