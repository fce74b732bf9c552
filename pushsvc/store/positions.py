"""Where devices said that they stand: what they go on from when they come back with no cursor of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..domain import Position
from ..errors import BadCursor, TooManyDevices
from . import device_statements as sql
from .batching import Batcher
from .postgres import Postgres

REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a subject, by the name it gave itself."""

    tenant: str
    subject: str
    name: str


class PositionStore:
    """Durable positions, channel by channel, of up to `devices` devices a subject."""

    def __init__(self, postgres: Postgres, devices: int = 100) -> None:
        self._postgres = postgres
        self._devices = devices
        self._admitted: set[Device] = set()
        self._ack: Batcher[tuple[Device, Mapping[str, Position]], bool] = Batcher("ack", self._store)

    async def acked(self, device: Device) -> Mapping[str, Position]:
        """The last position of each channel that the device has acknowledged; nothing if it is not known."""
        rows = await self._postgres.ask(sql.ACKED, device.tenant, device.subject, device.name)
        return {row["channel"]: Position(row["epoch"], row["offset"]) for row in rows}

    async def ack(self, device: Device, positions: Mapping[str, Position]) -> None:
        """Remember that the device has everything up to these positions. A position that lies before what it
        has acknowledged already, or in a history that is over, changes nothing.

        Raises BadCursor if it is no positions at all, or if one lies beyond its channel's end, TooManyDevices if
        this is a new device and its subject has as many as it may: then none of them is stored.
        """
        if not positions:
            raise BadCursor("an acknowledged cursor names positions, such as user:me@k3.41")
        if device not in self._admitted:
            await self._admit(device)
        if not await self._ack((device, positions)):
            raise BadCursor("the cursor lies beyond the end of a channel")

    async def _admit(self, device: Device) -> None:
        row = (await self._postgres.ask(sql.DEVICES_OF, device.tenant, device.subject, device.name))[0]
        if not row["known"] and row["devices"] >= self._devices:
            raise TooManyDevices(f"at most {self._devices} devices a subject; one unused for long is forgotten")
        if len(self._admitted) >= REMEMBERED:
            self._admitted.clear()
        self._admitted.add(device)

    async def _store(self, batch: Sequence[tuple[Device, Mapping[str, Position]]]) -> list[bool]:
        rows = [
            (number, device.tenant, device.subject, device.name, channel, position.epoch, position.offset)
            for number, (device, positions) in enumerate(batch)
            for channel, position in positions.items()
        ]
        wrong = {row["n"] for row in await self._postgres.ask(sql.ACK, *zip(*rows, strict=True))}
        return [number not in wrong for number in range(len(batch))]
