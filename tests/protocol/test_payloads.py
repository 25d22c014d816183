"""Masked payloads, and the messages that fill a read by themselves."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage
from wsproto.utilities import RemoteProtocolError

from protocol.errors import ProtocolError
from protocol.frames import FrameScanner
from protocol.payloads import lone_text, unmask
from tests.protocol.client_frames import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, Frame
from tests.protocol.strategies import examples


def read_by_wsproto(data: bytes) -> list[object]:
    """Return what a server of wsproto finds: texts of whole messages, and whatever else."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    found: list[object] = []
    try:
        found.extend(
            event.data if isinstance(event, TextMessage) and event.message_finished else event
            for event in server.events()
        )
    except RemoteProtocolError as error:
        found.append(error)
    return found


@pytest.mark.parametrize("mask", [MASK, bytes(4), b"\xff" * 4])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 1000])
def test_every_byte_is_masked_with_the_one_in_turn(size: int, mask: bytes) -> None:
    """Masking and unmasking are the same."""
    payload = bytes(range(256)) * 4
    masked = unmask(payload[:size], mask)
    assert masked == bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload[:size]))
    assert unmask(masked, mask) == payload[:size]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4000, 65535])
def test_a_whole_message_by_itself(size: int) -> None:
    """It is read; with a byte less or more it is not."""
    text = "é" * (size // 2) + "x" * (size % 2)
    raw = Frame(TEXT, text.encode()).raw
    assert lone_text(raw) == text
    assert lone_text(raw[:-1]) is None
    assert lone_text(raw + b"\x81") is None
    assert lone_text(raw + raw) is None


@pytest.mark.parametrize(
    ("opcode", "fin"),
    [
        (TEXT, False),
        (BINARY, True),
        (CONTINUATION, True),
        (CLOSE, True),
        (PING, True),
        (PONG, True),
        (0x41, True),
        (3, True),
    ],
)
def test_no_other_frame_is_one(opcode: int, fin: bool) -> None:
    """Neither a binary message nor a control frame, nor a part of a message, nor a compressed one."""
    assert lone_text(Frame(opcode, b"hi", fin).raw) is None


def test_what_is_not_utf8_is_none() -> None:
    """The library is to tell the client; surrogates are no UTF-8 either."""
    assert lone_text(Frame(TEXT, b"\xff").raw) is None
    assert lone_text(Frame(TEXT, b"\xed\xa0\x80").raw) is None
    assert lone_text(Frame(TEXT, b"\xc3").raw) is None


def test_a_part_of_a_long_message_is_none() -> None:
    """However much of it has come: 127 in the length's place is no length."""
    raw = Frame(TEXT, b"x" * 70_000).raw
    assert lone_text(raw) is None
    for size in range(200):
        assert lone_text(raw[:size]) is None


@given(st.text(max_size=150).map(str.encode) | st.binary(max_size=10), st.binary(max_size=8), st.integers(0, 20))
@example(b"", b"", 0)
@examples
def test_it_is_what_wsproto_reads(payload: bytes, more: bytes, less: int) -> None:
    """Whatever the scanner lets pass is read alike."""
    raw = Frame(TEXT, payload).raw + more
    raw = raw[: len(raw) - less]
    try:
        FrameScanner(1000, 8).feed(raw)
    except ProtocolError:
        return
    text = lone_text(raw)
    read = read_by_wsproto(raw + Frame(TEXT, b"end").raw)
    assert (text is not None) == (len(read) == 2 and isinstance(read[0], str) and read[1] == "end")
    if text is not None:
        assert read[0] == text
