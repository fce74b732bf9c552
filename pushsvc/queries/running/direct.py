"""The short way: what SQLAlchemy has run before goes to the driver without it.

For a tiny query SQLAlchemy takes several times as long as PostgreSQL and the driver together. But all that it
finds out about a statement stays in its cache of compiled ones: the SQL, how values are bound, and how each
column is read, which depends on the types that the server answers with. So it runs the first statement of
each shape itself. The next one of that shape is bound by SQLAlchemy's own code, runs on the connection that
SQLAlchemy has opened (with the codecs that it has set there), and is read by what it found out.

These parts of SQLAlchemy 2.1 are not public; a test pins each:

- `_generate_cache_key` of a statement, `_compiled_cache` of an engine and the form of its keys: to find the
  compiled statement. Without a hit, SQLAlchemy runs the statement.
- `_init_compiled` of an execution context: to bind. It does all that there is to it, such as `IN` lists.
- `_cached_metadata` of a compiled statement, with its `_processors` and `_adapt_to_context`: to read. It is
  there only where SQLAlchemy itself would use it again. `CursorResultMetaData` makes it of a text's columns.
- `_entities` of an ORM statement's `compile_state`, with their `_label_name` and `_extra_entities`, and
  `SimpleResultMetaData`: a Session names values by attributes.
- `_handle_exception_no_connection` of the dialect's connection: to raise what SQLAlchemy raises.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import MutableMapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import CompoundSelect, Row, Select, TextClause, TextualSelect
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine import Dialect, IteratorResult
from sqlalchemy.engine.cursor import CursorResultMetaData
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import immutabledict

from ...errors import QueryError
from ...store import is_lost
from ..asking.statements import has_entities, only_reads

REMEMBERED_TEXTS = 16
"""How many texts that ran on a connection are recognised when they come again."""

_FORMS: Any = (Select, CompoundSelect, TextualSelect, TextClause)
_ANSWERING = re.compile(r"\s*(select|with|values|table)\b(?!.*\binto\b)", re.IGNORECASE | re.DOTALL)
_NO_OPTIONS: immutabledict[str, Any] = immutabledict()

_metadata_of_text: Any = CursorResultMetaData
_GONE_TYPE = re.compile(r"cache lookup failed for type \d+")
_sqlalchemy_log = logging.getLogger("sqlalchemy.engine.Engine")


class Compiled:
    """A statement with its values, ready to run; and how its answer is read.

    What the methods make of the driver's records is equal to what SQLAlchemy makes of them.
    """

    __slots__ = ("_metadata", "_names", "arguments", "context", "sql")

    def __init__(self, context: Any, names: _Names | None = None) -> None:
        self.sql: str = context.statement
        self.arguments: tuple[Any, ...] = context.parameters[0]
        self.context = context
        self._metadata = context.compiled._cached_metadata
        self._names = names

    def answer(self, records: Sequence[asyncpg.Record]) -> list[Any]:
        """The values where one column is selected, else the rows."""
        # How many columns a text has is told by its records only.
        return self.values(records) if records and len(records[0]) == 1 else self.rows(records)

    def rows(self, records: Sequence[asyncpg.Record]) -> list[Row[*tuple[Any, ...]]]:
        """One row for each record."""
        if not records:
            return []
        metadata = self._metadata
        if metadata is None:
            names = records[0].keys()
            metadata = _metadata_of_text(self, [(name, None) for name in names])
        elif self._names is not None:
            metadata = self._names.metadata(self.context.invoked_statement, metadata)
        else:
            # A row can be asked for a value by the very expression that was selected, and these are not those
            # of the statement that SQLAlchemy has compiled.
            metadata = metadata._adapt_to_context(self.context)
        result: IteratorResult[Any] = IteratorResult(metadata, iter(records))
        return list(result.all())

    def values(self, records: Sequence[asyncpg.Record]) -> list[Any]:
        """The first column's values."""
        process = None if self._metadata is None else self._metadata._processors[0]
        if process is None:
            return [record[0] for record in records]
        return [process(record[0]) for record in records]


class _Names:
    """What the ORM calls the values of a row: an attribute's name need not be its column's."""

    def __init__(self, entities: Sequence[Any]) -> None:
        self._labels = [entity._label_name for entity in entities]
        self._found_by = [entity._extra_entities for entity in entities]

    def __len__(self) -> int:
        return len(self._labels)

    def metadata(self, statement: Any, of_core: Any) -> SimpleResultMetaData:
        """Of a statement's rows. They can be asked for a value by its very expressions, too."""
        columns = zip(self._found_by, _columns(statement, len(self)), strict=True)
        return SimpleResultMetaData(
            self._labels, [(*known, column) for known, column in columns], _processors=of_core._processors
        )


def _columns(statement: Any, number: int) -> Sequence[Any]:
    """The expressions that a statement selects; looked for only where a table stands for all its columns."""
    columns: Sequence[Any] = statement._raw_columns
    return columns if len(columns) == number else list(statement.selected_columns)


class Compiler:
    """Knows which statements can go the short way. One for each engine, whose cache it reads."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._dialect: Any = engine.dialect
        self._cache: Any = engine.sync_engine._compiled_cache
        self._nowhere = _Nowhere(engine.dialect)
        # By what SQLAlchemy has compiled, which is the same object for all statements of a shape.
        self._verdicts: MutableMapping[Any, _Verdict] = WeakKeyDictionary()

    def compile(self, statement: Any) -> Compiled | None:
        """The statement with its values, those that are callable called now. None: SQLAlchemy has to run it.

        That is so for what the ORM builds from rows, for what writes or may write, for statements with options,
        also of execution, for any that SQLAlchemy does not cache or finds an error in, while its log of
        statements is on, and for the first one of a shape.
        """
        if not isinstance(statement, _FORMS) or statement.get_execution_options() or statement._with_options:
            return None
        if _sqlalchemy_log.isEnabledFor(logging.INFO):
            return None
        key = statement._generate_cache_key()
        compiled = None if key is None else self._cache.get((self._dialect, key.key, (), False, False))
        if key is None or compiled is None:
            return None
        verdict = self._verdict(compiled, statement)
        if not verdict.plain:
            return None
        try:
            return Compiled(self._bind(compiled, statement, key), verdict.names)
        except Exception:
            # A value is missing or can't be bound: SQLAlchemy finds that too, and says it in its own words.
            return None

    def _verdict(self, compiled: Any, statement: Any) -> _Verdict:
        if compiled._cached_metadata is None and not isinstance(statement, TextClause):
            return _NO
        verdict = self._verdicts.get(compiled)
        if verdict is None:
            self._verdicts[compiled] = verdict = _judge(compiled, statement)
        return verdict

    def _bind(self, compiled: Any, statement: Any, key: Any) -> Any:
        dialect, nowhere = self._dialect, self._nowhere
        return dialect.execution_ctx_cls._init_compiled(
            dialect,
            nowhere,
            nowhere,
            _NO_OPTIONS,
            compiled,
            [],
            statement,
            key.bindparams,
            dialect.CACHE_HIT,
            param_dict=key.params,
        )


class _Nowhere:
    """What SQLAlchemy binds values for in place of a connection, which it only asks for these two."""

    __slots__ = ("dialect",)

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def cursor(self) -> None:
        return None


class _Verdict:
    """Whether a shape's answer is `plain`, and by what names; None: by Core's."""

    __slots__ = ("names", "plain")

    def __init__(self, plain: bool, names: _Names | None = None) -> None:
        self.plain = plain
        self.names = names


_NO = _Verdict(False)


def _judge(compiled: Any, statement: Any) -> _Verdict:
    if not _has_plain_answer(statement):
        return _NO
    entities = getattr(compiled.compile_state, "_entities", None)
    if entities is None:
        return _Verdict(True)
    if compiled.compile_state.compile_options._is_star:
        return _NO
    names = _Names(entities)
    # As it is but for texts of several columns.
    one_each = len(names) == len(compiled._cached_metadata._processors) == len(_columns(statement, len(names)))
    return _Verdict(True, names) if one_each else _NO


def _has_plain_answer(statement: Any) -> bool:
    """Whether the answer is rows of plain values, and asking changes nothing."""
    if has_entities(statement) or not only_reads(statement):
        return False
    text = statement.element if isinstance(statement, TextualSelect) else statement
    # SQLAlchemy refuses to read the rows of what has none, and the driver has an empty list for it.
    return not isinstance(text, TextClause) or _ANSWERING.match(text.text) is not None


_seen: MutableMapping[asyncpg.Connection[Any], deque[str]] = WeakKeyDictionary()


async def fetch(
    connection: asyncpg.Connection[Any], sql: str, arguments: Sequence[Any], *, once: bool = False
) -> list[asyncpg.Record]:
    """The records of the answer. With `once`, nothing of it is kept for another time. Raises asyncpg's errors.

    A statement is run once more where a type of its answer turns out to have changed since this connection
    last saw it: the driver has looked at it anew by then. For a changed table the driver does so itself,
    except in a transaction, which has failed by this. So it is where a text, `DEALLOCATE ALL` or `DISCARD ALL`, has
    had the server forget what was prepared.
    """
    ask = _fetch_unnamed if once else _fetch
    try:
        return await ask(connection, sql, arguments)
    except asyncpg.OutdatedSchemaCacheError:
        return await ask(connection, sql, arguments)
    except asyncpg.InvalidSQLStatementNameError:
        if connection.is_in_transaction():
            raise
        forget_statements(connection)
        return await ask(connection, sql, arguments)
    except asyncpg.InternalServerError as error:
        if _GONE_TYPE.match(str(error)) is None:
            raise
        # A type, such as an enum, was dropped and made anew; what was prepared here still takes the old one.
        _seen.pop(connection, None)
        await connection.reload_schema_state()
        if connection.is_in_transaction():
            raise QueryError(
                "a type was made anew in the database; the transaction has failed by this: repeat it"
            ) from error
        return await ask(connection, sql, arguments)


async def _fetch(connection: asyncpg.Connection[Any], sql: str, arguments: Sequence[Any]) -> list[asyncpg.Record]:
    """A text is prepared for good when it comes the second time.

    Each text has the job's id in it. Most come once: those take PostgreSQL's unnamed statement, which the
    next one replaces. One that comes again is in a loop of its job: it goes to the driver's cache of named
    statements, from where it takes one round trip instead of two; but when it leaves the cache, one more to
    be closed, and it is kept in the server until then.

    An unnamed statement is not used again, though that would save a round trip: whatever else was prepared on
    the connection has replaced it, and would be run in its place. Nor is it parsed again together with its
    second use: the driver would read the answer by the types of the first, and take a changed column's for
    numbers that they are not.
    """
    seen = _seen.get(connection)
    if seen is None:
        _seen[connection] = seen = deque(maxlen=REMEMBERED_TEXTS)
    if sql in seen:
        return await connection.fetch(sql, *arguments)
    records = await _fetch_unnamed(connection, sql, arguments)
    seen.append(sql)
    return records


async def _fetch_unnamed(
    connection: asyncpg.Connection[Any], sql: str, arguments: Sequence[Any]
) -> list[asyncpg.Record]:
    statement = await connection.prepare(sql, name="")
    return await statement.fetch(*arguments)


def forget_statements(connection: asyncpg.Connection[Any]) -> None:
    """The server has forgotten all that was prepared on the connection."""
    _seen.pop(connection, None)
    # There is no public way to have the driver forget them without closing each in the server; a test pins it.
    cast(Any, connection)._mark_stmts_as_closed()


def translate(
    error: Exception, sql: str, arguments: Sequence[Any], dialect: Dialect, *, closed: bool = False
) -> Exception:
    """What SQLAlchemy raises for an error of the driver's: its own, or the same where that is none of the database's.

    `closed` says that the driver has closed the connection.
    """
    dbapi: Any = dialect.dbapi
    try:
        AsyncAdapt_asyncpg_connection._handle_exception_no_connection(dbapi, error)
    except dbapi.Error as adapted:
        translated: Exception = DBAPIError.instance(
            sql,
            tuple(arguments),
            adapted,
            dbapi.Error,
            connection_invalidated=closed or is_lost(error),
            dialect=dialect,
        )
        return translated
    except Exception:
        return error
