"""Trying one case on one server, and judging what it said."""

from __future__ import annotations

import json
from dataclasses import replace

from .websocket_cases import Case
from .websocket_client import BINARY, TEXT, Heard, close_frame, frame, segments, shaken


def refusing_binary(case: Case) -> Case:
    """What the case demands of a server that takes text only: the first binary message is refused with 1003."""
    for number, (opcode, _) in enumerate(case.messages):
        if opcode == BINARY:
            codes = frozenset({1003}) | (case.codes or frozenset())
            return replace(case, messages=case.messages[:number], codes=codes)
    return case


def as_frames(case: Case) -> Case:
    """What the case demands of `pushsvc.v1`: its texts are no frames, and each is answered with an error."""
    case = refusing_binary(case)
    return replace(case, messages=((TEXT, b"bad_frame"),) * len(case.messages))


def error_codes(heard: Heard) -> Heard:
    """With each error frame as its code."""
    codes = [json.loads(data).get("error", {}).get("code", "no error") for _, data in heard.messages]
    return replace(heard, messages=[(TEXT, code.encode()) for code in codes])


def hello(token: str, **more: object) -> bytes:
    return frame(TEXT, json.dumps({"id": 1, "op": "hello", "token": token, **more}).encode())


async def tried(case: Case, port: int, way: str, greeting: bytes = b"") -> Heard:
    """What a server says to the case, up to the connection's end: our own Close, if the case has none."""
    line = await shaken(port)
    if greeting:
        await line.write(greeting)
        assert await line.until(messages=1)
        assert b'"ok"' in line.heard.messages.pop()[1]
    await line.write(*segments(case.sends, way))
    if case.codes is None:
        await line.until(len(case.messages), len(case.pongs))
        await line.write(close_frame(1000))
    await line.until_end()
    line.transport.abort()
    return line.heard


def faults_of(case: Case, heard: Heard, *, strict: bool) -> list[str]:
    """What was wrong. Not `strict`: what had not been answered when the connection ended may stay so."""
    faults = list(heard.wrong)
    if case.tolerated and (heard.messages, heard.pongs, heard.code) == ([], [], 1002):
        return faults
    exact = strict or case.codes is None
    messages = list(case.messages if exact else case.messages[: len(heard.messages)])
    if heard.messages != messages:
        faults.append(f"messages {heard.messages!r:.80} for {messages!r:.80}")
    if heard.pongs != list(case.pongs):
        faults.append(f"pongs {heard.pongs!r:.80} for {case.pongs!r:.80}")
    if not heard.ended:
        faults.append("the connection goes on")
    elif heard.code not in (case.codes or {1000}):
        faults.append(f"close code {heard.code} for {sorted(case.codes or {1000})}")
    return faults
