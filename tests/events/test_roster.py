"""Writing to many: together where that is worth it, one after the other elsewhere, and nobody can tell which."""

import contextlib
import socket
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.events.roster import Roster
from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire
from broker.wire.ring import BUFFER_BYTES, ENTRIES, Ring
from protocol.frames import text_frame
from tests.events.parts import Listener, unconnected_hub
from tests.support.rings import open_ring

FRAME = text_frame(b"x" * 200)
LIMIT = 4 << 20
FEW = 100


@pytest.fixture(params=["together", "singly"])
def ring(request: pytest.FixtureRequest) -> Iterator[Ring | None]:
    """Return a ring, and none."""
    with open_ring() if request.param == "together" else contextlib.nullcontext() as made:
        yield made


class Crowd:
    """Outboxes on real sockets, and their other ends."""

    def __init__(self, count: int) -> None:
        self.ours: list[socket.socket] = []
        self.outboxes: list[Outbox] = []
        self.theirs: list[socket.socket] = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self.ours.append(ours)
            self.outboxes.append(Outbox(PlainWire(ours), LIMIT))
            self.theirs.append(theirs)

    def arrived(self, place: int) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self.theirs[place].recv(1 << 22)
        return b""

    def close(self) -> None:
        for each in (*self.ours, *self.theirs):
            each.close()


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    """Return more outboxes than one call takes."""
    made = Crowd(ENTRIES + FEW)
    yield made
    made.close()


async def test_everybody_gets_it(crowd: Crowd, ring: Ring | None) -> None:
    """A slice may be longer than what one call takes, or begin anywhere; each in it is written to once."""
    roster = Roster(crowd.outboxes, 0)
    count = len(crowd.outboxes)
    assert roster.write(0, count, FRAME, ring) == count
    assert roster.write(5, 5 + FEW, FRAME, ring) == FEW
    assert roster.write(count - 3, count + 10, FRAME, ring) == 3
    twice = {*range(5, 5 + FEW), *range(count - 3, count)}
    assert [crowd.arrived(place) for place in range(count)] == [
        FRAME * (2 if place in twice else 1) for place in range(count)
    ]


async def test_trouble_is_of_those_who_have_it(crowd: Crowd, ring: Ring | None) -> None:
    """A full socket's frame waits in its outbox, whoever is gone is dead, others listen in their own way."""
    with contextlib.suppress(BlockingIOError):
        while True:
            crowd.ours[2].send(bytes(100_000))
    crowd.theirs[4].close()
    crowd.ours[6].close()
    listener = Listener()
    roster = Roster([*crowd.outboxes[:8], listener, *crowd.outboxes[8:]], 0)
    assert roster.subscribers[-1] is listener, "last, so that all sockets are side by side"
    count = len(roster.subscribers)
    assert roster.write(0, count, FRAME, ring) == count - 2
    assert listener.writes == [FRAME]
    assert crowd.outboxes[2].pending == len(FRAME)
    assert [crowd.outboxes[place].dead for place in (2, 3, 4, 5, 6)] == [False, False, True, False, True]
    assert {crowd.arrived(place) for place in range(len(crowd.outboxes)) if place not in (2, 4, 6)} == {FRAME}
    assert not roster.is_current(0), "one of them is written to in another way from now on"
    again = Roster(crowd.outboxes, 0)
    assert [again.subscribers.index(crowd.outboxes[place]) >= count - 4 for place in (2, 4, 6)] == [True] * 3


async def test_what_is_longer_than_a_ring_takes(crowd: Crowd, ring: Ring | None) -> None:
    """It goes to one after the other, whole."""
    long = text_frame(b"x" * (BUFFER_BYTES + 1))
    roster = Roster(crowd.outboxes[:FEW], 0)
    for outbox in crowd.outboxes[:FEW]:
        outbox.limit = len(long)
    assert roster.write(0, FEW, long, ring) == FEW
    arrived = crowd.arrived(9)
    assert arrived
    assert crowd.outboxes[9].pending == len(long) - len(arrived)


async def test_the_number_of_a_closed_socket_is_not_written_to(crowd: Crowd, ring: Ring | None) -> None:
    """Descriptors are asked for at every write: what has been given the same number since gets nothing."""
    roster = Roster(crowd.outboxes, 0)
    number = crowd.ours[1].fileno()
    crowd.ours[1].close()
    stranger, other = socket.socketpair()
    with stranger, other:
        assert number in (stranger.fileno(), other.fileno())
        assert roster.write(0, ENTRIES, FRAME, ring) == ENTRIES - 1
        for each in (stranger, other):
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.recv(1)
    assert crowd.outboxes[1].dead


def test_nothing_is_kept_of_who_has_left() -> None:
    """What a channel remembers of its subscribers goes when one leaves: each is freed when it goes."""
    channel = unconnected_hub().hold("workflow:w")
    listeners = {str(number): Listener() for number in range(3)}
    for name, listener in listeners.items():
        channel.join(name, listener)
    channel.rosters()[0].write(0, 3, FRAME)
    left = weakref.ref(listeners.pop("1"))
    channel.leave("1")
    del listener
    assert left() is None
    assert channel.rosters()[0].write(0, 3, FRAME) == 2
