"""What is published: the events of jobs that have finished, stored by the product's own statements."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pushsvc import wire
from pushsvc.bus import Scope
from pushsvc.domain import JobId, JobStatus, Outcome, Submission, new_job_id
from pushsvc.store import JobStore, Postgres

GROUP = "group:bench"
SIZE = 256
"""Bytes of an event; the frame around it adds its channel and position."""

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """An event in PostgreSQL. `frame` is what a subscriber of ours gets, and what the other servers publish."""

    number: int
    channel: int
    topic: str
    bus: bytes
    frame: bytes


class Library:
    """Stores events, each to be published once: a hub would drop the second."""

    def __init__(self, postgres: Postgres) -> None:
        self._jobs = JobStore(postgres)
        self._scope = Scope(postgres.deployment, postgres.identity)
        self._next = 1
        self._random = random.Random(1)

    async def group(self, count: int) -> list[Message]:
        """`count` events of one group, in its order."""
        return await self._store([("", 0)] * count, (GROUP,))

    async def inboxes(self, count: int, users: Sequence[str]) -> list[Message]:
        """`count` events, each in the inbox of one of `users`, at random."""
        picked = [self._random.randrange(len(users)) for _ in range(count)]
        return await self._store([(users[at], at) for at in picked], ())

    async def _store(self, targets: list[tuple[str, int]], channels: tuple[str, ...]) -> list[Message]:
        messages: list[Message] = []
        for start in range(0, len(targets), BATCH):
            messages += await self._store_batch(targets[start : start + BATCH], channels)
        return messages

    async def _store_batch(self, targets: list[tuple[str, int]], channels: tuple[str, ...]) -> list[Message]:
        # Within a statement the offsets follow the ids: sorted, they follow the numbers too.
        ids = sorted(new_job_id() for _ in targets)
        accepted = [
            asyncio.ensure_future(self._jobs.insert(_submission(job, owner or None, channels)))
            for job, (owner, _) in zip(ids, targets, strict=True)
        ]
        for each in accepted:
            await each
        numbers = [self._next + n for n in range(len(ids))]
        self._next += len(ids)
        results = [_result(number) for number in numbers]
        finishing = [
            self._jobs.finish.put(Outcome(job, 1, JobStatus.SUCCEEDED, result=result))
            for job, result in zip(ids, results, strict=True)
        ]
        messages = []
        for number, result, (_, channel), outcome in zip(numbers, results, targets, finishing, strict=True):
            finished = await outcome
            assert finished is not None
            event = wire.event(finished.job, result)
            place, position = next(place for place in finished.places if not place[0].name.startswith("job:"))
            bus, frame = wire.bus_event(place, position, event), wire.Delivery(place, position, event).frame
            messages.append(Message(number, channel, self._scope.topic(place), bus, frame))
        return messages


def _submission(job: JobId, owner: str | None, channels: tuple[str, ...]) -> Submission:
    return Submission(
        id=job,
        tenant="default",
        owner=owner,
        name="bench",
        params="{}",
        timeout=30.0,
        retention=3600.0,
        max_attempts=1,
        channels=channels,
    )


def _result(number: int) -> bytes:
    head = b'{"n":%d,"x":"' % number
    # What a job's event has around its result.
    around = 164
    return head + b"x" * (SIZE - around - len(head) - 2) + b'"}'


def lines(messages: Sequence[Message], of: str) -> Iterator[bytes]:
    """The load client's feed: `of` is `redis` for our own bus messages, else what stands before the channel's
    number in another server's target."""
    for message in messages:
        if of == "redis":
            yield b"%d %d %b %b\n" % (message.number, message.channel, message.topic.encode(), message.bus)
        else:
            target = f"{of}{message.channel}".encode()
            yield b"%d %d %b %b\n" % (message.number, message.channel, target, message.frame)
