"""ARQ's queue under ARQ's keys, with batch claims, leases and instant wake-ups (see the .lua scripts).

A wake-up is a token in a list rather than a PUBLISH: it waits for a worker that is not listening yet, and
only one worker gets it. `arq.jobs.Job(queue.arq_id(job), …, _queue_name=queue.name)` reads these keys as ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from arq.constants import default_queue_name, result_key_prefix
from arq.constants import expires_extra_ms as definition_ttl_ms
from arq.jobs import serialize_job, serialize_result

from .. import wire
from .connection import RedisClient
from .scope import Scope

RESULT_TTL_MS = 60_000
"""How long arq's own short result stays; the real one is in PostgreSQL."""


PROBE_EVERY = 0.002
"""Seconds between two looks at whether a token is still there."""
GIVEN_BACK_WITHIN = 0.02
"""Seconds in which a worker that had just become full gives back a token."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Queued:
    """A job to be put on the queue; `due` in UNIX seconds."""

    id: str
    name: str
    due: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """The jobs claimed, and in how many seconds the next one falls due (None: there is none)."""

    ids: list[str]
    next_due: float | None


class Queue:
    """One queue in Redis. Every method raises what `connection.FAULTS` lists when Redis is away."""

    def __init__(
        self, redis: RedisClient, blocking: RedisClient, scope: Scope, name: str = default_queue_name
    ) -> None:
        self._redis = redis
        self._blocking = blocking
        self._scope = scope
        self._name = name
        self._scripts = {
            script: redis.register_script(files(__package__).joinpath(f"{script}.lua").read_text())
            for script in ("enqueue", "claim", "finish", "release", "renew")
        }

    @cached_property
    def name(self) -> str:
        """The queue's key, which is its name in arq."""
        return f"{self._name}:{self._scope.id}"

    @cached_property
    def _wake(self) -> str:
        return f"{self.name}:wake"

    @cached_property
    def _prefix(self) -> str:
        return f"{self._scope.id}:"

    def arq_id(self, job: str) -> str:
        """What arq calls a job: a copy of the database has jobs of the same ids."""
        return self._prefix + job

    async def _run(self, script: str, keys: Sequence[str], *args: Any) -> Any:
        return await self._scripts[script](keys=keys, args=args)

    async def check(self) -> None:
        """Write something, as everything here does: a server may answer and take no changes."""
        await self._redis.set(f"{self.name}:check", b"1", ex=60)

    async def enqueue(self, jobs: Sequence[Queued]) -> None:
        """Put jobs on the queue; one that is there already stays as it is. Wakes a worker if any is due."""
        now = now_ms()
        args: list[Any] = [now]
        for job in jobs:
            score = int(job.due * 1000)
            definition = serialize_job(job.name, (), {}, None, now, serializer=wire.dump)
            args += [self.arq_id(job.id), score, definition, max(score - now, 0) + definition_ttl_ms]
        await self._run("enqueue", [self.name, self._wake], *args)

    async def claim(self, limit: int, lease: float, worker: str, first: str | None = None) -> Claimed:
        """Claim up to `limit` due jobs for `lease` seconds, beginning with `first`, which a token named."""
        ids, score = await self._run(
            "claim",
            [self.name, self._wake],
            now_ms(),
            limit,
            int(lease * 1000),
            worker,
            self.arq_id(first) if first else "",
        )
        next_due = None if score is None else max(float(score) / 1000 - time.time(), 0.0)
        # Whatever somebody else may have put there: what is no job's id is recognised as such.
        return Claimed([job.decode(errors="replace").removeprefix(self._prefix) for job in ids], next_due)

    async def renew(self, jobs: Sequence[str], lease: float, worker: str) -> None:
        await self._run("renew", [self.name], now_ms(), int(lease * 1000), worker, *map(self.arq_id, jobs))

    async def release(self, jobs: Sequence[tuple[str, float]]) -> None:
        """Give claimed jobs back, each due in so many seconds."""
        now = now_ms()
        args = [part for job, delay in jobs for part in (self.arq_id(job), now + int(delay * 1000))]
        await self._run("release", [self.name, self._wake], now, *args)

    async def finish(self, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Take jobs off the queue, leaving arq's result of each (b'' for none)."""
        args = [part for job, result in jobs for part in (self.arq_id(job), result)]
        await self._run("finish", [self.name], len(jobs), RESULT_TTL_MS, *args)

    async def missing(self, jobs: Sequence[str]) -> list[str]:
        """Which of these are not on the queue."""
        scores = await self._redis.zmscore(self.name, list(map(self.arq_id, jobs)))
        return [job for job, score in zip(jobs, scores, strict=True) if score is None]

    async def marked(self) -> bool:
        """False if Redis has lost its memory since `mark()`."""
        return bool(await self._redis.exists(f"{self.name}:pushsvc"))

    async def mark(self) -> None:
        await self._redis.set(f"{self.name}:pushsvc", b"1")

    async def token(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for a wake-up. The token names a job that was due when it was left."""
        # redis-py's own `blpop` is typed for whole seconds only.
        reply = await self._blocking.execute_command("BLPOP", self._wake, timeout)  # type: ignore[no-untyped-call]  # untyped in redis
        return None if reply is None else reply[1].decode().removeprefix(self._prefix)

    async def wake(self, token: str = "-") -> None:
        """Leave a token: somebody else should look at the queue."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(self._wake, token)
        await pipeline.execute()

    async def taken(self, token: str, timeout: float) -> float | None:
        """Leave a token that names no job, and wait up to `timeout` seconds for a worker that takes it.

        In how many seconds it was taken; None if no worker had room. The token never stays.
        """
        begun = time.monotonic()
        await self.wake(token)
        try:
            while (now := time.monotonic()) < begun + timeout:
                gone = not await self._waits(token)
                await asyncio.sleep(GIVEN_BACK_WITHIN if gone else PROBE_EVERY)
                if gone and not await self._waits(token):
                    return now - begun
            return None
        finally:
            # No job waits the longer for it: a worker that gets room looks at the queue by itself.
            await self._redis.execute_command("LREM", self._wake, 0, token)  # type: ignore[no-untyped-call]  # untyped in redis

    async def _waits(self, token: str) -> bool:
        place = await self._redis.execute_command("LPOS", self._wake, token)  # type: ignore[no-untyped-call]  # untyped in redis
        return place is not None

    async def forget(self, jobs: Sequence[str]) -> None:
        """Take jobs off the queue as if they had never been on it; not for one that is running."""
        await self.finish([(job, b"") for job in jobs])
        await self._redis.delete(*(result_key_prefix + self.arq_id(job) for job in jobs))

    def result_of(self, job: str, name: str, success: bool, href: str) -> bytes:
        """What arq's `Job.result()` answers: not the result itself, which Redis need not hold, but its link."""
        known = self.arq_id(job)
        data = serialize_result(
            name,
            (),
            {},
            1,
            now_ms(),
            success,
            href,
            now_ms(),
            now_ms(),
            known,
            self.name,
            known,
            serializer=wire.dump,
        )
        return data or b""
