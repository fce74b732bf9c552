"""The table of everything pushsvc measures, and the one function that says it happened.

Handlers get `(name, measures, labels)`; a handler that raises is logged and detached, never felt by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

EVENTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: (measures, labels)
    "job.submitted": (("count",), ("job",)),
    "job.started": (("wait",), ("job", "attempt")),
    "job.finished": (("duration",), ("job", "status")),
    "job.retrying": (("delay",), ("job", "reason")),
    "job.fenced": (("count",), ("job",)),
    "query.done": (("queued", "duration"), ("name", "mode", "reason", "status")),
    "store.batch": (("size", "duration"), ("statement",)),
    "sweep.done": (("enqueued", "returned", "expired", "purged"), ()),
    "bus.connected": (("count",), ("role",)),
    "bus.lost": (("count",), ("role",)),
    "hub.gap": (("events",), ()),
    "hub.behind": (("count",), ()),
    "webhook.attempt": (("duration",), ("status", "code")),
    "webhook.fenced": (("count",), ()),
    "webhook.held": (("count",), ()),
    "connection.opened": (("count",), ("transport",)),
    "connection.closed": (("count",), ("transport", "code")),
}

Handler = Callable[[str, Mapping[str, float], Mapping[str, Any]], None]
_handlers: list[Handler] = []


def attach(handler: Handler) -> Callable[[], None]:
    """Call `handler` for every event from now on; the answer is how to stop that."""
    _handlers.append(handler)
    return lambda: _handlers.remove(handler) if handler in _handlers else None


def emit(name: str, measures: Mapping[str, float], labels: Mapping[str, Any] | None = None) -> None:
    """Say that `name` (a row of EVENTS) happened. Durations are in seconds."""
    for handler in tuple(_handlers):
        try:
            handler(name, measures, labels or {})
        except Exception:
            logger.exception("telemetry handler %r failed and is detached", handler)
            if handler in _handlers:
                _handlers.remove(handler)
