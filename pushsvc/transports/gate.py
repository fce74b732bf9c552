"""Which channels a connection may join; one answer for every transport."""

from __future__ import annotations

from collections.abc import Iterable

from ..access import may_hear, owns
from ..domain import Channel, Principal, check_channel, inbox
from ..errors import BadRequest, Forbidden, NotFound
from ..store import JobStore


class Gate:
    """Checks channel names against what a principal owns or its token names."""

    def __init__(self, jobs: JobStore, limit: int) -> None:
        self._jobs = jobs
        self._limit = limit

    async def channels(self, principal: Principal, names: Iterable[str]) -> list[Channel]:
        """The channels of these names, once each, in order.

        Raises BadRequest on what is no channel, or on too many; NotFound on a foreign or unknown job;
        Forbidden on another's inbox and on a group that the token does not name.
        """
        wanted = list(dict.fromkeys(check_channel(name) for name in names))
        if len(wanted) > self._limit:
            raise BadRequest(f"at most {self._limit} channels at once")
        for name in wanted:
            if not may_hear(principal, name):
                await self._need_job(principal, name)
        return [Channel(principal.tenant, name) for name in wanted]

    async def _need_job(self, principal: Principal, name: str) -> None:
        kind, _, key = name.partition(":")
        if kind != "job":
            raise Forbidden(f"the token does not name {name}")
        job = await self._jobs.get(principal.tenant, key)
        if job is None or not owns(principal, job):
            raise NotFound(f"there is no job {key:.40}")


def own_inbox(principal: Principal) -> str:
    return inbox(principal.subject)
