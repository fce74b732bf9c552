"""Who is next: shares of tenants and owners, priorities; in Redis and in this process alike."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from pushsvc.bus import Kind, LocalQueue, Queue, Queued, Rules
from pushsvc.domain import new_job_id
from pushsvc.settings import Settings

from ..contract.kit import Kit, opened

LONG_AGO = time.time() - 3600


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


@pytest.fixture(params=["redis", "local"])
def queue(request: pytest.FixtureRequest, kit: Kit) -> Queue:
    return kit.queue if request.param == "redis" else LocalQueue()


def job(n: int, owner: str = "me", tenant: str = "default", **changes: Any) -> Queued:
    """The n-th, by age."""
    given: dict[str, Any] = {"name": "report", "due": LONG_AGO + n} | changes
    return Queued(new_job_id(), given.pop("name"), given.pop("due"), tenant, owner, **given)


async def started(queue: Queue, most: int = 1, **rules: Any) -> list[str]:
    """Claim one after another, as workers with one place do."""
    found: list[str] = []
    for _ in range(most):
        found += (await queue.claim(1, 60, "w", None, Rules(**rules))).ids
    return found


async def test_one_owners_many_jobs_let_anothers_single_one_go_second_at_the_latest(queue: Queue) -> None:
    many = [job(n, "many") for n in range(500)]
    await queue.enqueue(many)
    assert await started(queue, 20) == [each.id for each in many[:20]], "alone, an owner has all the places"
    single = job(600, "single")
    await queue.enqueue([single])
    assert single.id in await started(queue, 2)


async def test_owners_of_a_tenant_share_its_places_equally_and_tenants_theirs_by_weight(queue: Queue) -> None:
    jobs = [
        job(n, owner, tenant)
        for n in range(400)
        for tenant, owner in (("a", "one"), ("a", "two"), ("a", "three"), ("b", "one"), ("c", "one"))
    ]
    await queue.enqueue(jobs)
    whose = {each.id: (each.tenant, each.owner) for each in jobs}
    counts = Counter(whose[each] for each in await started(queue, 400, weights={"b": 2.0}))
    assert counts[("b", "one")] == 200
    assert counts[("c", "one")] == 100
    assert sorted(counts[("a", owner)] for owner in ("one", "two", "three")) == [33, 33, 34]


async def test_who_leaves_and_comes_back_gains_nothing_by_it(queue: Queue) -> None:
    """A second job only when the first has been started: as if all had been there from the beginning."""
    steady, coming = [job(n, "steady") for n in range(100)], [job(n, "coming") for n in range(100)]
    await queue.enqueue([*steady, coming[0]])
    found: list[str] = []
    come = 1
    for _ in range(100):
        (one,) = await started(queue)
        found.append(one)
        if one == coming[come - 1].id:
            await queue.enqueue([coming[come]])
            come += 1
    assert abs(come - 1 - 50) <= 1


async def test_what_is_high_goes_first_and_nothing_starves(queue: Queue) -> None:
    jobs = {priority: [job(n, priority=priority) for n in range(priority + 1, 200)] for priority in (-1, 0, 1)}
    await queue.enqueue([each for some in jobs.values() for each in some])
    priorities = {each.id: priority for priority, some in jobs.items() for each in some}
    found = [priorities[each] for each in await started(queue, 100)]
    assert Counter(found) == {1: 80, 0: 10, -1: 10}
    assert found[:4] == [1, 1, 1, 1]
    assert found.index(0) == 4
    assert found.index(-1) == 9


async def test_a_job_that_was_given_back_waits_for_its_turn_again(queue: Queue) -> None:
    first, second = job(1), job(2)
    await queue.enqueue([second, first])
    assert await started(queue, 2) == [first.id, second.id]
    await queue.release([(second.id, 0), (first.id, 0)])
    assert await started(queue, 3) == [first.id, second.id]


async def test_one_that_ended_while_it_waited_is_nobodys_share(queue: Queue) -> None:
    jobs = [job(n, owner) for n in range(3) for owner in ("one", "two")]
    await queue.enqueue(jobs)
    await queue.finish([(each.id, b"") for each in jobs[:4]])
    assert await started(queue, 6) == [each.id for each in jobs[4:]]


async def test_parked_jobs_wait_until_one_of_their_kind_has_ended(queue: Queue) -> None:
    limited: dict[str, Any] = {"limited": {"scarce": "all"}}
    scarce = [job(n, f"owner {n % 3}", name="scarce") for n in range(9)]
    other = job(100, "owner 0")
    await queue.enqueue([*scarce, other])
    claimed = await started(queue, 2, **limited)
    await queue.park([(each, False) for each in claimed[1:]])
    assert await queue.parked() == [Kind("scarce")]
    assert await started(queue, 9, **limited) == [other.id], "whatever is of their kind, too"
    for n in range(8):
        assert await queue.unpark({Kind("scarce"): 1}) == 1
        assert len(await started(queue, 3, **limited)) == 1, n
    assert await queue.parked() == []
    assert await queue.unpark({Kind("scarce"): 1}) == 0


async def test_an_owners_limit_parks_nobody_elses(queue: Queue) -> None:
    limited: dict[str, Any] = {"limited": {"scarce": "each"}}
    jobs = [job(n, owner, name="scarce") for n in range(3) for owner in ("one", "two")]
    await queue.enqueue(jobs)
    (first,) = await started(queue, **limited)
    await queue.park([(first, True)])
    assert await started(queue, 6, **limited) == [each.id for each in jobs if each.owner == "two"]
    assert await queue.unpark({Kind("scarce", "default", "two"): 1}) == 0
    assert await queue.unpark({Kind("scarce", "default", "one"): 3}) == 3
    assert await started(queue, 6, **limited) == [each.id for each in jobs if each.owner == "one"]


async def test_a_worker_claims_only_from_the_queues_that_it_serves(kit: Kit) -> None:
    jobs = {name: [job(n, queue=name) for n in range(4)] for name in ("default", "mail", "reports")}
    await kit.queue.enqueue([each for some in jobs.values() for each in some])
    assert await started(kit.queue, 9, queues=("mail",)) == [each.id for each in jobs["mail"]]
    both = await started(kit.queue, 4, queues=("reports", "default"))
    assert {each.id for each in jobs["default"]} & set(both), "none of them has to wait for the other"
    assert {each.id for each in jobs["reports"]} & set(both)


async def test_a_wake_up_is_for_who_serves_the_queue(kit: Kit) -> None:
    mail = job(1, queue="mail")
    await kit.queue.enqueue([mail])
    assert await kit.queue.token(0.01) is None
    assert await kit.queue.token(5, ("default", "mail")) == (mail.id, "mail"), "alone there, it is named"
    await kit.queue.enqueue([job(2, queue="mail")])
    assert await kit.queue.token(5, ("mail",)) == ("-", "mail")


async def test_where_a_job_stands(kit: Kit) -> None:
    many = [job(n, "many") for n in range(300)]
    single, later = job(400, "single"), job(0, due=time.time() + 60)
    await kit.queue.enqueue([*many, single, later])
    await kit.queue.attend("w", ["default"], 60)
    stands = await kit.queue.stand([many[0].id, many[299].id, single.id, later.id, new_job_id()])
    assert [stand.state for stand in stands] == ["ready", "ready", "ready", "later", "gone"]
    assert [stand.ahead for stand in stands] == [1, 300, 1, None, None]
    assert {stand.workers for stand in stands} == {1}
    await kit.queue.attend("w", ["default"], 0)
    assert [stand.workers for stand in await kit.queue.stand([single.id])] == [0]


async def test_where_they_stand_is_how_they_are_started(kit: Kit) -> None:
    jobs = [job(n, f"owner {n % 7 % 3}", f"tenant {n % 2}") for n in range(60)]
    await kit.queue.enqueue(jobs)
    stands = await kit.queue.stand([each.id for each in jobs])
    order = await started(kit.queue, 60)
    for each, stand in zip(jobs, stands, strict=True):
        assert stand.ahead is not None
        assert abs(stand.ahead - order.index(each.id)) <= 8, each


# The same in both


@dataclass
class Act:
    do: str
    given: tuple[Any, ...] = field(default=())


OWNERS, TENANTS, NAMES = ("one", "two", ""), ("a", "b"), ("free", "scarce", "each")
ALL_RULES = Rules(limited={"scarce": "each all", "each": "each"}, weights={"a": 2.0})
acts = st.one_of(
    st.builds(
        lambda *given: Act("enqueue", given),
        st.lists(
            st.tuples(
                st.sampled_from(OWNERS),
                st.sampled_from(TENANTS),
                st.sampled_from(NAMES),
                st.sampled_from((-1, 0, 1)),
                st.integers(0, 5),
            ),
            min_size=1,
            max_size=6,
        ),
    ),
    st.builds(lambda *given: Act("claim", given), st.integers(1, 5)),
    st.builds(lambda *given: Act("claim_named", given), st.integers(0, 30)),
    st.builds(lambda *given: Act("release", given), st.integers(0, 30)),
    st.builds(lambda *given: Act("finish", given), st.integers(0, 30)),
    st.builds(lambda *given: Act("park", given), st.integers(0, 30), st.booleans()),
    st.builds(
        lambda *given: Act("unpark", given), st.sampled_from(NAMES), st.sampled_from(TENANTS), st.sampled_from(OWNERS)
    ),
)


class Pair:
    """The two, of which each answer has to be the same; and what runs."""

    def __init__(self, *queues: Queue) -> None:
        self._queues = queues
        self._jobs: list[Queued] = []
        self._running: list[str] = []

    async def _same(self, name: str, *given: Any) -> Any:
        first, second = [await getattr(queue, name)(*given) for queue in self._queues]
        assert first == second, (name, given)
        return first

    def _taken(self, at: int) -> str | None:
        return self._running.pop(at % len(self._running)) if self._running else None

    async def enqueue(self, some: list[tuple[str, str, str, int, int]]) -> None:
        new = [
            Queued(f"{len(self._jobs) + n:026d}", name, LONG_AGO + due, tenant, owner, "default", priority)
            for n, (owner, tenant, name, priority, due) in enumerate(some)
        ]
        self._jobs += new
        await self._same("enqueue", new)

    async def claim(self, most: int, rules: Rules = ALL_RULES) -> list[str]:
        first, second = [await queue.claim(most, 600, "w", None, rules) for queue in self._queues]
        assert first.ids == second.ids
        self._running += first.ids
        return first.ids

    async def claim_named(self, at: int) -> None:
        if self._jobs:
            job = self._jobs[at % len(self._jobs)].id
            first, second = [await queue.claim(2, 600, "w", job, ALL_RULES) for queue in self._queues]
            assert first.ids == second.ids
            self._running += first.ids

    async def release(self, at: int) -> None:
        if job := self._taken(at):
            await self._same("release", [(job, 0.0)])

    async def finish(self, at: int) -> None:
        if self._jobs:
            job = self._jobs[at % len(self._jobs)].id
            self._running = [each for each in self._running if each != job]
            await self._same("finish", [(job, b"")])

    async def park(self, at: int, each: bool) -> None:
        if job := self._taken(at):
            await self._same("park", [(job, each)])

    async def unpark(self, name: str, tenant: str, owner: str) -> None:
        await self._same("unpark", {Kind(name, tenant, owner): 1, Kind(name): 2})

    async def end(self) -> None:
        """All that is left, in the same order."""
        while await self.claim(5):
            pass
        first, second = [sorted(await queue.parked()) for queue in self._queues]
        assert first == second
        await self._same("unpark", dict.fromkeys(first, 1000))
        while await self.claim(5, Rules(weights=ALL_RULES.weights)):
            pass


def test_redis_and_this_process_decide_alike(settings: Settings) -> None:
    """Whatever is queued, claimed, given back, parked and ended, in whatever order."""
    with asyncio.Runner() as runner:
        stack = opened(settings)
        kit = runner.run(stack.__aenter__())

        @tried(max_examples=150, deadline=None)
        @given(st.lists(acts, max_size=40))
        def check(program: list[Act]) -> None:
            async def run() -> None:
                await kit.redis.flushdb()
                pair = Pair(kit.queue, LocalQueue())
                for act in program:
                    await getattr(pair, act.do)(*act.given)
                await pair.end()

            runner.run(run())

        try:
            check()
        finally:
            runner.run(stack.__aexit__(None, None, None))
