"""What the kernel is asked of a connection that is no more: nobody is there, and nothing is raised."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from pushsvc.transports.kernel import bound_send_buffer, has_unread, reachable

Loop = Callable[[], asyncio.AbstractEventLoop]


def loops() -> list[Loop]:
    found: list[Loop] = [asyncio.new_event_loop]
    with suppress(ImportError):
        import uvloop

        found.append(uvloop.new_event_loop)
    return found


@pytest.mark.parametrize("loop", loops())
def test_of_a_transport_that_has_just_been_closed_too(loop: Loop) -> None:
    async def ask() -> None:
        here, there = socket.socketpair()
        with there:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
            bound_send_buffer(transport)
            assert not has_unread(transport)
            transport.abort()
            for _ in range(3):
                bound_send_buffer(transport)
                assert not has_unread(transport)
                assert not reachable(transport)
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())
