"""Whatever comes as text is checked at the door: nothing that is sent is an error of ours, or felt by others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated, Any, TypeVar
from urllib.parse import quote_from_bytes

import click
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pushsvc import Service, Settings
from pushsvc.cli import commands
from pushsvc.domain import JobStatus, Outcome
from pushsvc.errors import BadRequest, PushsvcError, RequestError, SettingsError

from ..conftest import SECRET
from .node import Node, serving

T = TypeVar("T")

quick = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))

# What is sent

ODD = [
    "",
    "\x00",
    "a\x00b",
    "a\ud800",
    "\udfff",
    "a\nb",
    "a\rb\n\nid: 1",
    "\x7f",
    "\x85",
    "\u2028",
    "x" * 201,
    "x" * 5000,
    "user:a\ud800",
    "group:\x00",
    "job:\x00",
    "user:bob",
    "job:01J9ZZ8QG5V0000000000000AB",
    "group:%00",
    "group:ops@k1.1,group:ops@k1.1",
    "group:ops@k1.999999999999999999",
    "evt_01J9ZZ8QG5V0000000000000AB_999999999",
    "1e400",
    "nan",
    "-1",
    "9" * 400,
    "²",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1969-12-31T23:59:59Z",
    "http://[::1",
    "https://\ud800/",
    "é",
    "🛫",
]
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=[]), max_size=30)
scalars = (
    texts
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**63, -(2**63) - 1, 10**300])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
RAW = [
    "1e400",
    "-1e999999999",
    "9" * 400,
    "9" * 5000,
    "[" * 150 + "]" * 150,
    "[" * 100_000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '{"n":1,"n":2}',
    "NaN",
    "-Infinity",
    '"\\u0000"',
    '"\\ud800"',
    '"\\ud800\\udc00"',
]
raw = st.sampled_from(RAW) | st.sampled_from(ODD).map(json.dumps) | values.map(json.dumps)


# Where it is sent to


class Door:
    """A node in a thread of its own, with a subscriber who has nothing to do with what is sent."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self.loop = loop
        self.token = node.token(channels=["group:ops"])
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=node.http, headers=headers, timeout=30)
        self.open = ExitStack()
        self.bystander = self.open.enter_context(self.greeted("bystander"))
        self.heard = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def socket(self) -> ClientConnection:
        return connect(self.node.ws, compression=None, max_size=None)

    @contextmanager
    def greeted(self, sub: str) -> Iterator[ClientConnection]:
        with self.socket() as socket:
            token = self.node.token(sub, channels=["group:ops"])
            socket.send(json.dumps({"id": 1, "op": "hello", "token": token, "channels": ["group:ops"]}))
            assert "ok" in json.loads(socket.recv(30))
            yield socket

    def still_serves(self) -> None:
        """Who was there hears, and so does who comes."""
        self.heard += 1
        with self.greeted(f"newcomer {self.heard}") as newcomer:
            self.run(self.node.service.publish("group:ops", "still.there", self.heard))
            for socket in (self.bystander, newcomer):
                frame: Any = {}
                while frame.get("op") != "event" or frame["event"]["data"] != self.heard:
                    frame = json.loads(socket.recv(30))


def stumbles(number: int) -> int:
    return 1 // number


def offered(settings: Settings) -> Service:
    service = Service(settings=settings)

    @service.job
    async def echo(value: Any = None, number: float = 0.0, count: int = 0) -> Any:
        return value

    @service.job(name="longest", retention="36500d", timeout="36500d", max_attempts=1000)
    async def longest() -> None: ...

    @service.job
    async def checked(number: Annotated[int, AfterValidator(stumbles)]) -> None: ...

    return service


@pytest.fixture(scope="module")
def door(shared_settings: Settings) -> Iterator[Door]:
    wide = shared_settings.model_copy(update={"rate_limit": 1e9, "device_limit": 10**6, "wait_limit": 0.05})
    started: list[Door] = []
    up, done = threading.Event(), threading.Event()

    async def live() -> None:
        async with serving(wide, service=offered(wide)) as node:
            loop = asyncio.get_running_loop()
            started.append(await loop.run_in_executor(None, Door, node, loop))
            up.set()
            await loop.run_in_executor(None, done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert up.wait(60)
        yield started[0]
    finally:
        if started:
            started[0].http.close()
            started[0].open.close()
        done.set()
        thread.join(60)


@pytest.fixture(autouse=True)
def _still_there(door: Door) -> Iterator[None]:
    yield
    door.still_serves()


def encoded(text: str) -> str:
    """As a client that knows nothing of Unicode might put it into a URL."""
    return quote_from_bytes(text.encode("utf-8", "surrogatepass"))


def header(text: str) -> bytes:
    """As much of it as a header can hold: HTTP itself refuses ASCII's control characters."""
    data = text.encode("utf-8", "surrogatepass")[:2000]
    return bytes(byte for byte in data if byte >= 32 and byte != 127).strip() or b"x"


# HTTP


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs?job={}",
        "/v1/jobs?status={}",
        "/v1/jobs?after={}&limit={}",
        "/v1/jobs/{}",
        "/v1/jobs/{}/result",
        "/v1/events?wait=0&channels={}",
        "/v1/events?wait=0&cursor={}",
        "/v1/events?wait=0&device={}",
        "/v1/events?wait={}&limit={}&cursor=start",
        "/v1/events/stream?channels=job:{}",
        "/v1/events?wait=0&ticket={}",
        "/v1/webhooks?job={}&after={}",
        "/v1/webhooks?status={}",
        "/v1/webhooks/{}",
    ],
)
@quick
@given(text=texts)
def test_whatever_a_url_says_is_answered_or_refused(door: Door, path: str, text: str) -> None:
    answer = door.http.get(path.replace("{}", encoded(text)))
    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "name", ["Authorization", "Idempotency-Key", "Prefer", "Last-Event-ID", "If-None-Match", "Origin", "Accept"]
)
@quick
@given(text=texts)
def test_whatever_a_header_says_is_answered_or_refused(door: Door, name: str, text: str) -> None:
    method, path = {
        "Idempotency-Key": ("POST", "/v1/jobs"),
        "Prefer": ("POST", "/v1/jobs"),
        "Last-Event-ID": ("HEAD", "/v1/events/stream"),
    }.get(name, ("GET", "/v1/jobs"))
    body = None
    if method == "POST":
        body = {"job": "echo"}
    value = b"Bearer " + header(text) if name == "Authorization" else header(text)
    answer = door.http.request(method, path, json=body, headers=[(name.encode(), value)])
    assert answer.status_code < 500, answer.text


@quick
@given(
    member=st.sampled_from(
        ["job", "params", "channels", "callback_url", "run_at", "deadline", "number", "count", "new"]
    ),
    value=raw,
    where=texts,
)
def test_whatever_a_submission_says_is_accepted_or_refused(door: Door, member: str, value: str, where: str) -> None:
    plain = {"job": '"echo"', "params": "{}"}
    if member in ("number", "count"):
        plain["params"] = f'{{"{member}":{value}}}'
    elif member == "new":
        plain["params"] = f'{{{json.dumps(where)}:1,"value":{value}}}'
    else:
        plain[member] = f"[{value}]" if member == "channels" else value
    body = "{" + ",".join(f'"{name}":{text}' for name, text in plain.items()) + "}"
    answer = door.http.post("/v1/jobs", content=body.encode("utf-8", "surrogatepass"))
    assert answer.status_code < 500, answer.text
    if answer.status_code == 202:
        # What was accepted can be read again, by whatever way.
        seen = door.http.get(answer.headers["location"])
        assert (seen.status_code, seen.json()["id"]) == (200, answer.json()["id"])


@quick
@given(value=raw)
def test_what_a_job_is_given_is_what_was_sent(door: Door, value: str) -> None:
    """Nothing on its way becomes null, or something like it."""
    answer = door.http.post("/v1/jobs", content=f'{{"job":"echo","params":{{"value":{value}}}}}'.encode())
    assert answer.status_code in (202, 400, 422), answer.text
    if answer.status_code == 202:
        spec = door.node.service.jobs.get("echo")
        rows = door.run(
            door.node.service.parts.postgres.fetch(
                "SELECT params FROM pushsvc.jobs WHERE id = $1", answer.json()["id"]
            )
        )
        assert spec.arguments(rows[0]["params"])["value"] == json.loads(value)


@pytest.mark.parametrize("value", ["1e400", "[1e400]", '{"a":1,"a":2}', "9" * 5000, "[" * 300 + "]" * 300])
def test_what_readers_of_json_differ_about_is_refused(door: Door, value: str) -> None:
    body = f'{{"job":"echo","params":{{"value":{value}}}}}'
    assert door.http.post("/v1/jobs", content=body).status_code == 400


@pytest.mark.parametrize("member", ["run_at", "deadline"])
@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z", "1969-12-31T00:00:00Z"],
)
def test_the_ends_of_time_are_refused(door: Door, member: str, moment: str) -> None:
    answer = door.http.post("/v1/jobs", json={"job": "echo", member: moment})
    assert answer.status_code == 400
    assert member in answer.json()["detail"]


@pytest.mark.parametrize(
    "moments", [{}, {"run_at": "9000-12-31T23:59:59Z"}, {"deadline": "9000-12-31T23:59:59+14:00"}]
)
def test_the_most_that_is_allowed_is_held_by_whatever_has_to_hold_it(door: Door, moments: dict[str, str]) -> None:
    answer = door.http.post("/v1/jobs", json={"job": "longest", **moments})
    assert answer.status_code == 202, answer.text
    store = door.node.service.parts.store
    started = door.run(store.start([answer.json()["id"]], "w", 60))
    for claim in started.values():
        assert door.run(store.finish(Outcome(claim.job.id, claim.job.version, JobStatus.SUCCEEDED, result=b"1")))
    assert len(started) == ("run_at" not in moments)
    seen = door.http.get(answer.headers["location"]).json()
    assert seen["status"] == ("queued" if "run_at" in moments else "succeeded")
    assert door.http.get("/v1/jobs").status_code == 200
    door.run(door.node.service.publish("group:ops", "long.lived", 1, retention="36500d"))


@pytest.mark.parametrize("frame", [{"op": "submit", "job": "echo", "key": "\x00"}, {"op": "submit", "job": "\x00"}])
def test_a_frame_with_a_nul_is_answered_and_the_socket_stays(door: Door, frame: dict[str, Any]) -> None:
    with door.greeted("me") as socket:
        socket.send(json.dumps({"id": 2, **frame}))
        answer = json.loads(socket.recv(30))
        assert (answer["id"], answer["error"]["code"]) == (2, "bad_frame")
        socket.send(json.dumps({"id": 3, "op": "submit", "job": "echo"}))
        assert "ok" in json.loads(socket.recv(30))


@quick
@given(path=st.sampled_from(["/v1/ack", "/v1/webhooks/endpoints/enable", "/v1/jobs"]), text=raw, other=raw)
def test_whatever_a_body_says_is_answered_or_refused(door: Door, path: str, text: str, other: str) -> None:
    for body in (text, f'{{"cursor":{text},"device":{other}}}', f'{{"url":{text}}}', f'{{"job":{text}}}'):
        assert door.http.post(path, content=body).status_code < 500


BAD_PROBLEMS = ["NaN", "{", "[]", '{"status":NaN}', '{"status":7,"code":"x"}', '{"type":1,"status":"a"}', '"text"']


@pytest.mark.parametrize("stored", BAD_PROBLEMS)
def test_a_problem_that_was_stored_as_it_should_not_breaks_no_list_and_no_stream(door: Door, stored: str) -> None:
    answer = door.http.post("/v1/jobs", json={"job": "echo"})
    job, cursor = answer.json()["id"], answer.json()["cursor"]
    postgres = door.node.service.parts.postgres
    rows = door.run(door.node.service.parts.store.start([job], "w", 60))
    version = rows[job].job.version
    ended = Outcome(rows[job].job.id, version, JobStatus.FAILED, error=stored)
    assert door.run(door.node.service.parts.store.finish(ended)) is not None
    assert door.run(postgres.fetch("SELECT error FROM pushsvc.jobs WHERE id = $1", job))[0]["error"] == stored
    assert door.http.get("/v1/jobs").json()["jobs"][0]["error"]["status"] == 500
    assert door.http.get(f"/v1/jobs/{job}").json()["error"]["code"]
    assert door.http.get(f"/v1/jobs/{job}/result").status_code == 500
    heard = door.http.get("/v1/events", params={"wait": 0, "cursor": cursor}).json()["events"]
    assert heard[-1]["event"]["error"]["status"] == 500


def test_a_check_of_the_authors_that_fails_is_told_as_such_and_the_socket_stays(door: Door) -> None:
    answer = door.http.post("/v1/jobs", json={"job": "checked", "params": {"number": 0}})
    assert answer.status_code == 500
    assert answer.json()["error"] == "ZeroDivisionError"
    assert answer.json()["error_id"]
    with door.greeted("me") as socket:
        socket.send(json.dumps({"id": 2, "op": "submit", "job": "checked", "params": {"number": 0}}))
        assert json.loads(socket.recv(30))["error"]["code"] == "internal"
        socket.send(json.dumps({"id": 3, "op": "submit", "job": "checked", "params": {"number": 1}}))
        assert "ok" in json.loads(socket.recv(30))


# Tokens


def signed(claims: dict[str, Any]) -> str:
    """Signed as an issuer might that checks nothing."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mark = hmac.digest(SECRET.encode(), body.encode(), hashlib.sha256)
    return f"{body}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


@quick
@given(claim=st.sampled_from(["sub", "tenant", "channels", "scope", "jti", "iat", "exp", "nbf"]), value=values)
def test_whatever_a_signed_token_claims_is_believed_or_refused(door: Door, claim: str, value: Any) -> None:
    token = signed({"sub": "me", "exp": int(time.time()) + 60, claim: value})
    headers = {"Authorization": f"Bearer {token}"}
    for method, path in (("GET", "/v1/jobs"), ("GET", "/v1/events?wait=0"), ("POST", "/v1/tickets")):
        assert door.http.request(method, path, headers=headers).status_code < 500
    told = said(door, [{"id": 1, "op": "hello", "token": token}, {"id": 2, "op": "submit", "job": "echo"}])
    assert told != 4000


@pytest.mark.parametrize("claim", ["sub", "tenant", "channels", "scope", "jti"])
@pytest.mark.parametrize("odd", ["a\ud800", "\x00", "a\nb"])
def test_a_name_in_a_token_that_could_not_be_encoded_or_stored_is_refused(door: Door, claim: str, odd: str) -> None:
    value: Any = [f"group:{odd}"] if claim == "channels" else [odd] if claim == "scope" else odd
    token = signed({"sub": "me", "exp": int(time.time()) + 60, claim: value})
    assert door.http.get("/v1/events?wait=0", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_no_token_opens_anothers_inbox_or_job_whatever_it_names(door: Door) -> None:
    """Other issuers may name what they like: groups only count."""
    bob = {"Authorization": f"Bearer {door.node.token('bob')}"}
    job = door.http.post("/v1/jobs", json={"job": "echo"}, headers=bob).json()["id"]
    token = signed(
        {
            "sub": "alice",
            "exp": int(time.time()) + 60,
            "channels": ["user:bob", f"job:{job}", "group:ops", "user:alice"],
        }
    )
    alice = {"Authorization": f"Bearer {token}"}
    for path in ("/v1/events?wait=0&channels=", "/v1/events/stream?channels="):
        assert door.http.get(path + "user:bob", headers=alice).status_code == 403
        assert door.http.get(f"{path}job:{job}", headers=alice).status_code == 404
    assert door.http.get("/v1/events?wait=0&channels=group:ops,user:alice", headers=alice).status_code == 200
    ack = {"cursor": "user:bob@k1.1", "device": "d"}
    assert door.http.post("/v1/ack", json=ack, headers=alice).status_code == 403
    ticket = door.http.post("/v1/tickets", headers=alice).json()["ticket"]
    shown = {"Authorization": ""}
    assert door.http.get(f"/v1/events?wait=0&channels=user:bob&ticket={ticket}", headers=shown).status_code in (
        401,
        403,
    )
    with door.socket() as socket:
        for number, channel in enumerate(["user:bob", f"job:{job}"], 2):
            if number == 2:
                socket.send(json.dumps({"id": 1, "op": "hello", "token": token}))
                assert "ok" in json.loads(socket.recv(30))
            socket.send(json.dumps({"id": number, "op": "subscribe", "channels": [channel]}))
            assert json.loads(socket.recv(30))["error"]["code"] in ("forbidden", "not_found")


# Sockets


def said(door: Door, frames: list[Any]) -> int | None:
    """Say these, texts as they are; the code by which the socket was closed, if it was."""
    with suppress(InvalidStatus), door.socket() as socket:
        try:
            for frame in frames:
                socket.send(frame if isinstance(frame, str) else json.dumps(frame))
                while "op" in json.loads(socket.recv(30)):
                    pass
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None
    return None


@quick
@given(
    op=st.sampled_from(["hello", "subscribe", "unsubscribe", "ack", "refresh", "submit", "nothing"]),
    member=st.sampled_from(["id", "token", "device", "channels", "cursor", "job", "params", "key", "op", "other"]),
    value=values,
)
def test_whatever_a_frame_says_is_answered_or_refused(door: Door, op: str, member: str, value: Any) -> None:
    hello = {"id": 1, "op": "hello", "token": door.token, "device": "d"}
    whole = {"channels": ["group:ops"], "cursor": "start", "job": "echo", "token": door.token}
    odd = {"id": 2, "op": op, **whole, member: [value] if member == "channels" else value}
    assert said(door, [hello, odd] if op != "hello" else [odd]) != 4000


@quick
@given(text=raw)
def test_whatever_a_frame_is_made_of_is_answered_or_refused(door: Door, text: str) -> None:
    hello = {"id": 1, "op": "hello", "token": door.token}
    params = f'{{"id":2,"op":"submit","job":"echo","params":{{"value":{text}}}}}'
    assert said(door, [hello, text]) != 4000
    assert said(door, [hello, params]) != 4000


# An app's own calls


@quick
@given(member=st.sampled_from(["channel", "type", "data", "tenant", "key", "retention"]), value=values | st.floats())
def test_whatever_an_app_publishes_is_logged_or_refused(door: Door, member: str, value: Any) -> None:
    call = {"channel": "group:fuzz", "type": "a.b", "data": 1, "tenant": "default", "key": None, "retention": "1h"}
    with suppress(RequestError):
        door.run(door.node.service.publish(**{**call, member: value}))


@quick
@given(member=st.sampled_from(["sub", "tenant", "channels", "scope", "ttl"]), value=values | st.floats())
def test_whatever_a_token_is_asked_for_is_good_or_refused(door: Door, member: str, value: Any) -> None:
    if member in ("channels", "scope"):
        value = [value]
    try:
        token = door.node.service.token(**{"sub": "me", member: value})
    except BadRequest:
        return
    assert door.http.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code < 500


@quick
@given(sub=texts, tenant=texts)
def test_whatever_is_revoked_is_revoked_or_refused(door: Door, sub: str, tenant: str) -> None:
    with suppress(RequestError):
        door.run(door.node.service.revoke(sub, tenant=f"t{tenant}"))


@quick
@given(name=texts, url=texts)
def test_whatever_a_service_is_told_is_taken_or_refused(name: str, url: str) -> None:
    with suppress(SettingsError):
        Service(settings=Settings.from_env({}), databases={name: url})
    with suppress(SettingsError):
        Service(settings=Settings.from_env({}), callback_url=url)


@pytest.mark.parametrize(
    "options",
    [
        {"retention": math.inf},
        {"retention": math.nan},
        {"retention": 1e300},
        {"retention": "9" * 400},
        {"retention": True},
        {"timeout": math.inf},
        {"timeout": "9999999d"},
        {"max_attempts": 10**9},
        {"max_attempts": math.inf},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"name": "a\ud800"},
    ],
    ids=str,
)
def test_what_postgresql_could_not_hold_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    service = Service(settings=Settings.from_env({}))
    with pytest.raises(SettingsError):
        service.job(**options)(lambda: None)


# The command line


@pytest.mark.parametrize("command", ["token", "webhook-secret"])
@quick
@given(sub=texts, tenant=texts)
def test_whatever_is_typed_is_done_or_refused(
    command: str, sub: str, tenant: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("PUSHSVC_SECRET", SECRET)
    away = ["--data-dir", str(tmp_path_factory.getbasetemp() / "nowhere")]
    told: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text="", **_options: told.append(str(text)))
    run: Callable[..., Any] = commands.main
    try:
        run([command, f"--sub={sub}", f"--tenant={tenant}", *away], standalone_mode=False)
    except PushsvcError as error:
        str(error).encode()
    for line in told:
        line.encode()
