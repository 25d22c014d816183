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
from broker.wire import LOOK_SECONDS, PlainWire, open_peer
from broker.wire.transmission import UNACKNOWLEDGED, Transmission
from protocol.frames import binary_frame
from tests.control.making import KEY, LIMITS, unconnected_plane

PING = b"\x89\x09signalbox"


linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")


@linux
async def test_an_agent_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    """The kernel gives an agent that takes nothing the time for which silent ones are kept, and a vanished one 30 s."""
    services = unconnected_plane().services
    seen: list[float] = []
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
            seen.append(await look())
            assert peer.send(binary_frame(bytes(1 << 18)))
            while await look() == UNACKNOWLEDGED:
                pass
            seen.append(patience())
            theirs.setblocking(False)
            while await look() != UNACKNOWLEDGED:
                with contextlib.suppress(BlockingIOError):
                    while theirs.recv(1 << 16):
                        pass
            seen.append(patience())
            session.cancel_scope.cancel()
    # here, since the block ends without a word when the session does
    assert seen == [UNACKNOWLEDGED, services.config.control.silent_timeout, UNACKNOWLEDGED]


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


@linux
async def test_how_long_the_kernel_waits() -> None:
    """Not for less than others get, however soon silent sessions end; and a socket that is closed is left alone."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(door.getsockname())
        ours, _ = door.accept()
        wire = PlainWire(ours)
        transmission = Transmission(wire, 10.0)
        transmission.look()
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        with trio.fail_after(10):
            while not transmission._is_window_closed():
                await trio.lowlevel.checkpoint()
        transmission.look()
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED * 1000
        patient = Transmission(wire, 900.0)
        wire.close()
        patient.look()


@linux
async def test_bytes_that_are_on_their_way() -> None:
    """A peer that has not acknowledged what was sent may have vanished: it gets no more time than another."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as theirs:
        theirs.connect(door.getsockname())
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        ours, _ = door.accept()
        wire = PlainWire(ours)
        on_their_way = False
        while not on_their_way:  # its kernel acknowledges a moment later
            transmission = Transmission(wire, 900.0)
            ours.send(b"x")
            transmission.look()
            on_their_way = wire.unacknowledged() > 0
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED * 1000
        wire.close()


async def test_an_agent_that_falls_silent(autojump_clock: trio.testing.MockClock) -> None:
    """It is marked after two intervals, kept for its time, and then ended."""
    services = unconnected_plane().services
    settings, counters = services.config.control, services.counters
    began = trio.current_time()
    ours, theirs = socket.socketpair()
    with theirs:
        async with open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as session:
            peer.start(session)
            session.start_soon(run_heartbeat, Member(services, peer, KEY, "nr_live_x"), services)
            await trio.sleep(1.9 * settings.ping_interval)
            assert (counters.control_silent, peer.closing) == (0, False)
            await trio.sleep(2.2 * settings.ping_interval)
            assert (counters.control_silent, counters.heartbeats_missed) == (1, 1)
            await trio.sleep(settings.silent_timeout - 5 * settings.ping_interval)
            assert (counters.heartbeats_missed, peer.closing) == (1, False)
            await trio.sleep(2 * settings.silent_timeout)
    # here, since the block ends without a word when the session does
    assert settings.silent_timeout < trio.current_time() - began < settings.silent_timeout + 2 * settings.ping_interval
