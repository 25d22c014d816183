"""Compressed messages of a client, turned into plain frames before anybody else reads them (RFC 7692 section 7.2.2)."""

import zlib
from typing import Final

from protocol.codes import ErrorCode
from protocol.deflate import MAX_WINDOW, TAIL
from protocol.errors import ProtocolError
from protocol.payloads import unmask

_FIN: Final = 0x80
_COMPRESSED: Final = 0x40
_CONTROL: Final = 0x08
_OPCODE: Final = 0x0F
_NO_MASK: Final = bytes(4)

_AFTER_THE_LAST_BLOCK: Final = (b"", TAIL.lstrip(b"\0"))
"""A sender may mark a block as the last one, and pads it then with zeros (section 7.2.3.4)."""


class Inflater:
    """Rewrites the frames of one client: those of compressed messages are inflated, the others pass as they are.

    It stands behind a `FrameScanner` that allows RSV1, which has checked what it is given. Messages end where they
    ended, but the frames within are others, and their mask is zero. Each message is inflated by itself, so that nothing
    is kept between two.

    ``max_message_bytes`` bounds what a message inflates to; that is found out without inflating more than that.

    After something wrong ``violation`` says what: ``too_big`` (close code 1009) or ``invalid_frame`` (1002). What came
    before it has been returned, and the inflater must not be fed again.
    """

    __slots__ = (
        "_control", "_first", "_header", "_inflated", "_mask", "_max", "_opcode", "_out", "_phase", "_plain",
        "_remaining", "_unpacker", "violation",
    )  # fmt: skip

    def __init__(self, max_message_bytes: int) -> None:
        self._max = max_message_bytes
        self._header = b""  # of a frame whose header is incomplete
        self._first = 0  # the first byte of the current frame
        self._remaining = 0  # bytes of its payload that are still to come
        self._control = False  # the current frame is none of a message
        self._mask = _NO_MASK
        self._phase = 0  # which byte of the mask is next
        self._unpacker: zlib._Decompress | None = None  # of the current message, if it is compressed
        self._opcode = 0  # for the next frame that is made of it: its own, then continuation
        self._inflated = 0  # bytes of it so far
        self._plain: list[bytes] = []  # of these, what is in no frame yet
        self._out: list[bytes] = []
        self.violation: ProtocolError | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the plain frames, and parts of frames, that the next piece of the client's bytes means.

        It may be empty, and it may be longer than the piece, by the bound at the most.
        """
        try:
            self._walk(data)
            self._flush_plain()
        except ProtocolError as error:
            self.violation = error
        out, self._out = self._out, []
        return b"".join(out)

    def _walk(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            if not self._remaining:
                at = self._begin_frame(data, at)
                if at < 0:
                    return
            piece = data[at : at + self._remaining]
            self._remaining -= len(piece)
            at += len(piece)
            if self._unpacker is None or self._control:
                self._out.append(piece)
            else:
                self._inflate(self._unmask(piece))
            if not self._remaining:
                self._end_frame()

    def _begin_frame(self, data: bytes, at: int) -> int:
        """Take a header and return where its payload begins, or -1 when the header is not complete."""
        before = len(self._header)
        head = self._header + data[at : at + 14 - before]
        length, size = (head[1] & 0x7F, 6) if len(head) > 1 else (0, 14)
        if length >= 126:
            size = 8 if length == 126 else 14
        if len(head) < size:
            self._header = head
            return -1
        self._header = b""
        if length >= 126:
            length = int.from_bytes(head[2 : size - 4])
        self._first, self._remaining = head[0], length
        self._control = bool(head[0] & _CONTROL)
        if not self._control and head[0] & _COMPRESSED:
            self._unpacker = zlib.decompressobj(-MAX_WINDOW)
            self._opcode, self._inflated = head[0] & _OPCODE, 0
        if self._unpacker is None or self._control:
            self._flush_plain()
            self._out.append(head[:size])
        else:
            self._mask, self._phase = head[size - 4 : size], 0
        return at + size - before

    def _end_frame(self) -> None:
        if self._unpacker is not None and not self._control and self._first & _FIN:
            self._inflate(TAIL)
            self._emit(_FIN)
            self._unpacker = None

    def _inflate(self, packed: bytes) -> None:
        unpacker = self._unpacker
        assert unpacker is not None
        try:
            plain = unpacker.decompress(packed, self._max - self._inflated + 1)
        except zlib.error:
            raise ProtocolError(ErrorCode.INVALID_FRAME, "a compressed message cannot be inflated") from None
        self._inflated += len(plain)
        if self._inflated > self._max:
            raise ProtocolError(ErrorCode.TOO_BIG, f"a message must inflate to at most {self._max} bytes")
        if plain:
            self._plain.append(plain)
        if unpacker.eof and unpacker.unused_data.lstrip(b"\0") not in _AFTER_THE_LAST_BLOCK:
            raise ProtocolError(ErrorCode.INVALID_FRAME, "a compressed message goes on behind its last block")

    def _unmask(self, piece: bytes) -> bytes:
        phase = self._phase
        self._phase = (phase + len(piece)) % 4
        return unmask(piece, self._mask[phase:] + self._mask[:phase])

    def _flush_plain(self) -> None:
        if self._plain:
            self._emit(0)

    def _emit(self, fin: int) -> None:
        """Make a frame, masked with zero, of what was inflated since the last one."""
        payload = b"".join(self._plain)
        self._plain.clear()
        size = len(payload)
        if size < 126:
            length = bytes((0x80 | size,))
        elif size < 65536:
            length = b"\xfe" + size.to_bytes(2)
        else:
            length = b"\xff" + size.to_bytes(8)
        self._out += (bytes((fin | self._opcode,)), length, _NO_MASK, payload)
        self._opcode = 0
