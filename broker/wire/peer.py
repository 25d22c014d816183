"""A connected WebSocket peer, as a session sees it: synchronous sends, messages one by one, one orderly end."""

import math
import os
import time
from collections.abc import Callable

import trio

from broker.wire.feed import Deliver, Feed
from broker.wire.limits import PeerLimits
from broker.wire.open_connection import OpenConnection
from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.turnstile import ALONE, Turns
from broker.wire.websocket import ABNORMAL, read_messages
from protocol.codes import CloseCode, ErrorCode
from protocol.deflate import Deflate
from protocol.errors import ProtocolError
from protocol.inflate import Inflater
from protocol.scanner import FrameScanner

_PROTOCOL_ERRORS = frozenset({1002, 1007})
_LINGER_BYTES = 1 << 20
_LINGER_SECONDS = 0.5


class Peer:
    """One WebSocket connection whose opening handshake is done.

    Attributes:
        id: 12 hex digits, unique enough to find a connection in the log.
        remote: the peer's address as text.
        opened_at: unix time, in seconds.
        send: hands one complete frame to the outbox; never blocks, never raises (`Outbox.send`).
        close_code, close_reason: how it ended: as we closed it if we did so first, else as the peer did; `ABNORMAL`
            when it broke.
        closed_by: "us", "peer" or "" while open.
        handed_over: another process goes on with this connection; here it ends without a word.
    """

    __slots__ = (
        "_feed", "_limits", "_scope", "close_code", "close_reason", "closed_by",
        "handed_over", "id", "opened_at", "outbox", "remote", "send", "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: PlainWire,
        limits: PeerLimits,
        remote: str | None = None,
        deflate: Deflate | None = None,
        turns: Turns = ALONE,
    ) -> None:
        self.id = os.urandom(6).hex()
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
        self.handed_over = False
        self._limits = limits
        self._scope: trio.CancelScope | None = None
        compressed = deflate is not None
        scanner = FrameScanner(limits.max_message_bytes, limits.max_fragments, compressed=compressed)
        inflater = None
        if deflate is not None:
            inflater = Inflater(limits.max_message_bytes)
            self.outbox.window = deflate.window
        self._feed = Feed(
            wire, self.outbox, scanner, self._on_violation, limits.max_fragments, limits.frames_per_second, inflater
        )
        self._feed.patience = limits.rate_patience
        self._feed.on_flood = self._on_flood
        self._feed.turns = turns

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
    def has_unread(self) -> bool:
        """Whether the peer has sent something that has not been read and dealt with."""
        return self._feed.holding or self.wire.has_unread()

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

    async def listen(self, deliver: Deliver) -> None:
        """Give every message to `deliver`, text as str and binary as bytes, until no more will come.

        None is given any more once the connection is being closed. While `deliver` waits nothing is read, not even a
        ping or the end, so that the kernel holds the client back: whoever lets it wait for long must learn from
        elsewhere that the client is there, as from heartbeats.
        """

        async def deliver_while_open(message: str | bytes) -> None:
            if not self.closing:
                await deliver(message)

        reason = await read_messages(self._feed, self._limits.max_message_bytes, deliver_while_open)
        if reason is not None:
            self._note("peer", int(reason.code), reason.reason or "")

    def suspend(self) -> None:
        """Read no more from the peer, for `hand_over`; only without TLS, whose state cannot leave the process."""
        self.wire.suspend()

    @property
    def is_settled(self) -> bool:
        """Whether every message that was read before `suspend` has been delivered."""
        return self.wire.parked

    def hand_over(self) -> OpenConnection:
        """Give the connection away after `suspend`: whoever has a copy of its descriptor goes on with what is returned.

        Nothing is written or read here any more, and nobody is woken for that: the session ends when it is cancelled,
        without a frame and without an effect on the connection.
        """
        begun, frames = self.outbox.take_pending()
        quiet = trio.current_time() - self.wire.last_heard
        unread = self.scanner.bytes_since_message() + self.wire.take_unread()
        self.handed_over = True
        self._note("us", 0, "handed over")
        self.outbox.on_sealed = None
        self.outbox.die()
        return OpenConnection(self.id, self.remote, self.opened_at, quiet, unread, begun, tuple(frames))

    def take_up(self, connection: OpenConnection) -> None:
        """Go on with a connection that another process has handed over; before anything is sent.

        Its `unread` must have been given to the wire before the peer was opened.
        """
        self.id, self.opened_at = connection.id, connection.opened_at
        self.wire.last_heard -= connection.quiet
        if connection.begun or connection.frames:
            self.outbox.restore_pending(connection.begun, list(connection.frames))

    async def drained(self) -> None:
        """Wait until nothing is pending or the connection is dead."""
        await self.outbox.drained()

    def start(self, session: trio.Nursery) -> None:
        """Bind the connection to the nursery of its session, where a writer is started once it is needed.

        From now on the nursery is cancelled when the connection is dead, and `close_timeout` after a close frame has
        passed.
        """
        self._scope = session.cancel_scope
        self.outbox.start(session)
        if self.closing:
            self._start_deadline()

    async def finish(self) -> None:
        """End the connection in order: flush, answer a protocol error, say goodbye. When cancelled: at once.

        The session's nursery is over by now; nobody reads or writes here but this.
        """
        if self.handed_over:
            self.wire.close()
            return
        outbox = self.outbox
        if not self.closing and not self._feed.eof:
            if self.close_code in _PROTOCOL_ERRORS:  # the library has met one and told us the code, not the peer
                self.closed_by = "us"
                self._feed.ended = True
                outbox.close(self.close_code, self.close_reason)
            elif not self._feed.ended:
                self.close_soon(CloseCode.GOING_AWAY)
        hurried = trio.current_effective_deadline() == -math.inf or self._is_overdue
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
        if not self._feed.ended:
            await self._feed.read_to_the_end()
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

    @property
    def _is_overdue(self) -> bool:
        return self._scope is not None and self._scope.deadline <= trio.current_time()

    def untie(self) -> None:
        """Let the parts go of each other, so that they are freed with the last reference; nothing can be done after."""
        self.outbox.untie()
        self._feed.untie()

    def _start_deadline(self) -> None:
        if self.outbox.too_slow:
            self._note("us", CloseCode.OVERLOADED, "too slow")
        elif self.outbox.dead and not self.scanner.closed:
            self._note("peer", ABNORMAL, "")
        scope = self._scope
        if scope is None:
            return
        if self.outbox.dead:
            scope.cancel()
        else:
            scope.deadline = min(scope.deadline, trio.current_time() + self._limits.close_timeout)

    def _note(self, who: str, code: int, reason: str) -> None:
        if not self.closed_by:
            self.closed_by, self.close_code, self.close_reason = who, code, reason

    def _on_flood(self) -> None:
        self.close_soon(CloseCode.TOO_MANY_MESSAGES, "too many frames")

    def _on_violation(self, error: ProtocolError) -> None:
        code = CloseCode.PROTOCOL_ERROR if error.code == ErrorCode.INVALID_FRAME else CloseCode.TOO_BIG
        self.close_soon(code, error.message)
