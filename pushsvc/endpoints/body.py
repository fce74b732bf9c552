"""A request's body on its way into the app: kept, as long as it may yet have to be recorded.

Whether a request is to be recorded is known only when it reaches its endpoint, and by then the app may have read the
body. So what is read is kept: in memory, and beyond a bound in a file without a name, under a key of its own.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from ..errors import TooLarge

IN_MEMORY = 1024**2
"""Bytes of a body that are kept in memory; the rest of them goes to the file."""

_NONCE = 12


class Body:
    """The body of one request. `receive` is the app's; `chunks` is for who records it.

    Raises TooLarge where more than `limit` bytes have been read, and ClientDisconnect where it ended too soon.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept: list[bytes] = []
        self._in_memory = 0
        self._spill: _Spill | None = None
        self._keep = True
        self.size = 0
        self.ended = False
        self.gone = False

    async def receive(self) -> Message:
        """The next message, kept on its way."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        elif message["type"] == "http.request":
            self.ended = not message.get("more_body", False)
            await self._take(message.get("body", b""))
        return message

    async def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._limit:
            self.drop()
        elif data and self._keep:
            self._kept.append(data)
            self._in_memory += len(data)
            if self._in_memory > IN_MEMORY:
                if self._spill is None:
                    self._spill = _Spill()
                await self._spill.write(b"".join(self._kept))
                self._kept, self._in_memory = [], 0

    async def chunks(self, *, keep: bool) -> AsyncIterator[bytes]:
        """All of it: what has been read, then the rest as it comes. With `keep` it can be had again."""
        if self.size > self._limit:
            raise TooLarge(f"the body may have {self._limit} bytes")
        if self._spill is not None:
            async for data in self._spill.read():
                yield data
        for data in list(self._kept):
            yield data
        self._keep = keep
        if not keep:
            self.drop()
        while not self.ended:
            message = await self.receive()
            if self.gone:
                raise ClientDisconnect
            if self.size > self._limit:
                raise TooLarge(f"the body may have {self._limit} bytes")
            if data := message.get("body", b""):
                yield data

    def again(self) -> Receive:
        """A `receive` that begins anew, for who runs the request after all."""
        chunks = self.chunks(keep=True)
        over = False

        async def receive() -> Message:
            nonlocal over
            if over:
                return await self._receive()
            try:
                return {"type": "http.request", "body": await anext(chunks), "more_body": True}
            except StopAsyncIteration:
                over = True
                return {"type": "http.request", "body": b"", "more_body": False}

        return receive

    def drop(self) -> None:
        """Keep nothing more."""
        self._keep = False
        self._kept = []
        if self._spill is not None:
            self._spill.close()
            self._spill = None


class _Spill:
    """A file that nobody else can open, and nobody can read: its key is here only."""

    def __init__(self) -> None:
        self._key = AESGCM(AESGCM.generate_key(256))
        self._file: IO[bytes] | None = None
        self._sizes: list[int] = []

    async def write(self, data: bytes) -> None:
        await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="pushsvc-")  # noqa: SIM115  closed by close()
        nonce = os.urandom(_NONCE)
        block = nonce + self._key.encrypt(nonce, data, None)
        self._file.seek(0, os.SEEK_END)
        self._file.write(block)
        self._sizes.append(len(block))

    async def read(self) -> AsyncIterator[bytes]:
        start = 0
        for size in list(self._sizes):
            yield await asyncio.to_thread(self._read, start, size)
            start += size

    def _read(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        block = self._file.read(size)
        return self._key.decrypt(block[:_NONCE], block[_NONCE:], None)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
