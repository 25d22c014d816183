"""Publications and snapshots made by hand."""

from broker.control.publication import Publication
from broker.store.snapshot import Position, Snapshot, StoredWorkflow
from protocol.codec import encode
from protocol.control import PolicyInvalidated, StateChange, Workflow
from protocol.states import State


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
