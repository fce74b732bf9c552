"""One reading of a question: by which way its rows come."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ..asking.question import Question
from .direct import Compiled, Compiler


class Reading:
    """A question on its way to a connection. `compiled` goes straight to the driver; None: by SQLAlchemy."""

    __slots__ = ("compiled", "question")

    def __init__(self, question: Question[Any], compiler: Compiler) -> None:
        self.question = question
        self.compiled: Compiled | None = None if question.entities else compiler.compile(question.statement)

    def rows(self, connection: Connection) -> list[Any]:
        """The rows, by SQLAlchemy."""
        statement = self.question.statement
        if not self.question.entities:
            result: Any = connection.execute(statement)
            rows = list(result.scalars() if len(result.keys()) == 1 else result)
            connection.rollback()
            return rows
        # A session of its own for each query, as an AsyncSession serves one task at a time.
        with Session(connection, autoflush=False, expire_on_commit=False) as session:
            loaded: Any = session.execute(statement)
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
