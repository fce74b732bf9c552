"""Pings: who answers stays, who does not is gone, and nobody suffers for what the process had no time for."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
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
SO_ATTACH_FILTER = 26


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
    (mine,) = attached(node)
    mine.hold()
    await until(lambda: mine.unanswered)
    assert not mine.moving()
    it.transport.write(frame(PONG, b""))
    await until(mine.moving)
    pings = len(it.heard.pings)
    await until(lambda: len(it.heard.pings) > pings + 1, "it is pinged on")
    mine.release()
    it.transport.abort()
    await until(lambda: not node.listeners)


async def test_a_client_that_does_not_read_is_slow_and_one_that_is_not_there_is_gone(node: Node) -> None:
    """Both have a full socket and answer no ping; the kernel of the first still acknowledges."""
    slow, live = await greeted(node, "slow"), await greeted(node, "live")
    port = slow.transport.get_extra_info("sockname")[1]
    (mine,) = [it for it in attached(node) if it.transport.get_extra_info("peername")[1] == port]
    slow.transport.pause_reading()
    mine.transport.set_write_buffer_limits(high=64 * 1024)
    while mine.transport.get_write_buffer_size() == 0:
        mine.send(b'"%b"' % (b"x" * 60_000))
    answered = 0

    def answer(pings: int) -> bool:
        nonlocal answered
        for payload in live.heard.pings[answered:]:
            live.transport.write(frame(PONG, payload))
            answered += 1
        return answered >= pings

    await until(lambda: answer(4), "for longer than a dead one would stay")
    assert mine in attached(node)
    drop_all_packets(slow.transport.get_extra_info("socket"))
    await until(lambda: answer(5) and mine not in attached(node), "it is gone")
    assert len(node.listeners) == 1
    for it in (slow, live):
        it.transport.abort()
    await until(lambda: not node.listeners)


def drop_all_packets(of: socket.socket) -> None:
    """As if its machine were gone: a filter (socket(7), SO_ATTACH_FILTER) that lets nothing in, so that nothing is
    acknowledged either."""
    program = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes
    buffer = ctypes.create_string_buffer(program)
    filters = struct.pack("HxxxxxxP", 1, ctypes.addressof(buffer))
    of.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)


async def test_a_client_that_pings_us_is_answered_and_that_is_no_answer_to_our_pings(node: Node) -> None:
    it = await greeted(node, "me")
    (mine,) = attached(node)
    await until(lambda: mine.unanswered)
    it.transport.write(frame(PING_OPCODE, b"are you there?"))
    assert await it.until(pongs=1)
    assert it.heard.pongs == [b"are you there?"]
    assert mine.unanswered
    it.transport.abort()
    await until(lambda: not node.listeners)


def test_a_process_that_was_stopped_for_longer_than_an_interval_loses_nobody() -> None:
    """The ping and the look are both overdue when it goes on, as after SIGSTOP and SIGCONT; the answer is read as
    soon as the loop polls, which is before a timer can have fired twice."""
    interval = SHARES * 0.002
    peer = Peer()

    def stopped() -> None:
        time.sleep(3 * interval)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, setattr, peer, "unanswered", False)

    async def main() -> None:
        sweep = Sweep(interval)
        sweep.add(peer)
        await until(lambda: peer.pings == 1)
        asyncio.get_running_loop().call_soon(stopped)
        await until(lambda: peer.pings == 2)
        assert not peer.gone
        sweep.discard(peer)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
