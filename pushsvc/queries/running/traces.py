"""What a statement may leave on its connection when it has run, and how a connection is freed of it.

A connection serves one job after another. Most statements leave nothing there: a SELECT of tables, columns and
PostgreSQL's own functions. But `SET`, `LISTEN`, a temporary table, a session's advisory lock or a function that calls
`set_config` stay, and the next job would have them. Nobody can see that from the outside. So it is the other
way round: a statement leaves nothing only if each of its words is known to be harmless, and a connection that ran
any other is reset before it serves another owner.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import TextClause, TextualSelect

RESET = """RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SELECT pg_catalog.pg_advisory_unlock_all();
CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; DEALLOCATE ALL;
SELECT pg_catalog.setseed(('x' || pg_catalog.left(pg_catalog.gen_random_uuid()::text, 8))::bit(32)::int / 2.0 ^ 31)"""
"""Frees a connection of whatever was left on it, in one round trip.

`RESET ALL` leaves the role as it is. `DISCARD ALL` can't be sent together with other commands. `setseed` undoes
another `setseed`: from a known seed, `random()` gives known numbers.
"""

ENDING = re.compile(
    r"(?>\s|;|--[^\n]*\n|/\*.*?\*/)*+"
    r"(?:commit|end|abort|prepare\s+transaction|rollback(?!(?:\s+(?:work|transaction))?\s+to\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""How a text begins that ends a transaction."""

KNOWN_FOR = 60.0
"""Seconds for which what the server has said about a word is believed: somebody may put a view in a table's place."""

KNOWN_WORDS = 10_000
"""How many words are known at most."""

Words = frozenset[str]

_TOKEN = re.compile(
    r"""\s+ | '(?:[^'\\]|'')*' | "(?P<quoted>(?:[^"]|"")+)" | (?P<word>[^\W\d][\w$]*)(?!['"&])
    | \$?[\d.]+(?:e[+-]?\d+)? | (?!--|/\*) (?P<operator>[-+*/<>=~!@\#%^&|`?]+) | [.,():\[\]]""",
    re.VERBOSE,
)
_WRITING = frozenset({"insert", "update", "delete", "merge", "into"})
_READING = frozenset({"select", "with", "values"})

_NAME_BYTES = 63
# PostgreSQL cuts a longer name there, and folds no other letters than these.
_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)

_words: MutableMapping[Any, Words | None] = WeakKeyDictionary()


def words_of(compiled: Any) -> Words | None:
    """The names and operators in what SQLAlchemy has compiled; None where anything may have happened.

    That is so for texts, for what writes (a default may be `nextval`, a trigger may do anything), and for what can't
    be taken apart with certainty.
    """
    try:
        return _words[compiled]
    except KeyError:
        words = _words[compiled] = None if _is_text(compiled) else words_in(compiled.string)
        return words


def words_in(sql: str) -> Words | None:
    """The names and operators in one SELECT; None where it is no such thing, or can't be taken apart."""
    words: set[str] = set()
    first = ""
    position = 0
    while position < len(sql):
        token = _TOKEN.match(sql, position)
        if token is None:
            return None
        position = token.end()
        if word := token["word"]:
            word = word.translate(_FOLDED)
            first = first or word
            if word in _WRITING:
                return None
            words.add(_cut(word))
        elif quoted := token["quoted"]:
            words.add(_cut(quoted.replace('""', '"')))
        elif operator := token["operator"]:
            words.add(operator)
    return frozenset(words) if first in _READING else None


def _cut(name: str) -> str:
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _is_text(compiled: Any) -> bool:
    statement = compiled.statement
    return compiled.isplaintext or isinstance(getattr(statement, "element", statement), TextClause | TextualSelect)


Ask = Callable[[str, list[str]], Awaitable[Sequence[Any]]]
"""Gives the rows of a query with one parameter."""


class Catalog:
    """What words mean in one database, as far as this process has asked.

    A word is harmless if nothing in the database that has this name could leave something in a session by being
    selected: no function or operator but PostgreSQL's own ones and those of extensions, unless it is volatile;
    no view or row security policy that calls another one; no domain, whose check may call one; no foreign table.
    """

    def __init__(self) -> None:
        self._harmless: dict[str, bool] = {}
        self._verdicts: dict[Words, bool] = {}
        self._stale: set[str] = set()
        self._until = 0.0

    def harmless(self, words: Words, now: float) -> bool:
        """Whether it is known that a statement of these words leaves nothing. `now` in seconds of the loop."""
        if now >= self._until:
            # Asked about together, as soon as one of them matters again.
            self._stale.update(self._harmless)
            self._forget()
            self._until = now + KNOWN_FOR
        verdict = self._verdicts.get(words)
        if verdict is None:
            if any(word not in self._harmless for word in words):
                return False
            verdict = self._verdicts[words] = all(map(self._harmless.__getitem__, words))
        return verdict

    async def learn(self, ask: Ask, statements: Iterable[Words]) -> None:
        """Ask the server about those words that are not known yet. Raises what `ask` raises."""
        unknown = set().union(*statements) - self._harmless.keys()
        if not unknown:
            return
        if len(self._harmless) + len(unknown | self._stale) > KNOWN_WORDS:
            self._forget()
            self._stale.clear()
        unknown, self._stale = unknown | self._stale, set()
        rows = await ask(_SUSPECT, list(unknown))
        suspect = {row[0] for row in rows}
        self._harmless.update((word, word not in suspect) for word in unknown)

    def _forget(self) -> None:
        self._harmless.clear()
        self._verdicts.clear()


# A view's or a policy's expression is kept as a tree of nodes, with the number of each function that it calls; the
# relations that it reads are in pg_depend. What initdb made has a number below 16384; its views are harmless.
_SUSPECT = r"""
WITH RECURSIVE tree AS NOT MATERIALIZED (
    SELECT ev_class AS relation, 'pg_rewrite'::regclass AS class, rule.oid, ev_action::text AS nodes
    FROM pg_rewrite AS rule JOIN pg_class AS view ON view.oid = ev_class WHERE ev_class >= 16384 AND relkind = 'v'
    UNION ALL SELECT polrelid, 'pg_policy'::regclass, oid, polqual::text FROM pg_policy
), relation(word, oid) AS (
    SELECT word, class.oid FROM unnest($1::text[]) AS word JOIN pg_class AS class ON relname = word
    UNION
    SELECT word, refobjid FROM relation JOIN tree ON relation = relation.oid
    JOIN pg_depend ON classid = class AND objid = tree.oid AND refclassid = 'pg_class'::regclass
), suspect AS (
    SELECT oid, proname FROM pg_proc WHERE CASE
        WHEN proname ~ '^((query|table|schema|database|cursor)_to_xml|domain_(in|recv)$|jsonb?_(populate|to)_record'
            '|pg_input_|ts_stat$|ts_rewrite$)' THEN true
        WHEN oid < 16384 THEN provolatile = 'v' AND proname !~ '^(random|gen_random_|uuidv\d|array_(shuffle|sample)$'
            '|pg_sleep|pg_(try_)?advisory_xact_lock|(clock_timestamp|timeofday|pg_notify)$)'
        ELSE provolatile = 'v' OR NOT EXISTS (SELECT FROM pg_depend
            WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e') END
)
SELECT word FROM unnest($1::text[]) AS word WHERE EXISTS (SELECT FROM suspect WHERE proname = word)
OR EXISTS (SELECT FROM pg_type WHERE typname = word AND typtype = 'd' AND oid >= 16384)
OR EXISTS (SELECT FROM pg_operator WHERE oprname = word AND oprcode IN (SELECT oid FROM suspect))
UNION SELECT word FROM relation JOIN pg_class USING (oid) WHERE relkind = 'f'
UNION SELECT word FROM relation JOIN tree ON relation = relation.oid WHERE nodes ~ '\{COERCETODOMAIN ' OR EXISTS (
    SELECT FROM regexp_matches(nodes, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') AS called
    JOIN suspect ON suspect.oid = called[1]::oid)
"""
