"""`/healthz` says that the process answers; `/readyz` that it can serve: PostgreSQL there, Redis for speed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import bus, store
from ..bus import Publisher, Queue
from ..errors import Unavailable
from ..store import Beats
from ..tasks import within

logger = logging.getLogger(__name__)

WITHIN = 2.0
"""Seconds that each of what is asked has to answer: whoever probes gives up soon, too."""

Check = Callable[[], Coroutine[Any, Any, object]]


class Health:
    """The two checks of a web process. `queue` is given where there is a Redis, `publisher` where pub/sub has another
    one."""

    def __init__(self, beats: Beats, queue: Queue | None = None, publisher: Publisher | None = None) -> None:
        self._checks: dict[str, Check] = {"postgres": lambda: beats.beat(WITHIN)}
        if queue is not None:
            self._checks["redis"] = queue.check
        if publisher is not None:
            self._checks["bus"] = publisher.check

    def routes(self) -> list[Route]:
        return [Route("/healthz", self.alive), Route("/readyz", self.ready)]

    async def alive(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """`200` while requests can be accepted. Without Redis that is so: results only come later.

        Each is written to: a server may well answer, and take no changes. `causes` says what is wrong where something
        is, in words that hold no host, role or value.
        """
        answers = await asyncio.gather(*map(_cause, self._checks.values()))
        causes = {name: cause for name, cause in zip(self._checks, answers, strict=True) if cause is not None}
        serves = "postgres" not in causes
        body: dict[str, object] = {"status": "ok" if serves else "unavailable"}
        body |= {name: name not in causes for name in self._checks}
        if causes:
            body["causes"] = causes
        headers = {"Cache-Control": "no-store"} | ({} if serves else {"Retry-After": "1"})
        return JSONResponse(body, 200 if serves else 503, headers)


async def _cause(check: Check) -> str | None:
    """What is wrong; None if nothing is."""
    try:
        await within(2 * WITHIN, check())
    except Unavailable as error:
        return str(error)
    except bus.FAULTS as error:
        return bus.described(error)
    except Exception as error:
        logger.exception("a check of readiness failed in a way of its own")
        return store.described(error) if store.is_away(error) else f"it failed with {type(error).__name__}"
    return None
