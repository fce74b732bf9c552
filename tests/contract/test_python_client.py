"""The Python client at a real node with a real worker: jobs from their submission to what became of them."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pushsvc_client as client
import pytest
import pytest_asyncio

from pushsvc import JobContext, JobError, Service
from pushsvc.settings import Settings

from .kit import soon, until
from .node import Node, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
each_way = pytest.mark.parametrize("way", ["websocket", "sse", "longpoll"])

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
GATES: dict[str, asyncio.Event] = {}


class NoFlights(JobError):
    """There are no flights."""

    code = "no_flights_then"
    status = 409


def add_jobs(service: Service) -> None:
    @service.job
    async def echo(value: Any = None) -> Any:
        return value

    @service.job
    async def big(size: int) -> str:
        return "x" * size

    @service.job
    async def failing() -> None:
        raise NoFlights("none in May", month=5)

    @service.job
    async def gated(ctx: JobContext, gate: str, steps: int = 0) -> str:
        for step in range(steps):
            await ctx.progress(step / steps, f"step {step}")
        await GATES.setdefault(gate, asyncio.Event()).wait()
        return gate

    @service.job
    async def report(ctx: JobContext, over: int = 1000) -> dict[str, int]:
        await ctx.progress(0.1, "three queries are running")
        await asyncio.sleep(0.3 if over == 500 else 0)
        return {"count": 1_000_000 - over}

    @service.job(coalesce=True)
    async def shared(gate: str) -> str:
        await GATES.setdefault(gate, asyncio.Event()).wait()
        return gate


@dataclass
class Office:
    """A node, a worker, and clients of it."""

    node: Node
    clients: list[client.AsyncClient]

    def client(self, way: str = "websocket", sub: str = "me", **options: Any) -> client.AsyncClient:
        given = {"token": self.node.token(sub)} | options
        made = client.AsyncClient(self.node.http, transports=[way], **given)
        self.clients.append(made)
        return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def working(shared_settings: Settings) -> AsyncIterator[Node]:
    service = Service(settings=shared_settings)
    add_jobs(service)
    async with serving(shared_settings, service=service) as node:
        stop = asyncio.Event()
        work = asyncio.create_task(service.work(stop))
        yield node
        stop.set()
        await work


@pytest_asyncio.fixture(loop_scope="module")
async def office(working: Node) -> AsyncIterator[Office]:
    office = Office(working, [])
    yield office
    await asyncio.gather(*(each.close() for each in office.clients))
    GATES.clear()


@each_way
async def test_a_jobs_result_is_pushed_to_whoever_submitted_it(office: Office, way: str) -> None:
    me = office.client(way)
    handle = await me.submit("echo", {"value": {"Zürich": [1, None]}})
    assert await soon(handle.result()) == {"Zürich": [1, None]}
    assert await soon(handle.result()) == {"Zürich": [1, None]}, "as often as it is asked for"
    assert (await handle.status()).status == "succeeded"
    assert await soon(me.run("echo", {"value": 2})) == 2, "the connection that is there is used again"


@each_way
async def test_a_job_that_nobody_waited_for_is_not_forgotten(office: Office, way: str) -> None:
    me = office.client(way)
    before = [await me.submit("echo", {"value": n}) for n in range(3)]
    await until(lambda: all_finished(before), "they have ended, and nobody was told")
    assert [await soon(handle.result()) for handle in reversed(before)] == [2, 1, 0]


async def all_finished(handles: list[client.AsyncHandle]) -> bool:
    return all([(await handle.status()).finished for handle in handles])


@each_way
async def test_a_result_larger_than_an_event_is_fetched(office: Office, way: str) -> None:
    handle = await office.client(way).submit("big", {"size": 70_000})
    assert await soon(handle.result()) == "x" * 70_000


@each_way
async def test_what_the_jobs_author_meant_for_its_submitter_is_raised(office: Office, way: str) -> None:
    handle = await office.client(way).submit("failing")
    for _ in "pushed", "kept":
        with pytest.raises(client.JobFailed, match="none in May") as raised:
            await soon(handle.result())
        error = raised.value
        assert (error.code, error.status, error.problem["month"]) == ("no_flights_then", 409, 5)
        await handle.status()


@pytest.mark.parametrize(
    ("job", "params", "kind"),
    [("no_such", {}, client.UnknownJob), ("big", {"size": "many"}, client.InvalidParams)],
)
async def test_a_refused_submission_is_an_error_with_its_code(
    office: Office, job: str, params: dict[str, Any], kind: type[client.RequestError]
) -> None:
    with pytest.raises(kind) as raised:
        await office.client().submit(job, params)
    assert raised.value.code == kind.code


async def test_the_same_key_is_the_same_job_and_another_payload_is_refused(office: Office) -> None:
    me = office.client()
    first, second = [await me.submit("echo", {"value": 1}, key="once") for _ in range(2)]
    assert first.id == second.id
    assert await soon(first.result()) == await soon(second.result()) == 1
    with pytest.raises(client.KeyReused):
        await me.submit("echo", {"value": 2}, key="once")


async def test_a_batch_is_accepted_as_a_whole_or_not_at_all(office: Office) -> None:
    me = office.client(sub="batcher")
    handles = await me.batch([client.Submission("echo", {"value": n}) for n in range(20)], key="all")
    assert await soon(asyncio.gather(*(handle.result() for handle in handles))) == list(range(20))
    again = await me.batch([client.Submission("echo", {"value": n}) for n in range(20)], key="all")
    assert [handle.id for handle in again] == [handle.id for handle in handles]
    with pytest.raises(client.InvalidParams) as raised:
        await me.batch([client.Submission("echo"), client.Submission("big", {"size": "?"})])
    assert raised.value.problem["index"] == 1
    assert len((await me.jobs()).jobs) == 20


@each_way
async def test_letting_go_of_a_job_does_not_cancel_it(office: Office, way: str) -> None:
    handle = await office.client(way).submit("gated", {"gate": f"let go {way}"})
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.05)
    waiting = asyncio.create_task(handle.result())
    await until(lambda: f"let go {way}" in GATES, "it runs")
    waiting.cancel()
    GATES[f"let go {way}"].set()
    assert await soon(handle.result()) == f"let go {way}"


@each_way
async def test_a_job_that_is_cancelled_says_so_to_whoever_waits(office: Office, way: str) -> None:
    handle = await office.client(way).submit("gated", {"gate": f"cancelled {way}"})
    waiting = asyncio.create_task(handle.result())
    await until(lambda: f"cancelled {way}" in GATES, "it runs")
    assert (await handle.cancel()).id == handle.id
    with pytest.raises(client.JobCancelled):
        await soon(waiting)
    assert (await handle.cancel()).status == "cancelled", "once more is no error: that is what was wanted"


async def test_a_job_that_has_ended_otherwise_is_not_cancelled(office: Office) -> None:
    handle = await office.client().submit("echo")
    await soon(handle.result())
    with pytest.raises(client.AlreadyFinished):
        await handle.cancel()


async def test_a_shared_job_is_cancelled_for_one_submission_only(office: Office) -> None:
    me = office.client()
    first, second = [await me.submit("shared", {"gate": "shared"}, shared=True) for _ in range(2)]
    assert first.id == second.id
    await first.cancel()
    await until(lambda: "shared" in GATES, "it runs")
    GATES["shared"].set()
    assert await soon(second.result()) == "shared"


@each_way
async def test_progress_is_heard_until_the_job_has_ended(office: Office, way: str) -> None:
    me, gate = office.client(way), f"progress {way}"
    await soon(me.run("echo"))
    handle = await me.submit("gated", {"gate": gate, "steps": 4})
    heard: list[client.Progress] = []

    async def follow() -> None:
        async for progress in handle.progress():
            heard.append(progress)

    following = asyncio.create_task(follow())
    await until(lambda: heard and heard[-1].value == 0.75, "the last step is heard")
    GATES[gate].set()
    await soon(following)
    values = [progress.value or 0 for progress in heard]
    assert values == sorted(values)
    assert heard[-1].message == "step 3"


@each_way
async def test_a_job_is_found_again_by_its_id(office: Office, way: str) -> None:
    """By another process, before it has ended, and after."""
    gate = f"found {way}"
    submitted = await office.client().submit("gated", {"gate": gate})
    found = office.client(way).job(submitted.id)
    waiting = asyncio.create_task(found.result())
    await until(lambda: gate in GATES, "it runs")
    GATES[gate].set()
    assert await soon(waiting) == gate
    assert await soon(office.client(way).job(submitted.id).result()) == gate


@each_way
async def test_a_job_of_another_is_as_unknown_as_none(office: Office, way: str) -> None:
    theirs = await office.client(sub="you").submit("echo")
    with pytest.raises(client.NotFound):
        await soon(office.client(way).job(theirs.id).result())


async def test_more_jobs_than_a_connection_has_channels_are_followed_all_the_same(office: Office) -> None:
    submitter = office.client()
    submitted = [await submitter.submit("gated", {"gate": "many"}) for _ in range(130)]
    me = office.client()
    waiting = [asyncio.create_task(me.job(handle.id).result()) for handle in submitted]
    await until(lambda: me._results._feed and len(me._results._feed.session.extra) >= 90, "they are followed")
    GATES.setdefault("many", asyncio.Event()).set()
    assert await soon(asyncio.gather(*waiting)) == ["many"] * 130


@each_way
async def test_a_jobs_own_events_end_with_its_last(office: Office, way: str) -> None:
    handle = await office.client(way).submit("echo", {"value": 7})
    events = [event async for event in handle.events()]
    last = events[-1]
    assert isinstance(last, client.Event)
    assert (last.type, last.final, last.data, last.job) == ("job.succeeded", True, 7, handle.id)
    assert [event.position.offset for event in events] == sorted({event.position.offset for event in events})


@each_way
async def test_events_are_resumed_by_a_cursor_in_the_middle(office: Office, way: str) -> None:
    me = office.client(way, sub=f"resuming {way}")
    for n in range(5):
        await soon(me.run("echo", {"value": n}))
    heard: list[Any] = []
    cursor = "start"
    while len(heard) < 5:
        async with me.events(cursor=cursor) as events:
            item = await soon(anext(events))
        assert isinstance(item, client.Event)
        heard.append(item.data)
        cursor = item.cursor
    assert heard == [0, 1, 2, 3, 4]


async def test_jobs_are_listed_page_by_page(office: Office) -> None:
    me = office.client(sub="lister")
    ids = [(await me.submit("echo", {"value": n})).id for n in range(3)]
    first = await me.jobs(limit=2)
    rest = await me.jobs(limit=2, after=first.next)
    assert [view.id for view in (*first.jobs, *rest.jobs)] == ids[::-1]
    assert rest.next is None


async def test_without_any_websocket_it_goes_on_by_a_stream(office: Office) -> None:
    """A proxy that lets no WebSocket through answers 400, or anything."""
    async with client.AsyncClient(office.node.http, office.node.token("me"), transports=["websocket", "sse"]) as me:
        me._http.url = lambda link, url=me._http.url: url(link.replace("/v1/ws", "/healthz"))  # type: ignore[method-assign,misc]
        assert await soon(me.run("echo", {"value": 1})) == 1
        assert me._results._feed is not None
        assert me._results._feed.session.way == "sse"


# Tokens


async def test_a_token_is_renewed_before_it_expires_and_the_connection_lives_on(office: Office) -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(office.node.token("me", ttl=3.0))
        return given[-1]

    me = office.client(token=token)
    handle = await me.submit("gated", {"gate": "renewed"})
    waiting = asyncio.create_task(handle.result())
    await until(lambda: me._results._live.is_set(), "it is connected")
    feed = me._results._feed
    assert feed is not None
    line = feed._line
    await until(lambda: len(given) >= 3, "two tokens have been replaced")
    assert feed._line is line, "on the same connection"
    GATES.setdefault("renewed", asyncio.Event()).set()
    assert await soon(waiting) == "renewed"


@each_way
async def test_a_refused_token_is_asked_for_once_more(office: Office, way: str) -> None:
    tokens = iter(["not good", office.node.token("me")])
    me = office.client(way, token=lambda: next(tokens))
    assert await soon(me.run("echo", {"value": 1})) == 1
    with pytest.raises(StopIteration):
        next(tokens)


@each_way
async def test_a_token_that_is_refused_for_good_ends_the_waiting(office: Office, way: str) -> None:
    asked: list[str] = []

    def bad() -> str:
        asked.append("bad")
        return f"bad {len(asked)}"

    me = office.client(way, token=bad)
    with pytest.raises(client.Unauthorized):
        await soon(me.submit("echo"))
    assert len(asked) == 2
    with pytest.raises(client.Unauthorized):
        async with me.events():
            pass
    assert len(asked) == 3


# Without asyncio


async def test_the_synchronous_client_does_the_same(office: Office) -> None:
    token = office.node.token("sync")

    def work() -> None:
        with client.Client(office.node.http, token) as me:
            job = me.submit("echo", {"value": 1})
            assert job.result(timeout=30) == 1
            assert [progress for progress in job.progress()] == []
            events = me.events(cursor="start")
            event = next(iter(events))
            assert isinstance(event, client.Event)
            assert event.job == job.id
            assert events.cursor == event.cursor
            events.close()
            assert [view.id for view in me.jobs().jobs] == [job.id]
            with pytest.raises(client.JobFailed):
                me.run("failing")
            with pytest.raises(TimeoutError):
                me.submit("gated", {"gate": "sync"}).result(timeout=0.05)
        with pytest.raises(RuntimeError, match="closed"):
            me.submit("echo")

    await soon(asyncio.to_thread(work))


async def test_the_readmes_lines_do_what_they_say(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(client.__file__).parents[1] / "README.md").read_text()
    blocks = [block.replace("http://127.0.0.1:8000", office.node.http) for block in PYTHON.findall(readme)]
    synchronous, asynchronous, endpoint = blocks
    names: dict[str, Any] = {"TOKEN": office.node.token("reader")}
    await soon(asyncio.to_thread(exec, synchronous, names))
    job, *progress, result = capsys.readouterr().out.splitlines()
    assert re.fullmatch("[0-9A-Z]{26}", job)
    assert set(progress) <= {"10% three queries are running"}
    assert result == "{'count': 999500}"
    code = compile(asynchronous, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await soon(eval(code, names))
    counts, first = capsys.readouterr().out.splitlines()
    assert counts == "[999990, 999980]"
    assert first.startswith("job.succeeded user:reader@")
    with client.Client(office.node.http, names["TOKEN"]) as me:
        await soon(asyncio.to_thread(exec, endpoint, names | {"client": me}))


async def test_the_readmes_first_example_is_about_ten_lines() -> None:
    readme = (Path(client.__file__).parents[1] / "README.md").read_text()
    assert len([line for line in PYTHON.findall(readme)[0].splitlines() if line]) <= 10
