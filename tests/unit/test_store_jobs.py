"""The store: every change of a job's state, guarded, batched, and logged in its channels in commit order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from pushsvc.domain import Channel, JobStatus, Outcome, Position, new_job_id
from pushsvc.errors import KeyReused, Unavailable
from pushsvc.settings import Settings
from pushsvc.store import MAX_LOSSES, Finished, Postgres, Requeue

from ..contract.kit import Kit, me, opened, submission, succeeded


@pytest_asyncio.fixture
async def kit(settings: Settings) -> AsyncIterator[Kit]:
    async with opened(settings) as made:
        yield made


# Submission


async def test_jobs_handed_over_together_are_all_stored(kit: Kit) -> None:
    asked = [submission(name=f"job{n}") for n in range(50)]
    stored = await asyncio.gather(*(kit.store(s) for s in asked))
    assert [(job.id, job.name) for job in stored] == [(s.id, s.name) for s in asked]
    assert {(job.status, job.version, job.attempt) for job in stored} == {(JobStatus.QUEUED, 1, 0)}


async def test_the_same_insert_again_finds_the_job_it_stored_before(kit: Kit) -> None:
    asked = submission()
    first = await kit.store(asked)
    await kit.jobs.start([asked.id], "w", 10)
    again = await kit.store(asked)
    assert (first.id, first.version) == (asked.id, 1)
    assert (again.id, again.status) == (asked.id, JobStatus.RUNNING)


async def test_the_same_key_and_payload_stand_for_one_job(kit: Kit) -> None:
    first = await kit.store(submission(key="k", digest="same"))
    again = await kit.store(submission(key="k", digest="same"))
    assert again == first


async def test_a_key_belongs_to_its_owner_and_tenant(kit: Kit) -> None:
    asked = [
        submission(key="k", digest="1"),
        submission(key="k", digest="2", owner="you"),
        submission(key="k", digest="3", tenant="other"),
        submission(key="k", digest="4", owner=None),
    ]
    stored = await asyncio.gather(*(kit.store(s) for s in asked))
    assert [job.id for job in stored] == [s.id for s in asked]


async def test_a_key_used_again_with_another_payload_fails_alone_within_its_batch(kit: Kit) -> None:
    kept = await kit.store(submission(key="k", digest="first"))
    asked = [
        submission(),
        submission(key="k", digest="first"),
        submission(key="k", digest="other"),
        submission(key="fresh", digest="1"),
        submission(key="fresh", digest="2"),
        submission(),
    ]
    answers = await asyncio.gather(*(kit.store(s) for s in asked), return_exceptions=True)
    assert [answer.id if not isinstance(answer, BaseException) else type(answer) for answer in answers] == [
        asked[0].id,
        kept.id,
        KeyReused,
        asked[3].id,
        KeyReused,
        asked[5].id,
    ]


async def test_equal_jobs_coalesce_while_one_is_in_flight_and_no_longer(kit: Kit) -> None:
    together = await asyncio.gather(*(kit.store(submission(coalesce=True)) for _ in range(5)))
    assert len({job.id for job in together}) == 1
    job = together[0]
    await kit.jobs.start([job.id], "w", 10)
    assert (await kit.store(submission(coalesce=True))).id == job.id
    assert (await kit.store(submission(coalesce=True, owner="you"))).id != job.id
    assert (await kit.store(submission(coalesce=True, digest="another"))).id != job.id
    assert (await kit.store(submission())).id != job.id, "one that does not coalesce stands for itself"
    assert await kit.jobs.finish(succeeded(job.id, 2)) is not None
    assert (await kit.store(submission(coalesce=True))).id != job.id


async def test_coalescing_while_what_they_join_is_finishing_always_gives_a_job(kit: Kit) -> None:
    """The job that kept another from being stored may end between the two statements that find that out."""

    async def submit_and_finish() -> str:
        job = await kit.store(submission(coalesce=True))
        await kit.jobs.finish(succeeded(job.id, job.version))
        return job.id

    jobs = await asyncio.gather(*(submit_and_finish() for _ in range(60)))
    states = await kit.jobs.unstarted(jobs)
    assert {status for status, _ in states.values()} == {JobStatus.SUCCEEDED}


# Starting


async def test_a_job_is_started_by_exactly_one_of_several_workers(kit: Kit, settings: Settings) -> None:
    ids = [(await kit.store(submission())).id for _ in range(40)]
    async with opened(settings) as second, opened(settings) as third:
        started = await asyncio.gather(
            *(each.jobs.start(random.sample(ids, len(ids)), "w", 10) for each in (kit, second, third) * 3)
        )
    claimed = [job for answer in started for job in answer]
    again = await kit.jobs.start(ids, "late", 10)
    assert sorted([*claimed, *again]) == sorted(ids)
    assert len(set(claimed)) == len(claimed)


async def test_a_row_that_is_locked_just_now_is_left_for_later(kit: Kit) -> None:
    first, second = [(await kit.store(submission())).id for _ in range(2)]
    pool = await kit.postgres.pool()
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM pushsvc.jobs WHERE id = $1 FOR UPDATE", first)
        assert set(await kit.jobs.start([first, second], "w", 10)) == {second}
    assert set(await kit.jobs.start([first, second], "w", 10)) == {first}


async def test_only_jobs_that_are_due_and_not_overdue_start(kit: Kit) -> None:
    now = datetime.now(UTC)
    later = await kit.store(submission(run_at=now + timedelta(hours=1)))
    overdue = await kit.store(submission(deadline=now - timedelta(seconds=1)))
    cancelled = await kit.store(submission())
    await kit.jobs.finish(Outcome(cancelled.id, 1, JobStatus.CANCELLED))
    assert await kit.jobs.start([later.id, overdue.id, cancelled.id, new_job_id()], "w", 10) == {}
    states = await kit.jobs.unstarted([later.id, overdue.id, cancelled.id, "unknown"])
    assert {job: status for job, (status, _) in states.items()} == {
        later.id: JobStatus.QUEUED,
        overdue.id: JobStatus.QUEUED,
        cancelled.id: JobStatus.CANCELLED,
    }
    assert 3500 < states[later.id][1] <= 3600
    assert await kit.jobs.overdue(10) == [(overdue.id, 1)]


async def test_a_claim_holds_what_a_worker_needs(kit: Kit) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    asked = submission(params='{"a":1}', channels=("group:ops",), deadline=deadline, max_attempts=3, timeout=7.5)
    await kit.store(asked)
    claim = (await kit.jobs.start([asked.id], "w", 10))[asked.id]
    assert (claim.job.status, claim.job.version, claim.job.attempt) == (JobStatus.RUNNING, 2, 1)
    assert (claim.params, claim.timeout, claim.failures, claim.max_attempts) == ('{"a":1}', 7.5, 0, 3)
    assert (claim.deadline, claim.channels) == (deadline, ("group:ops",))


async def test_a_lapsed_lease_is_taken_over_and_fences_its_holder(kit: Kit) -> None:
    job = await kit.store(submission())
    first = (await kit.jobs.start([job.id], "dead", -1))[job.id]
    assert [(row[0].id, row[0].name, row[1]) for row in await kit.jobs.lapsed(10)] == [(job.id, "report", 2)]
    second = (await kit.jobs.start([job.id], "alive", 60))[job.id]
    assert (second.job.version, second.job.attempt) == (3, 2)
    assert await kit.jobs.renew([(job.id, first.job.version)], 60) == {}
    assert await kit.jobs.finish(succeeded(job.id, first.job.version, b'"old"')) is None
    assert await kit.jobs.requeue(Requeue(job.id, first.job.version, 0, why="failed")) is None
    assert await kit.jobs.finish(succeeded(job.id, second.job.version, b'"new"')) is not None
    found = await kit.jobs.get_with_result("default", job.id)
    assert found is not None
    assert found[1] == b'"new"'


async def test_after_too_many_lost_workers_a_job_is_not_started_again(kit: Kit) -> None:
    job = await kit.store(submission())
    for attempt in range(MAX_LOSSES + 1):
        assert (await kit.jobs.start([job.id], "w", -1))[job.id].job.attempt == attempt + 1
    assert await kit.jobs.start([job.id], "w", 10) == {}
    assert [row[2] for row in await kit.jobs.lapsed(10)] == [MAX_LOSSES + 1]


async def test_renewing_keeps_a_lease_and_tells_of_a_cancel(kit: Kit) -> None:
    job = await kit.store(submission())
    running = (await kit.jobs.start([job.id], "w7", -1))[job.id].job
    assert await kit.jobs.renew([(job.id, 2), (new_job_id(), 1)], 60) == {job.id: False}
    assert await kit.jobs.lapsed(10) == []
    assert await kit.jobs.cancel("default", job.id) == (running, True)
    assert await kit.jobs.renew([(job.id, 2)], 60) == {job.id: True}
    await kit.jobs.finish(succeeded(job.id, 2))
    assert await kit.jobs.cancel("default", job.id) is None, "it has ended"


# Requeueing


async def test_a_failed_attempt_uses_up_a_try_and_a_handed_back_one_does_not(kit: Kit) -> None:
    job = await kit.store(submission(max_attempts=3))
    await kit.jobs.start([job.id], "w", 10)
    failed = await kit.jobs.requeue(Requeue(job.id, 2, -1, why="failed", error='{"code":"x"}'))
    assert failed is not None
    assert (failed.status, failed.version, failed.attempt, failed.error) == (
        JobStatus.QUEUED,
        3,
        1,
        '{"code":"x"}',
    )
    second = (await kit.jobs.start([job.id], "w", 10))[job.id]
    assert (second.failures, second.job.attempt) == (1, 2)
    handed_back = await kit.jobs.requeue(Requeue(job.id, 4, 0, why="handed back"))
    assert handed_back is not None
    assert (handed_back.attempt, handed_back.version) == (1, 5)
    third = (await kit.jobs.start([job.id], "w", 10))[job.id]
    assert (third.failures, third.job.attempt) == (1, 2)


async def test_a_delayed_retry_is_not_due_yet(kit: Kit) -> None:
    job = await kit.store(submission())
    await kit.jobs.start([job.id], "w", 10)
    await kit.jobs.requeue(Requeue(job.id, 2, 60, why="failed"))
    assert await kit.jobs.start([job.id], "w", 10) == {}
    status, due_in = (await kit.jobs.unstarted([job.id]))[job.id]
    assert status is JobStatus.QUEUED
    assert 50 < due_in <= 60


# Finishing


async def test_of_twenty_finishers_over_four_connections_one_wins(kit: Kit, settings: Settings) -> None:
    job = await kit.store(submission(channels=("group:ops",)))
    await kit.jobs.start([job.id], "w", 60)
    endings = [
        succeeded(job.id, 2) if n % 2 else Outcome(job.id, 2, JobStatus.FAILED, error=f'{{"n":{n}}}')
        for n in range(20)
    ]
    async with opened(settings) as b, opened(settings) as c, opened(settings) as d:
        answers = await asyncio.gather(
            *(kit_.jobs._finish([ending]) for kit_, ending in zip([kit, b, c, d] * 5, endings, strict=True))
        )
    won = [(ending, answer) for ending, [answer] in zip(endings, answers, strict=True) if answer is not None]
    stored = await kit.jobs.get("default", job.id)
    assert stored is not None
    assert stored.version == 3
    assert {ending.status for ending, _ in won} == {stored.status}
    for name in ("user:me", "group:ops"):
        page = await kit.events.read(me(name), "start")
        assert page is not None
        assert [position.offset for position, _ in page.events] == [1]
    assert await kit.jobs.finish(succeeded(job.id, 3)) is None, "a finished job ends no second time"


async def test_of_different_endings_in_one_batch_only_one_is_told_that_it_was_taken(kit: Kit) -> None:
    job = await kit.store(submission())
    await kit.jobs.start([job.id], "w", 60)
    endings = [succeeded(job.id, 2, b'"mine"'), Outcome(job.id, 2, JobStatus.EXPIRED, error="{}")]
    answers = await asyncio.gather(*(kit.jobs.finish(ending) for ending in endings))
    taken = [ending for ending, answer in zip(endings, answers, strict=True) if answer is not None]
    stored = await kit.jobs.get("default", job.id)
    assert stored is not None
    assert [ending.status for ending in taken] == [stored.status]


async def test_a_stale_ending_never_wins_over_the_right_one_in_its_batch(kit: Kit) -> None:
    """A worker that lost a job and took it up again may hand over both attempts' endings at once."""
    for flip in (False, True):
        job = await kit.store(submission())
        await kit.jobs.start([job.id], "w", -1)
        await kit.jobs.start([job.id], "w", 60)
        endings = [succeeded(job.id, 2, b'"stale"'), succeeded(job.id, 3, b'"right"')]
        if flip:
            endings.reverse()
        answers = await asyncio.gather(*(kit.jobs.finish(ending) for ending in endings))
        found = await kit.jobs.get_with_result("default", job.id)
        assert found is not None
        assert found[1] == b'"right"'
        told = {ending.version: answer is not None for ending, answer in zip(endings, answers, strict=True)}
        assert told == {2: False, 3: True}


async def test_positions_are_contiguous_and_in_commit_order_over_four_connections(
    kit: Kit, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """200 jobs on three shared channels and two inboxes, finished in random batches at once."""
    rng = random.Random(7)
    groups = ("group:a", "group:b", "group:c")
    jobs = await asyncio.gather(
        *(
            kit.store(
                submission(owner=rng.choice(["me", "you"]), channels=tuple(rng.sample(groups, rng.randint(1, 3))))
            )
            for _ in range(200)
        )
    )
    finished: list[Finished] = []
    seen: defaultdict[Channel, list[int]] = defaultdict(list)

    async def finish_all(store: Kit, share: list[str]) -> None:
        while share:
            batch = [share.pop() for _ in range(min(len(share), rng.randint(1, 9)))]
            for answer in await store.jobs._finish([succeeded(job, 1) for job in batch]):
                assert answer is not None
                finished.append(answer)

    async def watch(watching: asyncio.Event) -> None:
        # What is visible at any moment has no hole in it: offsets become visible in their order.
        while not watching.is_set():
            for name in groups:
                page = await kit.events.read(me(name), "start", 1000)
                assert page is not None
                seen[me(name)] = [position.offset for position, _ in page.events]
                assert seen[me(name)] == list(range(1, len(seen[me(name)]) + 1))

    done = asyncio.Event()
    watching = asyncio.create_task(watch(done))
    ids: list[str] = [job.id for job in jobs]
    rng.shuffle(ids)
    async with opened(settings) as b, opened(settings) as c, opened(settings) as d:
        shares = [ids[n::4] for n in range(4)]
        await asyncio.gather(*(finish_all(each, share) for each, share in zip([kit, b, c, d], shares, strict=True)))
    done.set()
    await watching
    places: defaultdict[Channel, dict[int, str]] = defaultdict(dict)
    for answer in finished:
        assert answer.places[0] == (Channel("default", f"job:{answer.job.id}"), Position("1", 2))
        for channel, position in answer.places[1:]:
            assert position.offset not in places[channel], "a position is given once"
            places[channel][position.offset] = answer.job.id
    assert len(finished) == 200
    assert set(places) == {me(name) for name in (*groups, "user:me", "user:you")}
    for channel, logged in places.items():
        assert sorted(logged) == list(range(1, len(logged) + 1))
        page = await kit.events.read(channel, "start", 1000)
        assert page is not None
        assert [(p.offset, e.partition(b'"job":"')[2][:26].decode()) for p, e in page.events] == sorted(
            logged.items()
        )
    assert "deadlock" not in caplog.text.lower()


async def test_a_channel_named_twice_logs_a_result_once(kit: Kit) -> None:
    finished = await kit.finish(channels=("group:ops", "user:me", "group:ops"))
    assert [channel.name for channel, _ in finished.places] == [
        f"job:{finished.job.id}",
        *sorted(["group:ops", "user:me"], key=[c.name for c, _ in finished.places].index),
    ]
    assert len(finished.places) == 3


async def test_a_job_of_nobody_is_logged_in_no_inbox(kit: Kit) -> None:
    finished = await kit.finish(owner=None)
    assert finished.places == ((Channel("default", f"job:{finished.job.id}"), Position("1", 2)),)


async def test_an_answer_that_was_lost_after_its_commit_is_given_again(kit: Kit) -> None:
    job = await kit.store(submission())
    first = await kit.jobs.finish(succeeded(job.id, 1, b"7"))
    again = await kit.jobs.finish(succeeded(job.id, 1, b"7"))
    assert again == first
    assert await kit.jobs.finish(Outcome(job.id, 1, JobStatus.FAILED, error="{}")) is None


async def test_tenants_do_not_see_each_others_jobs(kit: Kit) -> None:
    job = await kit.store(submission())
    assert await kit.jobs.get("other", job.id) is None
    assert await kit.jobs.get_with_result("other", job.id) is None
    assert await kit.jobs.of_owner("other", "me", None, None, None, 10) == []
    assert await kit.events.read(Channel("other", f"job:{job.id}"), "start") is None


async def test_an_owners_jobs_are_listed_newest_first_and_paged(kit: Kit) -> None:
    ids = sorted([(await kit.store(submission(name="a" if n % 2 else "b"))).id for n in range(6)], reverse=True)
    await kit.store(submission(owner="you"))

    async def listed(status: str | None = None, name: str | None = None, after: str | None = None) -> list[str]:
        return [job.id for job in await kit.jobs.of_owner("default", "me", status, name, after, 4)]

    assert await listed() == ids[:4]
    assert await listed(after=ids[3]) == ids[4:]
    assert len(await listed(name="a")) == 3
    assert await listed(status="succeeded") == []


async def test_counts_of_the_queue_stop_at_their_limit(kit: Kit) -> None:
    for _ in range(5):
        await kit.store(submission())
    assert (await kit.jobs.queued(3), await kit.jobs.queued(10)) == (3, 5)


async def test_without_postgresql_a_question_ends_in_unavailable() -> None:
    postgres = Postgres("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        await postgres.fetch("SELECT 1", patience=0.1)


async def test_a_lost_connection_is_not_noticed(kit: Kit) -> None:
    """Whoever asks gets the answer, though the server ended every connection in between."""
    await kit.store(submission())
    pool = await kit.postgres.pool()
    held = [await pool.acquire() for _ in range(kit.settings.store_connections)]
    pids = [await connection.fetchval("SELECT pg_backend_pid()") for connection in held]
    for connection in held:
        await pool.release(connection)
    killer = Postgres(kit.settings.need("database_url"), 2)
    await killer.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS t (pid)", pids)
    await killer.close()
    assert await kit.jobs.queued(10) == 1
