"""Long-poll: the same attaching, the same recovery and the same event bytes, for one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from .. import wire
from ..domain import Channel, Cursor, Position, format_cursor
from ..hub import Attached, Hub
from ..wire import Delivery


class Poll:
    """One poll; a Listener of the hub for as long as it lasts."""

    writer: Callable[[bytes], object] | None = None

    def __init__(self, limit: int, prefix: str = "") -> None:
        self._limit = limit
        self._prefix = prefix
        self._events: list[bytes] = []
        self._progress: dict[bytes, bytes] = {}
        self._resets: list[bytes] = []
        self._positions: dict[str, Position] = {}
        self._closed: set[str] = set()
        self._heard: set[str] = set()
        self._left_over: set[str] = set()
        """Channels that have more than this answer holds: the next poll goes on with them."""
        self._known: frozenset[str] = frozenset()
        self._something = asyncio.Event()

    # Listener

    @property
    def page(self) -> int:
        """As many as still fit into the answer: others would be read in vain."""
        return max(1, self._limit - len(self._events))

    def deliver(self, delivery: Delivery) -> None:
        if len(self._events) >= self._limit or delivery.channel.name in self._left_over:
            # It stays after the cursor that this poll answers with, for the next one to read.
            before = Position(delivery.position.epoch, delivery.position.offset - 1)
            self._positions.setdefault(delivery.channel.name, before)
            self._left_over.add(delivery.channel.name)
            return
        self._events.append(delivery.item)
        self._heard.add(delivery.channel.name)
        self._positions[delivery.channel.name] = delivery.position
        if delivery.channel.kind == "job" and wire.is_final(delivery.event):
            self._closed.add(delivery.channel.name)
        self._something.set()

    def progress(self, channel: Channel, item: bytes) -> None:
        self._progress[item[: item.find(b",")]] = item
        # A snapshot comes with every attach: only the first poll of a channel is answered because of it.
        if channel.name in self._positions or channel.name not in self._known:
            self._something.set()

    def reset(self, channel: Channel, position: Position) -> None:
        if channel.name in self._heard or channel.name in self._left_over:
            # An answer has its resets before its events, so this one begins the next.
            self._left_over.add(channel.name)
            return
        self._resets.append(wire.reset_item(channel.name, position, self._prefix))
        self._positions[channel.name] = position
        self._something.set()

    async def ready(self) -> bool:
        return len(self._events) < self._limit and not self._left_over

    def drain(self) -> None:
        self._something.set()

    def revoked(self) -> None:
        """Answer now; the next poll is refused."""
        self._something.set()

    # The poll

    async def run(self, hub: Hub, channels: Sequence[Channel], cursor: Cursor, wait: float) -> bytes:
        """The answer: at once when there is something, else when it comes, or after `wait` seconds.

        Raises NotFound if a channel is that of a job which does not exist.
        """
        self._known = frozenset(cursor.positions)
        try:
            live = True
            places = {channel: cursor.place(channel.name) for channel in channels}
            for channel, attached in (await hub.attach_all(self, places)).items():
                self._note(channel, attached)
                live = live and attached.live
            if not self._something.is_set() and not self._all_closed(channels):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._something.wait(), wait)
                # What the same turn of the loop brings goes into the same answer.
                await asyncio.sleep(0)
        finally:
            hub.leave(self)
        return wire.poll_answer(
            self._events,
            self._progress.values(),
            self._resets,
            format_cursor(self._positions.items()),
            up_to_date=live and len(self._events) < self._limit and not self._left_over,
            closed=self._all_closed(channels),
        )

    def _note(self, channel: Channel, attached: Attached) -> None:
        self._positions.setdefault(channel.name, attached.position)
        if attached.closed and channel.name not in self._left_over:
            self._closed.add(channel.name)

    def _all_closed(self, channels: Sequence[Channel]) -> bool:
        return all(channel.name in self._closed for channel in channels)
