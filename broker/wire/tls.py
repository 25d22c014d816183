"""TLS over a plain wire, with a write path that is one synchronous step (RFC 8446 by way of OpenSSL)."""

import contextlib
import ssl
from collections.abc import Callable
from typing import TypeVar

import trio

from broker.wire.plain import RECEIVE_BYTES, PlainWire, WireBroken
from broker.wire.turnstile import Turnstile

_Result = TypeVar("_Result")

_RECORDS = ssl.MemoryBIO()
"""Where OpenSSL puts the records of all connections. Whoever has it make some takes them out in the same step,
in the one thread that the loop runs in.

With a buffer of its own each connection would keep as much memory as was ever written to it at once, up to 256 KiB, and
a fan-out would find it cold.
"""


_HANDSHAKE = 22
_RECORD_HEAD = 5
_LONGEST_RECORD = _RECORD_HEAD + 16384 + 256

_AT_ONCE = 4096
"""How many bytes OpenSSL is given at one time: a key update of 27 bytes costs 12 µs, and 25 if it is to be answered."""

MAX_BARREN = 65536
"""How many bytes may come that hold no data (key updates, empty records), beyond what follows."""

_ANSWER_WEIGHT = 8
"""For how many of them a byte counts that OpenSSL wants to answer."""

BARREN_PER_READ = _LONGEST_RECORD
"""So many for each piece of data: its record may be padded to the full (RFC 8446 section 5.4).

Some clients pad everything they say, also a thousand subscriptions in a row: "RecordPadding" in openssl.cnf does that.
"""

BARREN_PER_SECOND = 4096
"""And so many for each second between two pieces of data, for a client that hides when it is silent."""

_CHEAP = 512
"""Up to so many with a piece of data are the records' own overhead; after more of them others have their turns."""


def _record_size(data: bytes) -> int:
    return _RECORD_HEAD + int.from_bytes(data[3:5])


class TlsWire(PlainWire):
    """A server-side TLS connection: `ssl.SSLObject` over memory buffers.

    `trio.SSLStream` can only write by awaiting. Here `encrypt` turns a frame into records synchronously, so that the
    outbox has the same direct path as without TLS; what OpenSSL wants to say by itself (key updates, alerts) leaves
    through `on_output`, in order with everything else. Everything that OpenSSL is asked for goes through `_do`.

    Attributes:
        on_output: takes records that a read has made necessary; set by the outbox once it owns the writes.
    """

    __slots__ = ("_barren", "_incoming", "_object", "_turns", "_unfed", "_unsaid", "on_output")

    encrypted = True

    def __init__(self, plain: PlainWire, context: ssl.SSLContext) -> None:
        super().__init__(plain.raw, plain.remote)
        self._unread = plain._unread
        self._incoming = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, _RECORDS, server_side=True)
        self._unfed = b""  # what was read and OpenSSL has not been given
        self._barren = 0  # bytes that it was given and that, so far, have brought no data; see MAX_BARREN
        self._turns: Turnstile | None = None
        self._unsaid = b""  # records that are made and not written
        self.on_output: Callable[[bytes], None] | None = None

    async def handshake(self, turns: Turnstile | None = None) -> None:
        """Shake hands; the caller sets the deadline.

        Args:
            turns: the turnstile to pass before OpenSSL computes its answer to the first record, and from then on
                whenever what came has brought no data; None: there is none.

        Raises:
            WireBroken: the peer speaks no TLS, none that we accept, or went away.
        """
        await self._fill_with_first_record()
        self._turns = turns
        if turns is not None:
            await turns.pass_in_turn()
        while True:
            try:
                self._do(self._object.do_handshake)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                await self._flush()
                raise WireBroken(f"TLS handshake failed: {error.reason or error}") from None
            else:
                await self._flush()
                return

    async def receive_some(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next decrypted bytes, b"" at the end of the stream, be it announced (close_notify) or not.

        Raises:
            WireBroken: the connection was reset, the records are not valid, or too many of them hold no data.
        """
        if self._unread:
            return await super().receive_some(max_bytes)
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._do(self._object.read, max_bytes)
            except ssl.SSLWantReadError:
                if self._unsaid:
                    self._barren += _ANSWER_WEIGHT * len(self._unsaid)
                if self._barren:
                    await self._bear_with_it()
                await self._flush()
                self._barren += await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                await trio.lowlevel.cancel_shielded_checkpoint()
                return b""
            except ssl.SSLError as error:
                raise WireBroken(f"TLS: {error.reason or error}") from None
            else:
                now = trio.current_time()
                if self._barren <= _CHEAP:
                    self._barren = 0
                else:
                    self._forgive(len(data), now - self.last_heard)
                self.last_heard = now
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    def receive_nowait(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return only what was given back: what is encrypted may need an answer first."""
        if self._unread:
            return super().receive_nowait(max_bytes)
        raise trio.WouldBlock

    async def send_all(self, data: bytes) -> None:
        """Encrypt and write all of `data`; see `PlainWire.send_all`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            records = self.encrypt(data)
        except ssl.SSLError as error:  # as after a peer's end that was not announced
            raise WireBroken(f"TLS: {error.reason or error}") from None
        await self.send_raw(records)

    def encrypt(self, data: bytes) -> bytes:
        """Return the records for `data`; they must be written in the order in which they were made.

        Raises:
            OSError: the TLS state is broken (`ssl.SSLError` is one).
        """
        self._do(self._object.write, data)
        return self._take_unsaid()

    def farewell(self) -> bytes:
        """Return the close_notify alert; nothing can be encrypted after it."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._do(self._object.unwrap)
        return self._take_unsaid()

    def _do(self, operation: Callable[..., _Result], *arguments: object) -> _Result:
        """Have OpenSSL do something, and take the records that it makes for that, whatever comes of it."""
        try:
            return operation(*arguments)
        finally:
            self._unsaid += _RECORDS.read()

    def _take_unsaid(self) -> bytes:
        records, self._unsaid = self._unsaid, b""
        return records

    async def _fill_with_first_record(self) -> None:
        """Read until the first record is whole (RFC 8446 section 5.1), or is none: OpenSSL then has all it needs."""
        data = self.take_unread()
        while len(data) < _RECORD_HEAD or (data[0] == _HANDSHAKE and len(data) < _record_size(data) <= _LONGEST_RECORD):
            more = await self.receive_raw(RECEIVE_BYTES)
            if not more:
                self._incoming.write(data)
                self._incoming.write_eof()
                return
            data += more
        self._incoming.write(data)

    async def _fill(self) -> int:
        """Give OpenSSL some more; returns how many bytes that was, 0 at the end of the stream."""
        data = self._unfed or await self.receive_raw(RECEIVE_BYTES)
        if len(data) > _AT_ONCE:
            data, self._unfed = data[:_AT_ONCE], data[_AT_ONCE:]
        elif self._unfed:
            self._unfed = b""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

    async def _bear_with_it(self) -> None:
        """Let others have their turns: what came has cost something, and brought no data.

        Raises:
            WireBroken: there is too much of that.
        """
        if self._barren > MAX_BARREN:
            raise WireBroken("TLS: too many records that hold no data")
        if self._turns is not None:
            await self._turns.pass_in_turn()

    def _forgive(self, size: int, seconds: float) -> None:
        """Count data that has come, that many seconds after the last."""
        barren = self._barren - size
        least = 1 if barren > _CHEAP else 0  # so that a turn is taken before more is read: see `_bear_with_it`
        self._barren = max(least, barren - BARREN_PER_READ - int(seconds * BARREN_PER_SECOND))

    async def _flush(self) -> None:
        output = self._take_unsaid()
        if output:
            if self.on_output is not None:
                self.on_output(output)
            else:
                await self.send_raw(output)
