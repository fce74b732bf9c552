"""ARQ's queue under ARQ's keys, with fair batch claims, leases and instant wake-ups (see the .lua scripts).

Who is next is decided by shares (`shares.lua`), among what waits; how many of a kind may run, by PostgreSQL: what it
refuses is parked here until one of its kind has ended. A wake-up is a token in a list rather than a PUBLISH: it waits
for a worker that is not listening yet, and only one worker gets it.
`arq.jobs.Job(queue.arq_id(job), …, _queue_name=queue.name)` reads these keys as ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple

from arq.constants import default_queue_name, result_key_prefix
from arq.constants import expires_extra_ms as definition_ttl_ms
from arq.jobs import serialize_job, serialize_result

from .. import wire
from ..domain import DEFAULT_QUEUE, is_job_id
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
    """A job to be put on the queue; `due` in UNIX seconds; `owner` is '' for nobody in particular."""

    id: str
    name: str
    due: float
    tenant: str = "default"
    owner: str = ""
    queue: str = DEFAULT_QUEUE
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a worker claims: the named queues that it serves, which jobs have limits (`each`, `all` or `each all`),
    and what tenants' shares are if not one."""

    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    limited: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def said(self, turn: int) -> bytes:
        """As the script reads them, each time with another queue first."""
        at = turn % len(self.queues)
        queues = self.queues[at:] + self.queues[:at]
        return wire.dump({"queues": queues, "limited": dict(self.limited), "weights": dict(self.weights)})


class Kind(NamedTuple):
    """Jobs that a limit counts together: all of a name, or those of one owner."""

    name: str
    tenant: str = ""
    owner: str = ""


class Stand(NamedTuple):
    """Where a job stands: `gone` (not on the queue), `later`, `claimed`, `parked` or `ready`; how many are started
    before, if it is ready; how many workers serve its queue."""

    state: str
    ahead: int | None
    workers: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """The jobs claimed, and in how many seconds the next one falls due (None: there is none)."""

    ids: list[str]
    next_due: float | None
    more: bool = False
    """Whether to look again at once: others than these were passed over."""


DEFAULT_RULES = Rules()
NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})


class Queue:
    """One queue in Redis. Every method raises what `connection.FAULTS` lists when Redis is away."""

    def __init__(
        self, redis: RedisClient, blocking: RedisClient, scope: Scope, name: str = default_queue_name
    ) -> None:
        self._redis = redis
        self._blocking = blocking
        self._scope = scope
        self._name = name
        shares = files(__package__).joinpath("shares.lua").read_text()
        self._scripts = {
            script: redis.register_script(shares + files(__package__).joinpath(f"{script}.lua").read_text())
            for script in ("enqueue", "claim", "finish", "release", "renew", "park", "unpark", "place")
        }
        self._turn = 0

    @cached_property
    def name(self) -> str:
        """The queue's key, which is its name in arq."""
        return f"{self._name}:{self._scope.id}"

    def _wake(self, queue: str = DEFAULT_QUEUE) -> str:
        return f"{self.name}:wake" if queue == DEFAULT_QUEUE else f"{self.name}:wake:{queue}"

    @cached_property
    def _prefix(self) -> str:
        return f"{self._scope.id}:"

    def arq_id(self, job: str) -> str:
        """What arq calls a job: a copy of the database has jobs of the same ids."""
        return self._prefix + job

    async def _run(self, script: str, *args: Any) -> Any:
        return await self._scripts[script](keys=[self.name], args=args)

    async def check(self) -> None:
        """Write something, as everything here does: a server may answer and take no changes."""
        await self._redis.set(f"{self.name}:check", b"1", ex=60)

    async def enqueue(self, jobs: Sequence[Queued]) -> None:
        """Put jobs on the queue; one that is there already stays as it is. Wakes a worker if any is due."""
        now = now_ms()
        args: list[Any] = [now]
        for job in jobs:
            due = int(job.due * 1000)
            definition = serialize_job(job.name, (), {}, None, now, serializer=wire.dump)
            about = (job.tenant, job.owner, job.name, job.queue, str(job.priority), str(due))
            args += [self.arq_id(job.id), due, definition, max(due - now, 0) + definition_ttl_ms, "\x1f".join(about)]
        await self._run("enqueue", *args)

    async def claim(
        self, limit: int, lease: float, worker: str, first: str | None = None, rules: Rules = DEFAULT_RULES
    ) -> Claimed:
        """Claim up to `limit` due jobs for `lease` seconds, beginning with `first`, which a token named."""
        self._turn += 1
        ids, due, more = await self._run(
            "claim",
            now_ms(),
            limit,
            int(lease * 1000),
            worker,
            self.arq_id(first) if first else "",
            rules.said(self._turn),
        )
        next_due = None if due is None else max(float(due) / 1000 - time.time(), 0.0)
        # Whatever somebody else may have put there: what is no job's id is recognised as such.
        known = [job.decode(errors="replace").removeprefix(self._prefix) for job in ids]
        return Claimed(known, next_due, bool(more))

    async def park(self, jobs: Sequence[tuple[str, bool]]) -> None:
        """Claimed jobs wait until one of their kind has ended: of their owner's if True, else of all."""
        args = [part for job, each in jobs for part in (self.arq_id(job), "each" if each else "all")]
        await self._run("park", *args)

    async def unpark(self, kinds: Mapping[Kind, int]) -> int:
        """So many of each kind may be started again; how many wait now that were parked."""
        args = [part for kind, count in kinds.items() for part in (*kind, count)]
        return int(await self._run("unpark", *args))

    async def parked(self) -> list[Kind]:
        """Of which kinds some are parked."""
        begin = len(f"{self.name}:parked:")
        trees = await self._redis.hkeys(f"{self.name}:parked")  # type: ignore[misc]  # typed as either, in redis
        return [Kind(*tree.decode()[begin:].split("\x1f")) for tree in trees]

    async def stand(self, jobs: Sequence[str], weights: Mapping[str, float] = NO_WEIGHTS) -> list[Stand]:
        """Where these stand."""
        found = await self._run("place", now_ms(), wire.dump(dict(weights)), *map(self.arq_id, jobs))
        return [Stand(state.decode(), ahead, workers) for state, ahead, workers in found]

    async def attend(self, worker: str, queues: Sequence[str], seconds: float) -> None:
        """A worker serves these queues, and will say so again within so many seconds; or, with 0, no more."""
        pipeline = self._redis.pipeline(transaction=False)
        for queue in queues:
            key = f"{self.name}:workers:{queue}"
            if seconds:
                pipeline.zadd(key, {worker: now_ms() + int(seconds * 1000)})
            else:
                pipeline.zrem(key, worker)
        await pipeline.execute()

    async def served(self, queues: Sequence[str]) -> set[str]:
        """Those that any worker serves."""
        pipeline = self._redis.pipeline(transaction=False)
        for queue in queues:
            pipeline.zcount(f"{self.name}:workers:{queue}", now_ms(), "+inf")
        counts = await pipeline.execute() if queues else []
        return {queue for queue, count in zip(queues, counts, strict=True) if count}

    async def renew(self, jobs: Sequence[str], lease: float, worker: str) -> None:
        await self._run("renew", now_ms(), int(lease * 1000), worker, *map(self.arq_id, jobs))

    async def release(self, jobs: Sequence[tuple[str, float]]) -> None:
        """Give claimed jobs back, each due in so many seconds."""
        now = now_ms()
        args = [part for job, delay in jobs for part in (self.arq_id(job), now + int(delay * 1000))]
        await self._run("release", now, *args)

    async def finish(self, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Take jobs off the queue, leaving arq's result of each (b'' for none)."""
        args = [part for job, result in jobs for part in (self.arq_id(job), result)]
        await self._run("finish", len(jobs), RESULT_TTL_MS, *args)

    async def missing(self, jobs: Sequence[str]) -> list[str]:
        """Which of these are not on the queue."""
        scores = await self._redis.zmscore(self.name, list(map(self.arq_id, jobs)))
        return [job for job, score in zip(jobs, scores, strict=True) if score is None]

    async def marked(self) -> bool:
        """False if Redis has lost its memory since `mark()`."""
        return bool(await self._redis.exists(f"{self.name}:pushsvc"))

    async def mark(self) -> None:
        await self._redis.set(f"{self.name}:pushsvc", b"1")

    async def token(self, timeout: float, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> tuple[str, str] | None:
        """Wait up to `timeout` seconds for a wake-up, and for which queue it is. The token names a job that was due
        when it was left, if nothing else waited then."""
        keys = {self._wake(queue): queue for queue in queues}
        # redis-py's own `blpop` is typed for whole seconds only.
        reply = await self._blocking.execute_command("BLPOP", *keys, timeout)  # type: ignore[no-untyped-call]  # untyped in redis
        return None if reply is None else (reply[1].decode().removeprefix(self._prefix), keys[reply[0].decode()])

    async def wake(self, token: str = "-", queue: str = DEFAULT_QUEUE) -> None:
        """Leave a token: somebody else should look at the queue."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(self._wake(queue), self.arq_id(token) if is_job_id(token) else token)
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
            await self._redis.execute_command("LREM", self._wake(), 0, token)  # type: ignore[no-untyped-call]  # untyped in redis

    async def _waits(self, token: str) -> bool:
        place = await self._redis.execute_command("LPOS", self._wake(), token)  # type: ignore[no-untyped-call]  # untyped in redis
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
