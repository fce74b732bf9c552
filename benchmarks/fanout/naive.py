"""What one writes first: a loop over the sockets, and `websockets.broadcast`. Fed by Redis pub/sub, as ours is.

python -m benchmarks.fanout.naive starlette|websockets PORT REDIS_URL
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
import uvloop
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from pushsvc.tasks import stop

PREFIX = "naive:"


async def heard(redis_url: str) -> AsyncIterator[tuple[int, str]]:
    """Channel numbers and messages."""
    pubsub = Redis.from_url(redis_url).pubsub()
    await pubsub.psubscribe(f"{PREFIX}*")
    async for message in pubsub.listen():
        if message["type"] == "pmessage":
            yield int(message["channel"].removeprefix(PREFIX.encode())), message["data"].decode()


def starlette_app(redis_url: str) -> Starlette:
    sockets: defaultdict[int, set[WebSocket]] = defaultdict(set)

    async def deliver() -> None:
        async for channel, text in heard(redis_url):
            for websocket in tuple(sockets[channel]):
                await websocket.send_text(text)

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        mine = sockets[int(websocket.path_params["channel"])]
        mine.add(websocket)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            mine.discard(websocket)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(deliver())
        yield
        await stop(task)

    return Starlette(routes=[WebSocketRoute("/{channel:int}", endpoint)], lifespan=lifespan)


async def websockets_server(port: int, redis_url: str) -> None:
    sockets: defaultdict[int, set[ServerConnection]] = defaultdict(set)

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        mine = sockets[int(connection.request.path.removeprefix("/"))]
        mine.add(connection)
        try:
            await connection.wait_closed()
        finally:
            mine.discard(connection)

    async with serve(handler, "127.0.0.1", port, compression=None):
        async for channel, text in heard(redis_url):
            broadcast(sockets[channel], text)


def main(kind: str, port: int, redis_url: str) -> None:
    if kind == "starlette":
        uvicorn.run(
            starlette_app(redis_url),
            port=port,
            loop="uvloop",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="error",
            backlog=2048,
        )
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(websockets_server(port, redis_url))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
