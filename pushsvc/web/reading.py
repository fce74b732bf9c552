"""How a request is read."""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from .. import wire
from ..errors import BadRequest, TooLarge

Model = TypeVar("Model", bound=BaseModel)

JSON = "application/json"
RETRY_AFTER = "1"


def root(request: HTTPConnection) -> str:
    """Where this request found the API: what stands before `/v1` in a link that its sender can follow."""
    return str(request.scope.get("root_path", "")).rstrip("/")


async def read_body(request: Request, model: type[Model], limit: int) -> Model:
    """The JSON body as `model`. Raises TooLarge, BadRequest; nothing of the body is in the message."""
    declared = request.headers.get("content-length", "")
    if _DIGITS.fullmatch(declared) and int(declared) > limit:
        raise TooLarge(f"the body may have {limit} bytes")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise TooLarge(f"the body may have {limit} bytes")
    except ClientDisconnect:
        # Nobody reads the answer; but it is the client that went away, and no error of ours.
        raise BadRequest("the request ended before its body did") from None
    try:
        return model.model_validate(wire.read(bytes(data)))
    except ValidationError as error:
        raise BadRequest("the body is not as it should be", errors=wire.mistakes(error)) from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON as it should be: {error}") from None


_DIGITS = re.compile("[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def one_header(request: Request, name: str) -> str | None:
    """A header that may be there once. Raises BadRequest on two of it: which of them counts, nobody can know."""
    found = request.headers.getlist(name)
    if len(found) > 1:
        raise BadRequest(f"there are {len(found)} headers {name}; send one")
    return found[0] if found else None


def query_number(request: Request, name: str, default: float, least: float, most: float) -> float:
    """A number of the query string, cut to `most`. Raises BadRequest when it is none, or below `least`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name} is a number, at least {least:g}")
    value = float(text)
    if value < least:
        raise BadRequest(f"{name} is at least {least:g}")
    return min(value, most)
