"""The write gate, on real socket pairs whose buffers are small."""

import os
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trio

from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire
from broker.wire.tls import TlsWire
from protocol.frames import close_frame, text_frame


class Pair:
    """An outbox on one end of a socket pair, and what arrives at the other."""

    def __init__(self, limit: int) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.wire = PlainWire(ours)
        self.outbox = Outbox(self.wire, limit)
        self.theirs.setblocking(False)

    def arrived(self) -> bytes:
        data = b""
        while True:
            try:
                part = self.theirs.recv(1 << 20)
            except BlockingIOError:
                return data
            if not part:
                return data
            data += part

    def fill(self) -> bytes:
        """Send numbered frames until one has to wait; returns all of them joined."""
        sent = b""
        for number in range(100_000):
            frame = text_frame(f"{number:0200}".encode())
            sent += frame
            self.outbox.send(frame)
            if self.outbox.pending:
                return sent
        raise AssertionError("the socket never got full")

    async def drain(self) -> bytes:
        """Let the writer run until nothing is pending; returns what arrived."""
        data = b""
        async with trio.open_nursery() as nursery:
            self.outbox.start(nursery)
            while self.outbox.pending:
                await trio.testing.wait_all_tasks_blocked()
                data += self.arrived()
            nursery.cancel_scope.cancel()
        return data + self.arrived()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """An outbox with a bound of 20,000 bytes on a socket whose buffer is small."""
    made = Pair(limit=20_000)
    yield made
    made.theirs.close()
    made.wire.close()


async def test_a_frame_is_written_at_once_while_nothing_waits(pair: Pair) -> None:
    """The direct path needs no task: the bytes are there when send returns."""
    assert pair.outbox.send(text_frame(b"now"))
    assert pair.arrived() == text_frame(b"now")
    assert pair.outbox.pending == 0


async def test_everything_arrives_once_and_in_order_through_a_full_socket(pair: Pair) -> None:
    """Short writes, queued frames and the writer task never lose, double or reorder a byte."""
    sent = pair.fill()
    for number in range(50):
        frame = text_frame(f"late {number}".encode())
        sent += frame
        assert pair.outbox.send(frame)
    assert await pair.drain() == sent
    assert pair.outbox.send(text_frame(b"direct again"))
    assert pair.arrived() == text_frame(b"direct again")
    assert pair.outbox.bytes == len(sent) + len(text_frame(b"direct again"))


async def test_overflow_drops_what_has_not_begun_and_closes_with_1013(pair: Pair) -> None:
    """At the bound a frame is refused, frames not begun are dropped, and the close frame follows a whole frame."""
    sent = pair.fill()
    frame = text_frame(b"x" * 1000)
    while pair.outbox.send(frame):
        pass
    assert pair.outbox.sealed
    assert pair.outbox.too_slow
    data = await pair.drain()
    close = close_frame(1013, "too slow")
    assert data.endswith(close)
    assert sent.startswith(data.removesuffix(close)) or data.removesuffix(close).startswith(sent)
    assert (len(data) - len(close)) % len(text_frame(b"0" * 200)) == 0


async def test_a_frame_that_just_fits_is_taken_and_one_byte_more_is_not(pair: Pair) -> None:
    """The bound is exact."""
    pair.fill()
    room = pair.outbox.limit - pair.outbox.pending
    overflowed: list[bool] = []
    pair.outbox.on_overflow = lambda: overflowed.append(True)
    assert pair.outbox.send(b"y" * room)
    assert not overflowed
    assert not pair.outbox.send(b"y")
    assert not pair.outbox.send(b"y")
    assert overflowed == [True]


async def test_an_owner_that_mends_overflows_itself_keeps_the_connection(pair: Pair) -> None:
    """With `on_overflow` the frame is dropped, the gate stays open, and the owner is told once until all is drained."""
    overflowed: list[bool] = []
    pair.outbox.on_overflow = lambda: overflowed.append(True)
    for times in (1, 2):
        sent = pair.fill()
        while pair.outbox.send(text_frame(b"z" * 3000)):
            sent += text_frame(b"z" * 3000)
        assert not pair.outbox.send(text_frame(b"z" * 3000))
        assert overflowed == [True] * times
        assert await pair.drain() == sent
    assert not pair.outbox.sealed


async def test_nothing_follows_a_close_frame_whoever_sent_it(pair: Pair) -> None:
    """A close seals the gate; the library's own answer to a close does too."""
    pair.outbox.send_library(close_frame(1000))
    assert not pair.outbox.send(text_frame(b"late"))
    pair.outbox.close(1011, "later still")
    pair.outbox.send_library(close_frame(1000))
    assert pair.arrived() == close_frame(1000)


async def test_a_vanished_peer_marks_the_outbox_dead_and_raises_nothing(pair: Pair) -> None:
    """EPIPE and resets end in a dead outbox, not in an exception in the fan-out."""
    pair.theirs.close()
    pair.outbox.send(text_frame(b"a"))
    pair.outbox.send(text_frame(b"b"))
    assert pair.outbox.dead
    assert not pair.outbox.send(text_frame(b"c"))
    await pair.outbox.drained()


async def test_a_closed_socket_is_never_written_to_by_number(pair: Pair) -> None:
    """When the descriptor's number has been given to another connection, that one gets nothing."""
    one, other = socket.socketpair()
    number = pair.wire.raw.fileno()
    pair.wire.close()
    os.dup2(one.fileno(), number)
    with one, other, socket.socket(fileno=number):
        pair.outbox.send(text_frame(b"not for you"))
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        assert pair.outbox.dead


async def test_pending_bytes_travel_to_another_outbox(pair: Pair) -> None:
    """What was begun and what waits can be taken and given to the outbox that takes the socket over."""
    sent = pair.fill() + text_frame(b"queued")
    pair.outbox.send(text_frame(b"queued"))
    begun, frames = pair.outbox.take_pending()
    heir = Outbox(pair.wire, 20_000)
    heir.restore_pending(begun, frames)
    pair.outbox = heir
    assert await pair.drain() == sent


async def test_the_writer_begins_when_something_waits(pair: Pair) -> None:
    """A connection has no task for writing before its socket was full for the first time, and keeps it from then on."""
    async with trio.open_nursery() as nursery:
        pair.outbox.start(nursery)
        pair.outbox.send(text_frame(b"at once"))
        before = len(nursery.child_tasks)
        for _ in range(2):
            sent = pair.fill()
            received = b""
            while pair.outbox.pending:
                await trio.testing.wait_all_tasks_blocked()
                received += pair.arrived()
            assert (received + pair.arrived()).endswith(sent)
            assert len(nursery.child_tasks) == before + 1
        nursery.cancel_scope.cancel()
    assert before == 0


async def test_who_writes_after_the_session_is_not_harmed(pair: Pair) -> None:
    """A fan-out may fill the socket of a session whose tasks are over: no error reaches it, and the end drains."""
    async with trio.open_nursery() as nursery:
        pair.outbox.start(nursery)
    sent = pair.fill()
    async with trio.open_nursery() as ending:
        ending.start_soon(pair.outbox.drain)
        received = b""
        while pair.outbox.pending:
            await trio.testing.wait_all_tasks_blocked()
            received += pair.arrived()
    assert received + pair.arrived() == sent


async def test_a_socket_is_shown_only_while_nothing_but_its_send_is_needed(pair: Pair) -> None:
    """Whoever writes past the outbox may do so while nothing waits, and neither behind a close frame nor over TLS."""
    shown = [pair.outbox.raw]
    pair.fill()
    shown.append(pair.outbox.raw)
    await pair.drain()
    shown.append(pair.outbox.raw)
    pair.outbox.close(1001)
    shown.append(pair.outbox.raw)
    assert shown == [pair.wire.raw, None, pair.wire.raw, None]
    encrypted = TlsWire(pair.wire, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert Outbox(encrypted, 20_000).raw is None
