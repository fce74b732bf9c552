"""How long who sent a request would wait (`Prefer`, RFC 7240), and what kind of answer he can take meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import Headers

from .. import wire
from .options import EndpointOptions

Reader = Literal["client", "navigation", "subresource"]
"""A program; a browser that goes to a page; a browser that fetches a part of one, such as an image."""

_PARTS_OF_A_PAGE = (
    "audio",
    "embed",
    "font",
    "image",
    "manifest",
    "object",
    "script",
    "style",
    "track",
    "video",
    "worker",
)


@dataclass(frozen=True, slots=True)
class Preference:
    """`wait` in seconds; `patient`: he waits for the answer itself, however long it takes. `applied` is what the
    answer says of it (`Preference-Applied`)."""

    wait: float
    patient: bool
    applied: str | None
    reader: Reader

    @classmethod
    def of(cls, headers: Headers, options: EndpointOptions, most: float, *, inline: bool) -> Preference:
        """What these headers ask for. `most` is the longest wait. `inline`: nothing can be answered later."""
        reader = reader_of(headers)
        said = headers.getlist("prefer")
        wait = wire.preferred_wait(said, most)
        later = "respond-async" in wire.preferences(said)
        if inline:
            return cls(0.0, True, None, reader)
        applied = [] if wait is None else [f"wait={wait:g}"]
        if later:
            return cls(wait or 0.0, False, ", ".join(["respond-async", *applied]), reader)
        if wait is not None:
            return cls(wait, False, applied[0], reader)
        return cls(options.wait, options.only_if_asked or reader == "subresource", None, reader)


def reader_of(headers: Headers) -> Reader:
    """By what browsers say of themselves (Fetch Metadata), or else by what is accepted."""
    mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest", "")
    if mode == "navigate" or (mode is None and "text/html" in headers.get("accept", "")):
        return "navigation"
    return "subresource" if destination in _PARTS_OF_A_PAGE else "client"
