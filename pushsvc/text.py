"""What passes for text at the door. Whatever comes in as text is checked here, once, and by one rule.

Data is valid Unicode that PostgreSQL can hold: no half of a surrogate pair, no NUL. A name (a subject, a channel, a
key, a device) has no control characters and no line breaks besides. Both are bounded.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

NAME = 200
"""Characters of a name, where nothing else is said."""

_UNFIT = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Whether it can be encoded, and stored."""
    return _UNFIT.search(text) is None


def is_name(text: str, most: int = NAME) -> bool:
    """Whether it has 1 to `most` characters, none of them a control character or half of a pair."""
    return 0 < len(text) <= most and _CONTROL.search(text) is None


_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def is_queue(text: str) -> bool:
    """Whether it can be a queue's name."""
    return _QUEUE.fullmatch(text) is not None


def legible(text: str, most: int) -> str:
    """The text as it may be stored, sent and logged: what is not text is escaped, what is beyond `most` bytes is cut.

    For what we can't refuse any more, such as the words of an error.
    """
    # Each character has a byte at least: so much is enough to cut from.
    fit = _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text[: most + 1])
    data = fit.encode()
    if len(data) <= most:
        return fit
    return data[: max(0, most - 3)].decode(errors="ignore") + "…"


def _named(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("control characters are not allowed")
    return text


Name = Annotated[str, Field(min_length=1, max_length=NAME), AfterValidator(_named)]
"""A name, as a pydantic model declares it."""

DeviceName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_named)]
Key = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_named)]
