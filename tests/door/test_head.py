"""Reading an upgrade without h11, held against h11."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http.head import read_plain_upgrade

USUAL = (
    b"GET /ws/?token=nr_live_x HTTP/1.1\r\nHost: localhost:8765\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin:http://a\r\nX-Empty:\r\n\r\n"
)


def by_h11(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """What h11 makes of it: target, headers and what follows; None when it refuses or wants more."""
    conn = h11.Connection(h11.SERVER)
    try:
        conn.receive_data(data)
        event = conn.next_event()
        if not isinstance(event, h11.Request):
            return None
        assert isinstance(conn.next_event(), h11.EndOfMessage)
        return (
            event.target,
            [(bytes(name), bytes(value)) for name, value in event.headers],
            bytes(conn.trailing_data[0]),
        )
    except h11.RemoteProtocolError:
        return None


def test_a_usual_upgrade_is_read_to_its_last_byte() -> None:
    """Target, lower-case names, stripped values, and the frames that follow in the same segment."""
    head = read_plain_upgrade(USUAL + b"\x81\x80....")
    assert head is not None
    assert by_h11(USUAL + b"\x81\x80....") == (head.target, list(head.headers), b"\x81\x80....")
    assert head.size == len(USUAL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        USUAL[:-2],
        USUAL.replace(b"GET", b"POST"),
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        USUAL.replace(b"Host: localhost:8765\r\n", b""),
        USUAL.replace(b"Origin:http://a", b"Host: other"),
        USUAL.replace(b"Origin:http://a", b"Content-Length: 0"),
        USUAL.replace(b"Origin:http://a", b"Transfer-Encoding: chunked"),
        USUAL.replace(b"Origin:http://a", b"Expect: 100-continue"),
        USUAL.replace(b"Origin:http://a", b"Origin:\thttp://a"),
        USUAL.replace(b"Origin:http://a", b"Origin: http://\xe4"),
        USUAL.replace(b"Origin:http://a", b"Origin : http://a"),
        USUAL.replace(b"Origin:http://a", b"Origin: a\r\n b"),
        USUAL.replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_unusual_is_left_to_h11(data: bytes) -> None:
    """Bodies, folded lines, two hosts, old versions, odd bytes and heads that are not whole are not read here."""
    assert read_plain_upgrade(data) is None


PIECES = st.sampled_from(
    [
        b"GET ", b"/ws", b" HTTP/1.1", b"\r\n", b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade", b"X: ",
        b"X:", b"\t", b" ", b"Content-Length: 1", b"Expect: 100-continue", b":", b"a b ", b"\x00", b"\x80", b"\n",
        b"\r", b"Host: b",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12), st.integers(0, len(USUAL)), st.integers(0, 30))
def test_whatever_is_read_here_h11_reads_to_the_same(pieces: list[bytes], at: int, cut: int) -> None:
    """For any mutilated head: either it is left to h11, or h11 agrees about target, headers and rest."""
    data = USUAL[:at] + b"".join(pieces) + USUAL[at + cut :]
    head = read_plain_upgrade(data)
    if head is not None:
        assert by_h11(data) == (head.target, list(head.headers), data[head.size :])
