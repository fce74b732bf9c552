"""The load: jobs over HTTP and by frames, asked for until they are accepted; cancels; events of the app's own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.typing import Subprotocol

from pushsvc import Service
from pushsvc.domain import Cursor, Position
from pushsvc.errors import Unavailable
from pushsvc.wire import SUBPROTOCOL

from .auditor import Promise, Publishing
from .lines import PATIENCE, TEMPORARY
from .plan import OPS, Order, Publication

ANSWER_WITHIN = 20.0
"""Seconds that a request has before it is made again, with the same key."""

BLOCKED = 4.5
"""Seconds for which a job lets nothing else in its worker have a turn: half as long again as a lease."""

Accepted = Callable[[Order, str, Position], None]
"""Told of each job as it is accepted: its id, and the position of its channel from which to hear it."""


class NotAccepted(Exception):
    """Come again: the node, or what it needs, is not there."""


class Load:
    """Asks, and remembers what it was promised."""

    def __init__(self, nodes: Sequence[str], tokens: Mapping[str, str], pauses: Random, accepted: Accepted) -> None:
        """`nodes` are URLs, `tokens` by user."""
        self.promises: list[Promise] = []
        self.published: list[Publishing] = []
        self.refusals: list[str] = []
        """Answers that no fault explains."""
        self.asked: Counter[str] = Counter()
        self._nodes = nodes
        self._tokens = tokens
        self._pauses = pauses
        self._accepted = accepted
        self._http = httpx.AsyncClient(
            timeout=ANSWER_WITHIN,
            trust_env=False,
            verify=False,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
        )
        self._numbers = itertools.count(1)

    async def close(self) -> None:
        await self._http.aclose()

    # Jobs

    async def order(self, order: Order) -> None:
        """Have the job accepted, however often that must be tried; then cancel it, if it is to be cancelled."""
        body = _body(order)
        way = self._by_frame if _by_frame(order) else self._by_request
        job = await self._until_accepted(order, lambda node: way(order, body, node))
        if job is not None and order.cancel_in is not None:
            await asyncio.sleep(order.cancel_in)
            await self._until_accepted(order, lambda node: self._cancel(order, job["id"], node))

    async def _until_accepted(self, order: Order, ask: Callable[[str], Any]) -> Any:
        for node in itertools.count(order.node):
            try:
                return await ask(self._nodes[node % len(self._nodes)])
            except NotAccepted as error:
                self.asked[f"again: {error}"] += 1
                await asyncio.sleep(self._pauses.uniform(0.1, 0.6))

    async def _request(self, order: Order, url: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._tokens[order.user]}"} | options.pop("headers", {})
        try:
            response = await self._http.post(url, headers=headers, **options)
        except httpx.TransportError as error:
            raise NotAccepted(type(error).__name__) from None
        if response.status_code in TEMPORARY:
            raise NotAccepted(str(response.status_code))
        return response

    async def _by_request(self, order: Order, body: dict[str, Any], node: str) -> dict[str, Any] | None:
        headers = {"Idempotency-Key": order.key}
        response = await self._request(order, f"{node}/v1/jobs", json=body, headers=headers)
        if response.status_code == 400 and "deadline" in response.text and order.deadline_in is not None:
            self.asked["too late"] += 1
            return None
        if response.status_code != 202:
            self.refusals.append(f"{order.key}: {response.status_code} {response.text}")
            return None
        return self._promised(order, body, response.json())

    async def _by_frame(self, order: Order, body: dict[str, Any], node: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN), _socket(node) as socket:
                frame = await _asked(socket, op="hello", token=self._tokens[order.user])
                if "ok" in frame:
                    frame = await _asked(socket, op="submit", key=order.key, **body)
        except (OSError, EOFError, WebSocketException, TimeoutError) as error:
            if isinstance(error, InvalidHandshake) and getattr(error, "response", None) is None:
                raise NotAccepted("no handshake") from None
            raise NotAccepted(type(error).__name__) from None
        if "ok" in frame:
            return self._promised(order, body, frame["ok"])
        if not frame["error"]["temporary"]:
            self.refusals.append(f"{order.key}: {frame['error']}")
            return None
        raise NotAccepted("503")

    def _promised(self, order: Order, body: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
        self.asked["by frame" if _by_frame(order) else "by request"] += 1
        self.promises.append(Promise(order.key, job["id"], _ENDS[order.job], _result(order)))
        # Of a job that was accepted at an earlier try, the cursor says where its channel is by now.
        self._accepted(order, job["id"], Cursor.parse(job["cursor"]).positions[f"job:{job['id']}"])
        return job

    async def _cancel(self, order: Order, job: str, node: str) -> None:
        response = await self._request(order, f"{node}/v1/jobs/{job}/cancel")
        self.asked["to cancel"] += 1
        if response.status_code not in (202, 409):
            self.refusals.append(f"cancel of {order.key}: {response.status_code} {response.text}")

    # Events of the app's own

    async def publish(self, service: Service, publication: Publication) -> None:
        """Publish them all at once, and again what was refused."""
        await asyncio.gather(*(self._publish(service, publication) for _ in range(publication.count)))

    async def _publish(self, service: Service, publication: Publication) -> None:
        data = {"number": next(self._numbers), "pad": "x" * publication.size}
        while True:
            try:
                position = await service.publish(publication.channel, "soak.told", data)
            except Unavailable:
                self.asked["again: publish"] += 1
                await asyncio.sleep(self._pauses.uniform(0.1, 0.6))
            else:
                self.published.append(Publishing(publication.channel, position.offset, data))
                return


_ENDS: dict[str, tuple[str, ...]] = {
    "echo": ("succeeded",),
    "long": ("succeeded",),
    "blocking": ("succeeded",),
    "shout": ("succeeded",),
    "big": ("succeeded",),
    "nap": ("succeeded",),
    "failing": ("failed",),
    "cancelled": ("cancelled",),
    "cancelled in SQL": ("cancelled",),
    "overdue": ("expired",),
}


def _result(order: Order) -> Any:
    """What the job returns, if it succeeds; None if that can't be said before."""
    results = {
        "echo": {"number": order.number, "pad": "é" * order.size},
        "long": _seconds(order),
        "blocking": BLOCKED,
        "shout": f"NUMBER {order.number}",
        "big": "x" * (70_000 + order.number),
    }
    return results.get(order.job)


def _seconds(order: Order) -> float:
    """How long a job takes that may outlast its lease."""
    return 1.0 + order.number % 5


def _by_frame(order: Order) -> bool:
    """A frame says neither channels nor times."""
    return order.frame and not (order.group or order.run_in or order.deadline_in)


def _body(order: Order) -> dict[str, Any]:
    """The submission, the same at each try: its digest goes with its key."""
    job, params = {
        "echo": ("echo", {"value": _result(order)}),
        "long": ("long", {"seconds": _seconds(order)}),
        "blocking": ("blocking", {"seconds": BLOCKED}),
        "shout": ("shout", {"text": f"number {order.number}"}),
        "failing": ("failing", {"message": f"number {order.number}"}),
        "big": ("big", {"size": 70_000 + order.number}),
        "nap": ("nap", {"seconds": 0.02 * (order.number % 10), "times": 1 + order.number % 3}),
        "cancelled": ("gated", {"gate": "never"}),
        "cancelled in SQL": ("nap", {"seconds": 60, "times": 2}),
        "overdue": ("gated", {"gate": "never"}),
    }[order.job]
    now = datetime.now(UTC)
    moments = {"run_at": order.run_in, "deadline": order.deadline_in}
    body: dict[str, Any] = {"job": job, "params": params} | ({"channels": [OPS]} if order.group else {})
    return body | {name: (now + timedelta(seconds=at)).isoformat() for name, at in moments.items() if at is not None}


def _socket(node: str) -> connect:
    url = node.replace("http", "ws", 1) + "/v1/ws"
    return connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], open_timeout=PATIENCE, close_timeout=1, proxy=None)


async def _asked(socket: ClientConnection, **frame: Any) -> dict[str, Any]:
    """The answer to the one frame that is not answered yet."""
    await socket.send(json.dumps({"id": 1} | frame))
    while "id" not in (answer := json.loads(await socket.recv())):
        pass
    return dict(answer)
