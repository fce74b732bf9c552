"""One soak: everything started, broken, settled and audited."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pushsvc import Service
from pushsvc.domain import Position
from pushsvc.settings import Settings
from pushsvc.tasks import stop

from ..acceptance.harness import SECRET
from .auditor import Account, audit, audit_promises, audit_runs
from .faults import Saboteur
from .load import Load
from .neighbour import NAME as NEIGHBOUR
from .neighbour import Neighbour
from .plan import GROUPS, USERS, Order, Plan, Publication
from .record import Record, read
from .subscribers import Subscriber
from .world import World

SETTLED_WITHIN = 120.0
"""Seconds after the last fault until all jobs have ended and everybody has heard of it; a run that has lost
something waits so long, any other ends as soon as it is so."""

CONNECTED_WITHIN = 60.0


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    account: Account
    faults: Counter[str]
    asked: Counter[str]
    ends: Counter[str]
    """Why subscribers' connections ended."""
    resumed: int
    """How often one came back with nothing but its device's name."""
    statuses: Counter[str]
    """Jobs by their final state."""
    beside: str
    """What the other deployment had."""
    measured: Counter[str]
    errors: Counter[str]
    """What the processes logged as errors, by logger."""
    problems: list[str] = field(default_factory=list)
    """Of processes, and of what did not come to an end."""
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return self.account.clean and not self.problems

    @property
    def whole(self) -> bool:
        """Whether the auditor is; if not, what it says of the service is not to be relied on."""
        return self.account.whole

    @property
    def verdict(self) -> str:
        said = "clean" if self.clean else "NOT CLEAN"
        return said if self.whole else f"AUDITOR BROKE ({self.account.broken} times), otherwise {said}"

    def lines(self) -> list[str]:
        """To be read."""
        account = self.account
        wrong = ", ".join(f"{name} {getattr(account, name)}" for name in account.WRONG)
        measured = self.measured
        gaps = f"{measured['hub.gap']} gaps repaired from the store, {measured['events of hub.gap']} events in them"
        return [
            f"faults      {sum(self.faults.values())}: {_listed(self.faults)}",
            f"jobs        {sum(self.statuses.values())}: {_listed(self.statuses)}",
            f"asked       {_listed(self.asked)}",
            f"beside it   {self.beside}",
            f"subscribers {len(self.plan.members)}, {sum(self.ends.values())} reconnects: {_listed(self.ends)};"
            f" {self.resumed} channels resumed by the device's name alone",
            f"nodes       {gaps}; {measured['hub.behind']} fell behind; Redis lost {measured['bus.lost']} times;"
            f" {measured['job.retrying']} attempts put back, {measured['job.fenced']} fenced",
            f"errors      logged by {_listed(self.errors)}",
            f"delivered   {account.delivered} events, {account.repeated} of them again, to be dropped",
            f"audit       {wrong}",
            f"auditor     {'whole' if self.whole else f'broke {account.broken} times'}",
            *(f"  {problem}" for problem in [*account.problems, *self.problems]),
            f"{self.verdict}, in {self.seconds:.0f} s",
        ]


async def soak(plan: Plan, directory: Path, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Run the plan in `directory`, which keeps the logs."""
    begun = time.monotonic()
    world = World(directory)
    service: Service | None = None
    neighbour: Neighbour | None = None
    try:
        await world.start()
        settings = {"database_url": world.database_url, "redis_url": world.valkey.url, "secret": SECRET}
        service = Service(settings=Settings.from_env({}, **settings))
        neighbour = Neighbour(service.settings, plan.pauses("neighbour"))
        outcome = await _Soak(plan, world, service, neighbour, say).run()
        outcome.seconds = time.monotonic() - begun
        return outcome
    finally:
        if neighbour is not None:
            await neighbour.close()
        if service is not None:
            await service.close()
        await world.stop()


class _Soak:
    def __init__(
        self, plan: Plan, world: World, service: Service, neighbour: Neighbour, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._world = world
        self._service = service
        self._neighbour = neighbour
        self._say = say
        self._problems: list[str] = []
        self._broken: list[str] = []
        """Where we went wrong ourselves."""
        scope = ("submit", "read", "submit:any")
        tokens = {user: world.tokens.mint(user, channels=GROUPS, scope=scope, ttl=86400) for user in USERS}
        self._load = Load(world.nodes, tokens, plan.pauses("load"), self._accepted)
        self._saboteur = Saboteur(world, self._load)
        self._watching = Random(f"{plan.seed} watching")
        self._subscribers = [
            Subscriber(member, world.nodes, tokens[member.user], plan.legs(member), plan.pauses(member.name))
            for member in plan.members
        ]

    def _accepted(self, order: Order, job: str, position: Position) -> None:
        if order.watched:
            for subscriber in self._subscribers:
                if subscriber.member.watches and subscriber.member.user == order.user:
                    subscriber.watch(job, position)

    async def run(self) -> Outcome:
        """Faults and load, until all has settled; then the audit."""
        living = [asyncio.create_task(each.run(), name=each.member.name) for each in self._subscribers]
        watching = [asyncio.create_task(seat.watch(), name=seat.name) for seat in self._world.seats]
        telling = asyncio.create_task(self._tell(), name="what is told")
        beside = asyncio.create_task(self._neighbour.run(), name="the neighbour")
        try:
            await self._until(self._all_located, CONNECTED_WITHIN, "everybody is connected")
            await self._act()
            for each in self._subscribers:
                each.calm_down()
            if beside.done():
                self._broken.append(f"the neighbour ended: {_reason(beside)}")
            await stop(beside)
            await self._until(self._all_ended, SETTLED_WITHIN, "all jobs have ended")
            await self._publish_last()
            record = await read(self._world.database_url)
            await self._until(lambda: self._all_heard(record), SETTLED_WITHIN, "everybody has heard everything")
        finally:
            for task, subscriber in zip(living, self._subscribers, strict=True):
                subscriber.journal.over = task.done()
            ended = [task for task in (*living, *watching, telling) if task.done()]
            self._broken += [f"{task.get_name()} ended: {_reason(task)}" for task in ended]

            for task in living:
                task.cancel()
            # In good order, as long as that takes no longer than this.
            await asyncio.wait(living, timeout=10)
            await stop(telling, beside, *watching, *living)
            await self._load.close()
        url = self._world.database_url
        return self._outcome(await read(url), await read(url, NEIGHBOUR))

    def _outcome(self, record: Record, beside: Record) -> Outcome:
        account = audit([each.journal for each in self._subscribers], record)
        account += audit_promises(self._load.promises, self._load.published, record)
        account += audit_promises(self._neighbour.promises, self._neighbour.published, beside)
        account += audit_runs(self._world.runs(), self._world.ended)
        for refusal in (*self._load.refusals, *self._saboteur.refusals):
            account.wrong("refused", refusal)
        for breach in self._broken:
            account.wrong("broken", breach)
        return Outcome(
            plan=self._plan,
            account=account,
            faults=self._saboteur.done,
            asked=self._load.asked,
            ends=sum((each.journal.ends for each in self._subscribers), Counter()),
            resumed=sum(len(each.journal.resumptions) for each in self._subscribers),
            statuses=Counter(job.status for job in record.jobs.values()),
            beside=f"{len(self._neighbour.promises)} jobs, {len(self._neighbour.published)} events",
            measured=self._world.measured(),
            errors=self._world.errors(),
            problems=[*self._world.problems, *self._problems],
        )

    # What happens

    async def _act(self) -> None:
        """Each thing of the plan at its moment; returns when the last of them is done."""
        begun = asyncio.get_running_loop().time()

        async def at(moment: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            await asyncio.sleep(begun + moment - asyncio.get_running_loop().time())
            try:
                await work()
            except Exception as error:
                # The others go on: what this one leaves undone makes nothing of theirs wrong.
                self._broken.append("".join(traceback.format_exception(error))[-1000:])

        plan, load, service = self._plan, self._load, self._service
        async with asyncio.TaskGroup() as group:
            for fault in plan.faults:
                group.create_task(at(fault.at, lambda fault=fault: self._saboteur.break_(fault)))  # type: ignore[misc]
            for order in plan.orders:
                group.create_task(at(order.at, lambda order=order: load.order(order)))  # type: ignore[misc]
            for some in plan.publications:
                group.create_task(at(some.at, lambda some=some: load.publish(service, some)))  # type: ignore[misc]

    async def _publish_last(self) -> None:
        """One more event in each log: who has it has been told of all that lies before."""
        for channel in (*GROUPS, *(f"user:{user}" for user in USERS)):
            await self._load.publish(self._service, Publication(0.0, channel, 1, 0))

    async def _tell(self) -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(15)
            heard = sum(len(each.journal.arrivals) for each in self._subscribers)
            broken = sum(self._saboteur.done.values())
            self._say(
                f"{time.monotonic() - begun:4.0f} s  {broken} faults, {len(self._load.promises)} jobs accepted,"
                f" {heard} events delivered"
            )

    # What is waited for

    async def _until(self, condition: Callable[[], Coroutine[Any, Any, bool]], within: float, what: str) -> None:
        """Whatever has not come true by then, the audit says in detail."""
        unasked: Exception | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    try:
                        if await condition():
                            return
                        unasked = None
                    except Exception as error:
                        # As when PostgreSQL is only just up again.
                        unasked = error
                    await asyncio.sleep(0.05)
        self._problems.append(f"not within {within:g} s: {what}")
        if unasked is not None:
            self._broken.append(f"it could not be told whether {what}: {unasked!r}")

    async def _all_located(self) -> bool:
        return all(set(each.channels) <= set(each.journal.starts) for each in self._subscribers)

    async def _all_ended(self) -> bool:
        rows = await self._world.fetch("SELECT 1 FROM pushsvc.jobs WHERE finished_at IS NULL LIMIT 1")
        return not rows

    async def _all_heard(self, record: Record) -> bool:
        for each in self._subscribers:
            journal = each.journal
            for channel, start in journal.starts.items():
                job = channel.startswith("job:")
                top = record.jobs[channel[4:]].version if job else record.logs[channel].top
                if max(start.offset, journal.reached.get(channel, 0)) < top:
                    return False
        return True


def _reason(task: asyncio.Task[None]) -> str:
    return "cancelled" if task.cancelled() else repr(task.exception())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
