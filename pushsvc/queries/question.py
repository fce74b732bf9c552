"""A question: a statement, and what its answer is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from .direct import Compiled
from .naming import Caller
from .statements import has_entities, only_reads

T = TypeVar("T")


class Question(Generic[T]):
    """A statement, and how its answer is made of the rows.

    `finish` makes the answer of the rows: of the things themselves where the statement selects one entity or
    column, else of Row. What it makes of no rows is the answer to a question that can `never` match, which is
    not asked then. `compiled` is what goes straight to the driver, None where the ORM has to build objects.
    `origin` is where it was asked for, None where the stack tells.
    """

    __slots__ = ("compiled", "entities", "finish", "name", "never", "origin", "statement")

    def __init__(self, name: str, statement: Any, finish: Callable[[list[Any]], T], *, never: bool = False) -> None:
        self.name = name
        self.statement = statement
        self.finish = finish
        self.never = never
        self.entities = has_entities(statement)
        self.compiled: Compiled | None = None
        self.origin: Caller | None = None

    def reads_only(self) -> bool:
        """Whether it may run twice: there is no INSERT, UPDATE, DELETE or MERGE in it, nor a text that may be one.

        What a function does that it calls can't be seen from here.
        """
        return only_reads(self.statement)

    def read(self, connection: Connection) -> list[Any]:
        """The rows, by SQLAlchemy."""
        if not self.entities:
            result: Any = connection.execute(self.statement)
            rows = list(result.scalars() if len(result.keys()) == 1 else result)
            connection.rollback()
            return rows
        # A session of its own for each query, as an AsyncSession serves one task at a time.
        with Session(connection, autoflush=False, expire_on_commit=False) as session:
            loaded: Any = session.execute(self.statement)
            # Its `keys()` leave out what has no name, such as an alias. There is no public way to ask how many
            # things a row has; a test pins this one.
            if len(loaded._metadata._keys) == 1:
                loaded = loaded.scalars()
            # Set by the ORM where a joined eager load has multiplied the rows; reading them is an error then,
            # unless asked to be unique. There is no public way to ask; a test pins it.
            if (getattr(loaded, "_real_result", None) or loaded)._unique_filter_state:
                loaded = loaded.unique()
            rows = list(loaded.all())
            session.expunge_all()
            return rows
