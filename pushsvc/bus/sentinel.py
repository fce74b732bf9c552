"""Finding the master through Sentinels, and staying with it through failovers.

As https://redis.io/docs/latest/develop/reference/sentinel-clients/ asks of clients: whoever connects asks the
Sentinels first, and then the server itself whether it is the master (ROLE). Beyond that the Sentinels are asked
now and then, since a master that was cut off from them may well keep our connections open.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError, ReadOnlyError

from .endpoint import Address, Endpoint
from .faults import FAULTS
from .guarded import guarded

ASK_EVERY = 2.0
"""Seconds between two questions who the master is, while nothing is wrong with it."""

PATIENCE = 1.0
"""Seconds that a Sentinel has to answer."""


class Sentinels:
    """Where the master is, as most Sentinels see it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = endpoint.master
        self._clients = [
            Redis(
                connection_pool=BlockingConnectionPool(
                    max_connections=1,
                    timeout=1,
                    connection_class=guarded(endpoint.connection),
                    host=host,
                    port=port,
                    socket_timeout=PATIENCE,
                    socket_connect_timeout=PATIENCE / 2,
                    **endpoint.sentinels,
                )
            )
            for host, port in endpoint.nodes
        ]
        self._master: Address | None = None
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def master(self, within: float = 0.0) -> Address:
        """Where it is; an answer of the last `within` seconds will do. Raises ConnectionError if nobody knows.

        While no Sentinel can be reached, the master stays where it was.
        """
        begun = time.monotonic()
        async with self._lock:
            # Whoever waited for another's question takes its answer.
            if self._master is None or self._asked_at < begun - within:
                await self._ask()
            if self._master is None:
                raise ConnectionError("no Sentinel knows the master")
            return self._master

    async def _ask(self) -> None:
        answers = await asyncio.gather(*(self._answer(client) for client in self._clients))
        self._asked_at = time.monotonic()
        votes = Counter(answer for answer in answers if answer is not None)
        if votes:
            # A Sentinel that was away still names the master of old.
            self._master = votes.most_common(1)[0][0]

    async def _answer(self, client: Any) -> Address | None:
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        except FAULTS:
            return None
        return (answer[0].decode(), int(answer[1])) if answer else None

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose(close_connection_pool=True)


class MasterPool(BlockingConnectionPool):
    """Connections to the master; those to a former one are dropped before they are used."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        tls = issubclass(endpoint.connection, SSLConnection)
        self.sentinels = Sentinels(endpoint)
        super().__init__(
            connection_class=guarded(_TlsMasterConnection if tls else _MasterConnection),
            sentinels=self.sentinels,
            **{"socket_keepalive": True, **options},
        )

    async def ensure_connection(self, connection: Any) -> None:
        if connection.is_connected and await self.sentinels.master(ASK_EVERY) != (connection.host, connection.port):
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        await self.sentinels.close()


class _MasterConnection(Connection):
    """Connects to wherever the master is, and leaves one that is no longer it."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.master()
        await super()._connect()  # type: ignore[no-untyped-call]  # untyped in redis

    async def on_connect(self) -> None:
        await super().on_connect()
        await self.send_command("ROLE")
        role = await self.read_response()
        if not is_master(role):
            raise ConnectionError("the Sentinels name a server that is not the master, or not yet")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError:
            # It has been demoted with our connection open.
            await self.disconnect()
            raise


class _TlsMasterConnection(_MasterConnection, SSLConnection):
    pass


def is_master(role: Any) -> bool:
    """Whether this is how a master answers ROLE."""
    return isinstance(role, list) and bool(role) and role[0] == b"master"
