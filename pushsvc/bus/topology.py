"""Where topics live: on one server, on the master behind Sentinels, on the shards of a Cluster."""

from __future__ import annotations

from typing import Protocol

from .cluster import SlotMap
from .endpoint import Address, Endpoint
from .sentinel import ASK_EVERY, Sentinels


class Topology(Protocol):
    @property
    def look_every(self) -> float | None:
        """Seconds until it is worth a look while nothing is wrong; None if it never changes."""

    @property
    def version(self) -> int:
        """Another whenever a topic may have another home on the same servers."""

    async def look(self) -> None:
        """Learn who is where by now. Raises what FAULTS lists if nobody can tell."""

    @property
    def addresses(self) -> frozenset[Address]:
        """All servers that topics live on."""

    def home(self, topic: str) -> Address | None:
        """The server of a topic; None if nobody has it just now."""

    async def close(self) -> None: ...


def topology_of(endpoint: Endpoint) -> Topology:
    match endpoint.kind:
        case "sentinel":
            return _BehindSentinels(endpoint)
        case "cluster":
            return _OnShards(endpoint)
        case _:
            return _OneServer(endpoint.nodes[0])


class _OneServer:
    look_every = None
    version = 0

    def __init__(self, address: Address) -> None:
        self._address = address
        self.addresses = frozenset({address})

    async def look(self) -> None:
        pass

    def home(self, topic: str) -> Address:
        return self._address

    async def close(self) -> None:
        pass


class _BehindSentinels:
    look_every = ASK_EVERY
    version = 0

    def __init__(self, endpoint: Endpoint) -> None:
        self._sentinels = Sentinels(endpoint)
        self.addresses: frozenset[Address] = frozenset()

    async def look(self) -> None:
        self.addresses = frozenset({await self._sentinels.master()})

    def home(self, topic: str) -> Address | None:
        return next(iter(self.addresses), None)

    async def close(self) -> None:
        await self._sentinels.close()


class _OnShards:
    look_every = ASK_EVERY

    def __init__(self, endpoint: Endpoint) -> None:
        self._map = SlotMap(endpoint)

    async def look(self) -> None:
        await self._map.look()

    @property
    def version(self) -> int:
        return self._map.version

    @property
    def addresses(self) -> frozenset[Address]:
        return self._map.masters

    def home(self, topic: str) -> Address | None:
        return self._map.owner(topic)

    async def close(self) -> None:
        await self._map.close()
