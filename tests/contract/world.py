"""What the scenarios happen in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .drivers import CLIENTS, TRANSPORTS, Subscriber
from .kit import Kit
from .node import Node

ORIGIN = "https://app.example"
"""From where pages may call the nodes."""


@dataclass
class World:
    """Two nodes on the same engines, each serving sockets in its own way, and who writes results."""

    kit: Kit
    nodes: dict[str, Node]
    subscribers: list[Subscriber] = field(default_factory=list)

    async def open(
        self,
        transport: str,
        cursor: str | None,
        names: Sequence[str] = (),
        *,
        node: Node | None = None,
        **who: Any,
    ) -> Subscriber:
        """A subscriber for `me`, at its transport's node or another; `who` are its device, or its token's claims."""
        kind, driver = (TRANSPORTS | CLIENTS)[transport]
        subscriber = driver(node or self.nodes[kind], tenant=self.kit.tenant, **who)
        self.subscribers.append(subscriber)
        await subscriber.open(names, cursor)
        return subscriber

    async def close(self) -> None:
        await asyncio.gather(*(subscriber.close() for subscriber in self.subscribers))
