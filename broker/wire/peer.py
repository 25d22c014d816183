"""A connected WebSocket peer, as a session sees it: synchronous sends, awaited messages, one orderly end."""

import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
import trio_websocket

from broker.wire.bucket import TokenBucket
from broker.wire.feed import Feed
from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire, WireBroken
from protocol.codes import CloseCode, ErrorCode
from protocol.errors import ProtocolError
from protocol.scanner import FrameScanner

ABNORMAL = 1006
_PROTOCOL_ERRORS = frozenset({1002, 1007})
_LINGER_BYTES = 1 << 20
_LINGER_SECONDS = 0.5


class PeerClosed(Exception):
    """The connection is over or is being closed: no more messages will come."""


@attrs.frozen
class PeerLimits:
    """The bounds of one connection; sizes in bytes, times in seconds.

    Attributes:
        outbox_bytes: see `Outbox.limit`.
        max_message_bytes: a longer message from the peer is refused with 1009.
        max_fragments: a message in more frames than this is refused likewise.
        close_timeout: how long a closing handshake may take before the connection is reset.
        frames_per_second: frames from the peer that are no message in themselves (pings, pongs, parts of a fragmented
            message), on average, with room for one whole message; above it the peer is read more slowly.
        rate_patience: after so long above it without a break the connection is closed with 4429; `math.inf`: never.
        write_stall_timeout: see `Outbox.stall_timeout`.
    """

    outbox_bytes: int
    max_message_bytes: int
    max_fragments: int
    close_timeout: float
    frames_per_second: float = 200.0
    rate_patience: float = math.inf
    write_stall_timeout: float = math.inf


class Peer:
    """One WebSocket connection whose opening handshake is done.

    Attributes:
        id: 12 hex digits, unique enough to find a connection in the log.
        remote: the peer's address as text.
        opened_at: unix time, in seconds.
        send: hands one complete frame to the outbox; never blocks, never raises (`Outbox.send`).
        close_code, close_reason: who ended it how: ours, else the peer's; `ABNORMAL` when it broke.
        closed_by: "us", "peer" or "" while open.
    """

    __slots__ = (
        "_feed", "_limits", "_scope", "_websocket", "close_code", "close_reason", "closed_by",
        "id", "opened_at", "outbox", "remote", "send", "wire",
    )  # fmt: skip

    def __init__(self, wire: PlainWire, limits: PeerLimits, scope: trio.CancelScope, remote: str | None = None) -> None:
        self.id = secrets.token_hex(6)
        self.wire = wire
        self.remote = remote or wire.remote
        self.opened_at = time.time()
        self.outbox = Outbox(wire, limits.outbox_bytes)
        self.outbox.on_sealed = self._start_deadline
        self.outbox.stall_timeout = limits.write_stall_timeout
        self.send: Callable[..., bool] = self.outbox.send
        self.close_code = 0
        self.close_reason = ""
        self.closed_by = ""
        self._limits = limits
        self._scope = scope
        scanner = FrameScanner(max_message_bytes=limits.max_message_bytes, max_fragments=limits.max_fragments)
        allowance = TokenBucket(
            limits.max_fragments + limits.frames_per_second, limits.frames_per_second, trio.current_time()
        )
        self._feed = Feed(wire, self.outbox, scanner, self._on_violation, allowance)
        self._feed.patience = limits.rate_patience
        self._feed.on_flood = self._on_flood
        self._websocket: trio_websocket.WebSocketConnection | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.outbox.pending

    @property
    def peak_bytes(self) -> int:
        """The most that was ever pending, in bytes."""
        return self.outbox.peak

    @property
    def sent(self) -> tuple[int, int]:
        """How many frames, and bytes of them, the outbox has taken."""
        return self.outbox.frames, self.outbox.bytes

    @property
    def closing(self) -> bool:
        """Whether a close frame has passed the gate, or the connection is dead."""
        return self.outbox.sealed or self.outbox.dead

    @property
    def last_heard(self) -> float:
        """`trio.current_time()` of the last bytes that came from the peer."""
        return self.wire.last_heard

    @property
    def scanner(self) -> FrameScanner:
        """The view over what the peer sends: counts, and the bytes since the last complete message."""
        return self._feed.scanner

    @property
    def on_overflow(self) -> Callable[[], None] | None:
        """What happens instead of closing with 1013 when a frame does not fit: see `Outbox.on_overflow`."""
        return self.outbox.on_overflow

    @on_overflow.setter
    def on_overflow(self, callback: Callable[[], None] | None) -> None:
        self.outbox.on_overflow = callback

    @property
    def on_drained(self) -> Callable[[], None] | None:
        """Called when nothing is pending any more after an overflow."""
        return self.outbox.on_drained

    @on_drained.setter
    def on_drained(self, callback: Callable[[], None] | None) -> None:
        self.outbox.on_drained = callback

    def close_soon(self, code: int, reason: str = "") -> None:
        """Begin to close, from any code: what is pending still goes, then the close frame; nothing after it.

        The connection ends when the peer has answered, at the latest after `close_timeout`. Later calls do nothing.

        Args:
            code: a close code (RFC 6455 section 7.4), see `protocol.codes`.
            reason: at most 123 bytes of UTF-8, for people.
        """
        if not self.closing:
            self._note("us", code, reason)
            self.outbox.close(code, reason)

    async def receive(self) -> str | bytes:
        """Return the next complete message, text as str and binary as bytes.

        Raises:
            PeerClosed: there will be no more.
        """
        assert self._websocket is not None
        while True:
            try:
                message = await self._websocket.get_message()
            except trio_websocket.ConnectionClosed as closed:
                if closed.reason is not None:
                    self._note("peer", closed.reason.code, closed.reason.reason or "")
                raise PeerClosed from None
            if not self.closing:
                return message

    async def drained(self) -> None:
        """Wait until nothing is pending or the connection is dead."""
        await self.outbox.drained()

    async def run_writer(self) -> None:
        """Drain the outbox whenever the direct path could not; the body of the session's writer task."""
        await self.outbox.run_writer()

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the WebSocket library on this connection."""
        request = await trio_websocket.wrap_server_stream(
            nursery, self._feed, max_message_size=self._limits.max_message_bytes
        )
        self._websocket = await request.accept()

    async def finish(self) -> None:
        """End the connection in order: flush, answer a protocol error, say goodbye. When cancelled: at once."""
        outbox = self.outbox
        if not self.closing and not self._feed.eof:
            if self.close_code in _PROTOCOL_ERRORS:  # the library has met one and told us the code, not the peer
                self.closed_by = "us"
                outbox.close(self.close_code, self.close_reason)
            elif not self._feed.ended:
                self.close_soon(CloseCode.GOING_AWAY)
        hurried = trio.current_effective_deadline() == -math.inf
        with trio.move_on_after(0 if hurried else self._limits.close_timeout, shield=True):
            try:
                await self._flush_and_await_end()
            except WireBroken:
                outbox.die()
        if outbox.pending:
            self.wire.reset()
        outbox.die()
        self.wire.close()
        self._note("peer", ABNORMAL, "")

    async def _flush_and_await_end(self) -> None:
        await self.outbox.drain()
        if self.outbox.dead or self._feed.eof:
            return
        if not (self._feed.ended or self._feed.stopped) and self._websocket is not None:
            await self._websocket.aclose()  # reads on, and ends with the peer's close frame or the end of the stream
        farewell = self.wire.farewell()
        if farewell:
            await self.wire.send_raw(farewell)
        self.wire.shutdown()
        if self._feed.stopped:
            await self._discard()

    async def _discard(self) -> None:
        """Read what still comes, so that the close frame is not lost to a reset."""
        seen = 0
        with trio.move_on_after(_LINGER_SECONDS):
            while seen < _LINGER_BYTES and (data := await self.wire.receive_raw(65536)):
                seen += len(data)

    def _start_deadline(self) -> None:
        if self.outbox.dead:
            self._scope.cancel()
        else:
            if self.outbox.too_slow:
                self._note("us", CloseCode.OVERLOADED, "too slow")
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._limits.close_timeout)

    def _note(self, who: str, code: int, reason: str) -> None:
        if not self.closed_by:
            self.closed_by, self.close_code, self.close_reason = who, code, reason

    def _on_flood(self) -> None:
        self.close_soon(CloseCode.TOO_MANY_MESSAGES, "too many frames")

    def _on_violation(self, error: ProtocolError) -> None:
        code = CloseCode.PROTOCOL_ERROR if error.code == ErrorCode.INVALID_FRAME else CloseCode.TOO_BIG
        self.close_soon(code, error.message)


@asynccontextmanager
async def open_peer(
    wire: PlainWire, answer: bytes, limits: PeerLimits, *, remote: str | None = None
) -> AsyncIterator[Peer]:
    """Turn a wire into a WebSocket peer for the length of the block; at its end the connection is closed.

    Args:
        wire: bytes that came behind the request head must have been given back with `unread`.
        answer: the 101 response, b"" for a connection that is open already.
        limits: the bounds of this connection.
        remote: the peer's address if a trusted proxy told a better one.

    Raises:
        WireBroken: the connection went before the WebSocket was open.
    """
    if answer:
        await wire.send_all(answer)
    try:
        async with trio.open_nursery() as connection:
            peer = Peer(wire, limits, connection.cancel_scope, remote)
            await peer.start(connection)
            try:
                yield peer
            except Exception:
                peer.close_soon(CloseCode.INTERNAL, "internal error")
                raise
            finally:
                await peer.finish()
                connection.cancel_scope.cancel()
    finally:
        wire.close()
