"""Publications, snapshots, rooms and sessions made by hand, and a control plane without its Redis."""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from broker.config import Config
from broker.control.member import Member
from broker.control.plane import ControlPlane, build_control
from broker.control.publication import Publication
from broker.control.replica import Replica
from broker.control.room import Room
from broker.control.services import ControlServices
from broker.keys import KeyCache
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.drive import Call
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.store.snapshot import Position, Snapshot, StoredWorkflow
from broker.wire import Peer, PeerLimits, PlainWire
from protocol.codec import encode
from protocol.control import PolicyInvalidated, StateChange, Workflow
from protocol.states import State

KEY = KeyRecord("0" * 64, "key_1", "acme")
LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=64, close_timeout=1.0)

Task = Callable[[], Awaitable[Any]]


async def nobody(*_: object) -> object:
    """Play a store that is never asked."""
    raise AssertionError("the store is not asked")


def unconnected_plane(call: Call = nobody) -> ControlPlane:
    """Return a control plane that does not run, and whose link is not connected; `call` answers for the store."""
    layout, counters = Layout(), Counters()
    return build_control(
        config=Config(),
        layout=layout,
        link=SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "control"),
        call=call,
        keys=KeyCache(layout, call, counters),
        counters=counters,
        log=structlog.get_logger("test"),
        broker_id="b1",
    )


@contextmanager
def connection() -> Iterator[tuple[PlainWire, socket.socket]]:
    """Return the broker's end of a connection, and the client's, which nobody reads."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield PlainWire(ours), theirs


def member_on(wire: PlainWire, services: ControlServices, key: KeyRecord = KEY) -> Member:
    """Return a session on a connection; it is in no room, and nothing runs for it."""
    return Member(services, Peer(wire, LIMITS), key, "nr_live_x")


def room_of(
    organization_id: str = "acme",
    *,
    counters: Counters | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    spawned: list[Task] | None = None,
    doubts: list[str] | None = None,
) -> Room:
    """Return a room that knows nothing yet, of a broker that sends each message again for 300 s.

    Args:
        organization_id: whose it is.
        counters: are raised.
        clock: seconds since 1970.
        spawned: is given what the room would have a task for.
        doubts: is given why the room doubts that it has heard everything.
    """
    return Room(
        Replica(organization_id, 300.0, 3600),
        counters=counters or Counters(),
        clock=clock,
        spawn=(spawned if spawned is not None else []).append,
        delivered=lambda _publication, _addressees: None,
        doubt=lambda _room, why: doubts.append(why) if doubts is not None else None,
        unknown=lambda _room, _publication: None,
    )


def change(
    seq: int, state: State = State.PAUSED, workflow_id: str = "wf", epoch: str = "e1", ms: int = 0
) -> Publication:
    """Return a state change as entry `seq` of a log; its version is that number too."""
    body = StateChange("acme", workflow_id, state, seq, None, 0, f"m{epoch}-{seq}")
    return Publication(epoch, seq, ms or 1000 + seq, encode(body))


def policy(seq: int, ms: int) -> Publication:
    """Return a policy_invalidated as entry `seq` of a log."""
    return Publication("e1", seq, ms, encode(PolicyInvalidated("acme", "p", seq, f"p{seq}")))


def snapshot(
    seq: int = 0,
    workflows: dict[str, StoredWorkflow] | None = None,
    receipts: dict[str, str] | None = None,
    epoch: str | None = "e1",
) -> Snapshot:
    """Return what a store says of an organization."""
    return Snapshot(Position(epoch, seq, 1000 + seq if seq else 0), 0, workflows or {}, receipts or {}, 0, 0)


def stored(workflow_id: str, state: State, version: int, message_id: str = "m", at_ms: int = 0) -> StoredWorkflow:
    """Return one workflow of a snapshot."""
    return StoredWorkflow(Workflow(workflow_id, state, version, None, 0), message_id, None, at_ms)
