"""Publications and snapshots made by hand, and a control plane without its Redis."""

import structlog

from broker.config import Config
from broker.control.plane import ControlPlane, build_control
from broker.control.publication import Publication
from broker.keys import KeyCache
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.drive import Call
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.store.snapshot import Position, Snapshot, StoredWorkflow
from protocol.codec import encode
from protocol.control import PolicyInvalidated, StateChange, Workflow
from protocol.states import State

KEY = KeyRecord("0" * 64, "key_1", "acme")


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
