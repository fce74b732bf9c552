"""The store's connections, on a server that is set, limited, read-only or frozen as it should not be."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from pushsvc.errors import Unavailable
from pushsvc.store import Postgres
from pushsvc.store.postgres import PATIENCE, SETTINGS, Connection

from ..contract.kit import soon

SHOWN = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "search_path",
    "row_security",
    "synchronous_commit",
)


def as_role(url: str, role: str) -> str:
    """The URL of the embedded server, with another role."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


@asynccontextmanager
async def a_role(url: str, *settings: str) -> AsyncIterator[tuple[str, asyncpg.Connection[asyncpg.Record]]]:
    """A URL with a role of its own that has these settings, and an administrator's connection."""
    role = f"role_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(f"CREATE ROLE {role} LOGIN")
        for setting in settings:
            await admin.execute(f"ALTER ROLE {role} {setting}")
        yield as_role(url, role), admin
    finally:
        await admin.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}';"
            f" DROP OWNED BY {role}; DROP ROLE {role}"
        )
        await admin.close()


async def test_what_a_role_has_set_does_not_reach_the_stores_statements(empty_database_url: str) -> None:
    settings = (
        "SET statement_timeout = '1ms'",
        "SET lock_timeout = '1ms'",
        "SET idle_in_transaction_session_timeout = '1ms'",
        "SET transaction_timeout = '1ms'",
        "SET idle_session_timeout = '1ms'",
        "SET default_transaction_isolation = 'serializable'",
        "SET default_transaction_deferrable = on",
        "SET search_path = nowhere",
        "SET row_security = on",
        "SET synchronous_commit = off",
    )
    async with a_role(empty_database_url, *settings) as (url, _), Postgres(url) as postgres:
        await asyncio.sleep(0.01)
        await postgres.fetch("SELECT pg_sleep(0.02)")
        shown = {name: (await postgres.fetch(f"SHOW {name}"))[0][0] for name in SHOWN}
        assert shown == {
            "statement_timeout": "1min",
            "lock_timeout": "0",
            "idle_in_transaction_session_timeout": "1min",
            "default_transaction_isolation": SETTINGS["default_transaction_isolation"],
            "search_path": "pg_catalog",
            "row_security": "off",
            "synchronous_commit": "on",
        }
        assert (await postgres.fetch("SHOW transaction_timeout"))[0][0] == "0"
        assert (await postgres.fetch("SHOW idle_session_timeout"))[0][0] == "0"


async def test_more_than_the_least_that_synchronous_commit_may_be_is_left_to_the_operator(
    empty_database_url: str,
) -> None:
    async with (
        a_role(empty_database_url, "SET synchronous_commit = remote_apply") as (url, _),
        Postgres(url) as postgres,
    ):
        assert (await postgres.fetch("SHOW synchronous_commit"))[0][0] == "remote_apply"


async def test_a_read_only_spell_is_said_at_once_and_over_when_it_is_over(empty_database_url: str) -> None:
    """Sessions that began within it do not outlast it; and what only reads goes on."""
    admin = await asyncpg.connect(empty_database_url)
    name = empty_database_url.partition("?")[0].rpartition("/")[2]
    postgres = Postgres(empty_database_url)
    try:
        await admin.execute("CREATE TABLE public.things (n int)")
        await postgres.fetch("INSERT INTO public.things VALUES (1)")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(3):
            with pytest.raises(Unavailable, match="read-only right now"):
                await soon(postgres.fetch("INSERT INTO public.things VALUES (2)", patience=0.1))
        assert len(await postgres.fetch("SELECT * FROM public.things")) == 1
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await soon(asyncio.gather(*(postgres.fetch("INSERT INTO public.things VALUES (3)") for _ in range(8))))
    finally:
        await postgres.close()
        await admin.close()


async def test_all_connections_taken_is_unavailable_and_over_when_one_is_free(empty_database_url: str) -> None:
    async with a_role(empty_database_url, "CONNECTION LIMIT 0") as (url, admin), Postgres(url) as postgres:
        with pytest.raises(Unavailable, match="takes no more connections right now"):
            await postgres.fetch("SELECT 1", patience=0.1)
        await admin.execute(f"ALTER ROLE {urlsplit(url).username} CONNECTION LIMIT 1")
        answers = await soon(asyncio.gather(*(postgres.fetch("SELECT 1") for _ in range(4))))
        assert len(answers) == 4


async def test_a_role_that_may_log_in_no_more_is_the_servers_affair_once_it_could(empty_database_url: str) -> None:
    """At first it is a setting of ours that is wrong, and is said as it is."""
    async with a_role(empty_database_url) as (url, admin):
        role = urlsplit(url).username
        async with Postgres(url) as postgres:
            await postgres.fetch("SELECT 1")
            await admin.execute(f"ALTER ROLE {role} NOLOGIN")
            await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
            with pytest.raises(Unavailable, match="does not let the service in right now"):
                await postgres.fetch("SELECT 1", patience=0.2)
            async with Postgres(url) as newcomer:
                with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                    await newcomer.fetch("SELECT 1")
            await admin.execute(f"ALTER ROLE {role} LOGIN")
            await soon(postgres.fetch("SELECT 1"))


async def test_a_frozen_server_is_given_up_in_time_whatever_is_asked_of_it(postgres_url: str) -> None:
    """Statements, transactions in their clean-up, and those who wait for a connection."""
    async with Postgres(postgres_url, 1) as postgres:
        pid = (await postgres.fetch("SELECT pg_backend_pid()"))[0][0]

        async def in_a_transaction(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute("SELECT 1")

        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            asked = await asyncio.gather(
                postgres.run(in_a_transaction, patience=0.3),
                *(postgres.fetch("SELECT 1", patience=0.3) for _ in range(5)),
                return_exceptions=True,
            )
            assert time.monotonic() - begun < PATIENCE
            assert any(isinstance(answer, Unavailable) and "does not answer" in str(answer) for answer in asked)
            assert all(isinstance(answer, Unavailable | list) for answer in asked)
            await soon(postgres.fetch("SELECT 1"))
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_who_waits_no_more_leaves_no_connection_in_the_midst_of_something(postgres_url: str) -> None:
    async with Postgres(postgres_url, 1) as postgres:
        await postgres.fetch("SELECT 1")
        asking = asyncio.create_task(postgres.fetch("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await soon(postgres.fetch("SELECT 1 AS n")))[0]["n"] == 1


class Counted:
    """A way to the server on which connects are counted."""

    def __init__(self, path: str) -> None:
        self.connects = 0
        self._path = path

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        there, back = await asyncio.open_unix_connection(self._path)
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


async def test_a_server_that_refuses_is_not_asked_by_everybody_at_once(postgres_url: str) -> None:
    """For each attempt it would fork a process. There is one at a time, and then a pause that grows."""
    connection = await asyncpg.connect(postgres_url)
    directory = await connection.fetchval("SHOW unix_socket_directories")
    port = await connection.fetchval("SHOW port")
    await connection.close()
    counted = Counted(f"{directory}/.s.PGSQL.{port}")
    async with (
        await asyncio.start_server(counted, "127.0.0.1", 0) as server,
        a_role(postgres_url, "CONNECTION LIMIT 0") as (url, _),
    ):
        host, listening = server.sockets[0].getsockname()
        through = f"postgresql://{urlsplit(url).username}@{host}:{listening}/postgres?sslmode=disable"
        async with Postgres(through, 4) as postgres:
            asked = await asyncio.gather(
                *(postgres.fetch("SELECT 1", patience=1.0) for _ in range(200)), return_exceptions=True
            )
        assert all(isinstance(answer, Unavailable) for answer in asked)
        assert 2 <= counted.connects < 20
        server.close()


async def test_while_the_server_is_away_the_log_is_not_filled(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by the driver, which would restore connections that nobody asks for, nor once for each that does."""
    async with a_role(empty_database_url) as (url, admin), Postgres(url) as postgres:
        await postgres.fetch("SELECT 1")
        role = urlsplit(url).username
        await admin.execute(f"ALTER ROLE {role} NOLOGIN")
        await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        for _ in range(3):
            with pytest.raises(Unavailable):
                await postgres.fetch("SELECT 1", patience=0.1)
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == [
        "PostgreSQL does not let the service in (Refused)"
    ]
