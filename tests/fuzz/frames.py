"""WebSocket frames: the scanner, the inflater and the library that reads behind them agree on what is a message."""

import zlib

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.utilities import RemoteProtocolError

from protocol.deflate import TAIL, deflate
from protocol.errors import ProtocolError
from protocol.inflate import Inflater
from protocol.scanner import FrameScanner
from tests.fuzz.target import Outcome, Target, pieces

MAX_MESSAGE, MAX_FRAGMENTS = 600, 6


def run(data: bytes) -> Outcome:
    """The first byte chooses: plain frames, or compressed messages among them."""
    compressed = bool(data and data[0] & 1)
    data = data[1:]
    whole, cut = _scan([data], compressed), _scan(pieces(data), compressed)
    assert whole == cut, (whole, cut)
    _carried_over(data, compressed)
    good = _good_bytes(data, compressed)
    if compressed:
        inflated = _inflate([good])
        assert inflated == _inflate(pieces(good)), "it matters how compressed frames are cut"
        good, violation = inflated
    else:
        violation = None
    return whole, violation, _library(good, whole, violation)


def _scan(given: list[bytes], compressed: bool) -> tuple[object, ...]:
    scanner = FrameScanner(MAX_MESSAGE, MAX_FRAGMENTS, compressed=compressed)
    error = None
    for piece in given:
        try:
            scanner.feed(piece)
        except ProtocolError as found:
            error = str(found.code)
            break
        kept = len(scanner.bytes_since_message())
        assert kept <= MAX_MESSAGE + 14 * (MAX_FRAGMENTS + 1) + 125, f"{kept} bytes are kept"
        if scanner.closed:
            break
    return scanner.frames, scanner.messages, scanner.pings, scanner.closed, error


def _carried_over(data: bytes, compressed: bool) -> None:
    """Another scanner that is given what the first has kept goes on as if it had seen everything."""
    first = FrameScanner(MAX_MESSAGE, MAX_FRAGMENTS, compressed=compressed)
    middle = len(data) // 2
    try:
        first.feed(data[:middle])
    except ProtocolError:
        return
    if first.closed:
        return
    messages, kept = first.messages, first.bytes_since_message()
    second = FrameScanner(MAX_MESSAGE, MAX_FRAGMENTS, compressed=compressed)
    ends = []
    for scanner, given in ((first, data[middle:]), (second, kept + data[middle:])):
        try:
            scanner.feed(given)
            ends.append("")
        except ProtocolError as error:
            ends.append(str(error.code))
    assert ends[0] == ends[1]
    assert first.messages == messages + second.messages
    assert first.closed == second.closed


def _good_bytes(data: bytes, compressed: bool) -> bytes:
    """What the scanner lets through."""
    scanner = FrameScanner(MAX_MESSAGE, MAX_FRAGMENTS, compressed=compressed)
    try:
        scanner.feed(data)
    except ProtocolError:
        return data[: scanner.accepted]
    return data


def _inflate(given: list[bytes]) -> tuple[bytes, str | None]:
    """Inflate, and join the frames of each message again: where they are cut may differ."""
    inflater = Inflater(MAX_MESSAGE)
    out = b""
    for piece in given:
        found = inflater.feed(piece)
        assert len(found) <= MAX_MESSAGE + 2 * len(piece) + 64, "an inflater gave more than its bound"
        out += found
        if inflater.violation is not None:
            break
    scanner = FrameScanner(10**6, 10**6)
    scanner.feed(out)  # what comes out is plain and right
    return _joined(out), str(inflater.violation.code) if inflater.violation else None


def _joined(frames: bytes) -> bytes:
    """Frames with the data frames of each message made one, as far as they are complete; bodies keep their masks."""
    joined, at, message, opcode = b"", 0, b"", 0
    while len(frames) - at >= 6:
        first, length = frames[at], frames[at + 1] & 0x7F
        head = {126: 4, 127: 10}.get(length, 2)
        if length >= 126:
            length = int.from_bytes(frames[at + 2 : at + head])
        end = at + head + 4 + length
        if end > len(frames):
            break
        mask, body = frames[at + head : at + head + 4], frames[at + head + 4 : end]
        body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        if first & 0x08:
            joined += _frame(first, body)
        else:
            opcode = first & 0x0F or opcode
            message += body
            if first & 0x80:
                joined += _frame(0x80 | opcode, message)
                message = b""
        at = end
    return joined


def _frame(first: int, body: bytes) -> bytes:
    size = len(body)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65536 else b""
    return bytes((first,)) + length + bytes(4) + body


def _library(good: bytes, scanned: tuple[object, ...], violation: str | None) -> Outcome:
    """Whatever passed is read by wsproto, which finds as many messages, or text that is none."""
    connection = Connection(ConnectionType.SERVER)
    messages = 0
    for piece in pieces(good):
        try:
            connection.receive_data(piece)
        except RemoteProtocolError:
            break  # bytes behind a close frame
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                messages += event.message_finished
            elif isinstance(event, CloseConnection):
                # the scanner leaves two things to the library: whether text is UTF-8, and what a close frame says
                assert event.code != 1002 or scanned[3] or _about_to_be_refused(good), (
                    "the scanner let a bad frame through"
                )
                return messages, event.code
    if violation is None:
        assert messages == scanned[1], (messages, scanned)
    return messages


def _about_to_be_refused(good: bytes) -> bool:
    """Whether the scanner refuses, too, once it has seen the mask, for which the library does not wait."""
    scanner = FrameScanner(MAX_MESSAGE, MAX_FRAGMENTS)
    try:
        scanner.feed(good + bytes(4))
    except ProtocolError:
        return True
    return False


def _masked(first: int, body: bytes, mask: bytes = b"\1\2\3\4") -> bytes:
    size = len(body)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes((first,)) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))


TEXT = _masked(0x81, b'{"type":"pong"}')
PARTS = _masked(0x01, b"he") + _masked(0x89, b"p") + _masked(0x00, b"l") + _masked(0x80, "lo é".encode())
PACKED = _masked(0xC1, deflate(b'{"type":"subscribe","channel":"workflow:1"}' * 4, 15))
_FINAL = zlib.compressobj(wbits=-15)
PACKED_PARTS = _masked(0x41, deflate(b"abcd" * 30, 15)[:5]) + _masked(0x80, deflate(b"abcd" * 30, 15)[5:])
BOMB = _masked(0xC2, deflate(bytes(5000), 15))
LAST_BLOCK = _masked(0xC1, _FINAL.compress(b"x" * 50) + _FINAL.flush() + b"\0")
CLOSE = _masked(0x88, b"\x03\xe8bye")
CORPUS = tuple(
    bytes((kind,)) + frames
    for kind in (0, 1)
    for frames in (
        TEXT * 3, PARTS, TEXT + CLOSE, _masked(0x82, bytes(200)), PARTS + TEXT, _masked(0x8A, b""), PACKED,
        PACKED_PARTS, BOMB,
        LAST_BLOCK, PACKED + TEXT + PACKED_PARTS, b"\x81\xff" + (70000).to_bytes(8) + bytes(20),
    )
)  # fmt: skip
WORDS = (
    TEXT, PARTS, CLOSE, PACKED, TAIL, b"\x81\x80\0\0\0\0", b"\x00\x80\0\0\0\0", b"\x80\x80\0\0\0\0",
    b"\x89\xfd", b"\x88\x80\0\0\0\0",
    b"\x88\x81\0\0\0\0\x03", b"\x01\x80\0\0\0\0", b"\x81\xfe\x00\x7d", b"\x81\xfe\x02\x58\0\0\0\0",
    b"\x82\xff" + b"\xff" * 8, b"\xc1\x80\0\0\0\0",
    b"\xc1\x81\0\0\0\0\0", b"\x41\x80\0\0\0\0", b"\x03\xed", b"\xff\xff",
)  # fmt: skip

TARGET = Target("frames", CORPUS, WORDS, run)
