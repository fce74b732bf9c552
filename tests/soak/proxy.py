"""A way to Redis on which connections end, or fall silent, as networks have it and Redis itself never does."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """Passes on what comes, in both directions."""

    def __init__(self, host: str, port: int) -> None:
        """Where Redis is."""
        self._there = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[_Passage] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, reuse_address=True)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for passage in list(self._open):
            passage.abort()

    def end_by_fin(self) -> None:
        """Say to each client that nothing more comes, and go on to take what it says, for nobody."""
        for passage in self._open:
            passage.end_by_fin()

    async def silence(self, seconds: float) -> None:
        """Pass on nothing for so long, and close nothing: nobody can tell this from a server that is busy."""
        self._passing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, ahead = await asyncio.open_connection(*self._there)
        except OSError:
            writer.transport.abort()
            return
        passage = _Passage(writer, ahead)
        self._open.add(passage)
        try:
            await asyncio.gather(self._pass_on(reader, ahead), self._pass_on(back, writer))
        finally:
            passage.abort()
            self._open.discard(passage)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._passing.wait()
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
        if writer.can_write_eof() and not writer.is_closing():
            with suppress(OSError):
                writer.write_eof()


class _Passage:
    """One connection: to the client, and ahead to Redis."""

    def __init__(self, client: asyncio.StreamWriter, ahead: asyncio.StreamWriter) -> None:
        self._client = client
        self._ahead = ahead

    def end_by_fin(self) -> None:
        # Redis' half first: then what it still has to say is dropped, and nothing follows the FIN.
        self._ahead.close()
        with suppress(OSError, RuntimeError):
            self._client.write_eof()

    def abort(self) -> None:
        self._client.transport.abort()
        self._ahead.transport.abort()
