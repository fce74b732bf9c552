"""The faults: what breaks, and how it is put right."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from .load import Load
from .plan import USERS, Fault, Order
from .poison import poison
from .world import Seat, World


class Saboteur:
    """Breaks what the plan says. What is broken already is broken again as soon as it is whole."""

    def __init__(self, world: World, load: Load) -> None:
        self.done: Counter[str] = Counter()
        self.refusals: list[str] = []
        """Answers to poison that are none."""
        self._world = world
        self._load = load
        self._ways: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill web": lambda fault: self._replace(world.webs[fault.target], Seat.kill, fault.outage),
            "kill worker": lambda fault: self._replace(world.workers[fault.target], Seat.kill, fault.outage),
            "drain web": lambda fault: self._replace(world.webs[fault.target], Seat.drain, fault.outage),
            "drain worker": lambda fault: self._replace(world.workers[fault.target], Seat.drain, fault.outage),
            "restart redis": self._restart_redis,
            "crash redis": self._crash_redis,
            "stall redis": self._stall_redis,
            "cut redis clients": self._cut_redis_clients,
            "restart postgres": self._restart_postgres,
            "stop postgres at once": self._stop_postgres_at_once,
            "crash postgres": self._crash_postgres,
            "cut postgres clients": self._cut_postgres_clients,
            "freeze postgres": self._freeze_postgres,
            "read-only postgres": self._read_only_postgres,
            "read-only sessions": self._read_only_sessions,
            "end redis connections": self._end_redis_connections,
            "silence redis connections": self._silence_redis_connections,
            "poison": self._poison,
            "block a loop": self._block_a_loop,
        }

    async def break_(self, fault: Fault) -> None:
        """Break it, wait, and put it right."""
        await self._ways[fault.kind](fault)
        self.done[fault.kind] += 1

    @staticmethod
    async def _replace(seat: Seat, end: Callable[[Seat], Awaitable[None]], outage: float) -> None:
        async with seat.turn:
            await end(seat)
            await asyncio.sleep(outage)
            await seat.fill()

    async def _restart_redis(self, fault: Fault) -> None:
        """In good order: what it holds is saved and read again."""
        async with self._world.engine_turns["redis"]:
            await asyncio.to_thread(self._world.valkey.stop)
            await asyncio.sleep(fault.outage)
            await asyncio.to_thread(self._world.valkey.start)

    async def _crash_redis(self, fault: Fault) -> None:
        """It comes back with nothing."""
        world = self._world
        async with world.engine_turns["redis"]:
            await asyncio.to_thread(world.valkey.kill)
            (world.valkey.data_dir / "dump.rdb").unlink(missing_ok=True)
            await asyncio.sleep(fault.outage)
            await asyncio.to_thread(world.valkey.start)

    async def _stall_redis(self, fault: Fault) -> None:
        async with self._world.engine_turns["redis"]:
            await self._world.stall_redis(0.2 + 2 * fault.outage)

    async def _cut_redis_clients(self, fault: Fault) -> None:
        async with self._world.engine_turns["redis"]:
            await self._world.cut_redis_clients()

    async def _restart_postgres(self, fault: Fault) -> None:
        """Fast shutdown: every connection is told, every transaction rolled back."""
        async with self._world.engine_turns["postgres"]:
            await asyncio.to_thread(self._world.postgres.stop)
            await asyncio.sleep(fault.outage)
            await asyncio.to_thread(self._world.postgres.start)

    async def _stop_postgres_at_once(self, fault: Fault) -> None:
        """Immediate shutdown: it recovers from its log when it starts."""
        postgres = self._world.postgres
        async with self._world.engine_turns["postgres"]:
            if postgres.pid is not None:
                os.kill(postgres.pid, signal.SIGQUIT)
                await asyncio.to_thread(postgres.wait)
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(fault.outage)
            await asyncio.to_thread(postgres.start)

    async def _crash_postgres(self, fault: Fault) -> None:
        async with self._world.engine_turns["postgres"]:
            await asyncio.to_thread(self._world.postgres.kill)
            await asyncio.sleep(fault.outage)
            await asyncio.to_thread(self._world.postgres.start)

    async def _cut_postgres_clients(self, fault: Fault) -> None:
        async with self._world.engine_turns["postgres"]:
            await self._world.cut_postgres_clients()

    async def _freeze_postgres(self, fault: Fault) -> None:
        """All of its processes stand still, for longer than a lease at times, and nobody is told."""
        async with self._world.engine_turns["postgres"]:
            self._world.signal_postgres(signal.SIGSTOP)
            try:
                await asyncio.sleep(1.5 + 3.0 * fault.outage)
            finally:
                self._world.signal_postgres(signal.SIGCONT)

    async def _read_only_postgres(self, fault: Fault) -> None:
        """As an operator fences a server that is being replaced: every session, at once."""
        async with self._world.engine_turns["postgres"]:
            await self._world.execute("ALTER SYSTEM SET default_transaction_read_only = on", _RELOAD)
            await asyncio.sleep(0.5 + 3.0 * fault.outage)
            await self._world.execute("ALTER SYSTEM RESET default_transaction_read_only", _RELOAD)

    async def _read_only_sessions(self, fault: Fault) -> None:
        """Only sessions that begin meanwhile, and those stay so: as with the old primary after a failover."""
        world = self._world
        async with world.engine_turns["postgres"]:
            await world.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
            await world.cut_postgres_clients()
            await asyncio.sleep(0.5 + 3.0 * fault.outage)
            await world.execute("ALTER DATABASE postgres RESET default_transaction_read_only")

    async def _end_redis_connections(self, fault: Fault) -> None:
        """By FIN: what is written to them from now on is taken, and goes nowhere."""
        self._world.way_to_redis.end_by_fin()

    async def _silence_redis_connections(self, fault: Fault) -> None:
        await self._world.way_to_redis.silence(0.5 + 3.0 * fault.outage)

    async def _block_a_loop(self, fault: Fault) -> None:
        """A job, of which its worker has to renew the lease all the same, and those of all others that it runs."""
        order = Order(
            at=fault.at,
            number=_FIRST + round(fault.at * 1000),
            user=USERS[fault.target],
            node=fault.target,
            job="blocking",
            size=0,
            frame=False,
            group=False,
            run_in=None,
            deadline_in=None,
            cancel_in=None,
            watched=True,
        )
        await self._load.order(order)

    async def _poison(self, fault: Fault) -> None:
        await poison(self._world.nodes, self.refusals)


_FIRST = 1_000_000
"""Orders of ours have numbers from here on."""

_RELOAD = "SELECT pg_reload_conf()"
