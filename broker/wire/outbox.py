"""The one gate for all that is written to a connection.

A frame is written at once, from whatever code delivers it, while nothing waits; what the kernel does not take is queued
and drained by the connection's writer task. Nothing here blocks or raises into a fan-out.
"""

import contextlib
import math
import socket
from collections.abc import Callable

import trio

from broker.wire.doorbell import Doorbell
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.switches import SWITCHES
from broker.wire.tls import TlsWire
from protocol.codes import CloseCode
from protocol.frames import close_frame

DRAIN_BYTES = 262144
"""How many queued bytes are joined for one write at the most."""

_CLOSE_OPCODE = 0x88


class _Hot:
    """What a fan-out touches of each outbox, first in memory: one cache line for most deliveries."""

    __slots__ = ("raw", "write")

    write: Callable[[bytes], int]
    raw: socket.socket | None


class Outbox(_Hot):
    """Frames on their way to one peer.

    States: *open*; *sealed* once a close frame has passed, whoever made it (nothing follows it); *dead* once the
    socket refused (everything is dropped). "Pending" is all that the kernel has not taken, the rest of a short write
    included.

    A fan-out calls `write(frames)` and, if that raises OSError or takes less than all, `rest(frames, taken)`; everybody
    else calls `send`. While nothing waits `write` is the socket's own `send`.

    Attributes:
        write: takes joined frames and returns how many bytes of them it took.
        raw: the socket, while `write` is its `send` and nothing more; else None.
        limit: pending bytes above which a further frame overflows; a frame is always taken when nothing is pending.
        pending: bytes that wait, in all.
        peak: the most that has ever waited, in bytes.
        frames, bytes: what `send` has taken, for the closing log line; a fan-out keeps its own account.
        sealed, dead: the states above.
        stall_timeout: seconds without the peer taking one byte of what is pending, after which the gate is sealed with
            1013; `math.inf` keeps a peer that stalls.
        window: the peer takes compressed frames with a window of up to this many bits; 0: it takes none. Nothing is
            compressed here.
        too_slow: the gate was sealed by an overflow or a stall, with 1013; or the connection is dead, because TLS had
            to say more than the peer takes.
        on_overflow: called instead of closing with 1013 when a frame does not fit, which is dropped; once, until
            nothing is pending any more.
        on_sealed: called once when the gate is sealed or dead, so that the owner can start its deadline.
    """

    __slots__ = (
        "_begun", "_bell", "_direct", "_drained", "_encrypt", "_overflowed", "_queue", "_send", "_tasks", "_wire",
        "bytes", "dead", "frames", "limit", "on_overflow", "on_sealed", "peak", "pending", "sealed",
        "stall_timeout", "too_slow", "window",
    )  # fmt: skip

    def __init__(self, wire: PlainWire, limit: int) -> None:
        self._wire = wire
        # A method of the socket object, not a descriptor number: once that is closed it raises, and can never write to
        # whatever connection has been given the same number since.
        self._send = wire.raw.send
        self._encrypt = wire.encrypt if wire.encrypted else None
        if isinstance(wire, TlsWire):
            wire.on_output = self.push_records
        self._begun: bytes = b""
        self._queue: list[bytes] = []  # it is empty nearly always, and an empty deque weighs ten times as much
        self._bell = Doorbell()
        self._drained: trio.Event | None = None
        self._tasks: trio.Nursery | None = None
        self._go_direct()
        self._overflowed = False
        self.limit = limit
        self.pending = self.peak = self.frames = self.bytes = 0
        self.stall_timeout = math.inf
        self.window = 0
        self.sealed = self.dead = self.too_slow = False
        self.on_overflow: Callable[[], None] | None = None
        self.on_sealed: Callable[[], None] | None = None

    def send(self, data: bytes, frames: int = 1) -> bool:
        """Deliver one complete frame, or several joined; returns whether it was taken.

        Args:
            data: the bytes as they go on the wire (RFC 6455 section 5.2), before TLS.
            frames: how many frames `data` holds.
        """
        try:
            taken = self.write(data)
        except OSError as error:
            taken = -1 if not isinstance(error, BlockingIOError) else 0
        if taken != len(data) and not self.rest(data, taken):
            return False
        self.frames += frames
        self.bytes += len(data)
        return True

    def rest(self, data: bytes, taken: int) -> bool:
        """Keep what a `write` has left; returns whether `data` is going to arrive.

        Args:
            data: what `write` was given.
            taken: what it returned; 0 when it raised BlockingIOError, -1 for another OSError.
        """
        if taken < 0:
            self.die()
        elif self._direct:
            if taken:
                self._begun = data[taken:]
            else:
                self._queue.append(data)
            self._count(len(data) - taken)
            return True
        return False

    def begin(self, answer: bytes) -> None:
        """Write what comes before all frames; the outbox is dead if the peer has gone."""
        self.send(answer, 0)
        self.bytes = 0

    def send_library(self, data: bytes) -> None:
        """Deliver what the WebSocket library wants to write: a pong, or its answer to a close, which seals the gate."""
        if self.sealed or self.dead:
            return
        if data[0] == _CLOSE_OPCODE:
            self._pass_close(data)
        else:
            self.send(data)

    def close(self, code: int, reason: str = "") -> None:
        """Queue a close frame behind what is pending and seal the gate; once sealed or dead, nothing happens."""
        if not (self.sealed or self.dead):
            self._pass_close(close_frame(code, reason))

    def push_records(self, records: bytes) -> None:
        """Write TLS records that are made already, behind those that are.

        They answer a peer that asks for other keys, and cannot be dropped without the connection: one that asks while
        more than `limit` waits for it has lost it.
        """
        if self.dead:
            return
        if self.pending > self.limit:
            self.too_slow = True
            self.die()
            return
        self._begun += records
        self._count(len(records))

    def die(self) -> None:
        """Mark the connection dead: drop what waits and wake the tasks that care."""
        if self.dead:
            return
        self.dead = True
        self._direct = False
        self._switch(_drop)
        self._queue.clear()
        self._begun = b""
        self.pending = 0
        self._bell.ring()
        self._signal_drained()
        if self.on_sealed is not None:
            self.on_sealed()

    def untie(self) -> None:
        """Forget who was to be told of what; the connection is over."""
        self.die()
        self.on_overflow = self.on_sealed = None
        if isinstance(self._wire, TlsWire):
            self._wire.on_output = None

    async def drained(self) -> None:
        """Wait until nothing is pending, or the connection is dead; somebody else must be draining."""
        if self.pending and not self.dead:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()
        else:
            await trio.lowlevel.checkpoint()

    def start(self, session: trio.Nursery) -> None:
        """Drain the queue whenever something waits, in a task of this nursery; there is none before the first time."""
        self._tasks = session
        if self.pending:
            self._wake_writer()

    def _wake_writer(self) -> None:
        self._bell.ring()
        if self._tasks is not None:
            session, self._tasks = self._tasks, None
            with contextlib.suppress(RuntimeError):  # the session is over, and whoever ends the connection drains
                session.start_soon(self._run_writer)

    async def _run_writer(self) -> None:
        while not self.dead:
            await self._bell.wait()
            await self.drain()

    async def drain(self) -> None:
        """Write what is pending, waiting for the socket where it is full; returns when done or dead."""
        while self.pending and not self.dead:
            if not self.write_some():
                try:
                    await self._wait_writable()
                except WireBroken:
                    self.die()
                    return
            await trio.lowlevel.checkpoint()

    async def _wait_writable(self) -> None:
        """Wait until the socket takes bytes again, or the peer has taken none of those in the kernel for too long.

        A socket is writable again only when a good part of its buffer is free, so a slow peer is not a stalled one.
        """
        while True:
            held = self._wire.unacknowledged()
            with trio.move_on_after(self.stall_timeout):
                await self._wire.wait_writable()
                return
            if not self.sealed and self._wire.unacknowledged() >= held:
                self._cut_off()

    def write_some(self) -> bool:
        """Write one chunk of what is pending; returns whether the socket took anything."""
        out = self._begun
        if not out:
            chunk = self._next_chunk()
            try:
                out = chunk if self._encrypt is None else self._encrypt(chunk)
            except OSError:
                self.die()
                return False
            self.pending += len(out) - len(chunk)
        try:
            taken = self._send(out)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.die()
            return False
        self._begun = out[taken:]
        self.pending -= taken
        if not self.pending:
            self._empty()
        return taken > 0

    def take_pending(self) -> tuple[bytes, list[bytes]]:
        """Return and forget (the rest of a begun write, the frames behind it), for a socket that is handed over."""
        begun, frames = self._begun, list(self._queue)
        self._begun, self.pending = b"", 0
        self._queue.clear()
        return begun, frames

    def restore_pending(self, begun: bytes, frames: list[bytes]) -> None:
        """Take over what `take_pending` gave another process."""
        self._begun = begun
        self._queue.extend(frames)
        self._count(len(begun) + sum(map(len, frames)))

    def _next_chunk(self) -> bytes:
        queue = self._queue
        size = len(queue[0])
        end = 1
        while end < len(queue) and size + len(queue[end]) <= DRAIN_BYTES:
            size += len(queue[end])
            end += 1
        chunk = queue[0] if end == 1 else b"".join(queue[:end])
        del queue[:end]
        return chunk

    def _count(self, size: int) -> None:
        if self._direct:
            self._direct = False
            self._switch(self._enqueue)
        self.pending += size
        if self.pending > self.peak:
            self.peak = self.pending
        self._wake_writer()

    def _write_tls(self, data: bytes) -> int:
        """Encrypt and write in one step; records that the socket does not take are kept, for they cannot be unmade."""
        assert self._encrypt is not None
        records = self._encrypt(data)
        try:
            taken = self._send(records)
        except BlockingIOError:
            taken = 0
        if taken != len(records):
            self._begun = records[taken:]
            self._count(len(records) - taken)
        return len(data)

    def _enqueue(self, data: bytes) -> int:
        """Stand in for `write` while something waits."""
        if self.pending + len(data) > self.limit:
            self._overflow()
            return 0
        self._queue.append(data)
        self._count(len(data))
        return len(data)

    def _go_direct(self) -> None:
        self._direct = True
        if self._encrypt is None:
            self._switch(self._send, self._wire.raw)
        else:
            self._switch(self._write_tls)

    def _switch(self, write: Callable[[bytes], int], raw: socket.socket | None = None) -> None:
        self.write = write
        self.raw = raw
        SWITCHES.count += 1

    def _overflow(self) -> None:
        if self.on_overflow is not None:
            if not self._overflowed:
                self._overflowed = True
                self.on_overflow()
            return
        self._cut_off()

    def _cut_off(self) -> None:
        """Drop the frames that have not begun, and say goodbye behind the one that has."""
        self._queue.clear()
        self.pending = len(self._begun)
        self.too_slow = True
        self._pass_close(close_frame(CloseCode.OVERLOADED, "too slow"))

    def _pass_close(self, frame: bytes) -> None:
        if self._direct:
            self.send(frame)
        else:
            self._queue.append(frame)
            self._count(len(frame))
        self._direct = False
        self._switch(_drop)
        self.sealed = True
        if not self.dead and self.on_sealed is not None:
            self.on_sealed()

    def _empty(self) -> None:
        if not (self.sealed or self.dead):
            self._go_direct()
        self._signal_drained()
        self._overflowed = False

    def _signal_drained(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None


def _drop(_data: bytes) -> int:
    """Stand in for an outbox's `write` once its gate is sealed or dead."""
    return 0
