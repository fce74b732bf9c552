"""What may be said of a job beside its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, TypedDict

from ..domain import check_name, check_queue, check_subject, check_tenant
from ..errors import BadRequest, PushsvcError

Priority = Literal["high", "normal", "low"]

PRIORITIES: Mapping[str, int] = {"high": 1, "normal": 0, "low": -1}


def check_priority(what: str, value: object, error: type[PushsvcError] = BadRequest) -> None:
    """Raises `error` where this is no priority."""
    if value not in PRIORITIES:
        raise error(f"{what} is one of {', '.join(PRIORITIES)}")


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Whoever submits says these. `run_at` and `deadline` know their time zone."""

    channels: Sequence[str] = ()
    callback_url: str | None = None
    run_at: datetime | None = None
    deadline: datetime | None = None
    priority: Priority | None = None
    queue: str | None = None


NO_OPTIONS = SubmitOptions()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What is said of a job that is submitted from Python: whose it is and by which key, and in which transaction."""

    submit: SubmitOptions = NO_OPTIONS
    tenant: str = "default"
    owner: str | None = None
    key: str | None = None
    transaction: Any = None


class ChildOptions(TypedDict, total=False):
    """What may be said of a child, by `ctx.options`."""

    owner: str | None
    key: str | None
    run_at: datetime | None
    deadline: datetime | None
    priority: Priority
    queue: str
    channels: Sequence[str]
    callback_url: str | None
    session: Any
    connection: Any


class JobOptions(ChildOptions, total=False):
    """What may be said of a job, by `service.options`."""

    tenant: str | None


OPTIONS = frozenset(JobOptions.__annotations__)
CHILD_OPTIONS = frozenset(ChildOptions.__annotations__)


def options_of(base: CallOptions, said: Mapping[str, Any], allowed: frozenset[str] = OPTIONS) -> CallOptions:
    """The options with what is said besides; None says nothing. Raises BadRequest for what can't be so, TypeError for
    a name that is none of the `allowed`."""
    if unknown := sorted(said.keys() - allowed):
        raise TypeError(f"options() got an unexpected keyword argument {unknown[0]!r}")
    given = {name: value for name, value in said.items() if value is not None}
    if given.keys() >= {"session", "connection"}:
        raise BadRequest("give session= or connection=, whichever holds the transaction")
    check_priority("priority", given.get("priority", "normal"))
    for name in ("run_at", "deadline"):
        if name in given and given[name].tzinfo is None:
            raise BadRequest(f"{name} says no time zone: write datetime(…, tzinfo=UTC)")
    if "queue" in given:
        check_queue(given["queue"])
    if "channels" in given:
        given["channels"] = tuple(given["channels"])
    of_submission = {each.name for each in fields(SubmitOptions)}
    return CallOptions(
        replace(base.submit, **{name: value for name, value in given.items() if name in of_submission}),
        check_tenant(given["tenant"]) if "tenant" in given else base.tenant,
        check_subject(given["owner"]) if "owner" in given else base.owner,
        check_name(given["key"], "a key", 255) if "key" in given else base.key,
        given.get("session", given.get("connection", base.transaction)),
    )
