"""What the hub needs of a connection: a small interface, declared by who uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..domain import Channel, Position
from ..wire import Delivery


class Listener(Protocol):
    """A connection of any transport. None of the plain methods may block or raise."""

    @property
    def writer(self) -> Callable[[bytes], object] | None:
        """Takes whole WebSocket frames, straight to the socket; None: every event goes through `deliver`."""

    @property
    def page(self) -> int:
        """How many missed events to read at a time."""

    def deliver(self, delivery: Delivery) -> None:
        """An event, in order, once."""

    def progress(self, channel: Channel, item: bytes) -> None:
        """The latest progress of a job."""

    def reset(self, channel: Channel, position: Position) -> None:
        """What lay between is gone; events go on from `position`."""

    async def ready(self) -> bool:
        """Waits until more may be delivered. False: it wants no more, and leaves the channel."""

    def drain(self) -> None:
        """This node is going away: end, and let the client go on elsewhere."""
