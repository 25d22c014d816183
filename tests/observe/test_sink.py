"""A log whose reader stalls or goes away never holds the writer up."""

import io
import os

import pytest

from broker.observe.sink import Sink


def lost(count: int) -> str:
    """The line that tells of lost lines."""
    return f"lost {count}\n"


def test_reader_that_stalls_and_comes_back() -> None:
    """Lines beyond what the pipe holds are lost, whole and counted; the count is told when there is room again."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w") as stream:
        sink = Sink(stream, lost)
        for number in range(5000):
            sink.write(f"{number:04} {'x' * 95}\n")
        kept = reader.read(1 << 20).decode().splitlines()
        assert 0 < len(kept) == 5000 - sink.lost
        assert [int(line[:4]) for line in kept] == list(range(len(kept)))
        sink.write("again\n")
        assert reader.read(1 << 20).decode() == f"lost {5000 - len(kept)}\nagain\n"
        assert sink.lost == 0


def test_line_longer_than_the_room() -> None:
    """A line that does not fit is cut off rather than waited for."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w") as stream:
        Sink(stream, lost).write("x" * 1_000_000 + "\n")
        assert set(reader.read(2 << 20)) == {ord("x")}


def test_long_line_for_a_reader() -> None:
    """While somebody reads, a long line arrives whole."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w") as stream:
        Sink(stream, lost).write("x" * 50_000 + "\n")
        assert reader.read(1 << 20) == b"x" * 50_000 + b"\n"


def test_reader_that_is_gone() -> None:
    """A pipe without a reader swallows lines."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        sink = Sink(stream, lost)
        sink.write("unheard\n")
        assert sink.lost == 0


@pytest.mark.parametrize("close", [False, True])
def test_stream_without_a_descriptor(close: bool) -> None:
    """Such a stream is written to, and a closed one ignored."""
    stream = io.StringIO()
    sink = Sink(stream, lost)
    if close:
        stream.close()
    sink.write("a line\n")
    assert close or stream.getvalue() == "a line\n"
