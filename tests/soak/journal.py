"""What a subscriber writes down, and nothing else: what arrived, on which connection, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pushsvc.domain import Position


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event as it came. `connection` counts the subscriber's connections; a poll's is the client that polls."""

    connection: int
    channel: str
    position: Position
    event: str


@dataclass(frozen=True, slots=True)
class Resumption:
    """It came back with nothing but its device's name, and was told where it stands.

    `confirmed` is the last acknowledgement that was answered, `sent` the last one that may have arrived.
    """

    channel: str
    confirmed: int
    sent: int
    told: int


_texts: dict[str, str] = {}
"""Each text once, however many subscribers wrote it down."""


@dataclass
class Journal:
    """All that one subscriber noted."""

    name: str
    starts: dict[str, Position] = field(default_factory=dict)
    """Where it was when it first heard of a channel: from there on, everything is its due."""
    arrivals: list[Arrival] = field(default_factory=list)
    resumptions: list[Resumption] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Answers that no fault explains."""
    broken: list[str] = field(default_factory=list)
    """Where the subscriber itself went wrong. What it missed by that is nobody's fault but its own."""
    over: bool = False
    """Its life ended before the soak did."""
    ends: Counter[str] = field(default_factory=Counter)
    """Why its connections ended."""
    connections: int = 0
    reached: dict[str, int] = field(default_factory=dict)

    def locate(self, positions: Mapping[str, Position]) -> None:
        """Where channels are that it had not heard of."""
        for channel, position in positions.items():
            self.starts.setdefault(channel, position)

    def note(self, channel: str, position: Position, event: str) -> None:
        """An event that has just come."""
        text = _texts.setdefault(event, event)
        self.arrivals.append(Arrival(self.connections, channel, position, text))
        self.reached[channel] = max(self.reached.get(channel, 0), position.offset)
