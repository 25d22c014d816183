"""The control state in Redis against a plain model of it, step by step."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from broker.store.applied import Applied, Status
from broker.store.apply import Claimant, apply, claim
from broker.store.log import read_log
from broker.store.receipts import ReceiptStatus, read_receipt
from broker.store.restore import restore
from broker.store.snapshot import Position, Snapshot, read_snapshot
from protocol.codec import encode
from protocol.control import (
    ApprovalResolved,
    ApprovalResolvedInput,
    ControlInput,
    PolicyInvalidated,
    PolicyInvalidatedInput,
    StateChange,
    StateChangeInput,
)
from protocol.states import WANTS_ACK, Outcome, State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, done, tick, with_key

WORKFLOWS = st.sampled_from(["a", "b:~@.-_", "c" * 128])
STATES = st.sampled_from(State)
VERSIONS = st.none() | st.integers(0, 12) | st.sampled_from([2**52 - 1, 2**52, 2**52 + 1, 2**53 - 1])
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just('","message_id":"x" \\')
MESSAGE_IDS = st.none() | st.sampled_from(["m1", "m2", "m3"])


@attrs.define
class ModelWorkflow:
    """A workflow as the model knows it."""

    state: State
    version: int
    reason: str | None
    actor: str | None
    message_id: str


class Model:
    """What one organization's control state ought to be."""

    def __init__(self) -> None:
        self.workflows: dict[str, ModelWorkflow] = {}
        self.log: list[bytes] = []
        self.claims: dict[tuple[str, ...], Status] = {}
        self.receipts: dict[str, tuple[str, State | None, str]] = {}
        self.open: dict[str, str] = {}

    def expected(self, change: StateChangeInput, force: bool) -> tuple[Status, int]:
        """What must come of a state change that nobody has claimed."""
        stored = self.workflows.get(change.workflow_id)
        version = stored.version if stored else 0
        if stored and stored.state is State.KILLED and change.state is not State.KILLED and not force:
            return Status.TERMINAL, version
        if change.version is None:
            return Status.APPLIED, version + 1
        if version < change.version <= 2**52:
            return Status.APPLIED, change.version
        return (Status.APPLIED, version + 1) if change.state in WANTS_ACK else (Status.STALE, version)

    def commit(self, change: StateChangeInput, applied: Applied, actor: str | None) -> None:
        """Take over a state change that was applied."""
        name, message_id = change.workflow_id, applied.message_id
        updated_at = applied.ms // 1000 if change.updated_at is None else change.updated_at
        self.workflows[name] = ModelWorkflow(change.state, applied.version, change.reason, actor, message_id)
        self.log.append(
            encode(StateChange(ORG, name, change.state, applied.version, change.reason, updated_at, message_id))
        )
        older = self.open.pop(name, None)
        if older is not None and self.receipts[older][1] is not State.KILLED:
            self.receipts[older] = (*self.receipts[older][:2], ReceiptStatus.SUPERSEDED)
        if change.state in WANTS_ACK:
            assert message_id not in self.receipts
            self.receipts[message_id] = (name, change.state, ReceiptStatus.OPEN)
            self.open[name] = message_id


class ControlState(RuleBasedStateMachine):
    """Publishers, two brokers that hand in plain publications, and now and then a loss of everything."""

    valkey: Valkey

    def __init__(self) -> None:
        super().__init__()
        self.valkey.client.flushall()
        with_key(self.valkey)
        self.model = Model()
        self.epoch: str | None = None
        self.known: Snapshot | None = None

    def run(self, operation: Any) -> Any:
        """Run an operation on the server."""
        return done(self.valkey, operation)

    def hand_in(self, message: ControlInput, *, force: bool = False, actor: str | None = None) -> Applied:
        """Apply a message directly."""
        result: Applied = self.run(apply(LAYOUT, ORG, message, force=force, actor=actor))
        return result

    @rule(
        name=WORKFLOWS, state=STATES, version=VERSIONS, reason=TEXTS, actor=TEXTS, force=st.booleans(), key=MESSAGE_IDS
    )
    def change_state(
        self,
        name: str,
        state: State,
        version: int | None,
        reason: str | None,
        actor: str | None,
        force: bool,
        key: str | None,
    ) -> None:
        """A publisher changes a state, perhaps under an id that was used before."""
        change = StateChangeInput(name, state, version, reason, 7 if force else None, key)
        claimed = ("state_change", name, state, key or "")
        earlier = self.model.claims.get(claimed) if key else None
        status, expected = self.model.expected(change, force)
        applied = self.hand_in(change, force=force, actor=actor)
        if earlier is not None:
            assert applied.status is earlier
            return
        assert (applied.status, applied.version) == (status, expected)
        stored = self.model.workflows.get(name)
        assert applied.previous == (stored.state if stored else None)
        if key:
            self.model.claims[claimed] = status
        if status is Status.APPLIED:
            self.model.commit(change, applied, actor)
            assert applied.seq == len(self.model.log)

    @rule(name=WORKFLOWS, state=STATES, version=VERSIONS, reason=TEXTS, key=st.sampled_from(["p1", "p2", "p3", "p4"]))
    def publish_plainly(self, name: str, state: State, version: int | None, reason: str | None, key: str) -> None:
        """Two brokers hear one publication and both hand it in; it counts once."""
        change = StateChangeInput(name, state, version, reason, None, key)
        claimed = ("state_change", name, state, key)
        known = claimed in self.model.claims
        status, expected = self.model.expected(change, force=False)
        answers = [
            self.run(claim(LAYOUT, ORG, change, b"unused", Claimant(broker, 1, 0), serial=1)) for broker in ("x", "y")
        ]
        assert answers[1].status is Status.DUPLICATE
        if known:
            assert answers[0].status is Status.DUPLICATE
            return
        self.model.claims[claimed] = status
        assert (answers[0].status, answers[0].version) == (status, expected)
        if status is Status.APPLIED:
            self.model.commit(change, answers[0], None)

    @rule(version=st.integers(0, 2**53 - 1))
    def invalidate_policy(self, version: int) -> None:
        """A policy changes."""
        applied = self.hand_in(PolicyInvalidatedInput("p", version))
        self.model.log.append(encode(PolicyInvalidated(ORG, "p", version, applied.message_id)))

    @rule(name=WORKFLOWS, note=TEXTS, at=st.none() | st.integers(0, 2**53 - 1))
    def resolve_approval(self, name: str, note: str | None, at: int | None) -> None:
        """An approval is resolved."""
        applied = self.hand_in(ApprovalResolvedInput("ap", name, "ex", Outcome.DENIED, note, at))
        resolved_at = applied.ms // 1000 if at is None else at
        message = ApprovalResolved(ORG, "ap", name, "ex", Outcome.DENIED, note, resolved_at, applied.message_id)
        self.model.log.append(encode(message))
        self.model.receipts[applied.message_id] = (name, None, ReceiptStatus.OPEN)

    @rule()
    def remember(self) -> None:
        """A broker reads a snapshot."""
        self.known = self.run(read_snapshot(LAYOUT, ORG))

    @precondition(lambda self: self.known is not None)
    @rule()
    def restore_without_loss(self) -> None:
        """A broker that is merely behind restores nothing."""
        assert self.known is not None
        restored = self.run(restore(LAYOUT, ORG, self.known.workflows.values(), self.known.position))
        assert (restored.new_epoch, restored.changed) == (False, ())

    @precondition(lambda self: self.model.workflows)
    @rule()
    def lose_everything(self) -> None:
        """The store forgets all, and a broker that knew all brings the states back; logs and receipts are gone."""
        known = self.run(read_snapshot(LAYOUT, ORG))
        self.valkey.client.flushall()
        with_key(self.valkey)
        tick(self.valkey)
        restored = self.run(restore(LAYOUT, ORG, known.workflows.values(), known.position))
        assert restored.new_epoch
        assert set(restored.changed) == set(self.model.workflows)
        log = [entry.message for entry in self.run(read_log(LAYOUT, ORG, Position(None, 0, 0))).entries]
        workflows = self.model.workflows
        self.model, self.epoch, self.known = Model(), None, None
        self.model.workflows, self.model.log = workflows, log

    @invariant()
    def same_as_the_model(self) -> None:
        """The snapshot, the log and every receipt are what the model says."""
        snapshot = self.run(read_snapshot(LAYOUT, ORG))
        stored = {
            name: ModelWorkflow(
                item.workflow.state, item.workflow.version, item.workflow.reason, item.actor, item.message_id
            )
            for name, item in snapshot.workflows.items()
        }
        assert stored == self.model.workflows
        assert snapshot.open_receipts == self.model.open
        assert snapshot.seq == len(self.model.log)
        assert self.epoch in (None, snapshot.epoch)
        self.epoch = snapshot.epoch
        read = self.run(read_log(LAYOUT, ORG, Position(None, 0, 0)))
        assert [entry.message for entry in read.entries] == self.model.log
        assert [entry.seq for entry in read.entries] == list(range(1, snapshot.seq + 1))
        versions: dict[str, int] = {}
        for entry in read.entries:
            message = json.loads(entry.message)
            if message["type"] == "state_change":
                assert message["version"] > versions.get(message["workflow_id"], -1)
                versions[message["workflow_id"]] = message["version"]
        for message_id, (name, state, status) in self.model.receipts.items():
            receipt = self.run(read_receipt(LAYOUT, ORG, message_id))
            assert (receipt.workflow_id, receipt.state, receipt.status) == (name, state, status)


@pytest.fixture
def machine(valkey: Valkey) -> type[ControlState]:
    """The machine, on the server of this run."""
    ControlState.valkey = valkey
    return ControlState


def test_control_state_is_what_the_model_says(machine: type[ControlState]) -> None:
    """Any sequence of changes, publications, repeats and losses leaves Redis exactly as the plain model."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
