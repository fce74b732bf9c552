"""The one way from a question to its rows: what a Session gives, and the short way only where nobody could tell."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, CursorResult, Delete, Executable, Update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from ...errors import SettingsError
from ..asking.question import Question
from ..asking.schemas import note
from .direct import Compiled, Compiler
from .listening import Listeners


class Reader:
    """How the questions of one pool are read: by Sessions of this class, the author's own if there is one."""

    def __init__(self, engine: AsyncEngine, session_class: type[Session]) -> None:
        self.session_class = session_class
        self.compiler = Compiler(engine)
        self.listeners = Listeners(engine.sync_engine, session_class)

    def reading(self, question: Question[Any]) -> Reading:
        """The question, ready to be read."""
        short = not question.entities and not self.listeners.any()
        compiled = self.compiler.compile(question.statement) if short else None
        return Reading(question, compiled, self)

    def session(self, connection: Connection, **how: Any) -> Session:
        """A Session of the author's class on this connection."""
        return self.session_class(connection, expire_on_commit=False, **how)

    def execute(self, connection: Connection, statement: Executable, parameters: Any) -> Any:
        """What a connection makes of a statement; a Session, where somebody listens to what Sessions do."""
        if not self.listeners.of_sessions():
            return connection.execute(statement, parameters)
        with self.session(connection, autoflush=False) as session:
            # No objects are here to be changed with their rows.
            how = {"synchronize_session": False} if isinstance(statement, Update | Delete) else {}
            result: Any = session.execute(statement, parameters, execution_options=how)
            if isinstance(result, CursorResult):
                return result
            kept = result.freeze()
            session.expunge_all()
            return kept()


class Reading:
    """A question on its way to a connection. `compiled` goes straight to the driver; None: a Session reads it."""

    __slots__ = ("_reader", "compiled", "question")

    def __init__(self, question: Question[Any], compiled: Compiled | None, reader: Reader) -> None:
        self.question = question
        self.compiled = compiled
        self._reader = reader

    def rows(self, connection: Connection) -> list[Any]:
        """The rows, by a Session: the things themselves where one thing is selected, else Row."""
        # A session of its own for each query, as an AsyncSession serves one task at a time.
        with self._reader.session(connection, autoflush=False) as session:
            result: Any = session.execute(self.question.statement)
            # `keys()` of what the ORM gives leave out what has no name, such as an alias. There is no public way
            # to ask how many things a row has; a test pins this one.
            if getattr(result, "returns_rows", True) and len(result._metadata._keys) == 1:
                result = result.scalars()
            # Set by the ORM where a joined eager load has multiplied the rows; reading them is an error then,
            # unless asked to be unique. There is no public way to ask; a test pins it.
            if (getattr(result, "_real_result", None) or result)._unique_filter_state:
                result = result.unique()
            rows = list(result.all())
            if self.question.entities:
                note(self.question.statement, session.identity_map.all_states())
            session.expunge_all()
            return rows


def check_session_class(session_class: Any) -> type[Session]:
    """Raises SettingsError for what is no class of sessions that can be given a connection."""
    if not (isinstance(session_class, type) and issubclass(session_class, Session)):
        raise SettingsError(
            f"session_class takes a subclass of sqlalchemy.orm.Session, not {session_class!r}: "
            "of a sessionmaker give its `class_`, of an AsyncSession its `sync_session_class`"
        )
    if session_class.get_bind is not Session.get_bind:
        name = session_class.__name__
        raise SettingsError(f"{name}.get_bind chooses databases; here they have names: Service(databases={{…}})")
    return session_class
