"""Notes for receipts, and a store that does not take them."""

import socket
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from broker.control import receipts as module
from broker.control.acks import Pending
from broker.control.carried import CarriedAck, CarriedSession
from broker.control.member import Member
from broker.control.services import ControlServices
from broker.control.session import run_control_session
from broker.link.errors import LinkDown
from broker.store.receipts import RECEIPT
from broker.wire import PlainWire, open_peer
from protocol.states import State
from tests.control.making import KEY, LIMITS, change, connection, member_on, unconnected_plane

KILL = change(6, State.KILLED)


@attrs.define(eq=False)
class Store:
    """Takes notes, after so many errors."""

    errors: list[Exception] = attrs.field(factory=list)
    notes: list[tuple[object, ...]] = attrs.field(factory=list)

    async def call(self, *words: object) -> object:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop()
        if words[1] == RECEIPT.sha:
            self.notes.append(words[4:])
        return 1


@pytest.fixture
def store() -> Store:
    """A store that is there."""
    return Store()


@pytest.fixture
def services(store: Store) -> ControlServices:
    """The surroundings of a session, of which nothing runs."""
    return unconnected_plane(store.call).services


@pytest.fixture
async def member(services: ControlServices) -> AsyncIterator[Member]:
    """A session."""
    with connection() as (wire, _):
        yield member_on(wire, services)


async def test_nothing_is_lost_while_the_store_is_away(
    store: Store,
    member: Member,
    services: ControlServices,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A note that could not be written is tried again until it is; one that the store refuses is given up."""
    nursery.start_soon(services.receipts.run)
    store.errors = [LinkDown("away")] * 20
    services.receipts.acknowledged(member, Pending(KILL, addressee=True), 5)
    with trio.fail_after(60):
        await services.receipts.settled()
    assert [note[0] for note in store.notes] == ["acknowledge"]
    store.errors = [ResponseError("WRONGTYPE")]
    services.receipts.acknowledged(member, Pending(KILL, addressee=True), 5)
    with trio.fail_after(60):
        await services.receipts.settled()
    assert len(store.notes) == 1


async def test_only_addressees_are_in_a_receipt(
    store: Store, member: Member, services: ControlServices, nursery: trio.Nursery
) -> None:
    """A session that was told of another workflow's kill is neither late, unconfirmed nor gone in its receipt."""
    nursery.start_soon(services.receipts.run)
    for addressee in (False, True):
        pending = Pending(KILL, addressee=addressee)
        services.receipts.overdue(member, pending)
        services.receipts.unconfirmed(member, pending)
        services.receipts.gone(member, [pending])
        await services.receipts.settled()
        assert {note[2] for note in store.notes} == ({"pending", "unconfirmed", "gone"} if addressee else set())


async def test_notes_are_bounded(store: Store, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is away the newest notes are kept, so many of them."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    receipts = unconnected_plane(store.call).services.receipts
    for received_at in range(5):
        receipts.acknowledged(member, Pending(KILL, addressee=True), received_at)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(receipts.run)
        await receipts.settled()
        tasks.cancel_scope.cancel()
    assert sorted(note[2] for note in store.notes if isinstance(note[2], int)) == [2, 3, 4]


async def test_a_note_that_finds_its_place_taken(
    store: Store,
    member: Member,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One that could not be written comes back as the oldest of all: newer ones are not lost for it."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    monkeypatch.setattr(module, "WRITERS", 1)
    is_away = trio.Event()

    async def call(*words: object) -> object:
        if not is_away.is_set():
            await is_away.wait()
            raise LinkDown("away")
        return await store.call(*words)

    receipts = unconnected_plane(call).services.receipts
    nursery.start_soon(receipts.run)
    for received_at in range(4):
        receipts.acknowledged(member, Pending(KILL, addressee=True), received_at)
        await trio.testing.wait_all_tasks_blocked()
    is_away.set()
    await receipts.settled()
    assert [note[2] for note in store.notes] == [1, 2, 3]


@pytest.mark.parametrize("handed_over", [False, True])
async def test_handed_over_is_not_gone(
    store: Store, services: ControlServices, nursery: trio.Nursery, handed_over: bool
) -> None:
    """A session that is taken up is reported, and gone at its end, unless another process goes on with it."""
    await nursery.start(services.rooms.run)
    nursery.start_soon(services.receipts.run)
    waited = CarriedAck.of(Pending(KILL, addressee=True))
    carried = CarriedSession(KEY, "nr_live_x", None, None, (waited,), 1, 0, 0.0, None, 0, silent=False)
    ours, theirs = socket.socketpair()
    with theirs:
        async with open_peer(PlainWire(ours), b"", LIMITS) as peer, trio.open_nursery() as session:
            session.start_soon(lambda: run_control_session(peer, KEY, "nr_live_x", "acme", services, carried=carried))
            await trio.testing.wait_all_tasks_blocked()
            assert list(services.members) == [peer]
            if handed_over:
                peer.suspend()
                peer.hand_over()
            session.cancel_scope.cancel()
    await services.receipts.settled()
    taken_up, *ended = store.notes
    assert taken_up == ("deliver", "b1", peer.id, KEY.key_id, "-")
    assert [note[2] for note in ended] == ([] if handed_over else ["gone"])
    assert not services.members
