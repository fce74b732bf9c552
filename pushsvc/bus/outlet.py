"""What the publisher says, said to Redis: to one server, or to the shards of a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from .cluster import Cluster
from .connection import RedisClient
from .faults import FAULTS, away

Message = tuple[str, bytes]
"""A topic and what is said on it."""


class Outlet(Protocol):
    def place(self, topic: str) -> Hashable:
        """What has one place is said in its order, and waits for nothing that has another."""

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        """Publish in order; the answer is what could not be."""

    async def snapshot(self, key: str, value: bytes, seconds: int, messages: Sequence[Message]) -> None:
        """Keep a value for so many seconds, and then publish. Raises what FAULTS lists."""

    async def get(self, key: str) -> bytes | None:
        """Raises what FAULTS lists."""

    async def delete(self, key: str) -> None:
        """Raises what FAULTS lists."""


def outlet_of(bus: RedisClient | Cluster | Outlet) -> Outlet:
    if isinstance(bus, Cluster):
        return _Shards(bus)
    return _Server(bus) if isinstance(bus, Redis) else bus


class _Server:
    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    def place(self, topic: str) -> Hashable:
        return None

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        return await _publish(self._redis, "PUBLISH", messages)

    async def snapshot(self, key: str, value: bytes, seconds: int, messages: Sequence[Message]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key, value, ex=seconds)
        for topic, payload in messages:
            pipeline.publish(topic, payload)
        await pipeline.execute()

    async def get(self, key: str) -> bytes | None:
        return _value(await self._redis.get(key))

    async def delete(self, key: str) -> None:
        await self._redis.delete(key)


class _Shards:
    """Each shard apart: one that is away keeps nothing from the others."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._map = cluster.map

    def place(self, topic: str) -> Hashable:
        return self._map.owner(topic)

    async def publish(self, messages: Sequence[Message]) -> list[Message]:
        if any(self._map.owner(topic) is None for topic, _ in messages):
            await self._look()
        shards: dict[Hashable, list[Message]] = {}
        for message in messages:
            shards.setdefault(self._map.owner(message[0]), []).append(message)
        failed: list[Message] = shards.pop(None, [])
        said = (_publish(self._map.at(address), "SPUBLISH", shard) for address, shard in shards.items())  # type: ignore[arg-type]  # None is gone
        for unsaid in await asyncio.gather(*said):
            failed += unsaid
        if failed:
            # A slot has moved, or a node has died: the next try goes where the map then says.
            await self._look()
        return failed

    async def _look(self) -> None:
        try:
            await self._map.look()
        except FAULTS as error:
            away("looking for the Cluster", error)

    async def snapshot(self, key: str, value: bytes, seconds: int, messages: Sequence[Message]) -> None:
        await self._cluster.execute_command("SET", key, value, "EX", seconds)
        await asyncio.gather(*(self._cluster.execute_command("SPUBLISH", *message) for message in messages))

    async def get(self, key: str) -> bytes | None:
        return _value(await self._cluster.execute_command("GET", key))

    async def delete(self, key: str) -> None:
        await self._cluster.execute_command("DEL", key)


async def _publish(redis: RedisClient, command: str, messages: Sequence[Message]) -> list[Message]:
    """In one round trip. What could not be published; an error of one message is not that of the others."""
    pipeline = redis.pipeline(transaction=False)
    for message in messages:
        pipeline.execute_command(command, *message)
    try:
        answers = await pipeline.execute(raise_on_error=False)
    except FAULTS as error:
        away("publishing", error)
        return list(messages)
    failed = []
    for message, answer in zip(messages, answers, strict=True):
        if isinstance(answer, RedisError):
            away("publishing", answer)
            failed.append(message)
    return failed


def _value(reply: Any) -> bytes | None:
    return reply if isinstance(reply, bytes) else None
