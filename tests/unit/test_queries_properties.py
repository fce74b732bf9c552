"""Random programs of queries on a real server, and what has to hold during and after each of them.

The jobs of a program run beside one another on one pool. Each of their queries calls a function in the server,
which holds an advisory lock while it runs, and tells in notices that it ran, how many others ran then, and how many
connections there were: a notice needs no writing, so that read-only transactions can give it, and it has gone out
whatever is cancelled or rolled back later.

`QUERIES_EXAMPLES=2000` searches that many other programs at random.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Column, Float, Integer, MetaData, Table, event, func, insert, literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pushsvc.errors import QueryError, TransactionOpen
from pushsvc.queries import Database, DatabasePool, Promise, QueryRecord, Transaction

from .queries_programs import (
    JOBS,
    PROGRAMS,
    SLOTS,
    Ask,
    Await,
    Cancel,
    CancelTask,
    End,
    InTransaction,
    Kind,
    Mode,
    Pause,
    Plan,
    Program,
    Read,
    Step,
    Then,
    Write,
)
from .queries_support import Server, until

EXAMPLES = int(os.environ.get("QUERIES_EXAMPLES", "0"))
PATIENCE = 10.0
"""Seconds that a program may take, far more than any needs: whatever is not over then never will be."""

POOL = "properties"

# The server's part -----------------------------------------------------------------------------------

RUNNING, RAN, TOGETHER, OF_JOB, CONNECTED = range(7001, 7006)

PROBE = f"""
DROP SCHEMA IF EXISTS probe CASCADE;
CREATE SCHEMA probe;
CREATE TABLE probe.one (id int PRIMARY KEY);
INSERT INTO probe.one VALUES (1);
CREATE TABLE probe.ledger (job int NOT NULL);
CREATE VIEW probe.slow_ledger AS SELECT job FROM probe.ledger, (SELECT pg_sleep(0.01)) AS slept;
CREATE VIEW probe.notes AS
    SELECT classid::int AS kind, objid::int AS number, pid FROM pg_locks
    WHERE locktype = 'advisory' AND classid = {RUNNING};
CREATE FUNCTION probe.run(job int, id int, seconds float8, fails boolean) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    together int;
    of_job int;
    connected int;
BEGIN
    -- It runs, for as long as its transaction: on a connection that it has for itself.
    PERFORM pg_advisory_xact_lock_shared({RUNNING}, job * 10000 + id);
    RAISE NOTICE 'probe {RAN} %', id;
    SELECT count(DISTINCT pid), count(DISTINCT pid) FILTER (WHERE number / 10000 = job)
        INTO together, of_job FROM probe.notes WHERE kind = {RUNNING};
    SELECT count(*) INTO connected FROM pg_stat_activity WHERE application_name = 'pushsvc {POOL}';
    RAISE NOTICE 'probe {TOGETHER} %', together;
    RAISE NOTICE 'probe {OF_JOB} %', job * 100 + of_job;
    RAISE NOTICE 'probe {CONNECTED} %', connected;
    PERFORM pg_sleep(seconds);
    IF fails THEN
        RETURN 1 / (id - id);
    END IF;
    RETURN id * 3 + 1;
END $$;
"""


class Base(DeclarativeBase):
    pass


class One(Base):
    __tablename__ = "one"
    __table_args__ = {"schema": "probe"}  # noqa: RUF012 - SQLAlchemy's own way

    id: Mapped[int] = mapped_column(primary_key=True)


TABLES = MetaData(schema="probe")
LEDGER = Table("ledger", TABLES, Column("job", Integer))
SLOW_LEDGER = Table("slow_ledger", TABLES, Column("job", Integer))


def equal_id(job: int, slot: int) -> int:
    return 1000 + job * 10 + slot


def equal_view(job: int, slot: int) -> Table:
    """Looks like a table to the client, which therefore takes equal queries of it for one."""
    return Table(f"equal_{job}_{slot}", TABLES, Column("value", Integer), extend_existing=True)


async def prepare(server: Server) -> None:
    views = (
        f"CREATE VIEW probe.equal_{job}_{slot} AS"
        f" SELECT probe.run({job}, {equal_id(job, slot)}, 0.003, {slot == SLOTS - 1}) AS value"
        for job in range(JOBS)
        for slot in range(SLOTS)
    )
    await server.connection.execute(f"{PROBE}; {'; '.join(views)}")


# What is known of them -------------------------------------------------------------------------------


class Boom(Exception):
    """An error of the job's own."""


@dataclass(eq=False)
class Block:
    """A transaction: what may have gone wrong in it, and what it has written."""

    mode: Mode
    outer: Block | None
    handle: Transaction | None = None
    writes: int = 0
    spoiled: bool = False
    """Something in it failed or was cancelled: it may end with an error, and its queries may not have run."""
    certain: bool = False
    """A query in it has failed for sure."""
    broken: bool = False
    """It ended with an error."""

    @property
    def chain(self) -> list[Block]:
        return [self, *(self.outer.chain if self.outer else ())]

    @property
    def reads_only(self) -> bool:
        return any(block.mode == "snapshot" for block in self.chain)


@dataclass(eq=False)
class AtLeast:
    """Equal to any number that is not less: others may have been added before it was counted."""

    number: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other >= self.number


@dataclass(eq=False)
class Asked:
    """A promise, and what is to come of it: `answer`, unless it fails."""

    promise: Promise[Any]
    answer: Any
    fails: type[Exception] | None = None
    query: Expected | None = None
    source: Asked | None = None
    given_up: bool = False
    """It was cancelled, or a task that awaited it, or what is made of it."""

    @property
    def may_be_cancelled(self) -> bool:
        return self.given_up or (self.source is not None and self.source.may_be_cancelled)


@dataclass(eq=False)
class Expected:
    """A query of the server's, for one promise or for several equal ones."""

    record: QueryRecord
    id: int | str
    """By a number, the server notes each run."""
    promises: list[Asked] = field(default_factory=list)
    blocks: set[Block] = field(default_factory=set)
    """The transactions in which it was asked for or awaited, and so may have run."""


def divided(error: BaseException | None) -> bool:
    return isinstance(error, DBAPIError) and "division by zero" in str(error)


def answer_of(value: Any) -> Any:
    return [row.id if isinstance(row, One) else row for row in value] if isinstance(value, list) else value


class Job:
    """Follows a plan, and writes down what is to come of it."""

    def __init__(self, number: int, plan: Plan, pool: DatabasePool, jobs: list[Job]) -> None:
        self.number = number
        self.plan = plan
        self.asked: list[Asked] = []
        self.queries: list[Expected] = []
        self.watchers: list[tuple[asyncio.Task[None], Asked]] = []
        self.over = False
        """Its database is closed, or it was cancelled: from here on, nothing is owed to it."""
        self.committed = 0
        self.in_doubt = 0
        """Rows whose COMMIT may have been the last thing before it was over."""
        self.seen: defaultdict[QueryRecord, list[str]] = defaultdict(list)
        self._jobs = jobs
        self._equal: dict[int | str, Expected] = {}
        self.db: Database = Database(
            pool,
            owner=f"job-{number}",
            tags={"job": "property", "job_id": str(number)},
            inline=plan.inline,
            observer=self._observe,
        )
        self._pool = pool
        self.waited = 0
        """How many queries waited in the executor's queue at most, whenever one of this job went on."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    def _observe(self, record: QueryRecord) -> None:
        self.seen[record].append(record.status)
        self.waited = max(self.waited, self._pool.waiting)

    async def _run(self) -> None:
        try:
            await self._follow(self.plan.steps, None)
            if self.plan.tidy:
                await asyncio.gather(*(self._look(asked) for asked in self.asked))
        finally:
            self.over = self.over or not self.plan.tidy
            await self.db.close(reason="the program is over")
            await asyncio.gather(*(task for task, _ in self.watchers), return_exceptions=True)

    async def _follow(self, steps: Sequence[Step], block: Block | None) -> None:
        for step in steps:
            await self._step(step, block)

    async def _step(self, step: Step, block: Block | None) -> None:
        match step:
            case Ask():
                for _ in range(step.times):
                    self._ask(step, block)
            case Await() | Then() | Cancel():
                if self.asked:
                    await self._use(step, self.asked[step.which % len(self.asked)], block)
            case CancelTask():
                await self._cancel_task(step)
            case Pause():
                await self._pause(step)
            case Write() if block is not None:
                await self._write(step, block)
            case Read():
                await self._read(step, block)
            case End():
                await self._end(step)
            case InTransaction():
                await self._transact(step, block)

    async def _use(self, step: Await | Then | Cancel, asked: Asked, block: Block | None) -> None:
        match step:
            case Await():
                await self._await(step, asked, block)
            case Then():
                self._then(step, asked)
            case Cancel():
                self._give_up(asked)
                asked.promise.cancel("by the program")

    # Asking

    def _ask(self, step: Ask, block: Block | None) -> None:
        if step.kind.startswith("equal"):
            table = equal_view(self.number, step.slot)
            id_ = equal_id(self.number, step.slot)
            asking = self.db.async_pluck if step.kind == "equal_pluck" else self.db.load_async
            self._schedule(partial(asking, table.c.value), [id_ * 3 + 1], block, id_, fails=step.slot == SLOTS - 1)
            return
        id_ = self.number * 100 + len(self.queries)
        value, seconds = id_ * 3 + 1, step.ms / 1000
        arguments = (self.number, id_, literal(seconds, Float), step.fails)
        run = func.probe.run(*arguments, type_=Integer)
        text = f"SELECT probe.run(:job, :id, {seconds}, :fails)"
        values = {"job": self.number, "id": id_, "fails": step.fails}
        ways: dict[Kind, tuple[Any, Any]] = {
            "load": (partial(self.db.load_async, select(run)), [value]),
            "rows": (partial(self.db.load_async, select(run.label("n"), literal("x"))), [(value, "x")]),
            "pick": (partial(self.db.async_pick, select(run)), value),
            "count": (partial(self.db.async_count, select(run)), 1),
            "sum": (partial(self.db.async_sum, select(run)), value),
            "text": (partial(self.db.async_find_by_sql, text, values), [value]),
            "entity": (partial(self.db.load_async, select(One).where(run > 0)), [1]),
        }
        ask, answer = ways[step.kind]
        self._schedule(ask, answer, block, id_, fails=step.fails)

    def _schedule(
        self, ask: Any, answer: Any, block: Block | None, id_: int | str, *, fails: bool = False
    ) -> Asked | None:
        before = len(self.db.queries)
        try:
            promise = ask()
        except TransactionOpen:
            assert block is not None
            assert block.mode == "raise" or self.over
            return None
        except QueryError:
            assert self.over, "a query was refused"
            return None
        assert block is None or block.mode != "raise" or self.over, "a query was not refused"
        if len(self.db.queries) > before:
            query = Expected(self.db.queries[-1], id_)
            self.queries.append(query)
            self._equal[id_] = query
        else:
            query = self._equal[id_]
            assert not any(asked.promise.settled and not asked.given_up for asked in query.promises)
        asked = Asked(promise, answer, DBAPIError if fails else None, query)
        query.promises.append(asked)
        self.asked.append(asked)
        if block is not None:
            self._enlist(asked, block)
            block.certain = block.certain or (fails and block.mode == "foreground")
        return asked

    def _then(self, step: Then, source: Asked) -> None:
        def wrap(answer: Any) -> Any:
            return ("then", answer_of(answer))

        async def later(answer: Any) -> Any:
            await asyncio.sleep(0)
            return ("later", answer_of(answer))

        def fail(answer: Any) -> Any:
            raise Boom

        promise: Promise[Any] = source.promise.then({"wrap": wrap, "later": later, "fail": fail}[step.what])
        fails = source.fails or (Boom if step.what == "fail" else None)
        answer = ("later" if step.what == "later" else "then", source.answer)
        self.asked.append(Asked(promise, answer, fails, source.query, source))

    def _enlist(self, asked: Asked, block: Block) -> None:
        """The query behind it may run in the block: what becomes of one is known to the other."""
        assert asked.query is not None
        asked.query.blocks.add(block)
        query_fails = any(each.fails is DBAPIError for each in asked.query.promises)
        if query_fails or any(each.given_up for each in asked.query.promises):
            block.spoiled = True

    def _give_up(self, asked: Asked) -> None:
        at: Asked | None = asked
        while at is not None:
            at.given_up, at = True, at.source
        assert asked.query is not None
        for block in asked.query.blocks:
            block.spoiled, block.certain = True, False

    # Awaiting

    async def _await(self, step: Await, asked: Asked, block: Block | None) -> None:
        # A task begins a moment later, when its block may have ended and the one around it is in force.
        for each in block.chain[: None if step.how == "task" else 1] if block else ():
            self._enlist(asked, each)
        if step.how == "task":
            task = asyncio.get_running_loop().create_task(self._look(asked))
            self.watchers.append((task, asked))
        elif step.how == "here":
            await self._look(asked)
        else:
            try:
                async with asyncio.timeout(step.ms / 1000):
                    await self._look(asked)
            except TimeoutError:
                self._give_up(asked)

    async def _look(self, asked: Asked) -> None:
        try:
            answer = await asked.promise
        except (QueryError, DBAPIError, Boom):
            return  # judged in the end
        assert asked.promise.status == "complete"
        assert answer_of(answer) == asked.answer

    async def _cancel_task(self, step: CancelTask) -> None:
        if self.watchers:
            task, asked = self.watchers[step.which % len(self.watchers)]
            if not task.done():
                self._give_up(asked)
            for _ in range(step.times):
                task.cancel()
                await asyncio.sleep(0)

    async def _pause(self, step: Pause) -> None:
        for _ in range(step.turns):
            await asyncio.sleep(0)
        if step.ms:
            await asyncio.sleep(step.ms / 1000)

    async def _end(self, step: End) -> None:
        job = self._jobs[step.job % len(self._jobs)]
        job.over = True
        if step.how == "close":
            await job.db.close(reason="closed by the program")
        else:
            job.task.cancel()

    # Transactions

    async def _transact(self, step: InTransaction, outer: Block | None) -> None:
        # The writes of the one around it are in nobody's snapshot.
        mode: Mode = "foreground" if step.mode == "snapshot" and outer is not None else step.mode
        block = Block(mode, outer)
        try:
            async with self.db.transaction(step.mode) as block.handle:
                await self._follow(step.body, block)
                if step.ending == "roll_back":
                    block.handle.roll_back()
                elif step.ending == "error":
                    raise Boom
        except asyncio.CancelledError:
            self.in_doubt += block.writes
            block.broken = True
            raise
        except Boom:
            assert step.ending == "error"
            block.broken = True
        except (QueryError, DBAPIError) as error:
            block.broken = True
            self.in_doubt += block.writes
            if not (self.over or any(each.spoiled for each in block.chain)):
                raise AssertionError("a transaction failed by itself") from error
        else:
            assert not block.certain or self.over, "a query in the transaction failed, and it did not"
            if step.ending == "commit" and outer is not None:
                outer.writes += block.writes
            elif step.ending == "commit":
                self.committed += block.writes

    async def _write(self, step: Write, block: Block) -> None:
        assert block.handle is not None
        adding = insert(LEDGER).values(job=self.number)

        def work(session: Any) -> None:
            session.execute(adding)
            if step.how == "session_fails":
                raise Boom

        try:
            if step.how == "execute":
                await block.handle.execute(adding)
            else:
                await block.handle.run_sync(work)
        except Boom:
            assert step.how == "session_fails"
        except (QueryError, DBAPIError) as error:
            if not (self.over or block.reads_only or any(each.spoiled for each in block.chain)):
                raise AssertionError("a write failed by itself") from error
            block.spoiled = True
        else:
            assert not block.reads_only
            block.writes += 1

    async def _read(self, step: Read, block: Block | None) -> None:
        written = self.committed + sum(each.writes for each in (block.chain if block else ()))
        ledger = SLOW_LEDGER if step.slowly else LEDGER
        count = partial(self.db.async_count, ledger.c.job, where=ledger.c.job == self.number)
        asked = self._schedule(count, AtLeast(written) if step.slowly else written, block, ledger.name)
        if asked is not None and not step.slowly:
            await self._look(asked)

    # Judging

    async def judge(self) -> None:
        """The job and each of its promises came to the end that they had to come to."""
        if self.task.cancelled():
            assert self.over
            # It may have been cancelled before its first step, and so before it could close anything.
            await self.db.close(reason="the program is over")
        else:
            self.task.result()
        for asked in self.asked:
            await self._look(asked)
            self._judge(asked)
        for record in self.db.queries:
            assert record.finished is not None
            path = self.seen[record]
            assert path in (["pending", record.status], ["pending", "running", record.status]), path

    def _judge(self, asked: Asked) -> None:
        status, error = asked.promise.status, asked.promise.error
        assert asked.query is not None
        blocks = {block for each in asked.query.blocks for block in each.chain}
        stopped = self.over or any(block.broken for block in blocks)
        if status == "complete":
            assert asked.fails is None, "it had to fail"
            assert answer_of(asked.promise.answer) == asked.answer
        elif status == "cancelled":
            assert stopped or asked.may_be_cancelled, error
        else:
            assert status == "failed", f"it is lost: {status}"
            if isinstance(error, QueryError) or "import the requested snapshot" in str(error):
                assert stopped or any(block.spoiled for block in blocks), error
            else:
                assert isinstance(error, Boom) if asked.fails is Boom else asked.fails and divided(error), error

    def runs(self) -> tuple[Counter[int], Counter[int]]:
        """For each query, how often the server has run it, at least and at most."""
        least: Counter[int] = Counter()
        most: Counter[int] = Counter()
        for query in self.queries:
            if isinstance(query.id, int):
                errors = [asked.promise.error for asked in query.promises]
                ran = query.record.status == "complete" or any(map(divided, errors))
                refused = any(type(error) is QueryError for error in errors)
                least[query.id] += ran
                most[query.id] += query.record.started is not None and not refused
        return least, most


# One program -----------------------------------------------------------------------------------------


async def follow(program: Program, url: str, server: Server, reached: Counter[str]) -> None:
    pool = DatabasePool(url, name=POOL, executor_concurrency=program.executor, own_connections=program.own)
    notes: defaultdict[int, list[int]] = defaultdict(list)

    def note(_connection: object, message: Any) -> None:
        match message.message.split():
            case ["probe", kind, number]:
                notes[int(kind)].append(int(number))

    def listen(connection: Any, _record: object) -> None:
        connection.driver_connection.add_log_listener(note)

    event.listen(pool.connections.engine.sync_engine, "connect", listen)
    async with explained(program, server):
        async with asyncio.timeout(PATIENCE):
            await server.connection.execute("DELETE FROM probe.ledger")
            jobs: list[Job] = []
            for number, plan in enumerate(program.plans):
                jobs.append(Job(number, plan, pool, jobs))
            await asyncio.wait([job.task for job in jobs])
            for job in jobs:
                await job.judge()
            await until(lambda: len(asyncio.all_tasks()) == 1)
            await check_server(program, pool, jobs, server, notes)
            await check_pool(pool, jobs, server)
            reached.update(pool.counters)
            reached.update(record.status for job in jobs for record in job.db.queries)
            await pool.close()
            await until(partial(nobody, server))


async def nobody(server: Server) -> bool:
    return await server.connections() == 0


async def check_server(
    program: Program, pool: DatabasePool, jobs: list[Job], server: Server, notes: Mapping[int, list[int]]
) -> None:
    """What the queries told of the server while they ran, and what they have left there."""
    assert await server.fetch("SELECT FROM probe.notes") == [], "a query still runs, or its transaction is open"
    assert max(notes[TOGETHER], default=0) <= pool.size
    assert max(notes[CONNECTED], default=0) <= pool.size
    for number in notes[OF_JOB]:
        job, at_once = divmod(number, 100)
        assert at_once <= 1 + (0 if program.plans[job].inline else program.executor)
    assert max(each.waited for each in jobs) <= 4 * program.executor
    ran = Counter(notes[RAN])
    for each in jobs:
        least, most = each.runs()
        for query in least:
            assert least[query] <= ran[query] <= most[query], (query, least[query], ran[query], most[query])
        written = await server.fetch("SELECT count(*) FROM probe.ledger WHERE job = $1", each.number)
        assert each.committed <= written[0][0] <= each.committed + each.in_doubt
    begun = sum(record.started is not None for each in jobs for record in each.db.queries)
    assert begun == sum(n for name, n in pool.counters.items() if name.startswith(("async", "foreground")))


async def check_pool(pool: DatabasePool, jobs: list[Job], server: Server) -> None:
    """Nothing is held any more, every connection rests, and the next queries are answered as ever."""
    assert (pool.active, pool.waiting, pool.foreground.waiting) == (0, 0, 0)
    async with Database(pool, owner="after") as db:
        promises = [db.load_async(select(literal(n))) for n in range(pool.size + 2)]
        assert [await promise for promise in promises] == [[n] for n in range(pool.size + 2)]
    states = [
        row["state"]
        for row in await server.fetch(
            "SELECT state FROM pg_stat_activity WHERE application_name = $1", f"pushsvc {pool.name}"
        )
    ]
    assert states == ["idle"] * pool.connections.idle
    assert pool.connections.idle <= pool.size


@asynccontextmanager
async def explained(program: Program, server: Server) -> AsyncIterator[None]:
    """If a check fails, the error shows the program, and nothing of it disturbs the next."""
    try:
        yield
    except BaseException as error:
        error.add_note(str(program))
        await server.terminate()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=2)
        raise


WAYS = {
    *("async", "shared", "foreground:not_started", "foreground:queue_full", "foreground:transaction"),
    *("foreground:inline", "complete", "failed", "cancelled"),
}
"""What the programs have to reach, all taken together."""

KNOWN = (
    # What a task has taken into the outer transaction is awaited in the inner one, which it would wait for.
    Program(
        1,
        1,
        (Plan((Ask("load"), InTransaction((Await(0, "task"), InTransaction((Await(0),)))), Pause()), inline=True),),
    ),
    # Both transactions end at once, on one connection.
    Program(2, 1, (Plan((InTransaction((Ask("rows"), InTransaction((Ask("sum"), End(0))))),)),)),
    # What SQLAlchemy runs is cancelled, and the connection is used again.
    Program(1, 1, (Plan((Ask("load"), Await(0), Ask("rows", ms=5), Pause(9, ms=2), Cancel(1), Ask("entity"))),)),
    # What is on its way when a transaction commits does not answer for what it wrote.
    Program(2, 1, (Plan((Read(True), Pause(9, ms=2), InTransaction((Write(),)), Read(True))),)),
    # Far more than the queue takes, of two jobs; some are awaited, some given up, the others go on by themselves.
    Program(
        1,
        1,
        (
            Plan((Ask("load", times=30), Await(29), Cancel(12), Pause(9, ms=2))),
            Plan((Ask("rows", times=12), Await(11, "task"), InTransaction((Await(9), Ask("pick", times=9))))),
        ),
    ),
    # A transaction that is to write nothing has failed by writing.
    Program(1, 1, (Plan((InTransaction((Write(), Ask("load")), mode="snapshot"),)),)),
)
"""Programs that went wrong once, or would if one line were missing."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_whatever_jobs_do_each_query_runs_once_within_the_bound_and_comes_to_its_end(
    postgres_url: str, loop: Any
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        connection = runner.run(asyncpg.connect(postgres_url))
        server = Server(connection)
        runner.run(prepare(server))

        @settings(
            max_examples=EXAMPLES or 80,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(PROGRAMS)
        def check(program: Program) -> None:
            runner.run(follow(program, postgres_url, server, reached))

        reached: Counter[str] = Counter()
        try:
            for program in KNOWN:
                runner.run(follow(program, postgres_url, server, reached))
            check()
            assert reached.keys() >= WAYS
        finally:
            runner.run(connection.execute("DROP SCHEMA probe CASCADE"))
            runner.run(connection.close())
