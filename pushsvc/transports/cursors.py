"""From where on somebody reads: what a cursor says, or what a device has acknowledged last."""

from __future__ import annotations

from collections.abc import Mapping

from ..domain import Cursor, Position
from ..store import Device, PositionStore


class Cursors:
    """Reads cursors of at most `limit` characters, and remembers those that devices acknowledge."""

    def __init__(self, positions: PositionStore, limit: int) -> None:
        self._positions = positions
        self._limit = limit

    async def start(self, device: Device | None, text: str | None) -> Cursor:
        """Where one goes on from who says this: at the cursor; without one, at what the device has acknowledged last;
        without either, at what comes from now on. An empty cursor is none. Raises BadCursor."""
        if not text and device is not None:
            return Cursor(await self._positions.acked(device))
        return Cursor.parse(text, self._limit)

    def positions(self, text: str) -> Mapping[str, Position]:
        """What the cursor names. Raises BadCursor."""
        return Cursor.parse(text, self._limit).positions

    async def ack(self, device: Device, positions: Mapping[str, Position]) -> None:
        """The device has all that stands before these."""
        await self._positions.ack(device, positions)
