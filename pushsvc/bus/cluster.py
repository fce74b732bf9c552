"""Redis Cluster: which node has which slot, and a client of each.

redis-py's own RedisCluster sends a pipeline to all nodes as one and again to all of them when one fails; here a
shard that is away keeps nobody else waiting. https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError, ResponseError

from .connection import RedisClient, client
from .endpoint import Address, Endpoint
from .faults import FAULTS

ASKED_AT_ONCE = 5
"""How many nodes are asked for the map: the one that knows of the latest election is believed."""

PATIENCE = 1.0
"""Seconds that a node has to answer."""

REDIRECTIONS = 4


class SlotMap:
    """The masters of a Cluster and their slots, as of the last look."""

    def __init__(self, endpoint: Endpoint, connections: int = 2) -> None:
        self._endpoint = endpoint
        self._connections = connections
        self._clients: dict[Address, RedisClient] = {}
        # Ranges of slots in order: where each begins and ends, and whose it is.
        self._begins: list[int] = []
        self._ranges: list[tuple[int, Address]] = []
        self.masters: frozenset[Address] = frozenset()
        self.version = 0
        self._lock = asyncio.Lock()
        self._looks = 0
        self._fault: str | None = None
        self._said = ""

    def owner(self, key: str) -> Address | None:
        """The node that has the key's slot; None if it is nobody's, or before the first look."""
        slot = key_slot(key.encode())
        at = bisect_right(self._begins, slot) - 1
        if at < 0 or slot > self._ranges[at][0]:
            return None
        return self._ranges[at][1]

    def at(self, address: Address) -> RedisClient:
        """The client of a node."""
        found = self._clients.get(address)
        if found is None:
            found = self._clients[address] = client(self._endpoint, address, connections=self._connections)
        return found

    async def look(self) -> None:
        """Learn the map anew; those who ask at the same time share a look.

        Raises ConnectionError if nobody answers.
        """
        looks = self._looks
        async with self._lock:
            if self._looks == looks:
                self._looks += 1
                self._fault = None
                try:
                    await self._look()
                except ConnectionError as error:
                    self._fault = str(error)
            if self._fault is not None:
                raise ConnectionError(self._fault)

    async def _look(self) -> None:
        known = list(self.masters)
        asked = random.sample(known, min(len(known), ASKED_AT_ONCE))
        answers = await self._answers(asked)
        if not answers:
            answers = await self._answers({*self._endpoint.nodes, *known} - set(asked))
        if not answers:
            raise ConnectionError(f"no node of the Cluster answers: {self._said}")
        _, _, ranges = max(answers, key=lambda answer: answer[:2])
        ranges.sort()
        begins, owned = [begin for begin, _, _ in ranges], [(end, address) for _, end, address in ranges]
        if (begins, owned) == (self._begins, self._ranges):
            return
        self.version += 1
        self._begins, self._ranges = begins, owned
        self.masters = frozenset(address for _, _, address in ranges)
        for gone in self._clients.keys() - self.masters - set(self._endpoint.nodes):
            await self._clients.pop(gone).aclose(close_connection_pool=True)

    async def _answers(self, addresses: Iterable[Address]) -> list[_Answer]:
        answers = await asyncio.gather(*(self._answer(address) for address in addresses))
        return [answer for answer in answers if answer is not None]

    async def _answer(self, address: Address) -> _Answer | None:
        """Whether the node sees the cluster whole, the epoch that it knows of, and its slots."""
        try:
            async with asyncio.timeout(PATIENCE):
                pipeline = self.at(address).pipeline(transaction=False)
                pipeline.execute_command("CLUSTER", "INFO")
                pipeline.execute_command("CLUSTER", "SLOTS")
                info, slots = await pipeline.execute()
        except FAULTS as error:
            self._said = f"{type(error).__name__} {error}"
            return None
        facts = dict(line.partition(b":")[::2] for line in info.splitlines())
        ranges = [(begin, end, _master(node, address)) for begin, end, node, *_replicas in slots]
        return facts[b"cluster_state"] == b"ok", int(facts[b"cluster_current_epoch"]), ranges

    async def close(self) -> None:
        for each in self._clients.values():
            await each.aclose(close_connection_pool=True)


_Answer = tuple[bool, int, list[tuple[int, int, Address]]]


def _master(node: list[Any], asked: Address) -> Address:
    """A node of CLUSTER SLOTS; one that does not know its own host is at the one that we asked."""
    host = node[0].decode() if node[0] else ""
    return (host if host not in ("", "?") else asked[0]), int(node[1])


class Cluster:
    """Commands to a Redis Cluster, about one key each."""

    def __init__(self, endpoint: Endpoint, connections: int = 16) -> None:
        self.map = SlotMap(endpoint, connections)

    async def execute_command(self, name: str, key: str, *args: Any) -> Any:
        """Wherever the key is, be it on its way to another node. Raises what FAULTS lists."""
        address, asking = await self._home(key), False
        for _ in range(REDIRECTIONS):
            pipeline = self.map.at(address).pipeline(transaction=False)
            if asking:
                pipeline.execute_command("ASKING")
            pipeline.execute_command(name, key, *args)
            reply = (await pipeline.execute(raise_on_error=False))[-1]
            if not isinstance(reply, RedisError):
                return reply
            address, asking = _redirected(reply, address)
            if not asking:
                await self.map.look()
        raise ConnectionError("sent from node to node")

    async def _home(self, key: str) -> Address:
        found = self.map.owner(key)
        if found is None:
            await self.map.look()
            found = self.map.owner(key)
        if found is None:
            raise ConnectionError("nobody has the slot")
        return found

    async def ping(self) -> None:
        """Raises what FAULTS lists unless every master answers."""
        if not self.map.masters:
            await self.map.look()
        await asyncio.gather(*(self.map.at(address).ping() for address in self.map.masters))

    async def info(self, section: str) -> Any:
        """What one of the masters says of itself."""
        await self.ping()
        return await self.map.at(min(self.map.masters)).info(section)

    async def aclose(self, close_connection_pool: bool = True) -> None:
        await self.map.close()


BusClient = RedisClient | Cluster
"""What a publisher publishes through."""


def connect_bus(url: str, *, connections: int = 16, setting: str = "PUSHSVC_BUS_URL") -> BusClient:
    """A lazy client of the bus: as `connect`, and a Redis Cluster will do. Raises SettingsError."""
    endpoint = Endpoint.parse(url, setting)
    if endpoint.kind == "cluster":
        return Cluster(endpoint, connections)
    return client(endpoint, endpoint.nodes[0], connections=connections)


def _redirected(error: RedisError, address: Address) -> tuple[Address, bool]:
    """Where the node sends us, and whether only for this once. Raises the error if it does not."""
    code, _, rest = str(error).partition(" ")
    host, _, port = rest.partition(" ")[2].rpartition(":")
    if not isinstance(error, ResponseError) or code not in ("MOVED", "ASK") or not port.isdecimal():
        raise error
    return (host or address[0], int(port)), code == "ASK"
