"""The jobs an app offers: each a function, its limits, and a schema made from its signature."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import to_json

from .. import wire
from ..domain import DEFAULT_QUEUE
from ..errors import InvalidParams, PushsvcError, SettingsError, UnknownJob
from ..store import Limit
from .context import PgSettingsFor
from .failures import Failure
from .options import Priority
from .payload import Instants
from .retries import AS_EVER, Retries
from .schedule import Schedule
from .signature import schema_of

logger = logging.getLogger(__name__)

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
    retries: Retries = AS_EVER
    """After which errors it is tried again, and when."""
    queue: str = DEFAULT_QUEUE
    priority: Priority = "normal"
    max_running: int | None = None
    max_running_each: int | None = None
    """How many of it run at once over all workers, and how many of them for one owner."""
    schedule: Schedule | None = None
    """When it is due by itself."""
    recorded: bool = False
    """Whether it is an endpoint, whose jobs are recorded requests: nobody submits one by its name."""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def validate(self, params: Mapping[str, Any]) -> str:
        """The parameters as they were given, as JSON text, if the job takes them. Raises InvalidParams, naming each
        that is wrong.

        What they are validated to here is dropped: the worker validates the same text. So validators see what was
        sent, nothing has to survive being written and read again, and a default is that of the code that runs.
        """
        try:
            text = written(params)
        except ValueError as error:
            raise InvalidParams(f"{self.name} does not take these parameters: they have no JSON form") from error
        try:
            self._read(text, f"{self.name} does not take these parameters")
        except PushsvcError:
            raise
        except Exception as error:
            # The author's own validator, which is to raise ValueError for what it does not like.
            failure = Failure.of(error)
            logger.error("job %s: its parameters were not checked: %s\n%s", self.name, failure.said, failure.trace)
            raise PushsvcError("the job's check of its parameters failed", **failure.problem.extra) from error
        return text

    def arguments(self, params: str) -> dict[str, Any]:
        """Stored JSON text to keyword arguments. Raises InvalidParams if the signature has changed since."""
        model = self._read(params, f"{self.name}'s signature has changed, or what its parameters may be")
        return {name: getattr(model, name) for name in self.params.model_fields}

    @cached_property
    def instants(self) -> Instants:
        """Which of the parameters are instants."""
        return Instants(self.schema())

    def _read(self, text: str, otherwise: str) -> BaseModel:
        try:
            return self.params.model_validate_json(text)
        except ValidationError as error:
            raise InvalidParams(otherwise, errors=wire.mistakes(error, "param")) from None

    def filled(self, params: str) -> dict[str, Any]:
        """The parameters with the defaults that the schema shows: equal to one that spells them out."""
        found: dict[str, Any] = wire.load(params)
        return {**self._defaults, **found}

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        properties = self.schema().get("properties", {})
        return {name: each["default"] for name, each in properties.items() if "default" in each}

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameters."""
        return schema_of(self.params)


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

    def of(self, function: object) -> JobSpec:
        """The job that a function is. Raises UnknownJob when it is none, or several by different names."""
        found = [spec for spec in self._jobs.values() if spec.function is function]
        if len(found) != 1:
            name = getattr(function, "__qualname__", type(function).__name__)
            why = "is several jobs: submit one by its name" if found else "is no job of this service"
            raise UnknownJob(f"{name:.100} {why}")
        return found[0]

    def __iter__(self) -> Iterator[JobSpec]:
        return iter(self._jobs.values())

    @property
    def queues(self) -> tuple[str, ...]:
        """Those that any of the jobs is on by itself."""
        return tuple(dict.fromkeys([DEFAULT_QUEUE, *(spec.queue for spec in self)]))

    @property
    def limits(self) -> list[Limit]:
        """Of the jobs that have any."""
        found = (Limit(spec.name, spec.max_running, spec.max_running_each) for spec in self)
        return [limit for limit in found if limit.most is not None or limit.most_each is not None]

    def __len__(self) -> int:
        return len(self._jobs)


def written(params: Mapping[str, Any]) -> str:
    """JSON of parameters, be they parsed JSON or, as in a test, values of Python. Raises ValueError."""
    text = to_json({name: _revealed(value) for name, value in params.items()}, inf_nan_mode="constants")
    if b"NaN" in text or b"Infinity" in text:
        wire.load(text)
    return text.decode()


def _revealed(value: Any) -> Any:
    """Secrets as what they are: written by pydantic they would be `**********`."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return _revealed(value.get_secret_value())
    if isinstance(value, list | tuple):
        return [_revealed(each) for each in value]
    if isinstance(value, dict):
        return {name: _revealed(each) for name, each in value.items()}
    return value
