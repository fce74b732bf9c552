"""A subscription over real connections: the machine of `session.py`, driven."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from .errors import ConnectionFailed, PushsvcError, error_of
from .http import Http
from .session import STAY, Again, Session
from .transports import LINES, Ended, Line, Opening
from .wire import Answer, Item, Located, Progress, Signal, format_cursor, frame

FIRST_FRAME = 2
"""Frame 1 is `hello`."""


class Listener(Protocol):
    """Who hears a feed. It is awaited: a slow one makes the server wait, and nothing is dropped."""

    async def hear(self, item: Item | Progress) -> None:
        """An event or reset, with the cursor after it, or how far a job is."""

    def live(self) -> None:
        """A connection delivers: everything from the session's cursor on is heard."""

    def refused(self, channel: str, error: PushsvcError) -> None:
        """A channel that was added is not to be heard."""


class Feed:
    """Runs until it is over, cancelled, or refused for good."""

    def __init__(self, http: Http, session: Session, listener: Listener) -> None:
        self.session = session
        self._http = http
        self._listener = listener
        self._line: Line | None = None
        self._changed = asyncio.Event()
        self._numbers = iter(range(FIRST_FRAME, 2**53))
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._inbox: str | None = None

    async def run(self) -> None:
        """Until each of its jobs has said its last. Raises the PushsvcError that ended it."""
        while not self.session.over:
            token = await self._http.tokens.current()
            try:
                await self._connection(token)
            except Ended as ended:
                if ended.end.closed:
                    return
                refused = self.session.extra
                again = self.session.ended(ended.end, random.random())
                for channel in set(refused) - set(self.session.extra):
                    self._listener.refused(channel, ended.end.error or ConnectionFailed())
                await self._rest(again, token)

    async def _rest(self, again: Again, token: str | None) -> None:
        if again.renew:
            await self._http.tokens.renew(token)
        await asyncio.sleep(again.after)

    # One connection

    async def _connection(self, token: str | None) -> None:
        """Read one until it ends, or a better one is due, or other channels are wanted of one that has no way up."""
        line = LINES[self.session.way](self._http, await self._opening(token))
        self._changed.clear()
        self._line = line
        tasks = [asyncio.create_task(self._read(line)), asyncio.create_task(self._changed.wait())]
        if line.duplex:
            tasks.append(asyncio.create_task(self._keep_fresh(line)))
        try:
            limit = STAY if self.session.degraded else None
            done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.session.upwards()
            for task in done:
                task.result()
        finally:
            self._line = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(ConnectionFailed("the connection ended before the answer came"))
            self._asked.clear()

    async def _opening(self, token: str | None) -> Opening:
        session, way = self.session, LINES[self.session.way]
        channels = session.channels
        if session.extra and not channels and not way.duplex:
            # Where channels are named, the inbox has to be named too.
            self._inbox = self._inbox or f"user:{(await self._http.call('GET', '/v1/me')).json()['user']}"
            channels = (self._inbox,)
        return Opening(token, channels, session.extra, session.cursor, session.device)

    async def _read(self, line: Line) -> None:
        async with aclosing(line.signals()) as signals:
            async for signal in signals:
                await self._take(line, signal)
                if self.session.over:
                    return

    async def _take(self, line: Line, signal: Signal) -> None:
        session = self.session
        if isinstance(signal, Located):
            session.delivers()
            session.before(signal.items, signal.cursor)
            if line.duplex:
                await self._subscribe_all(line)
            self._listener.live()
            for item in signal.items:
                await self._hear(item)
        elif isinstance(signal, Answer):
            future = self._asked.pop(signal.id or 0, None)
            if future is not None and not future.done():
                future.set_result(signal)
        elif isinstance(signal, Progress):
            await self._listener.hear(signal)
        else:
            await self._hear(signal)

    async def _hear(self, item: Item) -> None:
        """Once it has been handed on, and not before, it counts as heard."""
        session = self.session
        if session.wants(item.channel) and session.is_new(item):
            await self._listener.hear(replace(item, cursor=session.after(item)))
            session.heard(item)

    # What is sent

    async def add(self, channel: str, cursor: Mapping[str, Any]) -> None:
        """Hear one more channel; whether it is accepted, the listener is told."""
        self.session.add(channel, cursor.get(channel))
        if self._line is not None and self._line.duplex:
            with contextlib.suppress(Ended):
                await self._subscribe(self._line, channel)
        else:
            self._changed.set()

    async def ack(self, cursor: str) -> bool:
        """Whether the connection could tell what its device has. Raises PushsvcError, such as BadCursor."""
        line = self._line
        if line is None or not line.duplex:
            return False
        try:
            answer = await self._ask(line, "ack", cursor=cursor)
        except (Ended, ConnectionFailed):
            return False
        if answer.error is not None:
            raise error_of(answer.error)
        return True

    async def _subscribe_all(self, line: Line) -> None:
        for channel in self.session.extra:
            await self._subscribe(line, channel)

    async def _subscribe(self, line: Line, channel: str) -> None:
        at = self.session.position(channel)
        number = next(self._numbers)
        future = self._expect(number)
        future.add_done_callback(lambda done: self._subscribed(channel, done))
        cursor = None if at is None else format_cursor({channel: at})
        await line.send(frame("subscribe", number, channels=[channel], cursor=cursor))

    def _subscribed(self, channel: str, done: asyncio.Future[Answer]) -> None:
        if done.exception() is None and (refusal := done.result().error) is not None:
            self.session.drop(channel)
            self._listener.refused(channel, error_of(refusal))

    async def _ask(self, line: Line, op: str, **members: Any) -> Answer:
        number = next(self._numbers)
        future = self._expect(number)
        await line.send(frame(op, number, **members))
        return await future

    def _expect(self, number: int) -> asyncio.Future[Answer]:
        self._asked[number] = future = asyncio.get_running_loop().create_future()
        return future

    async def _keep_fresh(self, line: Line) -> None:
        """Hand the connection another token before its own expires; it lives as long as the last one."""
        tokens = self._http.tokens
        while True:
            due = tokens.due()
            await asyncio.sleep(STAY if due is None else due)
            # Whoever gives tokens out may be away; when the connection has ended for want of one, that is told.
            with contextlib.suppress(Exception):
                if due is not None and (token := await tokens.current()) is not None:
                    await self._ask(line, "refresh", token=token)
                    continue
            await asyncio.sleep(1)
