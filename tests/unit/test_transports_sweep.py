"""Pings: who answers stays, who does not is gone, and nobody suffers for what the process had no time for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio
import uvloop

from pushsvc.settings import Settings
from pushsvc.transports import DirectSocket
from pushsvc.transports.sweep import PING, SHARES, Sweep

from ..contract.kit import until
from ..contract.node import Node, serving
from ..contract.websocket_client import PING as PING_OPCODE
from ..contract.websocket_client import PONG, Line, frame, shaken
from ..contract.websocket_trial import hello

INTERVAL = 0.2


class Peer:
    """A socket as the sweep sees it."""

    def __init__(self) -> None:
        self.share = 0
        self.unanswered = False
        self.pings = 0
        self.late = False
        """Its answer has come, and nobody has read it."""
        self.gone = False

    def ping(self, frame: bytes) -> None:
        assert frame == PING
        self.pings += 1

    def moving(self) -> bool:
        return self.late

    def lost(self) -> None:
        self.gone = True


def swept(sweep: Sweep, times: int = 1) -> None:
    """So many intervals, by hand."""
    for _ in range(times * SHARES):
        sweep._tick()


async def test_each_is_pinged_once_an_interval_and_they_take_turns() -> None:
    sweep, peers = Sweep(3600.0), [Peer() for _ in range(3 * SHARES)]
    for peer in peers:
        sweep.add(peer)
    for turn in range(1, SHARES + 1):
        sweep._tick()
        assert sum(peer.pings for peer in peers) == 3 * turn
    for peer in peers:
        peer.unanswered = False
    swept(sweep)
    assert {peer.pings for peer in peers} == {2}
    assert len(sweep) == len(peers)


async def test_who_has_not_answered_by_the_next_ping_is_looked_at_again_and_then_is_lost() -> None:
    sweep, peer = Sweep(3600.0), Peer()
    sweep.add(peer)
    swept(sweep)
    swept(sweep)
    assert peer.gone
    assert len(sweep) == 0
    assert peer.pings == 1


async def test_an_answer_that_came_between_the_two_looks_counts() -> None:
    sweep, peer = Sweep(3600.0), Peer()
    sweep.add(peer)
    sweep._tick()
    swept(sweep)
    assert (peer.unanswered, peer.gone) == (True, False)
    peer.unanswered = False
    swept(sweep)
    assert not peer.gone
    assert peer.pings == 2


async def test_an_answer_that_nobody_had_the_time_to_read_counts() -> None:
    sweep, peer = Sweep(3600.0), Peer()
    peer.late = True
    sweep.add(peer)
    swept(sweep, 4)
    assert not peer.gone
    assert peer.pings == 4


async def test_who_has_left_is_not_looked_at_again() -> None:
    sweep, peer = Sweep(3600.0), Peer()
    sweep.add(peer)
    swept(sweep)
    sweep._tick()
    sweep.discard(peer)
    sweep.discard(peer)
    swept(sweep, 2)
    assert not peer.gone
    assert peer.pings == 1


async def test_with_nobody_to_ping_there_is_no_timer_until_somebody_comes() -> None:
    sweep, peer = Sweep(SHARES * 0.001), Peer()
    sweep.add(peer)
    await until(lambda: peer.pings == 1)
    sweep.discard(peer)
    await until(lambda: sweep._timer is None)
    sweep.add(peer)
    peer.unanswered = False
    await until(lambda: peer.pings == 2)
    sweep.discard(peer)


# On real sockets


@pytest_asyncio.fixture
async def node(settings: Settings) -> AsyncIterator[Node]:
    async with serving(settings.model_copy(update={"ping": INTERVAL})) as made:
        yield made


async def greeted(node: Node, sub: str) -> Line:
    it = await shaken(node.port)
    await it.write(hello(node.token(sub)))
    assert await it.until(messages=1)
    return it


def attached(node: Node) -> list[DirectSocket]:
    return [it for it in node.server.server_state.connections if isinstance(it, DirectSocket)]


async def test_a_client_that_answers_no_ping_is_gone_from_the_hub_and_one_that_answers_stays(node: Node) -> None:
    deaf, live = await greeted(node, "deaf"), await greeted(node, "live")
    answered = 0

    def answer() -> bool:
        nonlocal answered
        for payload in live.heard.pings[answered:]:
            live.transport.write(frame(PONG, payload))
            answered += 1
        return len(node.listeners) == 1 and answered >= 3

    await until(answer, "one of them is gone")
    assert await deaf.until(end=True)
    assert (deaf.heard.code, deaf.heard.reason) == (1011, b"keepalive ping timeout")
    assert deaf.heard.wrong == []
    assert live.heard.code is None
    assert len(attached(node)) == 1
    live.transport.abort()
    await until(lambda: not node.listeners and not attached(node))


async def test_what_the_kernel_holds_for_us_says_that_the_peer_is_there(node: Node) -> None:
    """A Pong that could not be read yet, as this process reads nothing more of that client for now."""
    it = await greeted(node, "me")
    (socket,) = attached(node)
    socket.hold()
    await until(lambda: socket.unanswered)
    assert not socket.moving()
    it.transport.write(frame(PONG, b""))
    await until(socket.moving)
    pings = len(it.heard.pings)
    await until(lambda: len(it.heard.pings) > pings + 1, "it is pinged on")
    socket.release()
    it.transport.abort()
    await until(lambda: not node.listeners)


async def test_a_client_that_pings_us_is_answered_and_that_is_no_answer_to_our_pings(node: Node) -> None:
    it = await greeted(node, "me")
    (socket,) = attached(node)
    await until(lambda: socket.unanswered)
    it.transport.write(frame(PING_OPCODE, b"are you there?"))
    assert await it.until(pongs=1)
    assert it.heard.pongs == [b"are you there?"]
    assert socket.unanswered
    it.transport.abort()
    await until(lambda: not node.listeners)


def test_a_process_that_was_stopped_for_longer_than_an_interval_loses_nobody() -> None:
    """Both timers, for the ping and for the look, are due at once when it goes on: as after SIGSTOP and SIGCONT."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sweep, peer = Sweep(SHARES * 0.002), Peer()
        sweep.add(peer)
        await until(lambda: peer.pings == 1)
        time.sleep(SHARES * 0.002 * 3)
        # The answer is read as soon as the loop polls, which is before any timer can have fired twice.
        loop.call_soon(loop.call_soon, setattr, peer, "unanswered", False)
        await until(lambda: peer.pings >= 3 or not peer.unanswered)
        assert not peer.gone
        sweep.discard(peer)

    uvloop.run(main())
