"""A subscriber's WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

from pushsvc.domain import Cursor, Position
from pushsvc.wire import SUBPROTOCOL

from ..acceptance.clients import events_in
from .lines import PATIENCE, SMALL, TEMPORARY, Ended, Line, Listening, Refused
from .plan import Leg


class SocketLine(Line):
    """`/v1/ws`."""

    _socket: ClientConnection | None = None
    _retry = (0.05, 0.5)
    _bye: int | None = None

    def __init__(self, who: Listening, node: str, leg: Leg) -> None:
        super().__init__(who, node, leg)
        self._number = 1
        self._asked: dict[int, tuple[str, str]] = {}
        self._heard: set[str] = set()
        self._welcome = asyncio.Event()

    async def listen(self) -> None:
        self._socket = await self._connect()
        who = self._who
        self._heard = set(who.channels)
        # The inbox comes first, and by itself.
        others = list(who.channels)[1:]
        minding = asyncio.create_task(self._mind())
        try:
            # The node may be closing just now, with its Close on the way.
            await self._say("hello", token=who.token, device=who.device, channels=others, cursor=who.cursor)
            while True:
                async with asyncio.timeout(PATIENCE):
                    text = await self._socket.recv()
                await self._hearing.wait()
                self._frame(str(text))
                if self._welcome.is_set() and (cursor := who.acking()) is not None:
                    await self._say("ack", about=cursor, cursor=cursor)
        except ConnectionClosed as error:
            raise self._why(error) from None
        except TimeoutError:
            raise Ended("silence") from None
        finally:
            minding.cancel()
            with suppress(asyncio.CancelledError, ConnectionClosed):
                await minding

    async def _connect(self) -> ClientConnection:
        address = urlsplit(self._node)
        raw = socket.socket()
        raw.setblocking(False)
        if self._leg.deaf:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        try:
            await asyncio.get_running_loop().sock_connect(raw, (address.hostname, address.port))
            return await connect(
                f"ws://{address.netloc}/v1/ws",
                sock=raw,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_queue=None,
                max_size=None,
                ping_interval=None,
                open_timeout=PATIENCE,
                close_timeout=2,
                proxy=None,
            )
        except (OSError, EOFError, InvalidMessage, TimeoutError, ConnectionClosed) as error:
            raw.close()
            raise Ended("not there" if isinstance(error, ConnectionRefusedError) else "broken") from None
        except InvalidHandshake as error:
            raw.close()
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in TEMPORARY:
                raise Ended(str(status)) from None
            raise Refused(f"handshake: {error}") from None
        except BaseException:
            raw.close()
            raise

    async def _say(self, op: str, about: str = "", **members: Any) -> None:
        assert self._socket is not None
        self._number += 1
        self._asked[self._number] = (op, about)
        await self._socket.send(json.dumps({"id": self._number, "op": op} | members))

    async def _mind(self) -> None:
        """Subscribe to what the subscriber has begun to want, and leave what it wants no more."""
        who = self._who
        await self._welcome.wait()
        while True:
            await who.fresh.wait()
            who.fresh.clear()
            for channel in [each for each in self._heard if each not in who.channels]:
                self._heard.discard(channel)
                await self._say("unsubscribe", channels=[channel])
            for channel, position in [each for each in who.channels.items() if each[0] not in self._heard]:
                self._heard.add(channel)
                await self._say("subscribe", about=channel, channels=[channel], cursor=_part(channel, position))

    def _frame(self, text: str) -> None:
        if text.startswith('{"op":"event"'):
            if not self._welcome.is_set():
                raise Refused("an event before the answer to hello")
            (received,) = events_in(text)
            self._who.take(received)
            self._who.moved({received.channel: Position.parse(received.position)})
            return
        frame = json.loads(text)
        if "id" in frame:
            self._answer(*self._asked.pop(frame["id"]), frame)
        elif frame["op"] == "reset":
            self._who.reset(text)
        elif frame["op"] == "bye":
            self._bye = frame["code"]
            if (between := frame.get("retry_ms")) is not None:
                # It spreads a crowd over seconds; a few testers need not wait so long.
                self._retry = (between[0] / 10_000, between[1] / 40_000)

    def _answer(self, op: str, about: str, frame: dict[str, Any]) -> None:
        if "error" in frame:
            if not frame["error"]["temporary"]:
                raise Refused(f"{op} {about}: {frame['error']}")
            if op == "subscribe":
                self._heard.discard(about)
                self._who.fresh.set()
        elif op == "ack":
            self._who.acked(about)
        elif op in ("hello", "subscribe"):
            self._welcome.set()
            self._who.located(Cursor.parse(frame["ok"]["cursor"]).positions)

    def _why(self, error: ConnectionClosed) -> Ended | Refused:
        code = error.rcvd.code if error.rcvd is not None else None
        if code is None:
            return Ended("broken", self._retry)
        if code in (4000, 1002, 1003, 1007, 1009) or code >= 4400:
            return Refused(f"closed with {code} {error.rcvd}")
        if self._bye not in (None, code):
            return Refused(f"bye with {self._bye}, and closed with {code}")
        return Ended({1011: "no pong", 4001: "drained", 4003: "503"}.get(code, f"closed with {code}"), self._retry)

    async def close(self, end: str) -> None:
        if self._socket is None:
            return
        if end == "vanished":
            self._socket.transport.abort()
        else:
            self.hear()
            await self._socket.close()
        await self._socket.wait_closed()

    def deafen(self) -> None:
        super().deafen()
        if self._socket is not None and not self._socket.transport.is_closing():
            self._socket.transport.pause_reading()

    def hear(self) -> None:
        super().hear()
        if self._socket is not None and not self._socket.transport.is_closing():
            self._socket.transport.resume_reading()


def _part(channel: str, position: Position | None) -> str | None:
    return None if position is None else f"{quote(channel, safe=':')}@{position}"
