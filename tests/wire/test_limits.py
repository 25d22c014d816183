"""What one connection may do: stall, flood with frames that say nothing, send in pieces; at each bound and inside."""

import math
import socket

import attrs
import pytest
import trio
import trio.testing

from broker.wire import Outbox, PeerLimits, PlainWire
from broker.wire.bucket import TokenBucket
from protocol.frames import text_frame
from tests.support import WsClient
from tests.wire.test_peer import LIMITS, echo, serving

PING = b"\x89\x80\0\0\0\0"


def piece(first: int, byte: bytes = b"a") -> bytes:
    """A masked frame of one byte; `first` is its first byte."""
    return bytes([first, 0x81, 0, 0, 0, 0]) + byte


def test_a_bucket_gives_what_it_has() -> None:
    """The burst passes at once, then the rate; what is taken beyond it says how long to wait."""
    bucket = TokenBucket(size=10, rate=5, now=0)
    assert [bucket.take(0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(0) == pytest.approx(0.2)
    assert bucket.take(0.4) == 0.0
    assert bucket.take(100, 12) == pytest.approx(0.4)
    assert [bucket.grant(now, 20) for now in (100, 101, 103, 103)] == [0, 3, 10, 0]


class Stalled:
    """An outbox with far more to send than the socket takes, and the end that does not read."""

    def __init__(self, stall_timeout: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.wire = PlainWire(ours)
        self.outbox = Outbox(self.wire, 100_000_000)
        self.outbox.stall_timeout = stall_timeout
        while self.outbox.pending < 1_000_000:
            self.outbox.send(text_frame(bytes(100_000)))

    def close(self) -> None:
        self.wire.close()
        self.theirs.close()


async def test_a_peer_that_takes_nothing_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """Just inside `write_stall_timeout` a peer that does not read is kept, at the bound it is closed with 1013."""
    stalled = Stalled(30.0)
    async with trio.open_nursery() as nursery:
        stalled.outbox.start(nursery)
        await trio.sleep(29.9)
        kept = not stalled.outbox.sealed
        await trio.sleep(30.2)  # the kernel may still have been moving what it had when the first period began
        assert kept
        assert stalled.outbox.sealed
        assert stalled.outbox.too_slow
        nursery.cancel_scope.cancel()
    stalled.close()


async def test_a_peer_that_takes_a_little_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """A slow reader that takes a few bytes in every period is not stalled, though its socket never gets writable."""
    stalled = Stalled(30.0)
    async with trio.open_nursery() as nursery:
        stalled.outbox.start(nursery)
        for _ in range(4):
            await trio.sleep(29)
            before = stalled.wire.unacknowledged()
            while stalled.wire.unacknowledged() >= before:
                stalled.theirs.recv(16384)
            assert not stalled.outbox.sealed
        nursery.cancel_scope.cancel()
    stalled.close()


async def test_a_control_peer_that_takes_nothing_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """Without a stall timeout nobody is cut off for not reading."""
    stalled = Stalled(math.inf)
    async with trio.open_nursery() as nursery:
        stalled.outbox.start(nursery)
        await trio.sleep(80_000)
        assert not stalled.outbox.sealed
        nursery.cancel_scope.cancel()
    stalled.close()


@pytest.mark.parametrize(("pieces", "code"), [(8, 0), (9, 1009)])
async def test_a_message_in_pieces(pieces: int, code: int) -> None:
    """A message in exactly `max_fragments` frames is taken, one in one more is refused with 1009."""
    async with serving(echo) as served, await WsClient.connect(served.address, "/") as client:
        await client.send_raw(piece(0x01) + piece(0x00) * (pieces - 2) + piece(0x80))
        if code:
            assert (await client.wait_closed()).code == code
        else:
            assert await client.receive() == "a" * pieces


QUICK: PeerLimits = attrs.evolve(LIMITS, max_fragments=10, frames_per_second=100.0, rate_patience=0.05)


async def test_pings_within_the_rate_are_answered_at_once() -> None:
    """A burst of as many control frames as there is room for is answered without a pause."""
    async with serving(echo, QUICK) as served, await WsClient.connect(served.address, "/") as client:
        with trio.fail_after(5):
            await client.send_raw(PING * 110)
            await client.send("after")
            assert await client.receive() == "after"
        assert len(client.pongs) == 110


async def test_a_flood_of_pings_is_held_back_and_then_ended(autojump_clock: trio.testing.MockClock) -> None:
    """Above the rate the peer is read slowly, and one that does not relent is closed with 4429."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    limits = attrs.evolve(QUICK, rate_patience=1.0)
    async with serving(echo, limits) as served, await WsClient.connect(served.address, "/", patience=600) as client:
        await client.send_raw(PING * 3_000)
        closed = await client.wait_closed()
        assert (closed.code, closed.reason) == (4429, "too many frames")
        peer = await served.ended()
        assert (peer.closed_by, peer.close_code) == ("us", 4429)


async def test_pings_that_come_down_to_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that was paused for a moment, and then keeps just below the rate, may go above it again."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    limits = attrs.evolve(QUICK, rate_patience=1.0)
    async with serving(echo, limits) as served, await WsClient.connect(served.address, "/", patience=600) as client:
        await client.send_raw(PING * 130)
        await trio.sleep(0.2)
        for _ in range(15):
            await client.send_raw(PING * 9)
            await trio.sleep(0.1)
        await client.send_raw(PING * 60)
        await client.send("after")
        assert await client.receive() == "after"


async def test_a_flood_on_a_socket_that_is_kept_only_slows_it(autojump_clock: trio.testing.MockClock) -> None:
    """With no patience set (control sockets) a flood is taken at its rate, for ever, and nothing is closed."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    limits = attrs.evolve(QUICK, rate_patience=math.inf)
    async with serving(echo, limits) as served, await WsClient.connect(served.address, "/", patience=600) as client:
        started = trio.current_time()
        await client.send_raw(PING * 1110)
        await client.send("after")
        assert await client.receive() == "after"
        assert trio.current_time() - started >= 5
        assert served.peer is not None
        assert not served.peer.closing
