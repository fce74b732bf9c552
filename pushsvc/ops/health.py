"""`/healthz` says that the process answers; `/readyz` that it can serve: PostgreSQL there, Redis for speed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..bus import FAULTS, RedisClient
from ..errors import Unavailable
from ..store import Postgres


class Health:
    """The two checks of a web process."""

    def __init__(self, postgres: Postgres, redis: RedisClient) -> None:
        self._postgres = postgres
        self._redis = redis

    def routes(self) -> list[Route]:
        return [Route("/healthz", self.alive), Route("/readyz", self.ready)]

    async def alive(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """`200` while requests can be accepted. Without Redis that is so: results only come later."""
        postgres = redis = True
        try:
            await self._postgres.fetch("SELECT 1", patience=0.5)
        except Unavailable:
            postgres = False
        try:
            await self._redis.ping()
        except FAULTS:
            redis = False
        body = {"status": "ok" if postgres else "unavailable", "postgres": postgres, "redis": redis}
        return JSONResponse(body, 200 if postgres else 503, headers={"Cache-Control": "no-store"})
