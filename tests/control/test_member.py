"""What a session is told, in which order, and what is left out while its client does not read."""

import socket
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing

from broker.control.acks import Pending
from broker.control.carried import CarriedAck, CarriedSession
from broker.control.member import HOLD_BYTES, Member
from broker.control.services import ControlServices
from broker.store.snapshot import Position
from protocol.frames import text_frame
from protocol.states import State
from tests.control.making import KEY, change, connection, member_on, unconnected_plane


@attrs.frozen(eq=False)
class Line:
    """A session's place in its room, its surroundings, and the client's end of its connection."""

    member: Member
    services: ControlServices
    client: socket.socket

    def stall(self) -> int:
        """Send more than a client that does not read can take; return how many bytes wait."""
        self.member.peer.send(text_frame(bytes(900_000)))
        assert self.member.peer.pending_bytes > HOLD_BYTES
        return self.member.peer.pending_bytes


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """A signed session that has its snapshot as of entry 5, in the room's first life."""
    services = unconnected_plane().services
    with connection() as (wire, theirs):
        key = attrs.evolve(KEY, secret_key="first", previous_secret="before", previous_until=1)
        member = member_on(wire, services, key)
        member.begin(1, 5, 1005)
        yield Line(member, services, theirs)


async def test_an_entry_of_a_former_life(line: Line) -> None:
    """What a fan-out still brings of the log before is not told after the snapshot of another."""
    assert not line.member.deliver(change(6), 0, 1)
    assert not line.member.deliver(change(5), 1, 1)
    assert line.member.deliver(change(6), 1, 1)
    assert not line.member.deliver(change(6), 1, 1)


async def test_a_kill_that_waits_goes_before_the_end(line: Line) -> None:
    """A client whose key is revoked while a kill waits for it is told of that first, then of the key, then closed."""
    line.member.deliver(change(6, State.KILLED), 1, 1)
    line.member.end_with_key()
    told = line.client.recv(65536)
    assert 0 < told.index(b'"Killed"') < told.index(b'"key_rotated"') < told.index(b"\x11\x31API key revoked")
    line.member.end_with_key()
    line.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.client.recv(65536)


async def test_errors_do_not_pile_up(line: Line) -> None:
    """A client that sends nonsense and reads nothing is not answered any more, but counted."""
    pending = line.stall()
    line.member.refuse("invalid_json", "no")
    assert line.member.peer.pending_bytes == pending
    assert line.services.counters.messages_refused["invalid_json"] == 1


async def test_an_overflow_is_mended(line: Line) -> None:
    """Whatever it was that found no room: what waited is gone with it, and a snapshot is due."""
    line.member.holding = line.member.snapshot_due = False
    line.stall()
    while line.member.peer.send(text_frame(bytes(100_000))):
        pass
    assert (line.member.holding, line.member.snapshot_due) == (True, True)


async def test_no_second_copy_before_the_first_has_left(line: Line) -> None:
    """A client that does not read is not sent again what it will find anyway; the attempt counts all the same."""
    line.member.holding = False
    kill = change(6, State.KILLED)
    waited = line.member.pending.expect(kill, addressee=True)
    assert waited is not None
    pending = line.stall()
    line.member.resend(waited)
    assert (line.member.peer.pending_bytes, waited.attempts, line.services.counters.control_resent) == (pending, 1, 0)


@pytest.mark.parametrize(
    ("left", "found", "sent"),
    [
        (Position("e1", 4, 1004), Position("e1", 9, 1009), 4),
        (Position("e1", 12, 1012), Position("e1", 9, 1009), 9),
        (Position("e1", 4, 1004), Position("e2", 9, 1009), 0),
        (None, Position("e1", 9, 1009), 0),
    ],
)
async def test_going_on_where_another_process_was(
    line: Line, left: Position | None, found: Position, sent: int
) -> None:
    """A number of one log says nothing about another: only in the same one is a session spared what it has."""
    line.member.resumed_at = left
    line.member.resume(found)
    assert line.member.sent_seq == sent


async def test_fewer_attempts_than_before(line: Line) -> None:
    """A message that was sent again more often than this process would do it is taken over as sent often enough."""
    kill = change(6, State.KILLED)
    waited = CarriedAck.of(Pending(kill, addressee=True, attempts=99))
    carried = CarriedSession(KEY, "nr_live_x", "first", None, (waited,), 1, 0, 0.0, None, 0, silent=False)
    line.member.take_up(carried)
    [taken] = line.member.pending.all()
    assert taken.attempts == line.services.config.control.ack_attempts


async def test_a_place_in_one_log_is_none_in_another(line: Line) -> None:
    """A session that starts over has been sent nothing of the log that follows: else messages of that are left out."""
    line.member.note_sent(9, 1009)
    line.member.begin(2, 3, 1003)
    assert (line.member.sent_seq, line.member.sent_ms) == (0, 0)


async def test_handed_over_before_it_has_joined(line: Line) -> None:
    """A session that is handed over again before its room was ready goes on from where the process before last was."""
    line.member.resumed_at = Position("e1", 4, 1004)
    assert line.member.carry(None).position == Position("e1", 4, 1004)


async def test_what_another_has_sent_is_sent_again(
    line: Line, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A kill that was not acknowledged to the process before is sent again by this one, in its time."""
    waited = CarriedAck.of(Pending(change(6, State.KILLED), addressee=True))
    nursery.start_soon(line.services.resends.run)
    line.member.take_up(CarriedSession(KEY, "nr_live_x", "first", None, (waited,), 1, 0, 0.0, None, 0, silent=False))
    line.member.holding = False
    await trio.sleep(line.services.config.control.ack_timeout + 0.1)
    assert line.services.counters.control_resent == 1
    assert b"Killed" in line.client.recv(65536)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("addressee", [True, False])
async def test_what_is_waited_for_is_carried_as_it_is(line: Line, addressee: bool) -> None:
    """Another process sends again what is to be sent again, as often as is left, and counts whom the receipt counts."""
    kill, pause = change(6, State.KILLED), change(7, State.PAUSED)
    for publication in (kill, pause):
        waited = line.member.pending.expect(publication, addressee=addressee)
        assert waited is not None
        waited.attempts = 2
    line.member.pending.supersede("wf")
    carried = line.member.carry("e1")
    with connection() as (wire, _):
        other = member_on(wire, line.services)
        other.take_up(carried)
    assert [
        (each.publication.message.payload, each.addressee, each.attempts, each.resent) for each in other.pending.all()
    ] == [
        (kill.message.payload, addressee, 2, True),
        (pause.message.payload, addressee, 2, False),
    ]


async def test_a_message_that_this_version_does_not_know(line: Line) -> None:
    """What another process waited for and this one cannot read is let go, and the rest of the session goes on."""
    kill = CarriedAck.of(Pending(change(6, State.KILLED), addressee=True))
    strange = attrs.evolve(kill, seq=7, payload=b'{"type":"lease_ended"}')
    carried = CarriedSession(KEY, "nr_live_x", "first", None, (strange, kill), 1, 0, 0.0, None, 0, silent=False)
    line.member.take_up(carried)
    assert [each.publication.seq for each in line.member.pending.all()] == [6]


async def test_signers_are_given_back(line: Line) -> None:
    """A session that goes on with a new secret lets go of the old one, and at its end of that."""
    line.member.sign_with("second")
    assert (line.member.secret, len(line.services.signers)) == ("second", 1)
    assert line.member._alternative is not None
    assert line.member._alternative.secret == "first", "what was its own is now the other one"
    line.member.leave()
    assert len(line.services.signers) == 0
