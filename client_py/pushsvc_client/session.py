"""A subscription as a pure machine: where it stands, what is new, and what to do when a connection has ended.

No sockets, clocks or chance in it: how long a connection lived and a random number come with each input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .errors import NotFound, PushsvcError, Unauthorized
from .retries import back_off
from .wire import Event, Item, Position, Reset, format_cursor, parse_cursor

STEADY = 5.0
"""Seconds after which a connection has worked."""
WAYS = ("websocket", "sse", "longpoll")
"""The transports, the best one first."""
SHORT = 60.0
CUTS = 3
"""So many connections of one kind in a row that lived shorter than SHORT seconds: something in between cuts them."""
STAY = 600.0
"""Seconds that a transport which is not the best is stayed with."""


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended.

    `lived` are the seconds since it began to deliver, None if it never did. `retry` are seconds within which the
    server wants us back. `unfit`: this transport does not get through here. `clean`: it was over, nothing is wrong.
    `closed`: nothing will ever come again.
    """

    lived: float | None = None
    error: PushsvcError | None = None
    retry: tuple[float, float] | None = None
    unfit: bool = False
    clean: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """Come again, after so many seconds, and with another token if `renew` says so."""

    after: float = 0.0
    renew: bool = False


class Session:
    """What one subscriber has heard. `cursor` may be `now` or `start`; without one, where `device` stood."""

    def __init__(
        self,
        channels: Sequence[str] = (),
        cursor: str | None = None,
        ways: Sequence[str] = WAYS,
        device: str | None = None,
    ) -> None:
        """Without `channels`, the inbox. Raises ValueError on a cursor that is none."""
        self.device = device
        self._inbox = not channels
        self._channels = dict.fromkeys(channels)
        self._extra: dict[str, None] = {}
        self._first = cursor
        self._at = parse_cursor(cursor or "")
        self._ways = tuple(ways)
        self._way = 0
        self._fails = 0
        self._cuts = 0
        self._renewed = False
        self._brought = False
        """Whether the present connection has brought anything: then it has worked, however short it lived."""

    @property
    def way(self) -> str:
        """The transport to try next."""
        return self._ways[self._way]

    @property
    def degraded(self) -> bool:
        """Whether there is a better transport than the present one."""
        return self._way > 0

    def upwards(self) -> None:
        """Try the best transport again."""
        self._way = 0

    # Where it stands

    @property
    def channels(self) -> tuple[str, ...]:
        """What has to be accepted; none is the inbox."""
        return tuple(self._channels)

    def wants(self, channel: str) -> bool:
        """Whether it was asked for: a WebSocket brings the inbox in any case."""
        return channel in self._channels or channel in self._extra or (self._inbox and channel.startswith("user:"))

    @property
    def over(self) -> bool:
        """Whether all of it were jobs, and each has said its last."""
        return not self._inbox and not self._channels

    @property
    def extra(self) -> tuple[str, ...]:
        """The channels that were added, and may be refused without harm to the others."""
        return tuple(self._extra)

    @property
    def cursor(self) -> str | None:
        """From where on to hear."""
        return format_cursor(self._at) if self._at else self._first

    def position(self, channel: str) -> Position | None:
        return self._at.get(channel)

    def add(self, channel: str, position: Position | None) -> None:
        self._extra[channel] = None
        if position is not None:
            self._at.setdefault(channel, position)

    def drop(self, *channels: str) -> None:
        for channel in channels:
            self._extra.pop(channel, None)
            self._at.pop(channel, None)

    def located(self, cursor: str) -> None:
        """The server says where it goes on from; where something is known already, that counts."""
        for channel, position in parse_cursor(cursor).items():
            if self.wants(channel):
                self._at.setdefault(channel, position)

    def before(self, items: Iterable[Item], cursor: str) -> None:
        """An answer has these items and ends at this cursor: who breaks off in the midst of them comes back here."""
        for item in items:
            place = replace(item.position, offset=max(0, item.position.offset - 1))
            self._at.setdefault(item.channel, place)
        self.located(cursor)

    def is_new(self, item: Item) -> bool:
        """Whether it was not heard before. A reset is news unless it leads to where we are."""
        at = self._at.get(item.channel)
        return item.position != at if isinstance(item, Reset) else item.position.after(at)

    def after(self, item: Item) -> str:
        """The cursor of who has dealt with this, too."""
        return format_cursor(self._at | {item.channel: item.position})

    def heard(self, item: Item) -> None:
        """It was dealt with. After its last event a job's channel has nothing more to say."""
        self._at[item.channel] = item.position
        self._brought = True
        if isinstance(item, Event) and item.final and item.channel.startswith("job:"):
            self.drop(item.channel)
            self._channels.pop(item.channel, None)

    # What now

    def delivers(self) -> None:
        """A connection was accepted."""
        self._renewed = self._brought = False

    def ended(self, end: End, chance: float) -> Again:
        """What to do. Raises the error after which coming again does not help until something has changed."""
        error = end.error
        if isinstance(error, Unauthorized):
            if self._renewed:
                raise error
            self._renewed = True
            return Again(renew=True)
        if error is not None and not error.temporary and error.status < 500:
            if isinstance(error, NotFound) and self._extra and end.lived is None:
                self.drop(*self.extra)
                return Again()
            raise error
        if end.clean or end.closed:
            self._fails = 0
            return Again()
        if end.lived is not None and (self._brought or end.lived >= STEADY):
            self._fails = 0
        self._cuts = self._cuts + 1 if end.lived is not None and end.lived < SHORT and end.retry is None else 0
        if end.unfit or self._cuts >= CUTS:
            self._way = (self._way + 1) % len(self._ways)
            self._cuts = 0
        self._fails += 1
        if end.retry is not None:
            least, most = end.retry
            return Again(least + chance * (most - least))
        asked = error.retry_after if error is not None else None
        return Again((asked or 0.0) + back_off(self._fails - 1, chance))
