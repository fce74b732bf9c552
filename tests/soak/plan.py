"""What a soak does, and when: all of it a function of the seed.

What comes of it is not, since processes and networks have their own pace; but a run that failed is repeated with
the same faults at the same moments, the same clients and the same load.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

USERS = ("alice", "bob", "carol", "dave")
OPS, FLOOD = "group:ops", "group:flood"
GROUPS = (OPS, FLOOD)
NODES = 2
WORKERS = 2

FAULTS = (
    "kill web",
    "kill worker",
    "drain web",
    "drain worker",
    "restart redis",
    "crash redis",
    "stall redis",
    "cut redis clients",
    "restart postgres",
    "stop postgres at once",
    "crash postgres",
    "cut postgres clients",
    "freeze postgres",
    "read-only postgres",
    "read-only sessions",
    "end redis connections",
    "silence redis connections",
    "poison",
    "block a loop",
)
"""Each as often as the others; `faults.py` says what they are."""

Transport = Literal["websocket", "event stream", "long-poll", "polling"]
TRANSPORTS: tuple[Transport, ...] = ("websocket", "event stream", "long-poll", "polling")

FLOOD_EVENTS, FLOOD_BYTES = 50, 15_000
"""More than what the kernel and a connection's backlog hold for a client that does not read."""

AT_FIRST = 0.5
"""Seconds in which everybody connects, before the first fault."""


@dataclass(frozen=True)
class Fault:
    """`kind` is one of FAULTS; `target` which process; `outage` the seconds until it is put right."""

    at: float
    kind: str
    target: int
    outage: float


@dataclass(frozen=True)
class Order:
    """A job to be submitted: at which node, by which way, and what becomes of it."""

    at: float
    number: int
    user: str
    node: int
    job: str
    size: int
    frame: bool
    """Through a `submit` frame instead of a request."""
    group: bool
    """Its last event is logged in OPS, too."""
    run_in: float | None
    deadline_in: float | None
    cancel_in: float | None
    watched: bool
    """Somebody subscribes to its own channel."""

    @property
    def key(self) -> str:
        return f"order-{self.number}"


@dataclass(frozen=True)
class Publication:
    """Events of the app's own, all at once."""

    at: float
    channel: str
    count: int
    size: int


@dataclass(frozen=True)
class Member:
    """A subscriber: who it is, what it hears besides its inbox, and how it behaves."""

    name: str
    user: str
    groups: tuple[str, ...]
    manner: str
    transports: tuple[Transport, ...] = TRANSPORTS
    device: bool = False
    """It acknowledges, and comes back at times with nothing but its device's name."""
    watches: bool = False
    """It subscribes to the channels of jobs."""


@dataclass(frozen=True)
class Leg:
    """One connection of a subscriber: where, how long at the most (None: until it breaks), and how it ends."""

    transport: Transport
    node: int
    seconds: float | None
    end: Literal["closed", "vanished", "frozen"]
    deaf: tuple[float, float] | None
    """After so many seconds it reads nothing for so many seconds."""
    forgetful: bool
    """It comes with its device's name, and no cursor."""
    limit: int
    """Events in an answer to a poll."""


@dataclass(frozen=True)
class Plan:
    seed: int
    seconds: float
    faults: tuple[Fault, ...]
    orders: tuple[Order, ...]
    publications: tuple[Publication, ...]
    members: tuple[Member, ...]

    def __str__(self) -> str:
        events = sum(each.count for each in self.publications)
        return (
            f"{len(self.faults)} faults, {len(self.orders)} jobs and {events} events of the app's own,"
            f" {len(self.members)} subscribers at {NODES} web and {WORKERS} worker processes"
        )

    @classmethod
    def of(cls, seed: int, seconds: float, *, jobs: float = 20.0, every: float = 2.5) -> Plan:
        """A soak of so many seconds, with so many jobs a second and a fault `every` so many seconds."""
        return cls(
            seed,
            seconds,
            tuple(_faults(random.Random(f"{seed} faults"), seconds, every)),
            tuple(_orders(random.Random(f"{seed} orders"), seconds, jobs)),
            tuple(_publications(random.Random(f"{seed} publications"), seconds)),
            MEMBERS,
        )

    def legs(self, member: Member) -> Iterator[Leg]:
        """Its connections one after another, without end."""
        return _legs(random.Random(f"{self.seed} legs of {member.name}"), member)

    def pauses(self, who: str) -> random.Random:
        """Jitter: how much of it is drawn depends on what happens, so it is apart from the rest."""
        return random.Random(f"{self.seed} pauses of {who}")


def _moments(draw: random.Random, seconds: float, rate: float) -> Iterator[float]:
    at = AT_FIRST + draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


def _faults(draw: random.Random, seconds: float, every: float) -> Iterator[Fault]:
    """Evenly spread but for some jitter, and of each kind as many, so that a short soak has them all."""
    kinds: list[str] = []
    for number in range(int((seconds - AT_FIRST) / every)):
        if not kinds:
            kinds = draw.sample(FAULTS, len(FAULTS))
        at = AT_FIRST + (number + draw.random()) * every
        yield Fault(at, kinds.pop(), draw.randrange(NODES), draw.choice((0.0, 0.0, 0.3, 1.0)))


def _orders(draw: random.Random, seconds: float, rate: float) -> Iterator[Order]:
    jobs = {
        "echo": 48, "long": 2, "shout": 6, "failing": 8, "big": 5, "nap": 15,
        "cancelled": 6, "cancelled in SQL": 4, "overdue": 6,
    }  # fmt: skip
    for number, at in enumerate(_moments(draw, seconds, rate)):
        (job,) = draw.choices(list(jobs), list(jobs.values()))
        yield Order(
            at=at,
            number=number,
            user=draw.choice(USERS),
            node=draw.randrange(NODES),
            job=job,
            size=draw.choice((0, 100, 100, 4000)),
            frame=draw.random() < 0.15,
            group=draw.random() < 0.1,
            run_in=draw.uniform(0.1, 1.0) if draw.random() < 0.05 else None,
            deadline_in=draw.uniform(0.5, 2.0) if job == "overdue" else None,
            cancel_in=draw.choice((0.0, 0.2, 1.0)) if job.startswith("cancelled") else None,
            watched=draw.random() < 0.3,
        )


def _publications(draw: random.Random, seconds: float) -> Iterator[Publication]:
    for at in _moments(draw, seconds, 2.0):
        yield Publication(at, draw.choice([*GROUPS, *(f"user:{user}" for user in USERS)]), 1, draw.choice((0, 2000)))
    for at in _moments(draw, seconds, 0.3):
        yield Publication(at, FLOOD, FLOOD_EVENTS, FLOOD_BYTES)


MEMBERS = (
    Member("steady socket", "alice", GROUPS, "steady", ("websocket",)),
    Member("steady stream", "alice", GROUPS, "steady", ("event stream",)),
    Member("steady long-poll", "bob", GROUPS, "steady", ("long-poll",)),
    Member("steady polling", "bob", GROUPS, "steady", ("polling",)),
    Member("hopper", "alice", (OPS,), "hopping"),
    Member("other hopper", "carol", GROUPS, "hopping"),
    Member("hopper between nodes", "dave", GROUPS, "hopping", ("websocket",)),
    Member("deaf socket", "bob", (FLOOD,), "deaf", ("websocket",)),
    Member("deaf stream", "carol", (FLOOD,), "deaf", ("event stream",)),
    Member("vanishing socket", "carol", (OPS,), "vanishing", ("websocket",)),
    Member("vanishing", "dave", (OPS,), "vanishing"),
    Member("device at sockets", "dave", (OPS,), "hopping", ("websocket",), device=True),
    Member("device", "alice", (OPS,), "vanishing", device=True),
    Member("watcher at a socket", "bob", (), "steady", ("websocket",), watches=True),
    Member("watcher", "carol", (), "hopping", watches=True),
)


def _legs(draw: random.Random, member: Member) -> Iterator[Leg]:
    while True:
        transport = draw.choice(member.transports)
        node, limit, forgetful = draw.randrange(NODES), draw.choice((7, 100, 1000)), draw.random() < 0.5
        seconds: float | None = draw.uniform(0.2, 4.0)
        deaf = (draw.uniform(0.1, 2.0), draw.uniform(0.5, 6.0))
        end = draw.choice(_ENDS[member.manner])
        if member.manner == "steady":
            seconds = None
        elif member.manner == "deaf":
            seconds = sum(deaf) + 2.0
        yield Leg(
            transport=transport,
            node=node,
            seconds=seconds,
            end=end,
            deaf=deaf if member.manner == "deaf" else None,
            forgetful=forgetful and member.device,
            limit=limit,
        )


_ENDS: dict[str, Sequence[Literal["closed", "vanished", "frozen"]]] = {
    "steady": ("closed",),
    "hopping": ("closed", "closed", "vanished"),
    "deaf": ("closed", "vanished"),
    "vanishing": ("vanished", "vanished", "vanished", "frozen"),
}
