"""What an author says of an endpoint that may answer later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..domain import DEFAULT_QUEUE
from ..jobs import Priority

Otherwise = Literal["refuse", "run"]


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """`wait`, `timeout`, `retention` and `cache_for` in seconds."""

    wait: float
    timeout: float
    retention: float
    coalesce: bool = False
    cache_for: float = 0.0
    """For how long a fresh answer is given again to an equal request; 0: never."""
    only_if_asked: bool = False
    """Whoever does not ask for less gets the answer itself, however long it takes."""
    otherwise: Otherwise = "refuse"
    """What to do when the service can't take a request: `503`, or run the endpoint in the request."""
    cancel_on_disconnect: bool = False
    repeat: bool = False
    """Whether a method that changes something may be run again when a worker dies."""
    queue: str = DEFAULT_QUEUE
    priority: Priority = "normal"
