"""What both shops do: a report that takes its time, and an order with a picture."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass

from pushsvc import current_job

SECONDS = float(os.environ.get("SHOP_SECONDS", "3"))
"""How long each slow page takes."""

FLIGHTS = {"JFK": 111_279, "LGA": 104_662, "EWR": 120_835}
ORDERS: list[str] = []
"""Those that this process has taken."""


@dataclass(frozen=True)
class Report:
    user: str
    code: str
    flights: int
    over: int


@dataclass(frozen=True)
class Receipt:
    user: str
    item: str
    picture: str
    bytes: int


async def take_time(what: str) -> None:
    """Something slow, which says how far it is: to whoever waits for its job, or to nobody."""
    for step in range(10):
        await current_job().progress(step / 10, f"{what}, step {step + 1} of 10")
        await asyncio.sleep(SECONDS / 10)


async def report_on(user: str, code: str, over: int) -> Report:
    await take_time(f"counting flights from {code}")
    return Report(user, code, FLIGHTS.get(code, 0), over)


async def order(user: str, item: str, picture: str, size: int) -> Receipt:
    await take_time(f"ordering {item}")
    ORDERS.append(item)
    with open(os.environ.get("SHOP_ORDERS", os.devnull), "a") as book:  # noqa: ASYNC230  a line, as an example
        book.write(f"{user} {item}\n")
    return Receipt(user, item, picture, size)


def as_json(report: Report) -> dict[str, object]:
    return asdict(report)
