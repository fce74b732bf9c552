"""A question: a statement, and what its answer is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .naming import Caller
from .statements import has_entities, only_reads

T = TypeVar("T")


class Question(Generic[T]):
    """A statement, and how its answer is made of the rows.

    `finish` makes the answer of the rows: of the things themselves where the statement selects one entity or
    column, else of Row. What it makes of no rows is the answer to a question that can `never` match, which is
    not asked then. `entities` tells whether the ORM has to build objects. `origin` is where it was asked for, None
    where the stack tells.
    """

    __slots__ = ("entities", "finish", "name", "never", "origin", "statement")

    def __init__(self, name: str, statement: Any, finish: Callable[[list[Any]], T], *, never: bool = False) -> None:
        self.name = name
        self.statement = statement
        self.finish = finish
        self.never = never
        self.entities = has_entities(statement)
        self.origin: Caller | None = None

    def reads_only(self) -> bool:
        """Whether it may run twice: there is no INSERT, UPDATE, DELETE or MERGE in it, nor a text that may be one.

        What a function does that it calls can't be seen from here.
        """
        return only_reads(self.statement)
