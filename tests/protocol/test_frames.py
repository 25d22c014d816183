"""The server's frames, as another implementation reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, Ping, TextMessage

from protocol.codes import CloseCode
from protocol.frames import close_frame, ping_frame, text_frame
from tests.protocol.strategies import examples


def read(data: bytes) -> list[Event]:
    """Let a client of wsproto read what a server sent."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    return list(client.events())


@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=5))
@examples
def test_text_frames_are_read_as_they_were_meant(texts: list[str]) -> None:
    """Frames that are simply joined give the same messages again, each whole."""
    events = read(b"".join(text_frame(text.encode()) for text in texts))
    assert events == [TextMessage(data=text, frame_finished=True, message_finished=True) for text in texts]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_every_form_of_length(length: int) -> None:
    """7, 16 and 64 bits, at their borders, each in the shortest form."""
    frame = text_frame(b"x" * length)
    assert len(frame) - length == (2 if length < 126 else 4 if length < 65536 else 10)
    (event,) = read(frame)
    assert isinstance(event, TextMessage)
    assert event.data == "x" * length


@given(code=st.sampled_from(CloseCode), reason=st.text(max_size=200))
@examples
def test_close_frames_carry_code_and_reason(code: CloseCode, reason: str) -> None:
    """The reason is cut to 123 bytes without cutting a character."""
    (event,) = read(close_frame(code, reason))
    assert isinstance(event, CloseConnection)
    assert event.code == code
    got = event.reason or ""
    assert reason.startswith(got)
    assert got == reason or len(got.encode()) > 123 - 4


def test_a_long_reason_is_cut_at_a_character() -> None:
    """123 bytes have room for 41 characters of three bytes, and 40 when one byte stands before them."""
    for reason, kept in (("€" * 60, "€" * 41), ("a" + "€" * 60, "a" + "€" * 40)):
        (event,) = read(close_frame(1000, reason))
        assert isinstance(event, CloseConnection)
        assert event.reason == kept


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000])
def test_codes_that_never_travel(code: int) -> None:
    """RFC 6455 section 7.4 forbids them in a frame; ours would be the mistake."""
    with pytest.raises(ValueError, match="must not be sent"):
        close_frame(code)


@given(payload=st.binary(max_size=125))
@examples
def test_pings(payload: bytes) -> None:
    """The peer, which repeats it in its pong, finds the payload."""
    assert read(ping_frame(payload)) == [Ping(payload=payload)]


def test_a_control_frame_has_its_bound() -> None:
    """125 bytes at the most."""
    with pytest.raises(ValueError, match="at most 125 bytes"):
        ping_frame(b"x" * 126)


def test_a_surrogate_in_a_reason_does_not_stop_a_close() -> None:
    """A close frame is made in the worst moments and must not fail on its text."""
    (event,) = read(close_frame(1011, "a\ud800"))
    assert isinstance(event, CloseConnection)
    assert event.reason == "a?"


@pytest.mark.parametrize("size", [122, 123, 124, 125, 126])
def test_the_longest_reason(size: int) -> None:
    """A reason of exactly 123 bytes is whole, and what is a little longer makes no frame that is none."""
    (event,) = read(close_frame(1000, "x" * size))
    assert isinstance(event, CloseConnection)
    assert event.reason == "x" * min(size, 123)
