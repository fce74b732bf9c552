"""`/v1/events`: each request waits for what comes. It gets through everywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from ..http import Http
from ..session import End
from ..wire import Event, Located, Reset, Signal, channel_list, event_of, progress_of, reset_of
from .line import OPENING, Clock, Ended, Opening, broken, refused

WAIT = 25.0
"""Seconds that a request waits at the server."""


class LongPoll:
    duplex = False

    def __init__(self, http: Http, opening: Opening) -> None:
        self._http = http
        self._opening = opening
        self._clock = Clock()

    async def send(self, text: str) -> None:
        raise AssertionError("a poll has one direction")

    async def signals(self) -> AsyncGenerator[Signal, None]:
        url = self._http.url("/v1/events")
        opening = self._opening
        names = channel_list([*opening.channels, *opening.extra])
        query: dict[str, Any] = {"channels": names} | ({"device": opening.device} if opening.device else {})
        headers = self._http.headers_for(url, opening.token)
        timeout = httpx.Timeout(WAIT + 15.0, connect=OPENING, pool=None)
        cursor, wait = opening.cursor, 0.0
        while True:
            query |= {"wait": wait} | ({} if cursor is None else {"cursor": cursor})
            try:
                response = await self._http.client.get(url, params=query, headers=headers, timeout=timeout)
            except httpx.TransportError as error:
                raise Ended(broken(error, self._clock.lived)) from error
            if response.status_code != 200:
                raise Ended(refused(response))
            try:
                body = json.loads(response.content)
                items: list[Event | Reset] = [reset_of(item) for item in body["resets"]]
                items += [event_of(item) for item in body["events"]]
                heard = [progress_of(item) for item in body.get("progress", ())]
                cursor = body["cursor"]
            except (ValueError, KeyError, TypeError) as error:
                raise Ended(End(self._clock.lived, unfit=True)) from error
            self._clock.start()
            wait = WAIT
            yield Located(cursor, tuple(items))
            for progress in heard:
                yield progress
            if body.get("closed"):
                raise Ended(End(self._clock.lived, closed=True))
