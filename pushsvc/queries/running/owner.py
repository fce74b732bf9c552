"""Whose a query is: what a job's queries and transactions have in common on their way."""

from __future__ import annotations

from dataclasses import dataclass, field

from .comment import SqlComment
from .pg_settings import PgSettings


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """One job's handle on a database, by identity: two of one `name` take turns as one, and share nothing else.

    `name` has turns on the executor and a place in the foreground. `comment` goes into the SQL of all that it
    asks. `settings` hold for all of it.
    """

    name: str
    comment: SqlComment
    settings: PgSettings | None = None
    awaited: set[object] = field(default_factory=set)
    """Its queries that somebody awaits, and that have not settled."""
