"""Whose: which channels a principal may hear and write to, and whose jobs it may see."""

from __future__ import annotations

from ..domain import Job, Principal, inbox
from ..errors import Forbidden


def owns(principal: Principal, job: Job) -> bool:
    """A job belongs to who submitted it; one that nobody in particular submitted, to whoever knows its id."""
    return job.tenant == principal.tenant and (job.owner is None or job.owner == principal.subject)


def is_group(channel: str) -> bool:
    """Groups are what a token can open by naming them."""
    return channel.startswith("group:")


def may_hear(principal: Principal, channel: str) -> bool:
    """Whether the channel is the subject's own inbox, or a group that its token names. Another's inbox never is, nor
    a job's channel, whatever the token names: jobs are decided by their owner, which only the store knows."""
    return channel == inbox(principal.subject) or (is_group(channel) and channel in principal.channels)


def need_publish(principal: Principal, channels: tuple[str, ...]) -> None:
    """Raises Forbidden unless the submitter may have results logged in these channels."""
    foreign = [name for name in channels if name != inbox(principal.subject)]
    if foreign and "submit:any" not in principal.scopes:
        raise Forbidden(f"the token lacks the scope submit:any, which {foreign[0]} needs")
