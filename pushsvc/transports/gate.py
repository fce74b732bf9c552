"""Which channels a connection may join; one answer for every transport."""

from __future__ import annotations

from collections.abc import Iterable

from ..access import may_hear
from ..domain import Channel, Principal, check_channel, inbox
from ..errors import Forbidden, NotFound, TooManyChannels
from ..store import JobStore


class Gate:
    """Checks channel names against what a principal owns or its token names."""

    def __init__(self, jobs: JobStore, limit: int) -> None:
        self._jobs = jobs
        self._limit = limit

    async def channels(self, principal: Principal, names: Iterable[str]) -> list[Channel]:
        """The channels of these names, once each, in order.

        Raises BadRequest on what is no channel, TooManyChannels; NotFound on a foreign or unknown job;
        Forbidden on another's inbox and on a group that the token does not name.
        """
        wanted = list(dict.fromkeys(check_channel(name) for name in names))
        if len(wanted) > self._limit:
            raise TooManyChannels(f"at most {self._limit} channels at once")
        jobs: list[str] = []
        for name in wanted:
            if not may_hear(principal, name):
                kind, _, key = name.partition(":")
                if kind != "job":
                    raise Forbidden(f"the token does not name {name}")
                jobs.append(key)
        if jobs:
            seen = await self._jobs.seen_by(principal.tenant, principal.subject, jobs)
            if unseen := [job for job in jobs if job not in seen]:
                raise NotFound(f"there is no job {unseen[0]:.40}")
        return [Channel(principal.tenant, name) for name in wanted]


def own_inbox(principal: Principal) -> str:
    return inbox(principal.subject)
