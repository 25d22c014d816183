"""permessage-deflate: what is agreed on, what is sent, and what is made of what a client sends."""

import zlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, Ping, TextMessage

from protocol.codes import ErrorCode
from protocol.deflate import COMPRESSED_TEXT, Deflate, agree_on, compressed_frame, deflate
from protocol.inflate import Inflater
from protocol.scanner import FrameScanner
from tests.protocol.strategies import examples

TAIL = b"\x00\x00\xff\xff"
MASK = b"\x11\x22\x33\x44"
ALWAYS = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (["permessage-deflate"], ALWAYS),
        (["permessage-deflate; client_max_window_bits"], ALWAYS),
        (["permessage-deflate;client_max_window_bits=8;server_no_context_takeover"], ALWAYS),
        (["permessage-deflate; client_no_context_takeover; server_max_window_bits=15"], ALWAYS),
        (["permessage-deflate; server_max_window_bits=9"], f"{ALWAYS}; server_max_window_bits=9"),
        (['permessage-deflate; server_max_window_bits="10"'], f"{ALWAYS}; server_max_window_bits=10"),
        (["x-webkit-deflate-frame", "permessage-deflate; server_max_window_bits=8", "permessage-deflate"], ALWAYS),
        (
            ["permessage-deflate; server_max_window_bits=12", "permessage-deflate"],
            f"{ALWAYS}; server_max_window_bits=12",
        ),
    ],
)
def test_an_offer_is_accepted(offers: list[str], answer: str) -> None:
    """The first offer that can be met is, without a context in either direction."""
    agreed = agree_on(offers)
    assert agreed is not None
    assert agreed.answer == answer


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=\uff19",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; x",
        "permessage-deflate;",
        "",
    ],
)
def test_an_offer_is_declined(offer: str) -> None:
    """What is malformed, unknown, repeated or cannot be met is no ground for an agreement (RFC 7692 section 7.1)."""
    assert agree_on([offer]) is None


@given(st.binary(max_size=1000).map(lambda part: part * 40), st.integers(9, 15))
@examples
def test_a_message_stays_within_its_window(payload: bytes, window: int) -> None:
    """A client that kept no more than the window agreed on can inflate what we send, message by message."""
    unpacker = zlib.decompressobj(-window)
    assert unpacker.decompress(deflate(payload, window) + TAIL) == payload
    assert not unpacker.unconsumed_tail


def test_a_compressed_frame_has_its_bit() -> None:
    """FIN, RSV1 and the opcode, then an unmasked payload."""
    packed = deflate(b"a" * 1000, 15)
    assert compressed_frame(COMPRESSED_TEXT, b"a" * 1000, 15) == bytes((0xC1, len(packed))) + packed


@attrs.frozen
class Piece:
    """A frame of a client."""

    first: int
    payload: bytes

    @property
    def raw(self) -> bytes:
        """Its bytes, masked."""
        size = len(self.payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        masked = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(self.payload))
        return bytes((self.first,)) + length + MASK + masked


def pack(payload: bytes) -> bytes:
    """Compress as a client may, with whatever level."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Draw what a client says: (texts, their frames), compressed or not, fragmented or not, pings among them."""
    texts, frames = [], []
    for _ in range(draw(st.integers(1, 4))):
        text = draw(st.text("aé€", max_size=60) | st.just("abc" * 200))
        compressed = draw(st.booleans())
        rest = pack(text.encode()) if compressed else text.encode()
        first = 0x41 if compressed else 0x01
        for _ in range(draw(st.integers(0, 3))):
            cut = draw(st.integers(0, len(rest)))
            frames.append(Piece(first, rest[:cut]))
            rest, first = rest[cut:], 0
            if draw(st.booleans()):
                frames.append(Piece(0x89, draw(st.binary(max_size=5))))
        frames.append(Piece(0x80 | first, rest))
        texts.append(text)
    return texts, b"".join(frame.raw for frame in frames)


def read(raw: bytes) -> list[str]:
    """Read a client's plain frames with another implementation."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(raw)
    texts = [""]
    for event in server.events():
        assert isinstance(event, TextMessage | Ping)
        if isinstance(event, TextMessage):
            texts[-1] += event.data
            if event.message_finished:
                texts.append("")
    assert texts.pop() == ""
    return texts


@given(conversations(), st.data())
@examples
def test_compressed_messages_become_plain_ones(conversation: tuple[list[str], bytes], data: st.DataObject) -> None:
    """However the bytes are cut, a library without compression reads the same messages in the same order."""
    texts, raw = conversation
    scanner, inflater, plain = FrameScanner(10_000, 100, compressed=True), Inflater(10_000), b""
    while raw:
        cut = data.draw(st.integers(1, len(raw)))
        scanner.feed(raw[:cut])
        plain += inflater.feed(raw[:cut])
        raw = raw[cut:]
    assert inflater.violation is None
    assert read(plain) == texts


@given(conversations())
@examples
def test_byte_by_byte(conversation: tuple[list[str], bytes]) -> None:
    """A client may send its frames one byte at a time."""
    texts, raw = conversation
    inflater = Inflater(10_000)
    assert read(b"".join(inflater.feed(raw[at : at + 1]) for at in range(len(raw)))) == texts


def test_a_message_may_inflate_to_the_bound_and_no_further() -> None:
    """10,000 bytes pass and 10,001 do not, whether they come in one frame or in many."""
    inflater = Inflater(10_000)
    assert read(inflater.feed(Piece(0xC1, pack(b"a" * 10_000)).raw)) == ["a" * 10_000]
    packed = pack(b"a" * 10_001)
    inflater.feed(Piece(0x41, packed[:5]).raw + Piece(0x80, packed[5:]).raw)
    assert inflater.violation is not None
    assert inflater.violation.code == ErrorCode.TOO_BIG


def test_a_bomb_is_not_inflated() -> None:
    """60 KB that mean 60 MB are given up after the first bytes too many; what came before is returned."""
    before = Piece(0xC1, pack(b"before")).raw
    bomb = pack(bytes(60_000_000))
    assert len(bomb) < 65_536
    inflater = Inflater(65_536)
    plain = inflater.feed(before + Piece(0xC2, bomb).raw)
    assert read(plain) == ["before"]
    assert inflater.violation is not None
    assert inflater.violation.code == ErrorCode.TOO_BIG


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x06", pack(b"x" * 100) + b"\xfe", b"\x03\x00garbage"])
def test_what_is_not_deflate_is_a_violation(payload: bytes) -> None:
    """A message that cannot be inflated ends the connection with 1002, and says so without raising."""
    inflater = Inflater(1000)
    inflater.feed(Piece(0xC1, payload).raw)
    assert inflater.violation is not None
    assert inflater.violation.code == ErrorCode.INVALID_FRAME


@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0"])
def test_a_sender_may_mark_its_last_block(end: bytes) -> None:
    """A message whose last block says so is taken (section 7.2.3.4)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    final = packer.compress(b"Hello") + packer.flush()
    assert read(Inflater(1000).feed(Piece(0xC1, final + end).raw)) == ["Hello"]


@given(st.lists(st.tuples(st.sampled_from([0xC1, 0x41, 0x01, 0x00, 0x80, 0x89]), st.binary(max_size=40)), max_size=6))
@examples
def test_whatever_a_client_sends_there_is_no_other_end(frames: list[tuple[int, bytes]]) -> None:
    """No frames that the scanner lets through make the inflater raise, or give more than the bound."""
    scanner, inflater = FrameScanner(1000, 10, compressed=True), Inflater(1000)
    for first, payload in frames:
        raw = Piece(first, payload).raw
        try:
            scanner.feed(raw)
        except Exception:  # noqa: BLE001  the scanner's own tests say which
            return
        assert len(inflater.feed(raw)) <= 1000 + 14 + len(raw)
        if inflater.violation is not None:
            return


def test_binary_messages_stay_binary() -> None:
    """The opcode is kept."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(Inflater(100).feed(Piece(0xC2, pack(b"\xff\x00")).raw))
    assert [event.data for event in server.events() if isinstance(event, BytesMessage)] == [b"\xff\x00"]


def test_an_agreement_without_more_is_the_largest_window() -> None:
    """15 bits need not be said."""
    assert Deflate() == Deflate(15)
