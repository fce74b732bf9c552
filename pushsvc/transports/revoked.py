"""Revocations reach every node as any event does: by a log of their own, which no client can name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from .. import wire
from ..access import Connection, Revocations, Slots
from ..domain import Channel, Position, Revocation
from ..wire import Delivery

REVOCATIONS = Channel("", "group:revocations")
"""No token can be of the tenant without a name."""


def revocation_data(revocation: Revocation) -> dict[str, str | None]:
    """What is published there."""
    return {
        "tenant": revocation.tenant,
        "subject": revocation.subject,
        "before": revocation.before.isoformat(),
        "token": revocation.token,
    }


class RevocationListener:
    """A Listener of the hub for as long as the process lives: ends the connections that a revocation concerns."""

    writer: Callable[[bytes], object] | None = None
    page = 1000

    def __init__(self, revocations: Revocations, connections: Slots[Connection]) -> None:
        self._revocations = revocations
        self._connections = connections

    def deliver(self, delivery: Delivery) -> None:
        data = wire.load(delivery.event)["data"]
        before = datetime.fromisoformat(data["before"])
        revocation = Revocation(data["tenant"], data["subject"], before, data["token"])
        self._revocations.add(revocation)
        for connection in self._connections.of((revocation.tenant, revocation.subject)):
            connection.revoked()

    def progress(self, channel: Channel, item: bytes) -> None: ...

    def reset(self, channel: Channel, position: Position) -> None:
        """What is gone has outlived the tokens it was about."""

    async def ready(self) -> bool:
        return True

    def drain(self) -> None: ...
