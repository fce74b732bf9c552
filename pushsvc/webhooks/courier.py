"""Sends what is due: claims webhooks in PostgreSQL, attempts each, and stores what came of it.

At least once: a courier that dies in the middle of an attempt leaves a lease behind that runs out, and whoever
claims the webhook then sends it again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from .. import telemetry
from ..access import parse_target
from ..errors import Unavailable
from ..settings import Settings
from ..store.webhooks import Attempted, DueWebhook, WebhookStatus, WebhookStore
from ..tasks import contained, forever, stop
from .sender import Answer, Sender
from .signature import SigningSecrets, sign

logger = logging.getLogger(__name__)

FIRST, FACTOR, MOST = 5.0, 3.0, 4 * 3600.0
"""Seconds before the first repetition, by what each delay is longer than the one before, and the longest."""
JITTER = 0.25
"""What failed together does not come back together: each delay is up to this part of it shorter or longer."""
GONE = 410
MARGIN = 15.0
"""Seconds of lease beyond the longest attempt."""
LAST_CALL = 5.0
"""Seconds for attempts to end when the process stops; those that do not are handed back."""
SILENT_HOSTS = 1000


def backoff(tries: int) -> float:
    """Seconds between a failed attempt, the `tries`th of its round, and the next."""
    return min(FIRST * FACTOR ** min(tries - 1, 30), MOST) * random.uniform(1 - JITTER, 1 + JITTER)


class Courier:
    """Up to `settings.webhook_concurrency` attempts at once, a fifth of them to one host; one at a time to a host
    that has not answered, until it does. So nobody who is slow holds up the others."""

    def __init__(self, store: WebhookStore, sender: Sender, secrets: SigningSecrets, settings: Settings) -> None:
        self._store = store
        self._sender = sender
        self._secrets = secrets
        self._places = settings.webhook_concurrency
        self._each = max(1, self._places // 5)
        self._lease = settings.webhook_timeout + MARGIN
        self._poll = settings.sweep
        self._running: dict[asyncio.Task[None], DueWebhook] = {}
        self._silent: OrderedDict[str, None] = OrderedDict()
        self._look = asyncio.Event()
        self._after = ""
        self._stopping = False
        self._more = False
        """Whether the last claim left something behind for want of room."""

    def wake(self) -> None:
        """Look for what is due now."""
        self._look.set()

    async def run(self) -> None:
        """Send until `stop`; whatever goes wrong is tried again at the next look."""
        try:
            await forever("looking for due webhooks", self._look_round, until=lambda: self._stopping)
            await self._wind_up()
        finally:
            await stop(*self._running)
            self._sender.close()

    def stop(self) -> None:
        """Claim no more; `run` returns when what is under way has ended or been handed back."""
        self._stopping = True
        self.wake()

    async def _wind_up(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_CALL)
        left = dict(self._running)
        await stop(*left)
        if left:
            with suppress(Unavailable):
                await self._store.hand_back(list(left.values()))

    # Claiming

    async def _look_round(self) -> None:
        """Send what is due, and wait until something may be due again."""
        pause = self._poll
        try:
            pause = await self._send_due()
        except Unavailable:
            logger.debug("no webhooks are sent, PostgreSQL is away")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._look.wait(), pause)
        self._look.clear()

    async def _send_due(self) -> float:
        """Claim and launch all that there is room for; after how many seconds to look again."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        # Whoever ends while a claim is under way may make room that the claim did not know of.
        self._more, more = True, False
        while (room := self._places - len(self._running)) > 0:
            rooms, begun = self._rooms(), loop.time()
            claimed, held = await self._store.claim(self._after, room, self._each, rooms, self._lease)
            if held:
                telemetry.emit("webhook.held", {"count": held})
            for webhook in claimed:
                self._launch(webhook)
            found = len(claimed) + held
            of_each = Counter(webhook.host for webhook in claimed)
            full = any(count >= rooms.get(host, self._each) for host, count in of_each.items())
            more = more or full or 0 in rooms.values()
            # Round and round: every host gets its turn, however much is due to the others.
            wrapped, self._after = not self._after, max((each.host for each in claimed), default="")
            if found < room:
                if wrapped:
                    break
                self._after = ""
        self._more = more or room <= 0
        following = await self._store.next_due(loop.time() - begun)
        return self._poll if following is None else min(following, self._poll)

    def _rooms(self) -> Mapping[str, int]:
        """How many more may be sent to the hosts that are not as free as any other."""
        busy = Counter(webhook.host for webhook in self._running.values())
        return {
            host: max(0, (1 if host in self._silent else self._each) - busy[host]) for host in {*busy, *self._silent}
        }

    def _launch(self, webhook: DueWebhook) -> None:
        attempt = contained("an attempt at a webhook, whose lease will lapse,", self._attempt(webhook))
        task = asyncio.create_task(attempt, name=f"webhook:{webhook.id}")
        self._running[task] = webhook
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if self._more:
            self._look.set()

    # One attempt

    async def _attempt(self, webhook: DueWebhook) -> None:
        begun, at = time.perf_counter(), datetime.now(UTC)
        answer = await self._sender.post(webhook.url, self._headers(webhook, at), webhook.event)
        duration = time.perf_counter() - begun
        self._remember(webhook.host, answer)
        verdict, delay = judged(answer, webhook.tries + 1)
        status = await self._store.settle(
            Attempted(
                webhook=webhook.id,
                version=webhook.version,
                number=webhook.number,
                at=at,
                duration=duration,
                code=answer.status,
                error=answer.error,
                answer=answer.body,
                verdict=verdict,
                delay=delay,
            )
        )
        self._tell(webhook, answer, status, duration)

    def _headers(self, webhook: DueWebhook, at: datetime) -> Mapping[str, str]:
        owner = (webhook.job.tenant, webhook.job.owner or "") if webhook.own else ("", "")
        timestamp = int(at.timestamp())
        return {
            "Content-Type": "application/json",
            "User-Agent": "pushsvc",
            "webhook-id": webhook.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(webhook.id, timestamp, webhook.event, self._secrets.keys(*owner)),
        }

    def _remember(self, host: str, answer: Answer) -> None:
        if answer.status is not None:
            self._silent.pop(host, None)
            return
        self._silent[host] = None
        if len(self._silent) > SILENT_HOSTS:
            self._silent.popitem(last=False)

    def _tell(self, webhook: DueWebhook, answer: Answer, status: WebhookStatus | None, duration: float) -> None:
        if status is None:
            telemetry.emit("webhook.fenced", {"count": 1})
            return
        telemetry.emit("webhook.attempt", {"duration": duration}, {"status": status, "code": answer.status})
        if status == "delivered":
            return
        outcome = {"pending": "to be tried again", "failed": "given up", "disabled": "its endpoint is disabled"}
        level = logging.INFO if status == "pending" else logging.WARNING
        why = answer.error or f"status {answer.status}"
        origin = parse_target(webhook.url).origin
        logger.log(level, "webhook %s to %s, %s: %s", webhook.id, origin, outcome[status], why)


def judged(answer: Answer, tries: int) -> tuple[WebhookStatus, float]:
    """What an answer makes of its webhook, and in how many seconds the next attempt would be due."""
    if answer.delivered:
        return "delivered", 0.0
    if answer.status == GONE:
        return "disabled", 0.0
    delay = backoff(tries)
    if answer.retry_after is not None:
        # Not before it asks us to, and not with all the others at that very moment.
        delay = max(delay, answer.retry_after * random.uniform(1, 1 + JITTER))
    return "pending", delay
