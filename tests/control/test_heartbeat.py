"""Asking clients whether they are there."""

import socket

import trio
import trio.testing

from broker.control.heartbeat import run_heartbeat
from broker.control.member import Member
from broker.wire import PeerLimits, PlainWire, open_peer
from tests.control.making import KEY, unconnected_plane

LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)
PING = b"\x89\x09signalbox"


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
