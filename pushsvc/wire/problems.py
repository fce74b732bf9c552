"""Problem objects (RFC 9457) as they were stored, whoever wrote them."""

from __future__ import annotations

from typing import Any

from ..errors import JobFailed
from .encoding import dump, load


def problem_of(stored: str) -> dict[str, Any]:
    """What was stored, its four members mended where they are not as they should be."""
    try:
        found = load(stored)
    except ValueError:
        found = None
    whole = JobFailed().problem()
    if not isinstance(found, dict):
        return whole
    status = found.get("status")
    if type(status) is not int or not 400 <= status <= 599:
        found["status"] = whole["status"]
    for name in ("type", "title", "code"):
        if not isinstance(found.get(name), str):
            found[name] = whole[name]
    return found


def problem_bytes(stored: str) -> bytes:
    """The same as JSON: the very bytes that were stored, where they can be sent."""
    problem = problem_of(stored)
    try:
        return stored.encode() if problem == load(stored) else dump(problem)
    except ValueError:
        return dump(problem)
