"""What the tests of `pushsvc.queries` share: two tables, a look into the server, queries that can be held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import ForeignKey, Numeric, Select, Text, cast, func, literal, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Airport(Base):
    __tablename__ = "queries_airports"

    code: Mapped[str] = mapped_column(primary_key=True)
    flights: Mapped[list[Flight]] = relationship(back_populates="airport", order_by="Flight.id")


class Flight(Base):
    __tablename__ = "queries_flights"

    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str] = mapped_column(ForeignKey("queries_airports.code"))
    carrier: Mapped[str]
    dep_delay: Mapped[int | None]
    air_time: Mapped[float]
    fare: Mapped[Any] = mapped_column(Numeric(8, 2))
    airport: Mapped[Airport] = relationship(back_populates="flights")


TABLES = """
DROP TABLE IF EXISTS queries_flights, queries_airports;
CREATE TABLE queries_airports (code text PRIMARY KEY);
CREATE TABLE queries_flights (
    id int PRIMARY KEY, origin text REFERENCES queries_airports, carrier text NOT NULL,
    dep_delay bigint, air_time float8 NOT NULL, fare numeric(8, 2) NOT NULL
);
INSERT INTO queries_airports VALUES ('EWR'), ('JFK'), ('LGA');
INSERT INTO queries_flights VALUES
    (1, 'JFK', 'AA', 10, 60.5, 100.10),
    (2, 'JFK', 'AA', 20, 61.5, 100.20),
    (3, 'JFK', 'UA', 40, 62.5, 100.30),
    (4, 'EWR', 'UA', NULL, 63.5, 100.40),
    (5, 'EWR', 'DL', -6, 64.5, 100.50);
"""


class Server:
    """A connection of the test's own, apart from those under test."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        return list(await self.connection.fetch(sql, *arguments))

    async def running(self) -> list[str]:
        """The texts of the queries of `behind` that have come to the server and not ended."""
        rows = await self.fetch(
            "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %' AND state = 'active'"
            " AND query LIKE '%pg_advisory_xact_lock_shared%'"
        )
        return [row["query"] for row in rows]

    async def connections(self) -> int:
        rows = await self.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %'")
        return len(rows)

    async def until_running(self, number: int) -> list[str]:
        """Wait until exactly so many of them run."""
        queries: list[str] = []

        async def enough() -> bool:
            nonlocal queries
            queries = await self.running()
            return len(queries) == number

        await until(enough)
        return queries

    async def terminate(self) -> None:
        """End all connections of the pools, as a restart of PostgreSQL would."""
        await self.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %'"
        )

    @asynccontextmanager
    async def gate(self, number: int) -> AsyncIterator[Callable[[], Any]]:
        """Hold back all queries of `behind(number)`; call what this gives to let them pass."""
        await self.fetch("SELECT pg_advisory_lock($1)", number)
        opened = False

        async def open_() -> None:
            nonlocal opened
            if not opened:
                opened = True
                await self.fetch("SELECT pg_advisory_unlock($1)", number)

        try:
            yield open_
        finally:
            await open_()


def behind(gate: int, value: int = 1) -> Select[int]:
    """A query that answers with the value once the gate is open; many may pass together."""
    # The lock is the transaction's: in autocommit it is released when the query ends.
    passed = cast(func.pg_advisory_xact_lock_shared(gate), Text) == ""
    return select(literal(value)).where(passed)


async def until(condition: Callable[[], Any]) -> Any:
    """Ask again until the condition, a function or a coroutine function, holds; what it gave then."""
    async with asyncio.timeout(20):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)
