"""What the tests of `pushsvc.queries` share: tables, a look into the server, queries that can be held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Numeric,
    Select,
    Table,
    Text,
    cast,
    func,
    literal,
    select,
)
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


class Leg(Base):
    """Its key has two columns, and one attribute is named otherwise than its column."""

    __tablename__ = "queries_legs"

    trip: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column("no", primary_key=True)
    flight_id: Mapped[int | None] = mapped_column(ForeignKey("queries_flights.id"))
    flight: Mapped[Flight | None] = relationship()
    stops: Mapped[list[Stop]] = relationship(back_populates="leg", order_by="Stop.place")


class Stop(Base):
    __tablename__ = "queries_stops"
    __table_args__ = (ForeignKeyConstraint(["trip", "leg_no"], ["queries_legs.trip", "queries_legs.no"]),)

    id: Mapped[int] = mapped_column(primary_key=True)
    trip: Mapped[str]
    leg_number: Mapped[int] = mapped_column("leg_no")
    place: Mapped[str]
    leg: Mapped[Leg] = relationship(back_populates="stops")


skills_of_people = Table(
    "queries_people_skills",
    Base.metadata,
    Column("person_id", ForeignKey("queries_people.id"), primary_key=True),
    Column("skill_id", ForeignKey("queries_skills.id"), primary_key=True),
)


class Person(Base):
    __tablename__ = "queries_people"

    id: Mapped[int] = mapped_column(primary_key=True)
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("queries_people.id"))
    boss: Mapped[Person | None] = relationship(back_populates="reports", remote_side=id)
    reports: Mapped[list[Person]] = relationship(back_populates="boss", order_by="Person.id.desc()")
    skills: Mapped[set[Skill]] = relationship(secondary=skills_of_people, back_populates="people")


class Skill(Base):
    __tablename__ = "queries_skills"

    name: Mapped[str] = mapped_column("id", primary_key=True)
    people: Mapped[list[Person]] = relationship(
        secondary=skills_of_people, back_populates="skills", order_by="Person.id"
    )


CREW_TABLES = """
DROP TABLE IF EXISTS queries_stops, queries_legs, queries_people_skills, queries_people, queries_skills;
CREATE TABLE queries_legs (trip text, no int, flight_id int, PRIMARY KEY (trip, no));
CREATE TABLE queries_stops (
    id int PRIMARY KEY, trip text NOT NULL, leg_no int NOT NULL, place text NOT NULL,
    FOREIGN KEY (trip, leg_no) REFERENCES queries_legs
);
CREATE TABLE queries_people (id int PRIMARY KEY, boss_id int REFERENCES queries_people);
CREATE TABLE queries_skills (id text PRIMARY KEY);
CREATE TABLE queries_people_skills (
    person_id int REFERENCES queries_people, skill_id text REFERENCES queries_skills,
    PRIMARY KEY (person_id, skill_id)
);
INSERT INTO queries_legs VALUES ('a', 1, 1), ('a', 2, 4), ('b', 1, NULL);
INSERT INTO queries_stops VALUES (1, 'a', 1, 'y'), (2, 'a', 1, 'x'), (3, 'b', 1, 'z');
INSERT INTO queries_people VALUES (1, NULL), (2, 1), (3, 1), (4, 2);
INSERT INTO queries_skills VALUES ('cook'), ('fly'), ('sing');
INSERT INTO queries_people_skills VALUES (1, 'fly'), (1, 'sing'), (2, 'fly');
"""


class Server:
    """A connection of the test's own, apart from those under test."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        return list(await self.connection.fetch(sql, *arguments))

    async def running(self) -> list[str]:
        """The texts of the queries of `behind`, or of a view that does so, that have come and not ended."""
        return [query for query, _ in await self._running()]

    async def _running(self) -> list[Any]:
        return await self.fetch(
            "SELECT query, wait_event IS NOT DISTINCT FROM 'advisory' AS waits FROM pg_stat_activity"
            " WHERE application_name LIKE 'pushsvc %' AND state = 'active'"
            " AND (query LIKE '%pg_advisory_xact_lock_shared%' OR wait_event = 'advisory')"
        )

    async def connections(self) -> int:
        rows = await self.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pushsvc %'")
        return len(rows)

    async def until_running(self, number: int) -> list[str]:
        """Wait until exactly so many of them run, and are at the gate.

        Before that a query may be seen to be parsed, and a cancel then overtakes its execution.
        """
        queries: list[Any] = []

        async def enough() -> bool:
            nonlocal queries
            queries = await self._running()
            return len(queries) == number and all(waits for _, waits in queries)

        await until(enough)
        return [query for query, _ in queries]

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


def passed(gate: int) -> ColumnElement[bool]:
    """A condition that holds, once the gate is open; many may pass together."""
    # The lock is the transaction's: in autocommit it is released when the query ends.
    return cast(func.pg_advisory_xact_lock_shared(gate), Text) == ""


def behind(gate: int, value: int = 1) -> Select[int]:
    """A query that answers with the value once the gate is open."""
    return select(literal(value)).where(passed(gate))


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
