"""`/v1/ws`: one connection for both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from ..errors import closed_with, error_of
from ..http import Http
from ..retries import TEMPORARY
from ..session import End
from ..wire import SUBPROTOCOL, Answer, Bye, Located, Signal, frame, parse_frame
from .line import OPENING, Clock, Ended, Opening, broken

HELLO = 1
MAX_FRAME = 64 * 1024 * 1024


class WebSocket:
    duplex = True

    def __init__(self, http: Http, opening: Opening) -> None:
        self._http = http
        self._opening = opening
        self._socket: ClientConnection | None = None
        self._clock = Clock()
        self._bye: Bye | None = None

    async def signals(self) -> AsyncGenerator[Signal, None]:
        socket = await self._connected()
        try:
            yield await self._welcome(socket)
            while True:
                signal = await self._next(socket)
                if signal is not None:
                    yield signal
        except ConnectionClosed as error:
            raise Ended(self._end(error)) from error
        finally:
            await _close(socket)

    async def send(self, text: str) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(text)
        except ConnectionClosed as error:
            raise Ended(self._end(error)) from error

    async def _connected(self) -> ClientConnection:
        url = self._http.url("/v1/ws").replace("http", "ws", 1)
        try:
            self._socket = await connect(
                url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers=self._http.headers,
                compression=None,
                open_timeout=OPENING,
                max_size=MAX_FRAME,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            known = status in TEMPORARY or status == 401
            raise Ended(End(error=error_of(None, status)) if known else End(unfit=True)) from error
        except (InvalidHandshake, TimeoutError) as error:
            raise Ended(End(unfit=True)) from error
        except OSError as error:
            raise Ended(broken(error, None)) from error
        return self._socket

    async def _welcome(self, socket: ClientConnection) -> Located:
        """Say `hello`; nothing but its answer comes before that."""
        opening = self._opening
        hello = {"token": opening.token, "device": opening.device, "cursor": opening.cursor}
        await socket.send(frame("hello", HELLO, channels=list(opening.channels), **hello))
        try:
            async with asyncio.timeout(OPENING):
                while not isinstance(answer := await self._next(socket), Answer):
                    pass
        except TimeoutError as error:
            raise Ended(End(unfit=True)) from error
        if answer.ok is None:
            raise Ended(End(error=error_of(answer.error)))
        self._clock.start()
        return Located(answer.ok.get("cursor", ""))

    async def _next(self, socket: ClientConnection) -> Signal | None:
        try:
            signal = parse_frame(await socket.recv())
        except ValueError as error:
            raise Ended(End(self._clock.lived, unfit=True)) from error
        if isinstance(signal, Bye):
            self._bye = signal
            return None
        return signal

    def _end(self, error: ConnectionClosed) -> End:
        code = self._bye.code if self._bye else error.rcvd.code if error.rcvd else 1006
        retry = self._bye.retry if self._bye else None
        if 4400 <= code < 5000:
            return End(self._clock.lived, error=closed_with(code), retry=retry)
        return End(self._clock.lived, retry=retry)


async def _close(socket: ClientConnection) -> None:
    """Say goodbye, and wait no longer than a moment for the answer."""
    try:
        async with asyncio.timeout(1):
            await socket.close()
    except TimeoutError:
        socket.transport.abort()
