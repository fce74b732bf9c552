"""SQL comments, by which whoever looks at the server finds the way back to the job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

_VALUE_LIMIT = 200
_FIRST_WORD = re.compile(r"[\s(]*[a-zA-Z]+\b")


class SqlComment:
    """`/*job='airport_report',job_id='01J…'*/` of the tags, in the form of google.github.io/sqlcommenter.

    Names and values are percent-encoded, so that nothing in them can end the comment; values are cut at 200
    characters. Without tags there is none.
    """

    __slots__ = ("_front", "_inside")

    def __init__(self, tags: Mapping[str, str]) -> None:
        pairs = [f"{quote(name, safe='')}='{quote(tags[name][:_VALUE_LIMIT], safe='')}'" for name in tags]
        self._front = f"/*{','.join(pairs)}*/ " if pairs else ""
        self._inside = f" /*{pairs[0]}*/" if pairs else ""

    def on(self, sql: str) -> str:
        """The SQL with all tags in front of it, and the first one again after its first word.

        In front, as `pg_stat_activity` cuts a text after 1024 bytes. But PostgreSQL 18 drops what stands
        there from `pg_stat_statements`, which sums up over jobs, so that the job's name is enough there.
        """
        word = _FIRST_WORD.match(sql) if self._inside else None
        if word is None:
            return self._front + sql
        return f"{self._front}{word[0]}{self._inside}{sql[word.end() :]}"
