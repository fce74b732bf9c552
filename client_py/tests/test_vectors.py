"""The vectors that all clients share: what goes over the wire, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pushsvc_client.errors import error_of
from pushsvc_client.wire import (
    Answer,
    Bye,
    Event,
    Position,
    Progress,
    Reset,
    event_of,
    format_cursor,
    frame,
    parse_cursor,
    parse_frame,
)

VECTORS = Path(__file__).parents[2] / "tests" / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


@pytest.mark.parametrize("case", load("cursors")["valid"], ids=lambda case: case["text"][:20])
def test_a_cursor_means_what_the_server_takes_it_for(case: dict[str, Any]) -> None:
    positions = parse_cursor(case["text"])
    assert {name: str(position) for name, position in positions.items()} == case["positions"]
    if positions:
        assert format_cursor(positions) == case["canonical"]


@pytest.mark.parametrize("case", load("cursors")["invalid"], ids=lambda case: case["why"])
def test_a_cursor_that_is_none_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_cursor(case["text"])


def test_positions_are_read_and_others_refused() -> None:
    positions = load("positions")
    for case in positions["valid"]:
        assert Position.parse(case["text"]) == Position(case["epoch"], case["offset"])
    for text in positions["invalid"]:
        with pytest.raises(ValueError):
            Position.parse(text)


@pytest.mark.parametrize("case", load("client_frames")["valid"], ids=lambda case: case["text"].strip()[:40])
def test_a_frame_of_ours_says_what_the_server_understands(case: dict[str, Any]) -> None:
    means = dict(case["means"])
    made = json.loads(frame(means.pop("op"), means.pop("id"), **means))
    defaults: dict[str, Any] = {
        "id": None,
        "token": None,
        "device": None,
        "channels": [],
        "cursor": None,
        "key": None,
        "params": {},
    }
    assert {name: defaults[name] for name in case["means"] if name in defaults} | made == case["means"]


@pytest.mark.parametrize("case", load("server_frames")["frames"], ids=lambda case: case["bytes"][:40])
def test_a_frame_of_the_servers_is_understood(case: dict[str, Any]) -> None:
    heard = parse_frame(case["bytes"])
    match case["make"]:
        case "event":
            event = json.loads(case["event"])
            if event:
                assert isinstance(heard, Event)
                assert (heard.channel, str(heard.position)) == (case["channel"], case["position"])
                assert (heard.id, heard.data) == (event["id"], event["data"])
        case "reset":
            assert isinstance(heard, Reset)
            assert (heard.channel, str(heard.position)) == (case["channel"], case["position"])
            assert all(link.startswith(case["prefix"] + "/v1/") for link in heard.links.values())
        case "progress":
            queries = tuple(case["queries"])
            assert heard == Progress(case["job"], case["value"], case["message"], queries)
        case "ok":
            assert heard == Answer(case["id"], ok=case["ok"])
        case "error":
            assert isinstance(heard, Answer)
            assert heard.ok is None
            error = error_of(heard.error)
            assert (error.code, error.detail) == (case["error"], case["detail"])
            assert heard.error is not None
            assert error.temporary == heard.error["temporary"]
        case "bye":
            retry = case["retry_ms"]
            assert heard == Bye(case["code"], (retry[0] / 1000, retry[1] / 1000) if retry else None)
        case _:
            pytest.fail(f"unknown kind of frame: {case['make']}")


EVENTS = [*load("events")["events"], *load("events")["published"]]


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: case["title"])
def test_an_event_is_read_whole(case: dict[str, Any]) -> None:
    event = json.loads(case["bytes"])
    read = event_of({"channel": "user:me", "position": "k1.1", "event": event})
    assert {name: getattr(read, name) for name in event} == event


def test_frames_and_members_of_later_versions_are_ignored() -> None:
    assert parse_frame('{"op":"invented","x":1}') is None
    assert parse_frame('{"op":"bye","code":4001,"why":"?"}') == Bye(4001)


@pytest.mark.parametrize("text", ["", "null", "[]", '{"op":"event"}', '{"op":"bye"}', '{"op":"reset","channel":1}'])
def test_what_is_no_frame_is_an_error_that_is_known(text: str) -> None:
    with pytest.raises(ValueError):
        parse_frame(text)
