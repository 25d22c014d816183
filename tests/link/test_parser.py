"""A length that cannot be meant is refused before room is made for it, wherever it stands and however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.link.parser import MAX_ELEMENTS, NOT_YET, Parser
from broker.link.slots import OutOfStep

HUGE = b"%d\r\n" % (MAX_ELEMENTS + 1)
soups = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"*", b">", b"*1", HUGE, b"\r\n*" + HUGE, b"$3\r\nabc\r\n", b"x"])
)


def replies(pieces: list[bytes]) -> list[object]:
    """Give these reads to a parser, as a connection does."""
    parser, got = Parser(), []
    for piece in pieces:
        parser.feed(piece)
        while True:
            reply = parser.gets()
            if reply is not NOT_YET:
                got.append(reply)
            elif not parser.more():
                break
    return got


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at these places."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(soups.map(b"".join), max_size=5), st.lists(st.integers(0, 1000), max_size=8))
@example([b"\r\n*" + HUGE], [9, 10, 11])
def test_payloads_may_look_like_anything(payloads: list[bytes], places: list[int]) -> None:
    """Whoever publishes nonsense harms no link."""
    data = b"".join(b"*2\r\n:1\r\n$%d\r\n%b\r\n" % (len(payload), payload) for payload in payloads)
    assert replies(cut(data, places)) == [[1, payload] for payload in payloads]


@pytest.mark.parametrize("kind", [b"*", b">", b"%", b"~", b"|"])
@pytest.mark.parametrize("before", [b"", b"+OK\r\n", b"$3\r\nabc\r\n", b"*2\r\n:1\r\n", b"*1\r\n" * 5], ids=repr)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_too_many_elements(kind: bytes, before: bytes, size: int) -> None:
    """The announcement ends the connection, whatever came before and however it arrives."""
    data = before + kind + HUGE
    with pytest.raises(OutOfStep, match=f"more than {MAX_ELEMENTS} elements"):
        replies([data[start : start + size] for start in range(0, len(data), size)])


def test_as_many_as_may_be() -> None:
    """Ten million elements less one are waited for, and one more is refused: a list for them is 80 MB."""
    assert replies([b"*9999999\r\n:1\r\n"]) == []
    with pytest.raises(OutOfStep, match="more than 9999999 elements"):
        replies([b"*10000000\r\n"])
