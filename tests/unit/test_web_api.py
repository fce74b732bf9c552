"""What a request says: its body."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import Request

from pushsvc.errors import BadRequest, TooLarge
from pushsvc.web.reading import read_body


class Asked(BaseModel):
    word: str


def request(*messages: dict[str, Any]) -> Request:
    """A POST of which these messages come."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_is_read_in_whatever_parts_it_comes() -> None:
    asked = await read_body(request(part(b'{"word"', more=True), part(b':"now"}', more=False)), Asked, 20)
    assert asked == Asked(word="now")


async def test_a_client_that_goes_away_within_its_body_is_no_error_of_ours() -> None:
    """It would be logged with a traceback otherwise."""
    with pytest.raises(BadRequest, match="ended before"):
        await read_body(request(part(b'{"word"', more=True), {"type": "http.disconnect"}), Asked, 20)


async def test_a_body_over_the_limit_is_refused_as_soon_as_it_is_seen() -> None:
    """Nothing more of it is taken in."""
    with pytest.raises(TooLarge):
        await read_body(request(part(b"x" * 21, more=True)), Asked, 20)
