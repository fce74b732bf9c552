"""The worker's loop: claim from the queue, start in PostgreSQL, run, finish, announce."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .. import telemetry, wire
from ..bus import FAULTS, Claimed, Ear, LocalBus, Publisher, Queue, Rules, away, listen
from ..domain import (
    Channel,
    Claim,
    JobId,
    JobStatus,
    Outcome,
    Progress,
    inbox,
    is_job_id,
    job_channel,
    new_job_id,
)
from ..errors import JobFailed, Unavailable, UnknownJob
from ..queries import Database, DatabasePool
from ..settings import Settings
from ..store import JobStore, Requeue
from ..tasks import Background, complain, contained, forever, tolerated
from .announce import Announcer
from .attempt import Attempt, Limits, Stop
from .context import JobContext
from .holds import Held, Holds
from .limited import Limited
from .limits import CLEAN_UP, REDIS_MARGIN
from .options import CallOptions
from .places import Places
from .registry import Registry
from .submit import Submit
from .threads import Threads
from .wakeup import Wakeup

logger = logging.getLogger(__name__)

BEAT_EVERY = 0.25
"""Seconds between two signs that the event loop turns, unless a lease is so short that it needs more."""


class Worker:
    """Runs up to `settings.max_jobs` jobs at once, until `stop`. What it holds stands in `holds`, for its keeper."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: JobStore,
        queue: Queue,
        publisher: Publisher,
        announcer: Announcer,
        databases: Mapping[str, DatabasePool],
        settings: Settings,
        holds: Holds,
        limited: Limited,
        bus: str | LocalBus | None = None,
        submit: Callable[[JobContext, CallOptions], Submit] | None = None,
        state: Callable[[], Any] = lambda: None,
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{new_job_id()[-6:]}"
        self._registry = registry
        self._store = store
        self._queue = queue
        self._publisher = publisher
        self._announcer = announcer
        self._databases = databases
        self._settings = settings
        self._limited = limited
        self._rules = Rules(settings.queues or registry.queues, self._limited.by_name, settings.tenant_weights)
        self._limits = Limits(settings.result_limit, settings.inline_limit, settings.show_errors)
        self._holds = holds
        self._claiming = 0
        """For how many jobs there is a claim under way: their places are nobody else's."""
        self._submit = submit
        self._state = state
        self._places = Places(
            settings.max_jobs,
            lambda: len(self._tasks) + len(self._stuck) + self._claiming,
            lambda: self._wakeup.now(),
        )
        self._threads = Threads()
        self._attempts: dict[JobId, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stuck: set[Attempt] = set()
        """Jobs that have ended here and run on all the same: each keeps its place."""
        self.spent = False
        """Whether there is no place left that could ever take another job: the process is to be started again."""
        self._wakeup = Wakeup(queue, self._rules.queues, lambda: self._room() > 0)
        self._ears: dict[bytes, Ear] = {}
        self._cancels = listen(settings.bus if bus is None else bus, self._ears)
        self._background = Background()
        self._token: str | None = None
        self._stopping = False
        self._more = False
        """Whether the last claim took as many as there was room for, so that more may be waiting."""

    def _taken(self) -> int:
        return len(self._tasks) + len(self._stuck) + self._claiming

    def _room(self) -> int:
        return 0 if self._stopping else self._places.free

    # The loop

    async def run(self) -> None:
        """Work until `stop`; then finish or hand back what is running, and return."""
        cancels = self._publisher.scope.cancels
        self._ears[cancels.encode()] = self._cancel_requested
        self._cancels.start()
        self._wakeup.start()
        self._holds.begin(self.name)
        self._background.loop("telling that the event loop turns", self._beat)
        self._background.loop("renewing leases", self._renew_leases)
        self._background.loop("saying which queues are served", self._attend)
        self._background.start("subscribing to cancels", self._cancels.subscribe(cancels))
        served = ", ".join(self._rules.queues)
        known = len(self._registry)
        logger.info(
            "worker %s takes up to %d of %d jobs; queues: %s", self.name, self._settings.max_jobs, known, served
        )
        try:
            await forever("claiming jobs", self._claim_and_wait, until=lambda: self._stopping)
            await self._drain()
        finally:
            await self._background.stop()
            with suppress(*FAULTS):
                await self._queue.attend(self.name, self._rules.queues, 0)
            await self._wakeup.stop()
            await self._cancels.stop()
            self._threads.close()

    def stop(self) -> None:
        """Take no more jobs; `run` returns when those that run have finished or been handed back."""
        self._stopping = True
        self._holds.stopping()
        self._wakeup.now()

    async def _claim_and_wait(self) -> None:
        """Claim what is due, and wait until there may be more."""
        token, self._token = self._token, None
        next_due: float | None = None
        if self._room():
            try:
                claimed = await self._claim(token)
                next_due = 0.0 if claimed.more else claimed.next_due
            except (*FAULTS, Unavailable) as error:
                away("claiming jobs", error)
            finally:
                self._claiming = 0
                self._places.settle(more=False)
        pause = self._settings.poll if next_due is None else min(next_due, self._settings.poll)
        self._token = await self._wakeup.wait(pause)

    async def _claim(self, token: str | None) -> Claimed:
        """Claim as many due jobs as there is room for.

        The job that the token names is started while it is being claimed: PostgreSQL decides whose it is, and
        the queue only who tries.
        """
        named = [token] if token is not None and is_job_id(token) else []
        self._claiming = room = self._room()
        lease = self._settings.lease + REDIS_MARGIN
        claimed, launched = await asyncio.gather(
            self._queue.claim(room, lease, self.name, named[0] if named else None, self._rules),
            self._start(named),
            return_exceptions=True,
        )
        if isinstance(claimed, BaseException):
            raise claimed
        self._more = len(claimed.ids) >= room
        try:
            if isinstance(launched, BaseException):
                raise launched
            launched |= await self._start([job for job in claimed.ids if job not in launched and is_job_id(job)])
        except Unavailable:
            await self._queue.release([(job, 1.0) for job in claimed.ids if job not in self._attempts])
            raise
        if refused := [job for job in claimed.ids if job not in launched]:
            await self._give_up(refused)
        return claimed

    async def _start(self, jobs: Sequence[str]) -> set[str]:
        """Start those that are ours to start; their ids, and those of jobs that a limit lets wait."""
        if not jobs:
            return set()
        claims = await self._store.start(jobs, self.name, self._settings.lease, self._limited.names)
        self._launch_all(claims.values())
        rest = [job for job in jobs if job not in claims]
        limited, parked = await self._limited.start(rest, self.name, self._settings.lease)
        self._launch_all(limited.values())
        return claims.keys() | limited.keys() | parked

    def _launch_all(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            with tolerated("starting an attempt, whose lease will lapse,"):
                self._launch(claim)

    async def _give_up(self, jobs: list[str]) -> None:
        """The queue was wrong about these: finished ones leave it, the others wait until they are due."""
        states = await self._store.unstarted([job for job in jobs if is_job_id(job)])
        live = {job: state for job, state in states.items() if not state[0].terminal}
        if gone := [job for job in jobs if job not in live]:
            await self._queue.finish([(job, b"") for job in gone])
        if live:
            # Due and yet not started: its row was locked just then, as by a cancel.
            await self._queue.release([(job, due_in + 0.1) for job, (_, due_in) in live.items()])

    # One job

    def _launch(self, claim: Claim) -> None:
        attempt = Attempt(
            claim,
            self._registry,
            self._limits,
            self._open_context,
            self._threads,
            patience=self._settings.drain,
            released=self._released,
        )
        self._attempts[claim.job.id] = attempt
        self._holds.hold(self._held(claim))
        work = contained("ending an attempt, whose lease will lapse,", self._carry_out(attempt))
        task = asyncio.create_task(work, name=f"attempt:{claim.job.id}")
        self._tasks.add(task)
        self._claiming = max(0, self._claiming - 1)
        task.add_done_callback(self._done)
        with tolerated("announcing that a job has started"):
            self._announcer.changed(claim.job)
        waited = (claim.job.changed_at - claim.job.run_at).total_seconds()
        telemetry.emit("job.started", {"wait": waited}, {"job": claim.job.name, "attempt": claim.job.attempt})

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.settle(more=self._more)

    async def _carry_out(self, attempt: Attempt) -> None:
        job = attempt.claim.job
        try:
            ending, result = await attempt.run()
            self._holds.keep_on(job.id)
            if isinstance(ending, Outcome):
                await self._store_ending(replace(ending, recorded=self._recorded(job.name)), result)
            elif isinstance(ending, Requeue):
                await self._requeue(ending)
        finally:
            if self._attempts.get(job.id) is attempt:
                del self._attempts[job.id]
                self._holds.drop(job.id)
            self._limited.ended(attempt.claim)
            if attempt.occupied:
                self._keep_place(attempt)

    def _recorded(self, name: str) -> bool:
        try:
            return self._registry.get(name).recorded
        except UnknownJob:
            # Another version's: it may be.
            return True

    async def _store_ending(self, outcome: Outcome, result: bytes | None) -> None:
        try:
            await self._finish(outcome, result)
        except Unavailable:
            raise
        except Exception as error:
            # To run it again would come to the same; and it would run until the losses that it may have are used up.
            complain("storing how a job ended", error)
            problem = JobFailed("how the job ended could not be stored").problem()
            await self._finish(
                Outcome(outcome.id, outcome.version, JobStatus.FAILED, error=wire.dump(problem).decode()), None
            )

    def _held(self, claim: Claim) -> Held:
        """Until its time-out or its deadline, and then as long as it may take to clean up."""
        left, retried = claim.timeout, claim.failures + 1 < claim.max_attempts
        expires = claim.deadline is not None
        if claim.deadline is not None:
            until_deadline = (claim.deadline - datetime.now(UTC)).total_seconds()
            expires, left = until_deadline < left, min(left, until_deadline)
        return Held(
            claim.job.id,
            claim.job.version,
            time.monotonic() + left + self._settings.drain,
            claim.timeout,
            "expired" if expires else "retried" if retried else "failed",
            claim.failures + 1,
        )

    def _keep_place(self, attempt: Attempt) -> None:
        """It has ended, and runs on. Where nothing but such is left, nothing can run any more."""
        self._stuck.add(attempt)
        if len(self._stuck) >= self._settings.max_jobs and not self._stopping:
            names = ", ".join(sorted({each.claim.job.name for each in self._stuck}))
            logger.error("all %d places are taken by jobs that were stopped and run on: %s", len(self._stuck), names)
            self.spent = True
            self.stop()

    def _released(self, attempt: Attempt) -> None:
        # Its place is free when its task is done, unless it had kept it beyond that.
        if attempt in self._stuck:
            self._stuck.remove(attempt)
            self._places.settle()

    async def _finish(self, outcome: Outcome, result: bytes | None) -> None:
        finished = await self._store.finish(outcome)
        if finished is None:
            logger.warning("job %s is another worker's by now; its result here is dropped", outcome.id)
            telemetry.emit("job.fenced", {"count": 1}, {"job": outcome.id})
            return
        await self._announcer.finished(finished, result)

    async def _requeue(self, requeue: Requeue) -> None:
        job = await self._store.requeue(requeue)
        if job is None:
            return
        telemetry.emit("job.retrying", {"delay": requeue.delay}, {"job": job.name, "reason": requeue.why})
        self._announcer.changed(job)
        with suppress(*FAULTS):
            await self._queue.release([(job.id, requeue.delay)])

    def _open_context(self, claim: Claim) -> JobContext:
        job = claim.job
        channels = [Channel(job.tenant, job_channel(job.id))]
        if job.owner is not None:
            channels.append(Channel(job.tenant, inbox(job.owner)))

        async def tell(progress: Progress) -> None:
            await self._publisher.progress(channels, progress)

        context: JobContext = JobContext(
            id=job.id,
            name=job.name,
            attempt=job.attempt,
            tenant=job.tenant,
            user=job.owner,
            open_database=lambda name, observer: Database(
                self._databases[name],
                owner=job.id,
                tags={"job": job.name, "job_id": job.id},
                observer=observer,
                pg_settings=context.pg_settings(),
            ),
            tell=tell,
            pg_settings=self._registry.get(job.name).pg_settings,
            parent=claim.parent,
            state=self._state(),
            submit=self._submit,
            lend=self._places.lent,
        )
        return context

    def describe(self, job: str) -> str | None:
        """A job that runs here, by its id: its name, and its function."""
        attempt = self._attempts.get(JobId(job))
        if attempt is None:
            return None
        name = attempt.claim.job.name
        function = self._registry.get(name).function
        return f"job {name} {job}, function {function.__module__}.{function.__qualname__}"

    # Leases and stops

    async def _beat(self) -> None:
        self._holds.beat()
        await asyncio.sleep(min(BEAT_EVERY, self._settings.lease / 16))

    async def _attend(self) -> None:
        try:
            await self._queue.attend(self.name, self._rules.queues, self._settings.lease)
        except FAULTS as error:
            away("saying which queues are served", error)
        await asyncio.sleep(self._settings.lease / 3)

    async def _renew_leases(self) -> None:
        """Prolong the leases of what runs, at a third of their length; learn of cancels and losses."""
        await asyncio.sleep(self._settings.lease / 3)
        held = {job: attempt.claim.job.version for job, attempt in self._attempts.items()}
        if not held:
            return
        try:
            renewed = await self._store.renew(list(held.items()), self._settings.lease)
            self._heed(held, renewed)
            await self._queue.renew(list(renewed), self._settings.lease + REDIS_MARGIN, self.name)
        except (*FAULTS, Unavailable) as error:
            away("renewing leases", error)

    def _heed(self, held: Mapping[JobId, int], renewed: Mapping[str, bool]) -> None:
        for job, version in held.items():
            attempt = self._attempts.get(job)
            if attempt is None or attempt.claim.job.version != version:
                continue
            if job not in renewed:
                attempt.stop(Stop.LOST)
            elif renewed[job]:
                attempt.stop(Stop.CANCELLED)

    def _cancel_requested(self, jobs: Sequence[bytes]) -> None:
        for job in jobs:
            attempt = self._attempts.get(JobId(job.decode(errors="replace")))
            if attempt is not None:
                attempt.stop(Stop.CANCELLED)

    async def _drain(self) -> None:
        """Let what runs finish for up to `settings.drain` seconds, then hand it back."""
        if self._tasks:
            logger.info("finishing %d jobs, for up to %g s", len(self._tasks), self._settings.drain)
            await asyncio.wait(self._tasks, timeout=self._settings.drain)
        for attempt in self._attempts.values():
            attempt.stop(Stop.HANDED_BACK, min(CLEAN_UP, self._settings.drain))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * CLEAN_UP)
