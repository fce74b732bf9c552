"""`Prefer` (RFC 7240): what a client would like, and need not get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LONGEST = 1000
"""Characters of all `Prefer` headers, beyond which none of them is read."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD = rf'{_TOKEN}|"(?:[^"\\]|\\.)*"'
_PARAMETER = rf"{_TOKEN}(?:\s*=\s*(?:{_WORD})?)?"
_PREFERENCE = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*({_WORD})?)?(?:\s*;\s*(?:{_PARAMETER})?)*\s*")
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|$))+')
_SECONDS = re.compile("[0-9]{1,9}")


def preferences(headers: Iterable[str]) -> Mapping[str, str]:
    """Each preference, in small letters, and its value. Of several of one name the first counts; what is not
    understood is passed over. Both as the RFC wants it (section 2)."""
    text = ",".join(headers)
    found: dict[str, str] = {}
    for member in _MEMBER.findall(text) if len(text) <= LONGEST else ():
        match = _PREFERENCE.fullmatch(member)
        if match is not None:
            found.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", (match[2] or "").strip('"')))
    return found


def preferred_wait(headers: Iterable[str], most: float) -> float | None:
    """Seconds of `wait=N` (section 4.3), cut to `most`; None where it is not asked for."""
    value = preferences(headers).get("wait", "")
    return min(float(value), most) if _SECONDS.fullmatch(value) else None
