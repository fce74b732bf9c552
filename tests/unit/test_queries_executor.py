"""The executor and the connections: bounds, fairness, cancelling in the server, and a server that goes away."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, literal, select, text
from sqlalchemy.exc import DBAPIError

from pushsvc.errors import QueryCancelled, QueryError, Unavailable
from pushsvc.queries import Database, DatabasePool, Promise, QueryRecord, database
from pushsvc.queries.running.comment import SqlComment

from .queries_support import Server, behind, until

pytest_plugins = ["tests.unit.queries_postgres"]

ONE = select(literal(1))


async def test_three_queries_of_a_job_run_in_the_server_at_once(db: Database, server: Server) -> None:
    async with server.gate(1) as open_gate:
        promises = [db.load_async(behind(1, n)) for n in range(3)]
        assert len(await server.until_running(3)) == 3
        await open_gate()
        assert [await promise for promise in promises] == [[0], [1], [2]]


async def test_nothing_connects_before_the_first_query(pool: DatabasePool, server: Server) -> None:
    Database(pool, owner="job")
    assert await server.connections() == 0


async def test_the_server_never_sees_more_queries_or_connections_than_the_bound(
    postgres_url: str, server: Server
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=3, own_connections=2)
    handles = [Database(pool, owner=f"job-{n}") for n in range(6)]
    seen: set[int] = set()
    connected: set[int] = set()
    work = asyncio.gather(*(handle.load_async(behind(gate)) for gate in (1, 2) for handle in handles))
    try:
        async with server.gate(1) as open_first, server.gate(2) as open_second:
            await server.until_running(5)
            assert pool.active == 5
            await open_first()
            await until(lambda: sum(r.status == "complete" for h in handles for r in h.queries) >= 6)
            seen.add(len(await server.running()))
            connected.add(await server.connections())
            await open_second()
            while not work.done():
                seen.add(len(await server.running()))
                connected.add(await server.connections())
        await work
    finally:
        await pool.close()
    assert max(seen) <= 5
    assert max(connected) <= 5 == pool.size


async def test_jobs_take_turns_on_the_executor(postgres_url: str, server: Server) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1)
    order: list[str] = []

    def watch(owner: str) -> Database:
        def observe(record: QueryRecord) -> None:
            if record.status == "running":
                order.append(owner)

        return Database(pool, owner=owner, observer=observe)

    greedy, modest = watch("greedy"), watch("modest")
    async with server.gate(1):
        blocker = greedy.load_async(behind(1))
        promises = [greedy.load_async(select(literal(n))) for n in range(2)]
        promises += [modest.load_async(select(literal(n))) for n in range(2)]
        await server.until_running(1)
        blocker.cancel()
        await until(lambda: all(promise.status == "complete" for promise in promises))
    assert order == ["greedy", "greedy", "modest", "greedy", "modest"]
    await pool.close()


async def test_when_the_queue_is_full_a_query_runs_in_the_foreground_at_its_await(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(20)]
        assert pool.waiting == 16
        promise = db.load_async(ONE)
        assert (promise.status, pool.waiting) == ("pending", 16)
        assert await promise == [1]
        assert (db.queries[20].mode, db.queries[20].reason) == ("foreground", "queue_full")
        for other in blocked:
            other.cancel()


async def test_a_full_queue_is_shared_out_between_jobs(pool: DatabasePool, server: Server) -> None:
    greedy, modest = Database(pool, owner="greedy"), Database(pool, owner="modest")
    async with server.gate(1):
        for _ in range(20):
            greedy.load_async(behind(1))
        for _ in range(20):
            modest.load_async(behind(1))
        assert pool.waiting == 16
        for handle in (greedy, modest):
            queued = [r for r in handle.queries if (r.status, r.reason) == ("pending", None)]
            assert len(queued) == 8
        await greedy.close(reason="enough")
        await modest.close(reason="enough")


async def test_what_found_the_queue_full_goes_on_the_executor_when_there_is_room(
    db: Database, pool: DatabasePool
) -> None:
    promises = [db.load_async(select(literal(number))) for number in range(60)]
    assert (pool.active, pool.waiting) == (4, 16)
    assert [record.reason for record in db.queries[20:]] == ["queue_full"] * 40
    # Nobody awaits any of them.
    await until(lambda: all(promise.settled for promise in promises))
    assert {(record.mode, record.reason) for record in db.queries} == {("async", None)}
    assert [await promise for promise in promises] == [[number] for number in range(60)]


async def test_sixty_queries_have_all_places_to_the_end_in_whatever_order_they_are_awaited(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    busy: list[int] = []

    async with server.gate(1) as open_gate:
        promises = [db.load_async(behind(1, number)) for number in range(60)]
        task = asyncio.ensure_future(asyncio.wait([asyncio.ensure_future(promises[59])]))
        await server.until_running(5)
        assert pool.waiting == 16
        for promise in promises:
            promise.watch(lambda _: busy.append(pool.active))
        await open_gate()
        for number in reversed(range(60)):
            assert await promises[number] == [number]
        await task
    # Each place that becomes free is taken at once, as long as there is a query for it.
    assert len(busy) == 60
    assert min(busy[:50]) >= 4
    assert max(busy) == 5


async def test_while_a_job_awaits_what_runs_elsewhere_its_own_connection_takes_its_next_query(
    db: Database, pool: DatabasePool, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        running = [db.load_async(behind(1)) for _ in range(4)]
        waiting = [db.load_async(select(literal(number))) for number in range(30)]
        await server.until_running(4)
        assert pool.foreground.active == 0, "nobody waits yet"
        awaiting = asyncio.ensure_future(running[0])
        await until(lambda: all(promise.settled for promise in waiting))
        assert {(record.mode, record.reason) for record in db.queries[4:]} <= {
            ("foreground", "not_started"),
            ("foreground", "queue_full"),
        }
        assert pool.active == 4
        await open_gate()
        assert await awaiting == [1]
        for promise in running:
            await promise
        # Nobody waits any more: what is asked now stays off it.
    assert not db._asker.awaited


async def test_those_behind_a_full_queue_move_up_in_turns_between_jobs(postgres_url: str, server: Server) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1, own_connections=1)
    order: list[str] = []

    def handle(owner: str) -> Database:
        def observe(record: QueryRecord) -> None:
            if record.status == "running":
                order.append(owner)

        return Database(pool, owner=owner, observer=observe)

    handles = {"greedy": 20, "modest": 6, "late": 3}
    async with server.gate(1):
        blocking = Database(pool, owner="blocking")
        blocker = blocking.load_async(behind(1))
        dbs = {owner: handle(owner) for owner in handles}
        promises = [dbs[owner].load_async(select(literal(n))) for owner, most in handles.items() for n in range(most)]
        assert pool.waiting == 4
        await server.until_running(1)
        blocker.cancel()
        await until(lambda: all(promise.settled for promise in promises))
    assert Counter(order) == handles
    last = {owner: len(order) - order[::-1].index(owner) for owner in handles}
    assert last["late"] <= 12, order
    assert last["modest"] <= 20, order
    assert (pool.active, pool.waiting, len(pool.executor._behind)) == (0, 0, 0)
    for db in (*dbs.values(), blocking):
        await db.close(reason="done")
    await pool.close()


async def test_what_waits_behind_the_queue_can_be_cancelled_and_ends_with_its_job(
    pool: DatabasePool, server: Server
) -> None:
    db = Database(pool, owner="job")
    async with server.gate(1):
        promises = [db.load_async(behind(1)) for _ in range(40)]
        await server.until_running(4)
        assert promises[35].cancel()
        assert promises[10].cancel()  # one in the queue: the first behind moves up
        assert (pool.waiting, db.queries[20].reason, db.queries[21].reason) == (16, None, "queue_full")
        await db.close(reason="enough")
        assert {promise.status for promise in promises} == {"cancelled"}
        assert (pool.active, pool.waiting, len(pool.executor._behind)) == (0, 0, 0)
        assert await server.running() == []


async def test_a_job_that_awaits_nothing_is_refused_at_ten_thousand_queries(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MOST_OPEN", 100)
    promises = [db.load_async(select(literal(number))) for number in range(100)]
    with pytest.raises(QueryError, match="100 queries of this job have no answer yet"):
        db.load_async(select(literal(100)))
    assert await promises[0] == [0]
    assert await db.load_async(select(literal(100))) == [100]


async def test_inline_runs_each_query_when_it_is_awaited(pool: DatabasePool) -> None:
    async with Database(pool, owner="job", inline=True) as db:
        first, second = db.load_async(ONE), db.load_async(select(literal(2)))
        assert (first.status, second.status, pool.active) == ("pending", "pending", 0)
        assert (await second, await first) == ([2], [1])
        assert [(r.mode, r.reason) for r in db.queries] == [("foreground", "inline")] * 2


async def test_close_cancels_what_runs_and_what_waits_and_the_server_shows_nothing(
    pool: DatabasePool, server: Server
) -> None:
    db = Database(pool, owner="job")
    async with server.gate(1):
        promises = [db.load_async(behind(1)) for _ in range(9)]
        waiting = asyncio.ensure_future(promises[8])
        await server.until_running(5)
        await db.close(reason="the job timed out")
        assert await server.running() == []
        assert [promise.status for promise in promises] == ["cancelled"] * 9
        with pytest.raises(QueryCancelled, match="the job timed out"):
            await waiting
    with pytest.raises(QueryError, match="SQL Load was asked for after the end"):
        db.load_async(ONE)
    assert await Database(pool, owner="next").load_async(ONE) == [1]


async def test_close_finishes_though_its_task_is_cancelled_again_and_again(
    pool: DatabasePool, server: Server
) -> None:
    db = Database(pool, owner="job")
    async with server.gate(1):
        for _ in range(4):
            db.load_async(behind(1))
        await server.until_running(4)
        closing = asyncio.ensure_future(db.close(reason="the job was cancelled"))
        while not closing.done():
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert await server.running() == []
        assert pool.active == 0


async def test_fifty_queries_cancelled_at_any_moment_leave_nothing_behind(pool: DatabasePool, server: Server) -> None:
    async def job(number: int) -> None:
        db = Database(pool, owner=f"job-{number}")
        try:
            await asyncio.gather(*(db.load_async(behind(1)) for _ in range(3)))
        finally:
            await db.close(reason="cancelled")

    async with server.gate(1):
        for round_ in range(5):
            jobs = [asyncio.ensure_future(job(number)) for number in range(10)]
            for _ in range(round_ * 15):  # from not started to running in the server
                await asyncio.sleep(0)
            if round_ == 4:  # 4 on the executor; of the 10 jobs one has all its 3 queries there
                await server.until_running(13)
            for task in jobs:
                task.cancel()
                task.cancel()
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            assert await server.running() == []
            assert pool.active == 0
        answers = [Database(pool, owner=f"after-{n}").load_async(select(literal(n))) for n in range(20)]
        assert [await answer for answer in answers] == [[n] for n in range(20)]
        assert await server.connections() <= pool.size


async def test_a_query_cancelled_while_it_connects_gives_its_connection_back(
    postgres_url: str, server: Server
) -> None:
    pool = DatabasePool(postgres_url, executor_concurrency=1, own_connections=1)
    db = Database(pool, owner="job")
    promise = db.load_async(ONE)
    await asyncio.sleep(0)
    promise.cancel()
    await db.close(reason="cancelled")
    assert await server.connections() == 1
    assert await Database(pool, owner="next").load_async(ONE) == [1]
    assert await server.connections() == 1
    await pool.close()


async def test_a_query_on_a_connection_that_the_server_closed_meanwhile_is_run_again(
    db: Database, server: Server
) -> None:
    assert await asyncio.gather(*(db.load_async(ONE) for _ in range(4)))
    await server.terminate()
    assert list(await asyncio.gather(*(db.load_async(ONE) for _ in range(6)))) == [[1]] * 6


async def test_a_query_is_run_once_more_when_the_server_closes_its_connection_in_the_midst(
    db: Database, server: Server
) -> None:
    async with server.gate(1) as open_gate:
        promise = db.load_async(behind(1, 3))
        await server.until_running(1)
        [first] = await server.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'pushsvc primary'")
        await server.terminate()
        await server.until_running(1)
        [second] = await server.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'pushsvc primary'")
        assert first != second
        await open_gate()
        assert await promise == [3]


async def test_a_query_whose_connection_is_closed_twice_is_unavailable(db: Database, server: Server) -> None:
    async with server.gate(1):
        promise = db.load_async(behind(1))
        for _ in range(2):
            await server.until_running(1)
            await server.terminate()
        with pytest.raises(Unavailable, match="twice") as raised:
            await promise
        assert isinstance(raised.value.__cause__, DBAPIError)


async def test_a_statement_that_writes_is_never_run_again(db: Database, server: Server) -> None:
    await server.fetch("DROP TABLE IF EXISTS queries_written")
    await server.fetch("CREATE TABLE queries_written (n int)")
    written = Table("queries_written", MetaData(), Column("n", Integer))
    adding = insert(written).values(n=1).returning(written.c.n).cte("adding")
    held = behind(1).add_columns(adding.c.n)
    async with server.gate(1):
        promise = db.load_async(held)
        await server.until_running(1)
        await server.terminate()
        with pytest.raises(Unavailable):
            await promise
    assert await server.fetch("SELECT * FROM queries_written") == []


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    pool = DatabasePool("postgresql://postgres@127.0.0.1:1/postgres")
    promise = Database(pool, owner="job").load_async(ONE)
    with pytest.raises(Unavailable, match="database 'primary' can't be reached"):
        await promise
    await pool.close()


async def test_the_server_sees_the_jobs_name_in_front_of_each_query(pool: DatabasePool, server: Server) -> None:
    db = Database(pool, owner="j", tags={"job": "airport_report", "job_id": "x'*/; DROP TABLE t; /*"})
    async with server.gate(1):
        db.load_async(behind(1))
        [query] = await server.until_running(1)
        await db.close(reason="seen")
    assert query.startswith("/*job='airport_report',job_id='x%27%2A%2F%3B%20DROP%20TABLE%20t%3B%20%2F%2A'*/ SELECT")


async def test_only_a_text_that_comes_again_stays_prepared(db: Database) -> None:
    for number in range(4):
        await db.load_async(select(literal(number), *(literal(n) for n in range(number))))
    prepared = text("SELECT statement FROM pg_prepared_statements")
    assert await db.async_find_by_sql(prepared) == []
    for number in range(4):
        await db.load_async(select(literal(number)))
    [statement] = await db.async_find_by_sql(prepared)
    assert "$1::INTEGER" in statement


async def test_an_observer_that_fails_disturbs_nothing(pool: DatabasePool, caplog: pytest.LogCaptureFixture) -> None:
    def broken(record: QueryRecord) -> None:
        raise ValueError("broken")

    async with Database(pool, owner="job", observer=broken) as db:
        assert await db.load_async(ONE) == [1]
    assert "the observer of SQL Load failed" in caplog.text


async def test_the_observer_sees_each_status_once(pool: DatabasePool) -> None:
    seen: list[str] = []
    async with Database(pool, owner="job", observer=lambda record: seen.append(record.status)) as db:
        await db.load_async(ONE)
        promise: Promise[list[int]] = db.load_async(ONE)
        promise.cancel()
    assert seen == ["pending", "running", "complete", "pending", "running", "cancelled"]


async def test_records_are_timed_in_milliseconds_since_the_jobs_start(db: Database) -> None:
    await db.load_async(ONE)
    [record] = db.queries
    assert record.started is not None
    assert record.finished is not None
    assert record.scheduled <= record.started <= record.finished
    assert record.as_json(record.scheduled - 0.25) == {
        "name": "SQL Load",
        "status": "complete",
        "mode": "async",
        "reason": None,
        "scheduled": 250.0,
        "started": round((record.started - record.scheduled) * 1000 + 250, 1),
        "finished": round((record.finished - record.scheduled) * 1000 + 250, 1),
    }


async def test_the_log_has_a_line_for_each_query_when_it_is_awaited(
    db: Database, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pushsvc.queries")
    promise = db.load_async(ONE)
    await until(lambda: promise.status == "complete")
    assert caplog.messages == []
    await promise
    await promise
    async with server.gate(1):
        blocked = [db.load_async(behind(1)) for _ in range(4)]
        await db.load_async(ONE)
        for other in blocked:
            other.cancel()
    number = r"\d+\.\dms"
    first, second = caplog.messages
    assert_matches(rf"ASYNC SQL Load \(0\.\dms\) \(db time {number}\) \[queued {number}\]", first)
    assert_matches(rf"SQL Load \({number}\) \[foreground: not_started\]", second)


def assert_matches(pattern: str, line: str) -> None:
    assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize(
    ("sql", "commented"),
    [
        ("SELECT 1", "/*job='a',id='b'*/ SELECT /*job='a'*/ 1"),
        ("\n (SELECT 1) UNION (SELECT 2)", "/*job='a',id='b'*/ \n (SELECT /*job='a'*/ 1) UNION (SELECT 2)"),
        ("WITH x AS (SELECT 1) SELECT 2", "/*job='a',id='b'*/ WITH /*job='a'*/ x AS (SELECT 1) SELECT 2"),
        ("-- mine\nSELECT 1", "/*job='a',id='b'*/ -- mine\nSELECT 1"),
    ],
)
def test_a_comment_stands_in_front_and_after_the_first_word(sql: str, commented: str) -> None:
    assert SqlComment({"job": "a", "id": "b"}).on(sql) == commented
    assert SqlComment({}).on(sql) == sql


async def test_a_query_leads_back_to_its_job_from_the_servers_statistics(pool: DatabasePool, server: Server) -> None:
    await server.fetch("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    await server.fetch("SELECT pg_stat_statements_reset()")
    async with Database(pool, owner="j", tags={"job": "counted", "job_id": "1"}) as db:
        for number in range(3):
            assert await db.load_async(select(literal(number, type_=Integer), func.lower("X"))) == [(number, "x")]
    rows = await server.fetch("SELECT query, calls FROM pg_stat_statements WHERE query LIKE '%lower(%' AND calls > 1")
    assert [(row["calls"], "/*job='counted'*/" in row["query"]) for row in rows] == [(3, True)]
