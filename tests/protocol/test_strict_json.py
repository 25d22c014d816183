"""Strict JSON: what the standard allows and no more, nested no deeper than the bound."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.strict_json import MAX_DEPTH, loads
from tests.protocol.strategies import examples, json_values

PIECES = [
    "[",
    "]",
    "[]",
    ",",
    "{",
    "}",
    '{"a":',
    "1",
    '"["',
    '"\\"]"',
    " ",
    "]],[[",
    "[" * 63,
    "]" * 63,
    "[" * 2,
    "]" * 2,
]


def depth(value: object) -> int:
    """Count the levels the plain way."""
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


@given(text=st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@examples
def test_soups_of_brackets_are_judged_as_a_plain_parser_would(text: str) -> None:
    """A document passes if and only if it is JSON and not too deep, also when it closes what it did not open."""
    try:
        expected = orjson.loads(text)
        acceptable = depth(expected) <= MAX_DEPTH
    except orjson.JSONDecodeError:
        expected, acceptable = None, False
    if acceptable:
        assert loads(text) == expected
    else:
        with pytest.raises(ProtocolError):
            loads(text)


@given(value=json_values, levels=st.integers(0, 80))
@examples
def test_depth_is_counted_exactly(value: object, levels: int) -> None:
    """64 levels pass and 65 do not, however many brackets stand beside each other."""
    nested = [value, [[]] * 40]
    for _ in range(levels):
        nested = [nested, {}]
    text = orjson.dumps(nested) if levels < 70 else json.dumps(nested).encode()
    if depth(nested) <= MAX_DEPTH:
        assert orjson.dumps(loads(text)) == text
    else:
        with pytest.raises(ProtocolError, match=r"nested more than 64 deep"):
            loads(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"[[]],[[]",
        b"[]],[" + b"[]," * 70 + b"[]",
        b"[]" * 70,
        b"]" + b"[" * 70,
        b"]" * 960 + b"," + b"[" * 960,
        b"{}" + b"]" * 70 + b",[" * 70,
    ],
)
def test_no_document_breaks_out_of_the_measure(raw: bytes) -> None:
    """Brackets that would fit the parser's wrapping, but are no document by themselves, are refused."""
    with pytest.raises(ProtocolError):
        loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"01",
        b"'a'",
        b"{a:1}",
        b"[1,]",
        b'{"a":1,}',
        b'{"a":1}{}',
        b'"\\ud800"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}\x00',
        b'"\x00"',
        b"// x\n1",
        '{"a":1}'.encode("utf-16"),
    ],
)
def test_near_misses_are_refused(raw: bytes) -> None:
    """What lenient parsers let pass (NaN, overlong UTF-8, BOM, trailing commas, comments) is not JSON."""
    with pytest.raises(ProtocolError) as caught:
        loads(raw)
    assert caught.value.code == ErrorCode.INVALID_JSON


def test_of_equal_names_the_last_wins() -> None:
    """As in the browser that reads the same bytes."""
    assert loads(b'{"type":"ping","type":"x"}') == {"type": "x"}


def test_the_parsers_own_bound_is_what_it_says() -> None:
    """The measure of depth rests on orjson's documented limit of 1024."""
    orjson.loads(b"[" * 1024 + b"]" * 1024)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(b"[" * 1025 + b"]" * 1025)
    assert loads(b"[" * 1024 + b"]" * 1024, max_depth=1024)
