"""What is told from what by SQLSTATE: a server that can't now from a fault of ours, and what is said of it."""

from __future__ import annotations

import inspect

import asyncpg
import pytest

from pushsvc.errors import Unavailable
from pushsvc.store import Postgres, described, is_away, is_lost

CLASSES = sorted(
    {
        each
        for _, each in inspect.getmembers(asyncpg.exceptions, inspect.isclass)
        if issubclass(each, asyncpg.PostgresError) and getattr(each, "sqlstate", None)
    },
    key=lambda each: str(each.sqlstate),
)

AWAY = [
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),
    *("25006", "25P03", "25P04"),
    *("40000", "40001", "40003", "40P01"),
    *("53000", "53100", "53200", "53300", "53400"),
    "55P03",
    *("57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05"),
    *("58000", "58030", "58P01", "58P02", "58P03"),
    "72000",
]
"""Every code by which the server says that it can't now."""

LOST = ["08000", "08001", "08003", "08004", "08006", "08007", "08P01", "53300", "57P01", "57P02", "57P03", "57P05"]
"""Those that mean the connection rather than what was asked on it."""

OUTDATED = ("OutdatedSchemaCacheError", "InvalidCachedStatementError")


def test_each_of_the_drivers_classes_is_one_or_the_other() -> None:
    assert len(CLASSES) > 200
    found = {str(each.sqlstate) for each in CLASSES if each.__name__ not in OUTDATED and is_away(each("text"))}
    assert sorted(found) == sorted(set(AWAY))
    assert sorted({str(each.sqlstate) for each in CLASSES if is_lost(each("text"))}) == sorted(LOST)


def test_a_code_that_the_driver_does_not_know_goes_by_its_class() -> None:
    for state, away in (("53999", True), ("57ZZZ", True), ("58999", True), ("23999", False), ("XX999", False)):
        error = asyncpg.PostgresError.new({"C": state, "M": "something new"})
        assert is_away(error) is away, state


def test_what_comes_from_below_or_is_the_cause_counts() -> None:
    for error in (ConnectionRefusedError(), TimeoutError(), asyncpg.InterfaceError("connection is closed")):
        assert is_away(error)
        assert is_lost(error)
    wrapped = ValueError("a library's own")
    wrapped.__cause__ = asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction")
    assert is_away(wrapped)
    assert not is_lost(wrapped)
    for ours in (ValueError("closed"), asyncpg.InterfaceError("another operation is in progress"), KeyError("x")):
        assert not is_away(ours)


def test_what_is_said_names_the_cause_and_nothing_that_the_server_wrote() -> None:
    secret = "role hunter2 at 10.0.0.7"
    for each in CLASSES:
        assert "hunter2" not in described(each(secret))
    said = {
        "25006": "PostgreSQL is read-only",
        "53100": "PostgreSQL's disk is full",
        "53300": "PostgreSQL takes no more connections",
        "57P03": "PostgreSQL is starting up or shutting down",
        "40P01": "PostgreSQL can't do this (SQLSTATE 40P01)",
    }
    for state, words in said.items():
        assert described(asyncpg.PostgresError.new({"C": state, "M": secret})) == words
    assert described(ConnectionRefusedError(secret)) == "PostgreSQL can't be reached"
    assert described(TimeoutError(secret)) == "PostgreSQL does not answer"


async def test_what_the_server_raises_becomes_unavailable_or_is_raised_as_it_is(postgres_url: str) -> None:
    """Each code once, raised by PostgreSQL itself."""
    async with Postgres(postgres_url, within=10.0) as postgres:
        for state in sorted({str(each.sqlstate) for each in CLASSES}):
            error = asyncpg.PostgresError.new({"C": state, "M": "secret"})
            raising = f"DO $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '{state}'; END $$"
            # The one before may have cost the connection; making another is no part of the patience.
            await postgres.fetch("SELECT 1", patience=30)
            with pytest.raises((Unavailable, asyncpg.PostgresError)) as caught:
                await postgres.fetch(raising, patience=0.05)
            if state in AWAY:
                assert str(caught.value) == f"{described(error)} right now"
            else:
                assert type(caught.value) is type(error)
