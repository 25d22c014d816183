"""A view of what a client sends: where its messages end, how big they are, whether its frames are right.

The scanner stands before the WebSocket library and only looks (RFC 6455 section 5). It refuses a message that is too
big from the frame's header, before its payload is read, counted in bytes and over all fragments; and it keeps the raw
bytes of a message that has only begun, from which another process could go on reading the same socket.
"""

from struct import Struct
from typing import Final

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

_CONTINUATION: Final = 0x0
_CONTROL: Final = 0x8  # this bit tells control frames from data frames; alone it is a close frame
_PING: Final = 0x9
_OPCODES: Final = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_COMPRESSED: Final = 0x40

_MAX_HEADER: Final = 14
_length_16: Final = Struct("!H").unpack_from
_length_64: Final = Struct("!Q").unpack_from


class FrameScanner:
    """Scans the bytes of one client, in whatever pieces they come.

    ``max_message_bytes`` bounds the payload of a message over all its frames, ``max_fragments`` the number of those
    frames. ``compressed`` allows RSV1 on the first frame of a message (RFC 7692 section 6), nothing else reserved.

    Counters, to be read at any time: complete ``frames`` and data ``messages``, and ``pings`` among the frames.
    ``closed`` says that a close frame came; what follows one is not looked at. After an error ``accepted`` is how many
    bytes of the last piece belong to the frames before the offending one, and the scanner must not be fed again.
    """

    __slots__ = (
        "_compressed",
        "_first",
        "_fragments",
        "_header",
        "_kept",
        "_mark",
        "_max_fragments",
        "_max_message_bytes",
        "_remaining",
        "_size",
        "accepted",
        "closed",
        "frames",
        "messages",
        "pings",
    )

    def __init__(self, max_message_bytes: int, max_fragments: int, *, compressed: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._compressed = compressed
        self._header = b""  # of a frame whose header is incomplete
        self._first = 0  # the first byte of the current frame
        self._remaining = 0  # bytes of its payload that are still to come
        self._fragments = 0  # frames of the current message; 0 between messages
        self._size = 0  # bytes of payload that those frames have or announce
        self._kept = bytearray()  # everything since the last boundary, joined: pieces may be of one byte
        self._mark = 0  # how much of it precedes a control frame inside the message
        self.accepted = 0
        self.closed = False
        self.frames = 0
        self.messages = 0
        self.pings = 0

    @property
    def between_messages(self) -> bool:
        """Whether nothing is incomplete, so that the next byte begins a frame, and perhaps a message."""
        return not (self._kept or self.closed)

    def bytes_since_message(self) -> bytes:
        """Return the raw bytes of what has begun but is not complete.

        That is the frames of an unfinished message and the beginning of a frame. Control frames that came complete
        between the frames of a message are left out, since they have been answered. Bounded by the limits.
        """
        return bytes(self._kept)

    def feed(self, data: bytes) -> None:
        """Look at the next piece of what the client sent.

        Raises ProtocolError: ``too_big`` for a message beyond one of the limits (close code 1009), ``invalid_frame``
        for what RFC 6455 forbids (close code 1002). Never raises for frames that are right.
        """
        self.accepted = 0
        at, kept_from, end = 0, 0, len(data)
        while not self.closed:
            if not self._remaining:
                if at == end:
                    break
                if self._fragments and not self._header and data[at] & _CONTROL:
                    if kept_from < at:
                        self._kept += data[kept_from:at]
                        kept_from = at
                    self._mark = len(self._kept)
                at = self._begin_frame(data, at)
                if at < 0:
                    break
            if end - at < self._remaining:
                self._remaining -= end - at
                break
            at += self._remaining
            self._remaining = 0
            self._end_frame()
            if not self._fragments or self._first & _CONTROL:
                kept_from = at
            self.accepted = at
        else:
            return
        if kept_from < end:
            self._kept += data[kept_from:]

    def _begin_frame(self, data: bytes, at: int) -> int:
        """Read a header and return where its payload begins, or -1 when the header is not complete."""
        before = len(self._header)
        if before:
            data = self._header + data[:_MAX_HEADER]
        available = len(data) - at
        size = self._check_header(data, at) if available >= 2 else _MAX_HEADER
        if available < size:
            self._header = data[at:]
            return -1
        self._header = b""
        return at + size - before

    def _check_header(self, data: bytes, at: int) -> int:
        """Check a header of which two bytes or more are there, and return its size; when it is complete, take it."""
        first = data[at]
        length = data[at + 1] - 0x80
        opcode = first & 0x0F
        if length < 0:
            raise _invalid("a client's frame must be masked")
        if opcode not in _OPCODES:
            raise _invalid(f"opcode {opcode} is not known")
        if first & _RESERVED and not (self._compressed and first & _RESERVED == _COMPRESSED and opcode in (1, 2)):
            raise _invalid("a reserved bit is set")
        if opcode & _CONTROL:
            if not first & _FIN or length > 125:
                raise _invalid("a control frame must be whole and at most 125 bytes long")
        elif (opcode == _CONTINUATION) != (self._fragments > 0):
            raise _invalid("a message must be finished before the next begins")
        size = 6
        if length >= 126:
            size = 8 if length == 126 else 14
            if len(data) - at < size:
                return size
            length = _long_length(data, at, length)
        elif len(data) - at < size:
            return size
        if not opcode & _CONTROL:
            self._fragments += 1
            self._size += length
            if self._size > self._max_message_bytes:
                raise _too_big(f"a message must be at most {self._max_message_bytes} bytes")
            if self._fragments > self._max_fragments:
                raise _too_big(f"a message must come in at most {self._max_fragments} frames")
        self._first = first
        self._remaining = length
        return size

    def _end_frame(self) -> None:
        self.frames += 1
        first = self._first
        if not first & _CONTROL:
            if first & _FIN:
                self.messages += 1
                self._fragments = self._size = 0
                self._kept.clear()
            return
        if first & 0x0F == _PING:
            self.pings += 1
        elif first & 0x0F == _CONTROL:
            self.closed = True
            self._kept.clear()
        if self._fragments:
            del self._kept[self._mark :]
        else:
            self._kept.clear()


def _long_length(data: bytes, at: int, form: int) -> int:
    length: int
    if form == 126:
        (length,) = _length_16(data, at + 2)
        shortest = 126
    else:
        (length,) = _length_64(data, at + 2)
        shortest = 65536
        if length >> 63:
            raise _invalid("a frame's length must be less than 2^63")
    if length < shortest:
        raise _invalid("a frame's length must be written in its shortest form")
    return length


def _invalid(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_FRAME, message)


def _too_big(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.TOO_BIG, message)
