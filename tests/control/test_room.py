"""A room: who is told in which step."""

import attrs
import pytest

from broker.control import room as module
from broker.control.room import Room
from broker.observe import Counters
from tests.control.making import Task, connection, member_on, policy, room_of, snapshot, unconnected_plane


@pytest.mark.parametrize(("sessions", "has_task"), [(256, False), (257, True)])
async def test_a_room_of_256_is_told_at_once(sessions: int, has_task: bool) -> None:
    """All of it is told in the very step in which a message comes; a larger one by a task, which takes turns."""
    spawned: list[Task] = []
    room = room_of(spawned=spawned)
    room.load(snapshot(), {}, [])
    services = unconnected_plane().services
    with connection() as (wire, _):
        members = [member_on(wire, services) for _ in range(sessions)]
        for member in members:
            room.join(member)
        room.accept(policy(1, ms=1000))
        assert {member.seq for member in members} == {0 if has_task else 1}
        assert len(spawned) == has_task
        for task in spawned:
            await task()
        assert {member.seq for member in members} == {1}
        room.load(snapshot(2), {}, [])
        assert {member.generation for member in members} == {1 if has_task else 2}
        assert len(spawned) == 2 * has_task


@pytest.mark.parametrize(("entries", "generation"), [(3, 1), (4, 2)])
async def test_a_fan_out_that_is_far_behind(monkeypatch: pytest.MonkeyPatch, entries: int, generation: int) -> None:
    """When more waits for its fan-out than the bound allows, sessions get a fresh snapshot in place of all that."""
    monkeypatch.setattr(module, "AT_ONCE", 0)
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    spawned: list[Task] = []
    services = unconnected_plane().services
    room = room_of(spawned=spawned)
    room.load(snapshot(), {}, [])
    with connection() as (wire, _):
        member = member_on(wire, services)
        room.join(member)
        for seq in range(1, entries + 1):
            room.accept(policy(seq, ms=1000 + seq))
        [task] = spawned
        await task()
        assert (member.generation, member.seq) == (generation, entries)
        assert len(member.backlog) == (entries if generation == 1 else 0)


@attrs.define(eq=False)
class Heard:
    """A room without sessions, and what it doubts."""

    room: Room
    counters: Counters
    doubts: list[str]


@pytest.fixture
async def heard() -> Heard:
    """A room that knows a log up to entry 5."""
    doubts: list[str] = []
    counters = Counters()
    room = room_of(counters=counters, doubts=doubts)
    room.load(snapshot(5), {}, [])
    return Heard(room, counters, doubts)


def live(seq: int, epoch: str = "e1", message: bytes | None = None) -> bytes:
    """Return an entry of the log as the live channel brings it."""
    return b"%b %d %d %b" % (epoch.encode(), seq, 1000 + seq, message or policy(seq, 0).message.payload)


async def test_what_makes_a_room_doubt(heard: Heard) -> None:
    """A gap, another log and what is no entry are doubted at once; what is next, or known, is not."""
    for seq in (6, 5, 6):
        heard.room.hear(live(seq), 1)
    assert (heard.room.seq, heard.doubts) == (6, [])
    heard.room.hear(live(8), 1)
    heard.room.hear(live(7, "e2"), 1)
    heard.room.hear(b"nonsense", 1)
    assert [why.partition(":")[0] for why in heard.doubts] == ["a gap", "another log", "not a log entry"]
    assert (heard.room.seq, heard.room.has_gap) == (6, True)
    heard.room.hear(live(7), 1)
    assert (heard.room.seq, heard.room.has_gap) == (8, False)


async def test_so_many_wait_behind_a_gap(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound they are let go, and are missing again once the gap is closed."""
    monkeypatch.setattr(module, "MAX_AHEAD", 2)
    for seq in (7, 8, 9):
        heard.room.hear(live(seq), 1)
    heard.room.hear(live(6), 1)
    assert (heard.room.seq, heard.room.has_gap) == (8, False)


async def test_what_waited_for_a_log_that_is_no_more(heard: Heard) -> None:
    """What came ahead in a log that was then lost is nothing to the one that follows it."""
    heard.room.hear(live(8), 1)
    heard.doubts.clear()
    heard.room.load(snapshot(7, epoch="e2"), {}, [])
    assert (heard.room.seq, heard.room.has_gap, heard.doubts) == (7, False, [])


async def test_joints(heard: Heard) -> None:
    """Each connection may be to a store with another history: the log must hold the place at which it was first heard.

    A look at the log that began before that place was one does not count.
    """
    own = heard.room.read_up_to
    assert own is not None
    heard.room.hear(live(6), 1)
    heard.room.hear(live(8), 1)
    heard.room.hear(live(7), 2)
    assert (heard.room.seq, heard.room.has_gap) == (7, False)
    assert not heard.room.confirm(own)
    for seq in (5, 6):
        joint = heard.room.read_up_to
        assert joint is not None
        assert joint.seq == seq
        assert heard.room.confirm(joint)
    assert not heard.room.has_joints
    assert heard.room.read_up_to is heard.room.replica.position
    heard.room.hear(live(8), 3)
    heard.room.load(snapshot(7, epoch="e2"), {}, [])
    assert heard.room.read_up_to is heard.room.replica.position
