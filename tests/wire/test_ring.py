"""One system call for many sockets: the same bytes, the same answers, and nothing of one in another, as with `send`."""

import contextlib
import mmap
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire.ring import BUFFER_BYTES, ENTRIES, Ring
from tests.support.rings import open_ring, without

FULL = bytes(1 << 20)


@pytest.fixture
def ring() -> Iterator[Ring]:
    """Return a ring, if the kernel lets us."""
    with open_ring() as made:
        yield made


class Pairs:
    """Connected sockets: the n-th of `ours` writes to the n-th of `theirs`; none of them waits."""

    def __init__(self, count: int) -> None:
        self.ours, self.theirs = zip(*(socket.socketpair() for _ in range(count)), strict=True)
        for each in (*self.ours, *self.theirs):
            each.setblocking(False)

    @property
    def descriptors(self) -> list[int]:
        """Where to write."""
        return [each.fileno() for each in self.ours]

    def arrived(self, place: int) -> bytes:
        """Return what has come through one of them, b"" for nothing."""
        with contextlib.suppress(BlockingIOError):
            return bytes(self.theirs[place].recv(1 << 22))
        return b""

    def fill(self, place: int) -> None:
        """Write until one of them takes nothing more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.ours[place].send(FULL)

    def close(self) -> None:
        for each in (*self.ours, *self.theirs):
            each.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Return as many pairs as a ring serves at once."""
    made = Pairs(ENTRIES)
    yield made
    made.close()


def test_everybody_gets_every_write_in_order_wherever_the_rings_turn(ring: Ring, pairs: Pairs) -> None:
    """Whatever the number of sockets and the length, each gets what was for him; the counters come round many times."""
    expected = [b""] * ENTRIES
    for number in range(200):
        count = 1 + number * 37 % ENTRIES
        data = f"{number}:{'x' * (number * 7 % 100)};".encode()
        assert ring.send(pairs.descriptors[:count], data) == [len(data)] * count
        for place in range(count):
            expected[place] += data
    assert [pairs.arrived(place) for place in range(ENTRIES)] == expected


def test_each_answer_is_about_its_own_socket(ring: Ring, pairs: Pairs) -> None:
    """Full, gone at the other end, closed here, or with room for a part: each is told in its place, again and again."""
    pairs.fill(3)
    pairs.theirs[5].close()
    pairs.ours[7].close()
    sent = 1000
    for _ in range(9):  # the rings hold two batches: the third comes round
        answers = ring.send(pairs.descriptors, b"x" * sent)
        assert [answers[place] for place in (3, 5, 7)] == [0, -1, -1]
        assert answers.count(sent) == ENTRIES - 3
    assert {pairs.arrived(place) for place in range(ENTRIES) if place not in (3, 5, 7)} == {b"x" * 9 * sent}


def test_trouble_that_is_new_is_told_and_what_is_over_is_not(ring: Ring, pairs: Pairs) -> None:
    """Every answer is of this call, not what an earlier one left there, in either half of the ring."""
    for number in range(9):
        answers = [3] * ENTRIES
        if number % 3 == 2:
            pairs.fill(5)
            answers[5] = 0
        assert ring.send(pairs.descriptors, b"abc") == answers
        while pairs.arrived(5):
            pass


def test_a_part_that_was_taken_is_told(ring: Ring) -> None:
    """A TCP socket with little room takes a part; the answer is how much of it, and that arrives."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        ours, _ = listener.accept()
        with ours:
            ours.setblocking(False)
            data = bytes(range(256)) * (BUFFER_BYTES // 256)
            answers = []
            while 0 not in answers:
                answers += ring.send([ours.fileno()], data)
            taken = sum(answers)
            assert any(0 < answer < len(data) for answer in answers)
            theirs.settimeout(10)
            received = b""
            while len(received) < taken:
                received += theirs.recv(1 << 20)
    assert received == b"".join(data[:answer] for answer in answers)


def test_the_longest_data_is_taken_and_longer_is_not(ring: Ring) -> None:
    """The bound is exact, in bytes."""
    assert ring.takes(bytes(BUFFER_BYTES))
    assert not ring.takes(bytes(BUFFER_BYTES + 1))


def test_what_the_kernel_did_not_even_begin_waits(ring: Ring, pairs: Pairs) -> None:
    """If the system call fails, as without memory, nothing was sent: that is as if every socket were full."""
    assert ring.send(pairs.descriptors[:5], b"once") == [4] * 5
    with without(ring):
        assert ring.send(pairs.descriptors[:5], b"lost") == [0] * 5
    assert [pairs.arrived(place) for place in range(5)] == [b"once"] * 5
    assert not ring.takes(b"it has failed once: others do it from now on")


def test_what_was_not_begun_is_not_sent_later_either(ring: Ring, pairs: Pairs) -> None:
    """A call that fails is not answered by what an earlier one was told, and the next one sends nothing of it."""
    expected = [b""] * ENTRIES
    for round_ in range(6):  # the rings hold two batches
        if round_ == 4:
            with without(ring):
                assert ring.send(pairs.descriptors[:9], b"lost") == [0] * 9
        assert ring.send(pairs.descriptors[round_:], b"once") == [4] * (ENTRIES - round_)
        for place in range(round_, ENTRIES):
            expected[place] += b"once"
    assert [pairs.arrived(place) for place in range(ENTRIES)] == expected


def test_a_submission_that_stops_in_the_middle_goes_on(ring: Ring, pairs: Pairs) -> None:
    """The kernel stops at an entry that it does not understand: that one is gone, those behind it are sent."""
    entries = mmap.mmap(ring._descriptor, 64 * ENTRIES, offset=0x10000000)
    for place in (7, 8, 200):
        assert entries[64 * place]
        entries[64 * place] = 255
    first = ring._asked % ENTRIES
    broken = {(place - first) % ENTRIES for place in (7, 8, 200)}
    answers = ring.send(pairs.descriptors, b"abc")
    assert answers == [-1 if place in broken else 3 for place in range(ENTRIES)]
    assert [pairs.arrived(place) for place in range(ENTRIES)] == [
        b"" if place in broken else b"abc" for place in range(ENTRIES)
    ]
    assert ring.takes(b"abc")


def test_a_kernel_that_would_wait_for_a_full_socket_is_found_out() -> None:
    """Before anything of a client passes through a ring, it is seen to answer at once; else there is none."""
    with open_ring(), pytest.raises(OSError, match=r"does not send as socket\.send does"):
        Ring(socket.MSG_NOSIGNAL)


def test_a_ring_that_is_refused_or_closed_leaves_nothing_behind() -> None:
    """It gives its descriptors back, and is not used any more."""
    with open_ring():
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with contextlib.suppress(OSError):
                Ring(socket.MSG_NOSIGNAL)
            closed = Ring()
            closed.close()
            closed.close()
            assert not closed.takes(b"x")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_send_that_goes_on_is_the_last_of_its_ring(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a kernel to answer later even so, its socket counts as gone, and what may be read then is not written to."""
    pairs.fill(1)
    monkeypatch.setattr(Ring, "_prove", lambda ring: None)
    with open_ring(socket.MSG_NOSIGNAL) as ring:
        assert ring.takes(b"abc")
        assert ring.send(pairs.descriptors[:3], b"abc") == [3, -1, 3]
        assert not ring.takes(b"abc")


def test_without_a_descriptor_there_is_no_ring() -> None:
    """A kernel that refuses is an OSError that says why."""
    with open_ring(), socket.socket() as lowest:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Ring()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
