"""Asking clients whether they are there."""

import contextlib
import socket
import sys
import time

import pytest
import trio
import trio.testing

from broker.control.heartbeat import run_heartbeat
from broker.control.member import Member
from broker.wire import LOOK_SECONDS, PeerLimits, PlainWire, open_peer
from broker.wire.transmission import UNACKNOWLEDGED
from protocol.frames import binary_frame
from tests.control.making import KEY, unconnected_plane

LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)
PING = b"\x89\x09signalbox"


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_an_agent_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    """The kernel gives an agent that takes nothing the time for which silent ones are kept, and a vanished one 30 s."""
    services = unconnected_plane().services
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(door.getsockname())
        ours, _ = door.accept()
        async with open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as session:

            def patience() -> float:
                return ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000

            async def look() -> float:
                time.sleep(0.01)  # the kernel's clock is not ours
                await trio.sleep(LOOK_SECONDS + 1)
                return patience()

            peer.start(session)
            session.start_soon(run_heartbeat, Member(services, peer, KEY, "nr_live_x"), services)
            assert await look() == UNACKNOWLEDGED
            assert peer.send(binary_frame(bytes(1 << 18)))
            while await look() == UNACKNOWLEDGED:
                pass
            assert patience() == services.config.control.silent_timeout
            theirs.setblocking(False)
            while await look() != UNACKNOWLEDGED:
                with contextlib.suppress(BlockingIOError):
                    while theirs.recv(1 << 16):
                        pass
            session.cancel_scope.cancel()


async def test_first_pings_are_spread(autojump_clock: trio.testing.MockClock) -> None:
    """Sessions that come together are not asked together: each is first pinged at another time within an interval."""
    services = unconnected_plane().services
    interval = services.config.control.ping_interval
    times: list[float] = []

    async def listen() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            async with open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as session:
                peer.start(session)
                session.start_soon(run_heartbeat, Member(services, peer, KEY, "nr_live_x"), services)
                await trio.lowlevel.wait_readable(theirs)
                times.append(trio.current_time() - began)
                assert theirs.recv(100) == PING
                session.cancel_scope.cancel()

    began = trio.current_time()
    async with trio.open_nursery() as crowd:
        for _ in range(60):
            crowd.start_soon(listen)
    assert min(times) < 0.3 * interval
    assert 0.7 * interval < max(times) <= interval
    assert len(set(times)) > 50
