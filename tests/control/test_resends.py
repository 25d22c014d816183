"""When an unacknowledged message is sent again, and when no more."""

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from broker.control.acks import Pending
from broker.control.member import Member
from broker.control.services import ControlServices
from broker.wire.turn import MAX_WRITES
from protocol.codes import CloseCode
from protocol.states import State
from tests.control.making import change, connection, member_on, unconnected_plane


@attrs.frozen(eq=False)
class Line:
    """A session that was just told of a kill, and its surroundings."""

    member: Member
    services: ControlServices
    kill: Pending


@pytest.fixture
async def line(nursery: trio.Nursery) -> AsyncIterator[Line]:
    """A session whose client reads all and acknowledges nothing, while resends run."""
    services = unconnected_plane().services
    with connection() as (wire, _):
        member = member_on(wire, services)
        member.begin(1, 5, 1005)
        member.holding = False
        nursery.start_soon(services.resends.run)
        await wait_all_tasks_blocked()
        member.deliver(change(6, State.KILLED), 1, 1)
        yield Line(member, services, *member.pending.all())
        nursery.cancel_scope.cancel()


async def test_at_longer_and_longer_intervals(line: Line, autojump_clock: MockClock) -> None:
    """Each wait is twice as long as the one before; after the last one the session counts as unconfirmed."""
    control, counters = line.services.config.control, line.services.counters
    await trio.sleep(0.1)
    for attempt in range(control.ack_attempts):
        await trio.sleep(control.ack_timeout * 2**attempt - 0.2)
        assert counters.control_resent == attempt
        await trio.sleep(0.2)
        assert counters.control_resent == attempt + 1
    await trio.sleep(control.ack_timeout * 2**control.ack_attempts - 0.2)
    assert (counters.unconfirmed, line.kill.resent) == (0, True)
    await trio.sleep(1000)
    assert (counters.control_resent, counters.unconfirmed, line.kill.resent) == (control.ack_attempts, 1, False)


async def test_a_connection_that_is_being_closed(line: Line, autojump_clock: MockClock) -> None:
    """Nothing goes out there any more: no attempts are counted, nor does it become unconfirmed while it ends."""
    line.member.peer.close_soon(CloseCode.KEY_REVOKED, "bye")
    await trio.sleep(1000)
    assert (line.kill.attempts, line.services.counters.unconfirmed) == (0, 0)


async def test_what_is_acknowledged(line: Line, autojump_clock: MockClock) -> None:
    """It is not sent again."""
    line.member.pending.confirm(line.kill.publication.message_id)
    await trio.sleep(1000)
    assert (line.services.counters.control_resent, line.services.counters.unconfirmed) == (0, 0)


async def test_thousands_at_once(line: Line, mock_clock: MockClock) -> None:
    """Messages that are due in the same moment are sent again a stretch at a time: others run in between."""
    for seq in range(7, 2007):
        line.member.expect(change(seq, State.KILLED))
    *_, last = line.member.pending.all()
    await wait_all_tasks_blocked()
    mock_clock.jump(line.services.config.control.ack_timeout + 0.1)
    passes = 0
    while not last.attempts:
        await trio.lowlevel.checkpoint()
        passes += 1
    assert passes >= 2000 // MAX_WRITES
