"""The jobs an app offers: each a function, its limits, and a schema made from its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from ..errors import InvalidParams, SettingsError, UnknownJob
from .context import JobContext, PgSettingsFor
from .payload import Instants

JobFunction = Callable[..., Awaitable[Any] | Any]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class JobSpec:
    """One job. `timeout` and `retention` in seconds; `max_attempts` counts tries that ended in an error."""

    name: str
    function: JobFunction
    timeout: float
    retention: float
    max_attempts: int
    coalesce: bool
    params: type[BaseModel]
    context: str | None
    """The name of the parameter that takes the JobContext, if there is one."""
    pg_settings: PgSettingsFor = None
    """What holds for its queries in PostgreSQL."""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def validate(self, params: Mapping[str, Any]) -> str:
        """The parameters with their defaults, as JSON text. Raises InvalidParams, naming each that is wrong."""
        try:
            return self.params.model_validate(dict(params)).model_dump_json(by_alias=True)
        except ValidationError as error:
            raise InvalidParams(
                f"{self.name} does not take these parameters",
                errors=[
                    {"param": ".".join(str(part) for part in found["loc"]), "message": found["msg"]}
                    for found in error.errors(include_input=False, include_url=False, include_context=False)
                ],
            ) from None

    def arguments(self, params: str) -> dict[str, Any]:
        """Stored JSON text back to keyword arguments. Raises InvalidParams if the signature has changed since."""
        try:
            model = self.params.model_validate_json(params)
        except ValidationError as error:
            raise InvalidParams(f"{self.name}'s signature has changed: {error.error_count()} do not fit") from None
        return {name: getattr(model, name) for name in self.params.model_fields}

    @cached_property
    def instants(self) -> Instants:
        """Which of the parameters are instants."""
        try:
            return Instants(self.schema())
        except PydanticUserError:  # one of the parameters has a type that JSON Schema has no words for
            return Instants({})

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameters."""
        return self.params.model_json_schema()


class Registry:
    """The jobs by name."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobSpec] = {}

    def add(self, spec: JobSpec) -> None:
        """Raises SettingsError on a name that is malformed or taken."""
        if not _NAME.fullmatch(spec.name):
            raise SettingsError(
                f"{spec.name!r} can't be a job's name: letters, digits, _ . - and at most 100 of them"
            )
        if spec.name in self._jobs:
            raise SettingsError(f"there are two jobs named {spec.name!r}; give one a name= of its own")
        self._jobs[spec.name] = spec

    def get(self, name: str) -> JobSpec:
        """Raises UnknownJob."""
        try:
            return self._jobs[name]
        except KeyError:
            raise UnknownJob(f"there is no job named {name!r:.100}") from None

    def __iter__(self) -> Any:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)


def params_model(name: str, function: JobFunction) -> tuple[type[BaseModel], str | None]:
    """A model of the function's parameters, and which of them takes the JobContext.

    Raises SettingsError when the signature can't be spoken to by name: `*args`, `**kwargs`, positional-only.
    """
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SettingsError(f"job {name}: {parameter} can't be given by name; name each parameter")
        annotation = hints.get(parameter.name, Any)
        if annotation is JobContext or (parameter.name == "ctx" and context is None and annotation is Any):
            context = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (annotation, default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, validate_default=True, allow_inf_nan=False)
    try:
        model = create_model(name, __config__=config, **fields)
    except Exception as error:
        raise SettingsError(f"job {name}: a parameter's type has no JSON Schema: {error}") from error
    if unnamed := fields.keys() - model.model_fields.keys():
        raise SettingsError(f"job {name}: {min(unnamed)} can't be the name of a parameter")
    return model, context
