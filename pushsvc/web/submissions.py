"""Accepting a job, whether it comes as a request or as a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..domain import Accepted, Channel, Job, Principal, Submission, format_cursor, inbox
from ..errors import BadRequest
from ..jobs import JobRequest, Submitter
from ..store import EventStore
from .views import JobViews, own_position

INBOXES_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job; a cursor of its channel and the submitter's inbox, before anything came of it; and, if others may
    share the job, the mark by which it is cancelled for this submitter only."""

    job: Job
    cursor: str
    mark: str | None


class Submissions:
    """Submits, and says from where the submitter hears of it."""

    def __init__(self, submitter: Submitter, events: EventStore, views: JobViews) -> None:
        self._submitter = submitter
        self._events = events
        self._views = views
        self._opened: set[Channel] = set()

    async def submit(self, principal: Principal, request: JobRequest, key: str | None) -> Submitted:
        """Accept a job, or join the one that it is the same as.

        Raises what `Submitter.submit` does.
        """
        await self._open_inbox(principal.tenant, principal.subject)
        return _submitted(await self._submitter.submit(principal, request, key))

    async def accept(self, submission: Submission) -> Submitted:
        """Accept what has been checked already. Raises what `Submitter.accept` does."""
        if submission.owner is not None:
            await self._open_inbox(submission.tenant, submission.owner)
        return _submitted(await self._submitter.accept(submission))

    def refuse_when_full(self) -> None:
        """Raises QueueFull."""
        self._submitter.refuse_when_full()

    async def over_socket(self, principal: Principal, job: str, params: Mapping[str, Any], key: str | None) -> bytes:
        """The job as JSON, as `POST /v1/jobs` answers."""
        try:
            request = JobRequest(job=job, params=dict(params))
        except ValidationError as error:
            raise BadRequest(error.errors(include_input=False, include_url=False)[0]["msg"]) from None
        submitted = await self.submit(principal, request, key)
        return await self._views.view(submitted.job, submitted.cursor, submitted.mark)

    async def _open_inbox(self, tenant: str, subject: str) -> None:
        """Make sure that the submitter's inbox has a position, once a process."""
        channel = Channel(tenant, inbox(subject))
        if channel not in self._opened:
            await self._events.states([channel])
            if len(self._opened) >= INBOXES_REMEMBERED:
                self._opened.clear()
            self._opened.add(channel)


def _submitted(accepted: Accepted) -> Submitted:
    positions = own_position(accepted.job)
    if accepted.inbox is not None and accepted.job.owner is not None:
        positions.append((inbox(accepted.job.owner), accepted.inbox))
    return Submitted(accepted.job, format_cursor(positions), accepted.mark)
