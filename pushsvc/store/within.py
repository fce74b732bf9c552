"""Jobs in a transaction of the author's own: there if, and only if, that commits."""

from __future__ import annotations

import inspect
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy import text

from .. import wire
from ..domain import Submission
from ..errors import BadRequest, Gone, KeyReused, causes
from . import wakeup_statements as sql
from .postgres import Postgres
from .waiting import Waiting

UNDEFINED_TABLE, NO_PRIVILEGE = "42P01", "42501"


class Within:
    """Stores jobs by whatever holds the transaction: a Session or Connection of SQLAlchemy's, async or not, or a
    connection of asyncpg's."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._place: str | None = None

    async def place(self) -> str:
        """Which database the service's tables are in."""
        if self._place is None:
            self._place = (await self._postgres.fetch(sql.PLACE))[0]["place"]
        return self._place

    async def insert(self, transaction: Any, submission: Submission, place: str) -> str:
        """Store the job by the transaction; its id, or that of the job that its key stands for.

        Raises BadRequest where this is no transaction, or one of another database; KeyReused, Gone. Nothing has been
        changed then. What the database raises beyond that is raised as it is.
        """
        given = {
            "deployment": self._postgres.deployment,
            "place": place,
            "id": submission.id,
            "tenant": submission.tenant,
            "owner": submission.owner,
            "name": submission.name,
            "params": submission.params,
            "priority": submission.priority,
            "timeout": submission.timeout,
            "retention": submission.retention,
            "max_attempts": submission.max_attempts,
            "channels": "\n".join(submission.channels),
            "callback_url": submission.callback_url,
            "key": submission.key,
            "digest": submission.digest,
            "run_at": submission.run_at and submission.run_at.isoformat(),
            "deadline": submission.deadline and submission.deadline.isoformat(),
            "parent": submission.parent,
            "queue": submission.queue,
        }
        row = (await _asked(transaction, sql.INSERT_WITHIN, given))[0]
        if not row["here"]:
            raise _elsewhere()
        if row["stored"]:
            return submission.id
        # Its key stands for a job already; in a transaction that sees no newer rows, for one that it may not see yet.
        found = await _asked(transaction, sql.KEY_WITHIN, given)
        if not found or found[0]["digest"] != submission.digest:
            raise KeyReused("use another key for another payload")
        if not found[0]["kept"]:
            raise Gone("the job of this key is past its retention")
        return str(found[0]["job"])

    async def take_wakeups(self, limit: int) -> list[Waiting]:
        """Jobs whose transaction has been committed, for whoever puts them on the queue."""
        return [Waiting(*row) for row in await self._postgres.ask(sql.TAKE_WAKEUPS, limit)]


async def _asked(transaction: Any, statement: str, given: dict[str, Any]) -> Any:
    """The rows, as mappings."""
    said = wire.dump(given).decode()
    try:
        if isinstance(transaction, asyncpg.Connection | PoolConnectionProxy):
            if not transaction.is_in_transaction():
                raise BadRequest("this connection is in no transaction: begin one, `async with db.transaction():`")
            return await transaction.fetch(statement.replace(":given", "$1"), said)
        _check_dialect(transaction)
        result = transaction.execute(text(statement), {"given": said})
        if inspect.isawaitable(result):
            result = await result
        return result.mappings().all()
    except Exception as error:
        state = _sqlstate(error)
        if state == UNDEFINED_TABLE:
            raise _elsewhere() from error
        if state == NO_PRIVILEGE:
            raise BadRequest(
                "the role of this transaction may not submit: GRANT USAGE ON SCHEMA pushsvc, and SELECT, INSERT ON "
                "pushsvc.jobs, pushsvc.keys, pushsvc.wakeups, to it"
            ) from error
        raise


def _check_dialect(transaction: Any) -> None:
    if not callable(getattr(transaction, "execute", None)):
        raise BadRequest(
            "session= is a Session or a Connection of SQLAlchemy, async or not, or a connection of asyncpg, not "
            f"{type(transaction).__name__}"
        )
    bind = transaction.get_bind() if hasattr(transaction, "get_bind") else transaction
    name = getattr(getattr(bind, "dialect", None), "name", "postgresql")
    if name != "postgresql":
        raise BadRequest(f"a job is stored in PostgreSQL, and this is a transaction of {name}")


def _sqlstate(error: BaseException) -> str | None:
    for each in causes(error):
        for holder in (each, getattr(each, "orig", None)):
            state = getattr(holder, "sqlstate", None) or getattr(holder, "pgcode", None)
            if state:
                return str(state)
    return None


def _elsewhere() -> BadRequest:
    return BadRequest("this transaction is in another database than PUSHSVC_DATABASE_URL: the job could not be in it")
