"""What the store says of jobs that wait, for whoever puts them on the queue, and by which limits they are started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Waiting(NamedTuple):
    """A job that waits: due in UNIX seconds, `owner` '' for nobody in particular."""

    id: str
    name: str
    due: float
    tenant: str
    owner: str
    queue: str
    priority: int


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs of a name may run at once over all workers, and how many of them for one owner; None for any."""

    name: str
    most: int | None = None
    most_each: int | None = None
