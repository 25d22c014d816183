"""The stream that the WebSocket library sees: bytes from the wire in, everything out through the outbox."""

import math
from collections.abc import Awaitable, Callable

import trio
import trio_websocket

from broker.wire.bucket import TokenBucket
from broker.wire.outbox import Outbox
from broker.wire.pausing import Pausing
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.turnstile import ALONE
from protocol.errors import ProtocolError
from protocol.inflate import Inflater
from protocol.payloads import lone_text
from protocol.scanner import FrameScanner

Deliver = Callable[[str | bytes], Awaitable[None]]
"""What is given each message, and waited for before anything more is read."""

_TAKEN_FOR_ITS_OWN = (
    KeyError,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    trio_websocket.ConnectionClosed,
)


class Feed(trio.abc.Stream):
    """Stands between a wire and trio-websocket, the library, which sees a connection that is open already.

    A text message that is whole and by itself in a read, as nearly all are, is delivered from here: the scanner has
    found that its frame is right, and the library would only find it once more. Everything else goes to the library.

    The library does not know permessage-deflate, and with an inflater it need not: compressed messages reach it as
    plain ones, and compressed frames are written without it.

    Attributes:
        deliver: what is given messages, here or by the library.
        ended: the library has finished with the stream: a close handshake was completed, or it met a protocol error.
        fresh: nothing of what was read last has been dealt with.
        holding: not all that was read last has been dealt with: it waits for its turn, or is held back.
        over: the library is told that there is no more, whatever comes.
        eof: the peer has ended the stream, or the connection broke.
        turns: the turnstiles that this connection passes, which others pass too.
        on_flood: called, again and again, when the peer had to be paused without a break for `patience` seconds.
    """

    __slots__ = (
        "_allowance", "_counted", "_frames_per_second", "_inflater", "_max_fragments", "_on_violation", "_outbox",
        "_pause", "_pausing", "_violation", "deliver", "ended", "eof", "fresh", "holding", "on_flood", "over",
        "patience", "scanner", "turns", "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: PlainWire,
        outbox: Outbox,
        scanner: FrameScanner,
        on_violation: Callable[[ProtocolError], None],
        max_fragments: int,
        frames_per_second: float,
        inflater: Inflater | None = None,
    ) -> None:
        self.wire = wire
        self.scanner = scanner
        self.ended = self.over = self.eof = self.fresh = self.holding = False
        self._outbox = outbox
        self._on_violation = on_violation
        self._violation: ProtocolError | None = None
        self._allowance: TokenBucket | None = None
        self._max_fragments = max_fragments
        self._frames_per_second = frames_per_second
        self._inflater = inflater
        self._counted = 0
        self._pause = 0.0
        self._pausing: Pausing | None = None
        self.patience = math.inf
        self.on_flood: Callable[[], None] | None = None
        self.deliver: Deliver = _to_nobody
        self.turns = ALONE

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what the peer sends, for as long as it keeps to the limits, but for messages that are delivered."""
        while not self.over:
            self.fresh = True
            begins = self.scanner.between_messages
            data = await self._receive_checked(max_bytes)
            if self._inflater is not None and data and not (data := self._inflate(self._inflater, data)):
                continue
            message = lone_text(data) if begins else None
            if message is None:
                return data
            await self.pass_on(message)
            del data, message  # they may be large, and the next ones may be long in coming
        await trio.lowlevel.checkpoint()
        return b""

    async def pass_on(self, message: str | bytes) -> None:
        """Deliver one message; an error that the library would take for one of its own becomes another."""
        if not self.fresh:
            await self.take_turn()
        self.fresh = False
        try:
            await self.deliver(message)
        except _TAKEN_FOR_ITS_OWN as error:
            raise RuntimeError("a message was not dealt with") from error

    def _inflate(self, inflater: Inflater, data: bytes) -> bytes:
        """Turn compressed messages into plain ones: the library knows nothing of RSV1."""
        data = inflater.feed(data)
        if inflater.violation is not None:
            self._violation = inflater.violation
        return data

    async def _receive_checked(self, max_bytes: int | None) -> bytes:
        """Return what the peer sends; b"" at its end, and once it has broken the rules."""
        self.holding = False
        if self._violation is not None:
            await trio.lowlevel.checkpoint()
            return self._judge(self._violation)
        if self._pause:
            await self._hold_back()
        try:
            data = await self.wire.receive_some(max_bytes or 4096)
        except WireBroken as error:
            await self._note_end()
            raise trio.BrokenResourceError(str(error)) from None
        if not data:
            await self._note_end()
            return b""
        self.holding = True
        reads = self.turns.reads
        if reads is not None and not reads.pass_at_once():
            await reads.take_turn()
        try:
            self.scanner.feed(data)
        except ProtocolError as error:
            # What came before the offence is still dealt with; the verdict follows at the next read.
            self._violation = error
            data = data[: self.scanner.accepted]
            return data or self._judge(error)
        extra = self.scanner.frames - self.scanner.messages
        if extra != self._counted:
            self._counted, extra = extra, extra - self._counted
            now = trio.current_time()
            if self._allowance is None:  # most clients never send but whole messages
                room = self._max_fragments + self._frames_per_second
                self._allowance = TokenBucket(room, self._frames_per_second, now)
            self._pause = self._allowance.take(now, extra)
        return data

    async def take_turn(self) -> None:
        """Let others have theirs before a further message of the same read is dealt with: there may be hundreds."""
        if self.turns.reads is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.turns.reads.pass_in_turn()

    async def _note_end(self) -> None:
        """Go no further at once if many others end in the same moment."""
        self.eof = True
        exits = self.turns.exits
        if exits is not None:
            await exits.pass_in_turn()

    async def _hold_back(self) -> None:
        """Read nothing for a while: the kernel then holds back a peer that sends too many frames which say nothing."""
        if self._pausing is None:
            self._pausing = Pausing()
        if self._pausing.seconds >= self.patience and self.on_flood is not None:
            self.on_flood()
        await self._pausing.pause(self._pause)
        self._pause = 0.0

    async def read_to_the_end(self) -> None:
        """Read, for nobody, until the peer's close frame, the end of the stream or an offence.

        Raises:
            WireBroken: the connection was reset.
        """
        while not (self.scanner.closed or self.eof or self.stopped):
            try:
                await self._receive_checked(None)
            except trio.BrokenResourceError as error:
                raise WireBroken(str(error)) from None

    def untie(self) -> None:
        """Forget who was to be told of what; the connection is over."""
        self._on_violation = _ignore
        self._violation = None  # its traceback leads back here
        self.deliver = _to_nobody
        self.on_flood = None

    @property
    def stopped(self) -> bool:
        """Whether the peer has broken the rules, so that nothing more of it is read."""
        return self._violation is not None

    def _judge(self, violation: ProtocolError) -> bytes:
        self._on_violation(violation)
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Pass the library's frames through the gate.

        No checkpoint: the library takes a lock around this, which is one.
        """
        if data:
            self._outbox.send_library(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: the outbox never blocks."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Note that the library is done; the peer's owner flushes and closes the wire."""
        self.ended = True
        await trio.lowlevel.checkpoint()


def _ignore(_violation: ProtocolError) -> None:
    """Nobody is left to be told."""


async def _to_nobody(_message: str | bytes) -> None:
    """Nobody listens."""
