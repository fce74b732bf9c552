"""What became of each query: its record, and the line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..promise import Status

logger = logging.getLogger("pushsvc.queries")

Mode = Literal["async", "foreground"]
Reason = Literal["not_started", "queue_full", "transaction", "inline"]


@dataclass(slots=True, eq=False)
class QueryRecord:
    """One query of a job. Times are seconds of `time.monotonic`, None until known.

    `mode` tells where it ran: on the executor (`async`), or on the job's own connection (`foreground`) for the
    `reason` given: it had `not_started` when the job awaited it or another, the `queue_full`, a `transaction` was
    open, or everything runs `inline`. `started` is when it was given a connection, so `started - scheduled` is
    its time in the queue and `finished - started` its time in the database. A cancelled query counts as finished
    when it was given up. `wait` is how many seconds the job waited at its first `await`.
    """

    name: str
    scheduled: float
    status: Status = "pending"
    mode: Mode = "async"
    reason: Reason | None = None
    started: float | None = None
    finished: float | None = None
    wait: float = 0.0

    def as_json(self, origin: float) -> dict[str, Any]:
        """The record as it goes to clients, times in milliseconds since `origin` (`time.monotonic` seconds)."""
        return {
            "name": self.name,
            "status": self.status,
            "mode": self.mode,
            "reason": self.reason,
            "scheduled": _since(origin, self.scheduled),
            "started": _since(origin, self.started),
            "finished": _since(origin, self.finished),
        }


Observer = Callable[[QueryRecord], None]


def log_answer(record: QueryRecord) -> None:
    """Log the line of a query whose answer has just been awaited.

    The first number is what the query cost the job: for one on the executor, the time it was waited for at
    `await`; for one in the foreground, its own.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    ended = "" if record.status == "complete" else f" {record.status}"
    db_time = _milliseconds(record.started, record.finished)
    if record.mode == "foreground":
        logger.info("%s (%.1fms) [foreground: %s]%s", record.name, db_time, record.reason, ended)
    else:
        queued = _milliseconds(record.scheduled, record.started if record.started is not None else record.finished)
        logger.info(
            "ASYNC %s (%.1fms) (db time %.1fms) [queued %.1fms]%s",
            record.name,
            record.wait * 1000,
            db_time,
            queued,
            ended,
        )


def log_shared(record: QueryRecord, wait: float) -> None:
    """Log the line of an equal query that was not run, but answered by one on its way already."""
    if logger.isEnabledFor(logging.INFO):
        ended = "" if record.status == "complete" else f" {record.status}"
        db_time = _milliseconds(record.started, record.finished)
        logger.info("SHARED %s (%.1fms) (db time %.1fms)%s", record.name, wait * 1000, db_time, ended)


def log_unawaited(record: QueryRecord, *, expected: bool) -> None:
    """Log that a job ended without awaiting this query: a warning, unless the job was itself cut short."""
    fate = {"failed": "it had failed", "complete": "its answer is lost"}.get(record.status, "it was cancelled")
    logger.log(
        logging.INFO if expected else logging.WARNING,
        "%s was never awaited by the end of the job; %s",
        record.name,
        fate,
    )


def _since(origin: float, moment: float | None) -> float | None:
    return None if moment is None else round((moment - origin) * 1000, 1)


def _milliseconds(start: float | None, end: float | None) -> float:
    return 0.0 if start is None or end is None else (end - start) * 1000
