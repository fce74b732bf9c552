"""Asynchronous queries, in the manner of Rails 7: schedule now, await later, bounded for the database's sake."""

from .database import Database
from .promise import Promise, Status
from .running.log import Mode, Observer, QueryRecord, Reason
from .running.pg_settings import PgSettings
from .running.pool import DatabasePool
from .running.reading import check_session_class
from .running.transaction import Transaction

__all__ = [
    "Database",
    "DatabasePool",
    "Mode",
    "Observer",
    "PgSettings",
    "Promise",
    "QueryRecord",
    "Reason",
    "Status",
    "Transaction",
    "check_session_class",
]
