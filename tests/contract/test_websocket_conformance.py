"""RFC 6455 to the letter: our uvicorn protocol beside uvicorn's own, byte by byte, in every cut of TCP segments.

Asked for was no failure that uvicorn's own class does not have; ours is held to none at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from websockets.frames import Frame, Opcode

from pushsvc import wire
from pushsvc.settings import Settings

from .node import serving
from .websocket_cases import CASES, GROUPS, MESSAGE_LIMIT, STOCK_FAILS, Case
from .websocket_client import TEXT, WAYS, Heard
from .websocket_echo import ECHOES, echoing
from .websocket_trial import as_frames, error_codes, faults_of, hello, refusing_binary, tried

CUT_LIMIT = 3000
"""Bytes of a case that is sent byte by byte."""

Faults = dict[str, list[str]]
"""By group; each names its case and the way its frames were cut."""


def ways_of(server: str, case: Case) -> list[str]:
    """Large cases are cut as they are; only ours with a session needs the whole table in each way."""
    if case.size > CUT_LIMIT:
        return [] if server == "plain" else ["frames", "merged"] if len(case.sends) > 50 else ["frames"]
    if server == "plain":
        return ["merged"]
    return [way for way in WAYS if way != "bytes" or server == "direct" or case.group != "6"]


async def together(trials: list[Coroutine[Any, Any, None]], at_a_time: int = 150) -> None:
    places = asyncio.Semaphore(at_a_time)

    async def one(trial: Coroutine[Any, Any, None]) -> None:
        async with places:
            await trial

    await asyncio.gather(*(one(trial) for trial in trials))


async def examined(server: str) -> Faults:
    """Every case, in every way."""
    found: Faults = {group: [] for group in GROUPS}
    kind = ECHOES[server]

    async def one(case: Case, way: str) -> None:
        demanded = refusing_binary(case) if kind.text_only else case
        faults = faults_of(demanded, await tried(demanded, port, way), strict=server == "direct")
        found[case.group] += [f"{case.id} {way}: {fault}" for fault in faults]

    async with echoing(kind, MESSAGE_LIMIT) as (port, _):
        await together([one(case, way) for case in CASES for way in ways_of(server, case)])
    return found


class _Errors(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


@pytest.fixture(scope="module")
def faults() -> dict[str, Faults]:
    """Of every server; ours log no error at all."""
    found: dict[str, Faults] = {}
    for server in ECHOES:
        errors: list[str] = []
        handler = _Errors(errors)
        logging.getLogger().addHandler(handler)
        # A traceback for each text that is not UTF-8 would take longer than the cases.
        logging.disable(logging.CRITICAL if server == "stock" else logging.NOTSET)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found[server] = runner.run(examined(server))
        finally:
            logging.disable(logging.NOTSET)
            logging.getLogger().removeHandler(handler)
        found[server]["log"] = errors
    return found


@pytest.mark.parametrize("group", [*GROUPS, "log"])
@pytest.mark.parametrize("server", ["direct", "plain"])
def test_ours_does_what_the_rfc_demands(faults: dict[str, Faults], server: str, group: str) -> None:
    assert faults[server][group] == []


def test_uvicorns_own_does_too_but_for_what_is_known(faults: dict[str, Faults]) -> None:
    """Else the table asks for more than the RFC does."""
    unknown = [
        fault for found in faults["stock"].values() for fault in found if fault.split(" ")[0] not in STOCK_FAILS
    ]
    assert unknown == []


async def test_the_real_endpoint_does_what_the_rfc_demands_over_both_socket_classes(settings: Settings) -> None:
    """After hello, on one table: what is no frame is answered with an error, and what is no WebSocket fails."""
    limits = {"frame_limit": 65_536, "connection_limit": 10_000, "rate_limit": 1e9}
    cases = [case for case in CASES if case.group != "9" and case.size < 70_000]
    found: Faults = {"direct": [], "asgi": []}

    async def one(ws: str, port: int, case: Case, greeting: bytes, way: str) -> None:
        demanded = as_frames(case)
        heard = error_codes(await tried(demanded, port, way, greeting))
        if ws == "direct" or case.id not in STOCK_FAILS:
            found[ws] += [f"{case.id} {way}: {fault}" for fault in faults_of(demanded, heard, strict=False)]

    changed = settings.model_copy(update=limits)
    logging.disable(logging.CRITICAL)
    try:
        async with serving(changed, "direct") as direct, serving(changed, "asgi") as asgi:
            trials = []
            for ws, node in (("direct", direct), ("asgi", asgi)):
                greeting = hello(node.token())
                for number, case in enumerate(cases):
                    trials.append(one(ws, node.port, case, greeting, WAYS[0] if number % 2 else WAYS[2]))
            await together(trials, at_a_time=40)
            for node in (direct, asgi):
                node.server.should_exit = True
    finally:
        logging.disable(logging.NOTSET)
    assert found == {"direct": [], "asgi": []}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_the_frames_that_are_shared_have_the_right_header(size: int) -> None:
    """They are encoded without the library that encodes all others."""
    payload = b"x" * size
    shared = wire.text_frame(payload)
    assert shared == Frame(Opcode.TEXT, payload).serialize(mask=False)
    heard = Heard(head=b"HTTP/1.1 101 Switching Protocols")
    heard.feed(shared)
    assert (heard.messages, heard.wrong) == ([(TEXT, payload)], [])
