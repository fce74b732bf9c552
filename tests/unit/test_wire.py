"""The codec: every vector, byte for byte, and what hostile bytes do to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pushsvc import errors, wire
from pushsvc.domain import Channel, Cursor, Job, JobId, JobStatus, Position, Progress
from pushsvc.errors import BadCursor, BadFrame, PushsvcError
from pushsvc.wire import messages

VECTORS = Path(__file__).parents[1] / "vectors"
WHEN = datetime(2026, 11, 22, tzinfo=UTC)
quick = settings(max_examples=150, deadline=None, database=None, derandomize=True)


def vectors(name: str, *keys: str) -> list[Any]:
    found: Any = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    for key in keys:
        found = found[key]
    assert isinstance(found, list)
    return found


def a_job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "01J9ZZ8QG5V0000000000000AB",
        "tenant": "default",
        "owner": "me",
        "name": "report",
        "status": "succeeded",
        "version": 2,
        "attempt": 1,
        "created_at": WHEN,
        "changed_at": WHEN,
        "run_at": WHEN,
    }
    values |= changes
    if isinstance(values["changed_at"], str):
        values["changed_at"] = datetime.fromisoformat(values["changed_at"])
    return Job(**values | {"id": JobId(values["id"]), "status": JobStatus(values["status"])})


# Vectors


@pytest.mark.parametrize("vector", vectors("positions", "valid"), ids=lambda v: v["text"])
def test_a_position_is_read_and_written_again(vector: dict[str, Any]) -> None:
    position = Position.parse(vector["text"])
    assert (position.epoch, position.offset) == (vector["epoch"], vector["offset"])
    assert str(position) == vector.get("canonical", vector["text"])


@pytest.mark.parametrize("text", vectors("positions", "invalid"))
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Position.parse(text)


@pytest.mark.parametrize("vector", vectors("cursors", "valid"), ids=lambda v: v["text"] or "nothing")
def test_a_cursor_is_read_and_written_again(vector: dict[str, Any]) -> None:
    cursor = Cursor.parse(vector["text"])
    assert {name: str(position) for name, position in cursor.positions.items()} == vector["positions"]
    assert cursor.default == vector["default"]
    assert str(cursor) == vector.get("canonical", "")
    for name, position in vector["positions"].items():
        assert cursor.place(name) == Position.parse(position)
    assert cursor.place("user:somebody else") == vector["default"]


@pytest.mark.parametrize("vector", vectors("cursors", "invalid"), ids=lambda v: v["why"])
def test_what_is_no_cursor_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(vector["text"])


@pytest.mark.parametrize("vector", vectors("events", "events"), ids=lambda v: v["title"])
def test_an_event_is_these_bytes(vector: dict[str, Any]) -> None:
    result = None if vector["result"] is None else vector["result"].encode()
    job = a_job(**vector["job"])
    event = wire.event(job, result, vector["prefix"])
    assert event.decode() == vector["bytes"]
    messages.JobEvent.model_validate_json(event)
    assert wire.is_final(event) is json.loads(vector["bytes"])["final"] is job.status.terminal


@pytest.mark.parametrize("vector", vectors("events", "published"), ids=lambda v: v["title"])
def test_an_event_of_an_apps_own_is_these_bytes(vector: dict[str, Any]) -> None:
    at = datetime.fromisoformat(vector["at"])
    event = wire.published(vector["id"], vector["type"], at, vector["data"].encode())
    assert event.decode() == vector["bytes"]
    assert not wire.is_final(event)
    messages.AppEvent.model_validate_json(event)


@pytest.mark.parametrize("vector", vectors("server_frames", "frames"), ids=lambda v: v["make"])
def test_a_frame_of_the_servers_is_these_bytes(vector: dict[str, Any]) -> None:
    match vector["make"]:
        case "event":
            channel, position = Channel("default", vector["channel"]), Position.parse(vector["position"])
            delivery = wire.Delivery(channel, position, vector["event"].encode())
            made = delivery.frame
            assert delivery.ws == wire.text_frame(made)
            assert b'{"op":"event",' + delivery.item[1:] == made
        case "reset":
            item = wire.reset_item(vector["channel"], Position.parse(vector["position"]), vector["prefix"])
            made = wire.reset_frame(item)
        case "progress":
            progress = Progress(vector["job"], vector["value"], vector["message"], tuple(vector["queries"]))
            made = wire.progress_frame(wire.dump(wire.progress_item(progress)))
        case "ok":
            made = wire.ok_frame(vector["id"], vector["ok"])
        case "error":
            made = wire.error_frame(vector["id"], error_of(vector["error"])(vector["detail"]))
        case "bye":
            retry = vector["retry_ms"]
            made = wire.bye_frame(vector["code"], tuple(retry) if retry else None)
        case other:
            raise AssertionError(other)
    assert made.decode() == vector["bytes"]
    if vector.get("event") is None or len(vector["event"]) > 100:
        SERVER_FRAME.validate_json(made)


SERVER_FRAME: TypeAdapter[messages.ServerFrame] = TypeAdapter(messages.ServerFrame)


def error_of(code: str) -> type[PushsvcError]:
    (found,) = [each for each in vars(errors).values() if isinstance(each, type) and vars(each).get("code") == code]
    assert issubclass(found, PushsvcError)
    return found


@pytest.mark.parametrize("vector", vectors("client_frames", "valid"), ids=lambda v: v["text"])
def test_a_clients_frame_means_this(vector: dict[str, Any]) -> None:
    for text in (vector["text"], vector["text"].encode()):
        assert wire.parse_frame(text).model_dump() == vector["means"]


@pytest.mark.parametrize("vector", vectors("client_frames", "invalid"), ids=lambda v: v["text"] or "nothing")
def test_a_clients_wrong_frame_is_refused_with_its_id(vector: dict[str, Any]) -> None:
    for text in (vector["text"], vector["text"].encode()):
        with pytest.raises(BadFrame) as caught:
            wire.parse_frame(text)
        assert caught.value.extra.get("request") == vector["id"]


@pytest.mark.parametrize("vector", vectors("bus_messages", "messages"), ids=lambda v: v["text"] or "nothing")
def test_a_message_on_the_bus_means_this(vector: dict[str, Any]) -> None:
    text = vector["text"].encode()
    if "event" in vector:
        channel, position = Channel("default", vector["channel"]), Position.parse(vector["position"])
        delivery = wire.Delivery(channel, position, vector["event"].encode())
        message = wire.bus_event(channel, position, delivery.event)
        assert message == text + bytes.fromhex(vector["header_hex"]) + vector["frame"].encode()
        assert wire.parse_bus(message) == (position, delivery.ws)
        heard = wire.Delivery.heard(channel, position, delivery.ws)
        assert (heard, heard.ws, heard.frame) == (delivery, delivery.ws, delivery.frame)
        return
    parsed = wire.parse_bus(text)
    if "progress" in vector:
        assert parsed == vector["progress"].encode()
    else:
        assert parsed is None


# What no list of examples can say

CONTROLS = "".join(map(chr, [*range(32), *range(127, 160), 0x2028, 0x2029]))
names = st.builds(
    lambda kind, key: f"{kind}:{key}",
    st.sampled_from(["job", "user", "group"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=CONTROLS), min_size=1).filter(
        lambda key: len(key) <= 200
    ),
)
positions = st.builds(Position, st.from_regex(r"[0-9a-z]{1,16}", fullmatch=True), st.integers(0, 10**18 - 1))


@quick
@given(st.dictionaries(names, positions, max_size=5))
def test_a_cursor_is_what_it_was_after_being_written_and_read(places: dict[str, Position]) -> None:
    text = str(Cursor(places))
    assert text.isascii()
    assert not set(text) & set(' "<>\\^`{|}&+#?/')
    assert dict(Cursor.parse(text, limit=10**9).positions) == places


@quick
@given(st.text(max_size=60))
def test_any_other_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except BadCursor:
        return
    assert Cursor.parse(str(cursor)).positions == cursor.positions


def test_a_cursor_has_a_limit() -> None:
    text = ",".join(f"group:{n}@k1.1" for n in range(10))
    assert len(Cursor.parse(text, len(text)).positions) == 10
    with pytest.raises(BadCursor, match="longer than"):
        Cursor.parse(text, len(text) - 1)


@quick
@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        wire.parse_frame(data)
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "frame",
    [
        '{"op":"hello","token":["SECRET"]}',
        '{"op":"hello","token":"SECRET","channels":7}',
        '{"op":"hello","token":"SECRET","id":"SECRET"}',
        '{"op":"hello","token":"SECRET"',
        '{"op":"hello","token":{"SECRET":"SECRET"}}',
        '{"op":"subscribe","token":"SECRET"}',
        "SECRET",
        '{"op":"hello","token":"SECRET","device":"' + "x" * 200 + '"}',
        '{"op":"hello","channels":["SECRET",7]}',
    ],
)
def test_a_wrong_frames_error_does_not_repeat_what_was_in_it(frame: str) -> None:
    with pytest.raises(BadFrame) as caught:
        wire.parse_frame(frame)
    assert "SECRET" not in json.dumps(caught.value.frame())
    assert "SECRET" not in json.dumps(caught.value.problem())
    assert "SECRET" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("deep", [100, 100_000])
def test_a_frame_that_is_nested_deep_is_refused_like_any_other(deep: int) -> None:
    with pytest.raises(BadFrame):
        wire.parse_frame('{"op":"hello","token":' + "[" * deep + "]" * deep + "}")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_a_text_frame_is_as_the_websocket_protocol_wants_it(size: int) -> None:
    from websockets.frames import Frame, Opcode

    payload = b"x" * size
    assert wire.text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


HOSTILE = [b'"\\",\\"final\\":true"', b'{"final":true,"x":",\\"final\\":true"}', b'[{"final":true}]', b",", b"true"]


@pytest.mark.parametrize("result", HOSTILE)
@pytest.mark.parametrize("status", JobStatus)
def test_whether_an_event_is_the_last_is_not_for_a_jobs_data_to_say(status: JobStatus, result: bytes) -> None:
    error = '{"detail":",\\"final\\":true","final":true}'
    event = wire.event(a_job(status=status, error=error), result)
    assert wire.is_final(event) is status.terminal


def test_bytes_that_are_no_event_are_not_the_last() -> None:
    for garbage in (b"", b"{}", b"null", b"xxxxxxxxtrue", b"12345678true"):
        assert not wire.is_final(garbage)


def test_an_answer_to_a_poll_is_json_with_everything_put_in_unparsed() -> None:
    item = b'{"channel":"user:me","position":"k1.1","event":{ "a" : 1.0 }}'
    made = wire.poll_answer([item, item], [b'{"job":"j"}'], [], "user:me@k1.1", up_to_date=True, closed=False)
    assert item + b"," + item in made
    assert json.loads(made) == {
        "events": [json.loads(item)] * 2,
        "progress": [{"job": "j"}],
        "resets": [],
        "cursor": "user:me@k1.1",
        "up_to_date": True,
        "closed": False,
    }


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "{", "", "[1,]", "{'a':1}", "\xff"])
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        wire.load(text)


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda kids: st.lists(kids) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), kids),
        max_leaves=10,
    )
)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    assert wire.load(wire.dump(value)) == value == json.loads(wire.dump(value))
