"""Asynchronous queries, in the manner of Rails 7: schedule now, await later, bounded for the database's sake."""

from .database import Database, DatabasePool
from .log import Mode, Observer, QueryRecord, Reason
from .promise import Promise, Status

__all__ = ["Database", "DatabasePool", "Mode", "Observer", "Promise", "QueryRecord", "Reason", "Status"]
