"""What may be said of a job beside its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Priority = Literal["high", "normal", "low"]

PRIORITIES: Mapping[str, int] = {"high": 1, "normal": 0, "low": -1}


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Whoever submits says these. `run_at` and `deadline` know their time zone."""

    channels: Sequence[str] = ()
    callback_url: str | None = None
    run_at: datetime | None = None
    deadline: datetime | None = None
    priority: Priority = "normal"


NO_OPTIONS = SubmitOptions()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What is said of a job that is submitted from Python: whose it is and by which key, and in which transaction."""

    submit: SubmitOptions = NO_OPTIONS
    tenant: str = "default"
    owner: str | None = None
    key: str | None = None
    transaction: Any = None
