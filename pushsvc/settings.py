"""The sole reader of the environment: one frozen object of everything that can be set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError, model_validator

from .errors import SettingsError
from .masking import mask_url
from .text import Name, is_name, is_queue, is_text

LONGEST_VALUE = 100_000
"""Characters of one setting in the environment."""

PREFIX = "PUSHSVC_"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1024**2, "mib": 1024**2, "mb": 1000**2}


def parse_duration(value: object) -> object:
    """`"90"`, `"500ms"`, `"24h"` or a number, to seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
        if not match:
            raise ValueError("a duration is a number with ms, s, m, h or d, such as 30s or 24h")
        return float(match[1]) * _SECONDS[match[2] or "s"]
    return value


def parse_size(value: object) -> object:
    """`"65536"` or `"64 KiB"`, to bytes."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]*)\s*", value)
        if not match or match[2].lower() not in _BYTES:
            raise ValueError("a size is a number of bytes, with KiB or MiB if you like, such as 64KiB")
        return int(match[1]) * _BYTES[match[2].lower()]
    return value


def _parse_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


LONGEST = 100 * 365 * 86400.0
"""Seconds of the longest duration: PostgreSQL and Python have calendars to keep to."""

MOST = 2**31 - 1


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
            raise ValueError(
                "an origin has a scheme and no path, such as https://app.example or http://localhost:3000"
            )
    return origins


def _check_queues(queues: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(is_queue, queues)):
        raise ValueError("a queue's name has letters, digits, _ . - and at most 100 of them")
    return tuple(dict.fromkeys(queues))


def _parse_weights(value: object) -> object:
    if not isinstance(value, str):
        return value
    weights: dict[str, float] = {}
    for part in filter(None, (each.strip() for each in value.split(","))):
        tenant, equals, weight = part.rpartition("=")
        try:
            weights[tenant.strip()] = number = float(weight)
        except ValueError:
            number = 0.0
        if not equals or not is_name(tenant.strip(), 100) or not 0.001 <= number <= 1000:
            raise ValueError("weights are written acme=3, beta=0.5: tenants, and numbers from 0.001 to 1000")
    return weights


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=LONGEST)]
Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=2**40)]
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_list)]


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """Everything that can be set, each field from `PUSHSVC_<FIELD>`. Durations in seconds, sizes in bytes.

    URLs are secrets, since they may hold a password: `repr` and `masked()` never show one.
    """

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    bus_url: SecretStr | None = None
    secret: SecretStr | None = None
    # `inline` comes with the endpoints that may answer later; until then it is refused rather than ignored.
    backend: Literal["arq", "inline"] = "arq"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    root_path: Annotated[str, Field(pattern=r"^(/[^/?#\s]+)*$")] = ""

    queue: str = "arq:queue"
    # Left out, it is the queue's, so that services which kept apart by their queues still do.
    deployment: Name = "arq:queue"
    # The named queues that a worker serves: all that jobs of the app are on, where none are named.
    queues: Annotated[Names, AfterValidator(_check_queues)] = ()
    # Shares of the workers, for tenants whose share is not one: `acme=3, beta=0.5`.
    tenant_weights: Annotated[Mapping[str, float], BeforeValidator(_parse_weights)] = {}
    max_jobs: int = Field(default=10, ge=1, le=MOST)
    executor_concurrency: int = Field(default=4, ge=1, le=MOST)
    store_connections: int = Field(default=4, ge=2, le=MOST)
    # What is in front of PostgreSQL. One that is seen counts as in transaction mode, unless this says otherwise.
    pooler: Literal["auto", "transaction", "session"] = "auto"
    pooler_connections: int | None = Field(default=None, ge=1, le=MOST)
    # How many run in all, on every machine: what they may open together is checked at start.
    web_processes: int = Field(default=1, ge=0, le=MOST)
    worker_processes: int = Field(default=1, ge=0, le=MOST)
    lease: Seconds = 8.0
    poll: Seconds = 0.5
    drain: Seconds = 10.0
    queue_limit: int = Field(default=100_000, ge=1, le=MOST)

    retention: Seconds = 86400.0
    channel_events: int = Field(default=100_000, ge=1, le=MOST)
    device_retention: Seconds = 30 * 86400.0
    inline_limit: Bytes = 64 * 1024
    result_limit: Bytes = 64 * 1024**2
    sweep: Seconds = 1.0
    # As `dev` and `demo` do: the text of every error goes to the job's subscribers.
    show_errors: bool = False

    callback_url: SecretStr | None = None
    webhook_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_parse_list)] = ()
    webhook_allow: Names = ()
    webhook_concurrency: int = Field(default=50, ge=1, le=MOST)
    webhook_timeout: Seconds = 15.0
    webhook_period: Seconds = 86400.0

    previous_secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_parse_list)] = ()
    record_limit: Bytes = 64 * 1024**2
    login_check: Seconds = 300.0

    allowed_origins: Annotated[Names, AfterValidator(_check_origins)] = ()
    body_limit: Bytes = 1024**2
    frame_limit: Bytes = 64 * 1024
    cursor_limit: Bytes = 8 * 1024
    channel_limit: int = Field(default=100, ge=1, le=MOST)
    connection_limit: int = Field(default=100, ge=1, le=MOST)
    device_limit: int = Field(default=100, ge=1, le=MOST)
    rate_limit: float = Field(default=1000.0, gt=0)
    backlog_limit: Bytes = 1024**2
    hello_timeout: Seconds = 10.0
    ping: Seconds = 25.0
    top_check: Seconds = 20.0
    wait_limit: Seconds = 60.0

    @model_validator(mode="before")
    @classmethod
    def _name_deployment(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("deployment") is None:
            return {**values, "deployment": values.get("queue", cls.model_fields["queue"].default)}
        return values

    @model_validator(mode="before")
    @classmethod
    def _need_no_workers(cls, values: Any) -> Any:
        # Their connections need not be budgeted.
        return (
            {**values, "worker_processes": 0}
            if isinstance(values, dict) and values.get("backend") == "inline"
            else values
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read `PUSHSVC_*`.

        Raises SettingsError, naming the variable, on an unknown name (with the nearest right one) or a
        value that does not parse; the value itself is never in the message.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name, value in environ.items():
            if not name.startswith(PREFIX) or value == "" or _of_kubernetes(name, value):
                continue
            field = name.removeprefix(PREFIX).lower()
            if field not in cls.model_fields:
                raise SettingsError(_unknown(name, cls))
            values[field] = value
        unfit = sorted(name for name, value in values.items() if not is_text(value) or len(value) > LONGEST_VALUE)
        if unfit:
            raise SettingsError(f"{PREFIX}{unfit[0].upper()}: bytes that are not UTF-8, or too many characters")
        try:
            return cls.model_validate(values | overrides)
        except ValidationError as error:
            problems = "; ".join(
                f"{PREFIX}{str(part['loc'][0]).upper()}: {part['msg']}" for part in error.errors(include_input=False)
            )
            raise SettingsError(problems) from None

    def masked(self) -> dict[str, str]:
        """Every setting as text, secrets and passwords as `***`: what may be printed."""
        shown: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = mask_url(value.get_secret_value()) if name.endswith("_url") else "***"
                if name == "callback_url":
                    # Whatever follows the host of a webhook's URL may be what keeps strangers from it.
                    value = re.sub(r"(://[^/?#]*).*", r"\1/***", value)
            elif name in ("webhook_secrets", "previous_secrets"):
                value = ", ".join("***" for _ in value)
            shown[PREFIX + name.upper()] = "" if value is None else str(value)
        return shown

    def need(self, name: Literal["database_url", "redis_url", "secret"]) -> str:
        """The value of a setting without which this command can't run. Raises SettingsError if unset."""
        self.need_all(name)
        value: SecretStr = getattr(self, name)
        return value.get_secret_value()

    def need_all(self, *names: Literal["database_url", "redis_url", "secret"]) -> None:
        """Raises SettingsError, naming each of these that is not set."""
        missing = [PREFIX + name.upper() for name in names if getattr(self, name) is None]
        if missing:
            listed = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[:-1] else missing)
            are, them = ("are", "them") if missing[:-1] else ("is", "it")
            raise SettingsError(
                f"{listed} {are} not set; set {them}, or use `pushsvc dev`, which brings engines of its own"
            )

    @property
    def inline(self) -> bool:
        """Whether the processes that serve run the jobs too, without Redis."""
        return self.backend == "inline"

    @property
    def endpoint_connections(self) -> int:
        """How many endpoints of a web process may have a connection of their own at a time: five, unless
        `max_jobs` is less. The queries of others wait for the executor."""
        return min(self.max_jobs, 5)

    @property
    def bus(self) -> str:
        """The URL of the pub/sub Redis: `bus_url`, else `redis_url`."""
        return self.bus_url.get_secret_value() if self.bus_url else self.need("redis_url")


_SERVICE_LINK = re.compile(
    rf"{PREFIX}(?:[A-Z0-9_]+?_)??(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|(?P<url>PORT)|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


def _of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes has set this for a Service whose name begins with `pushsvc`, as it does in every pod of its
    namespace (`enableServiceLinks`). Its `…_PORT` is a URL; a mere number is somebody's mistake."""
    match = _SERVICE_LINK.fullmatch(name)
    return match is not None and (match["url"] is None or "://" in value)


def _unknown(name: str, cls: type[Settings]) -> str:
    known = [field.upper() for field in cls.model_fields]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1)
    there_are = ", ".join(PREFIX + field for field in known)
    return f"{name} is not a setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else f"; there are {there_are}")
