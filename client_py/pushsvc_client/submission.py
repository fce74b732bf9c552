"""What is submitted, as values: a job with its parameters and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .wire import JobView


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be done. `run_at` and `deadline` are aware datetimes; what is None is the server's to say."""

    job: str
    params: Mapping[str, Any] = field(default_factory=dict)
    channels: Sequence[str] | None = None
    callback_url: str | None = None
    priority: Any = None
    queue: str | None = None
    run_at: datetime | None = None
    deadline: datetime | None = None

    def body(self) -> dict[str, Any]:
        """As it is sent. Raises ValueError on a moment without a time zone."""
        options = {
            "channels": None if self.channels is None else list(self.channels),
            "callback_url": self.callback_url,
            "priority": self.priority,
            "queue": self.queue,
            "run_at": _moment("run_at", self.run_at),
            "deadline": _moment("deadline", self.deadline),
        }
        given = {name: value for name, value in options.items() if value is not None}
        return {"job": self.job, "params": dict(self.params)} | given


def _moment(name: str, value: datetime | None) -> str | None:
    if value is not None and value.utcoffset() is None:
        raise ValueError(f"{name} has no time zone; give datetime.now(UTC) + … or the like")
    return None if value is None else value.isoformat()


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, the newest first. `next` is `after` of the page that follows, None on the last one."""

    jobs: tuple[JobView, ...]
    next: str | None
