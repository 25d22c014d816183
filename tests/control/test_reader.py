"""How fast a client may talk, and what costs it nothing."""

import json
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from broker.control.member import Member
from broker.control.reader import BURST_SECONDS, Reader
from broker.control.services import ControlServices
from protocol.states import State
from tests.control.making import change, connection, member_on, unconnected_plane


@pytest.fixture
def services() -> ControlServices:
    """The surroundings of a session."""
    return unconnected_plane().services


@pytest.fixture
async def member(services: ControlServices) -> AsyncIterator[Member]:
    """A session whose client reads nothing, and is not answered for long."""
    with connection() as (wire, _):
        made = member_on(wire, services)
        made.begun.set()
        yield made


def ack(message_id: str) -> str:
    """Return an unsigned ack."""
    return json.dumps({"type": "ack", "message_id": message_id, "received_at": 0})


async def test_acks_that_are_waited_for_are_free(
    member: Member, services: ControlServices, autojump_clock: MockClock
) -> None:
    """An agent may acknowledge thousands of kills at once; acknowledging them again counts like anything else."""
    burst = int(services.config.limits.messages_per_second * BURST_SECONDS)
    reader, began = Reader(member, services), trio.current_time()
    kills = [change(seq, State.KILLED) for seq in range(1, 5 * burst)]
    for kill in kills:
        member.expect(kill)
        await reader.hear(ack(kill.message_id))
    assert (member.acked, trio.current_time()) == (len(kills), began)
    for kill in kills[: 2 * burst]:
        await reader.hear(ack(kill.message_id))
    assert trio.current_time() == pytest.approx(began + BURST_SECONDS)


@pytest.mark.parametrize("message", ['{"type":"subscribed"}', "nonsense", b"bytes"])
async def test_everything_else_has_its_rate(
    member: Member, services: ControlServices, message: str | bytes, autojump_clock: MockClock
) -> None:
    """A burst passes at once, what comes above that waits, be it sense or nonsense."""
    rate = services.config.limits.messages_per_second
    reader, began = Reader(member, services), trio.current_time()
    for _ in range(int(rate * BURST_SECONDS)):
        await reader.hear(message)
    assert trio.current_time() == began
    for _ in range(int(rate)):
        await reader.hear(message)
    assert trio.current_time() == pytest.approx(began + 1)
