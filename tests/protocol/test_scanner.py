"""The scanner of client frames: the same whatever the pieces, and in step with another implementation."""

import itertools
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, TextMessage

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.frames import FrameScanner
from tests.protocol.client_frames import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, Frame, header
from tests.protocol.strategies import attempt, examples


def joined(frames: Iterable[Frame]) -> bytes:
    """Join the frames' bytes."""
    return b"".join(frame.raw for frame in frames)


payloads = st.text("aé€", max_size=60).map(str.encode) | st.just(b"x" * 130)
controls = st.builds(Frame, st.sampled_from([PING, PONG]), st.binary(max_size=20))


@st.composite
def messages(draw: st.DrawFn) -> list[Frame]:
    """Draw one message in one or more frames, with control frames between them."""
    parts = draw(st.lists(payloads, min_size=1, max_size=4))
    frames: list[Frame] = []
    for index, part in enumerate(parts):
        opcode = draw(st.sampled_from([TEXT, BINARY])) if index == 0 else CONTINUATION
        frames.append(Frame(opcode, part, fin=index == len(parts) - 1))
        if index < len(parts) - 1:
            frames += draw(st.lists(controls, max_size=2))
    return frames


streams = st.lists(messages() | controls.map(lambda frame: [frame]), max_size=6).map(
    lambda groups: [frame for group in groups for frame in group]
)


def expected_rest(frames: list[Frame], received: int) -> bytes:
    """Compute plainly what is unfinished after so many bytes: open frames, answered control frames left out."""
    rest, at, inside = b"", 0, False
    for frame in frames:
        raw = frame.raw
        if at + len(raw) > received:
            return rest + raw[: max(0, received - at)]
        at += len(raw)
        if frame.opcode >= CLOSE:
            continue
        inside = not frame.fin
        rest = rest + raw if inside else b""
    return rest


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut the bytes."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(frames=streams, cuts=st.lists(st.integers(0, 2000), max_size=8))
@examples
def test_pieces_make_no_difference(frames: list[Frame], cuts: list[int]) -> None:
    """However the bytes are cut: the counts are right, and after each piece so is what is unfinished."""
    scanner, received = FrameScanner(10_000, 100), 0
    for piece in pieces(joined(frames), cuts):
        scanner.feed(piece)
        received += len(piece)
        rest = expected_rest(frames, received)
        assert scanner.bytes_since_message() == rest
        assert scanner.between_messages == (rest == b"")
    assert scanner.frames == len(frames)
    assert scanner.messages == sum(frame.fin and frame.opcode < CLOSE for frame in frames)
    assert scanner.pings == sum(frame.opcode == PING for frame in frames)
    assert scanner.bytes_since_message() == b""


LONG = [
    Frame(TEXT, b"a" * 5),
    Frame(PING, b"p"),
    Frame(TEXT, b"b" * 126, fin=False),
    Frame(PING, b"q"),
    Frame(PONG),
    Frame(CONTINUATION, b"", fin=False),
    Frame(CONTINUATION, b"c" * 3),
    Frame(BINARY, b"d" * 65536),
    Frame(TEXT),
]


def test_fed_at_every_byte_boundary() -> None:
    """Cut in two at every byte, and byte by byte, a stream of every kind of frame scans the same."""
    data = joined(LONG)
    interesting = [at for at in range(len(data)) if at < 350 or at > len(data) - 50]
    for at in interesting:
        scanner = FrameScanner(65536, 3)
        scanner.feed(data[:at])
        assert scanner.bytes_since_message() == expected_rest(LONG, at)
        scanner.feed(data[at:])
        assert (scanner.frames, scanner.messages, scanner.pings) == (9, 4, 2)
    scanner = FrameScanner(65536, 3)
    for index in range(len(data)):
        scanner.feed(data[index : index + 1])
    assert (scanner.frames, scanner.messages, scanner.pings) == (9, 4, 2)


def server_events(data: bytes) -> list[Event]:
    """Let a server of wsproto read what a client sent."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    return list(server.events())


def texts(events: list[Event]) -> str:
    """Join the text of all messages, a bar after each."""
    return "".join(event.data + "|" * event.message_finished for event in events if isinstance(event, TextMessage))


@given(frames=streams, at=st.integers(0, 2000))
@examples
def test_another_reader_can_go_on_from_the_unfinished_bytes(frames: list[Frame], at: int) -> None:
    """What was kept, then the rest of the stream, gives just the messages that were not complete before."""
    data = joined(frames)
    at %= len(data) + 1
    scanner = FrameScanner(10_000, 100)
    scanner.feed(data[:at])
    complete = joined(frames)[:at]
    before = texts(server_events(complete))
    whole = texts(server_events(data))
    done = before[: before.rfind("|") + 1]
    assert done + texts(server_events(scanner.bytes_since_message() + data[at:])) == whole


BAD = {
    "unmasked": bytes((0x81, 0x05)) + b"hello",
    "reserved bit 1": header(0xC1, 0) + MASK,
    "reserved bit 2": header(0xA1, 0) + MASK,
    "reserved bit 3": header(0x91, 0) + MASK,
    "opcode 3": header(0x83, 0) + MASK,
    "opcode 15": header(0x8F, 0) + MASK,
    "long ping": header(0x89, 126) + MASK,
    "split ping": header(0x09, 1) + MASK + b"x",
    "nothing to continue": header(0x80, 1) + MASK + b"x",
    "long form of 125": bytes((0x81, 0xFE, 0, 125)) + MASK,
    "long form of 65535": bytes((0x81, 0xFF)) + (65535).to_bytes(8, "big") + MASK,
    "length beyond 63 bits": bytes((0x81, 0xFF)) + (2**63).to_bytes(8, "big") + MASK,
    "new message too early": header(0x01, 1) + MASK + b"x" + header(0x81, 1) + MASK + b"y",
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_standard_forbids(name: str) -> None:
    """Refused whatever the pieces, and the frames before it are told apart from it; wsproto agrees."""
    good = joined([Frame(TEXT, b"first"), Frame(PING)])
    intact = len(good) + (7 if name == "new message too early" else 0)
    scanner = FrameScanner(1000, 10)
    with pytest.raises(ProtocolError) as caught:
        scanner.feed(good + BAD[name])
    assert caught.value.code == ErrorCode.INVALID_FRAME
    assert scanner.accepted == intact
    slow = FrameScanner(1000, 10)
    bytewise = (attempt(slow.feed, bytes((byte,))) for byte in good + BAD[name])
    assert any(isinstance(result, ProtocolError) for result in bytewise)
    assert slow.accepted == 0
    assert isinstance(server_events(good + BAD[name])[-1], CloseConnection)


@given(first=st.integers(0, 255), second=st.integers(0, 255), rest=st.binary(max_size=300))
@examples
def test_any_bytes_are_scanned_or_refused_as_wsproto_would(first: int, second: int, rest: bytes) -> None:
    """Nothing but ProtocolError is raised, and only for what the other implementation refuses too."""
    data = bytes((first, second)) + rest
    scanner = FrameScanner(2**64, 1000)
    refused = isinstance(attempt(scanner.feed, data), ProtocolError)
    # wsproto waits for the whole header before it judges the first two bytes of one.
    seen = data + bytes(14) if refused else data
    closes = [event for event in server_events(seen) if isinstance(event, CloseConnection)]
    if refused:
        assert closes
    else:
        # What a close frame says, and whether text is UTF-8, is the WebSocket library's to judge.
        assert not closes or scanner.closed or closes[-1].code == 1007


def test_a_message_may_be_as_big_as_the_limit_and_no_bigger() -> None:
    """Counted in bytes over all its frames, and refused from the header alone, before a byte of it is read."""
    scanner = FrameScanner(100, 10)
    scanner.feed(joined([Frame(TEXT, b"x" * 100), Frame(TEXT, b"x" * 60, fin=False), Frame(CONTINUATION, b"x" * 40)]))
    assert scanner.messages == 2
    for start in (b"", joined([Frame(TEXT, b"x" * 60, fin=False)])):
        scanner = FrameScanner(100, 10)
        scanner.feed(start)
        with pytest.raises(ProtocolError, match="at most 100 bytes") as caught:
            scanner.feed(header(0x80 if start else 0x81, 101 if not start else 41) + MASK)
        assert caught.value.code == ErrorCode.TOO_BIG


def test_control_frames_do_not_count_as_message() -> None:
    """A ping between two fragments takes nothing of the message's size or fragments."""
    scanner = FrameScanner(100, 2)
    frames = [Frame(TEXT, b"x" * 50, fin=False), *[Frame(PING, b"p" * 125)] * 5, Frame(CONTINUATION, b"x" * 50)]
    scanner.feed(joined(frames))
    assert (scanner.messages, scanner.pings) == (1, 5)


def test_fragments_are_bounded() -> None:
    """A message of endless empty fragments ends at the limit, and so does what is kept of it."""
    scanner = FrameScanner(100, 10)
    scanner.feed(joined([Frame(TEXT, fin=False), *[Frame(CONTINUATION, fin=False)] * 9]))
    assert len(scanner.bytes_since_message()) == 60
    with pytest.raises(ProtocolError, match="at most 10 frames") as caught:
        scanner.feed(Frame(CONTINUATION, fin=False).raw)
    assert caught.value.code == ErrorCode.TOO_BIG


def test_what_is_kept_is_as_large_as_what_came() -> None:
    """An unfinished message takes the same memory in pieces of one byte as in one."""
    size = 60_000
    scanner = FrameScanner(size, 10)
    scanner.feed(header(TEXT, size))
    tracemalloc.start()
    for _ in range(size - 1):
        scanner.feed(b"x")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(scanner.bytes_since_message()) > size
    assert kept < size * 1.5


def test_nothing_after_a_close_is_looked_at() -> None:
    """RFC 6455 section 5.5.1: what follows a close frame is ignored, garbage too."""
    scanner = FrameScanner(100, 10)
    scanner.feed(joined([Frame(TEXT, b"x", fin=False), Frame(CLOSE, b"\x03\xe8")]) + b"garbage")
    assert scanner.closed
    scanner.feed(b"more garbage")
    assert scanner.frames == 2
    assert scanner.bytes_since_message() == b""
    assert not scanner.between_messages


def test_compressed_messages_when_negotiated() -> None:
    """RSV1 is allowed on the first frame of a message then, and nowhere else."""
    scanner = FrameScanner(100, 10, compressed=True)
    scanner.feed(header(0x41, 1) + MASK + b"x" + Frame(CONTINUATION, b"y").raw)
    assert scanner.messages == 1
    for bad in (header(0xC9, 0), header(0xE1, 0), header(0x41, 0) + MASK + header(0xC0, 0)):
        with pytest.raises(ProtocolError, match="reserved bit"):
            FrameScanner(100, 10, compressed=True).feed(bad + MASK)
